// The arithmetic of one step: what the library's guidance, prediction and sampler do, on plain arrays.

// The sum of [weight, array] pairs.
export const combine = (n, terms) => {
  const out = new Float64Array(n);
  for (const [weight, x] of terms) if (weight && x) for (let i = 0; i < n; i++) out[i] += weight * x[i];
  return out;
};
export const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};
// The length divided by sqrt(n).
export const norm = (x) => Math.sqrt(dot(x, x) / x.length);
const deviation = (x) => {
  const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
  return Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (x.length - 1));
};

// The noise, and the picture, that a network's output says is in x.
export const noiseOf = ({ prediction }, { rates: [s, n] }, x, output) => {
  const m = Math.hypot(s, n);
  if (prediction === "epsilon") return output;
  if (prediction === "sample") return combine(x.length, [[1 / n, x], [-s / n, output]]);
  return combine(x.length, [[n / m / m, x], [s / m, output]]);
};
const pictureOf = ({ prediction }, { rates: [s, n] }, x, output) => {
  const m = Math.hypot(s, n);
  if (prediction === "epsilon") return combine(x.length, [[1 / s, x], [-n / s, output]]);
  if (prediction === "sample") return output;
  return combine(x.length, [[s / m / m, x], [-n / m, output]]);
};
const outputOf = ({ prediction }, { rates: [s, n] }, x, x0) => {
  const m = Math.hypot(s, n);
  if (prediction === "sample") return x0;
  const noise = combine(x.length, [[1 / n, x], [-s / n, x0]]);
  return prediction === "epsilon" ? noise : combine(x.length, [[s / m, noise], [-n / m, x0]]);
};

// One output from the two that were recorded, or the only one.
const guide = (plan, step, { x, uncond, cond }, w, before) => {
  if (!uncond || !cond) return { output: cond ?? uncond };
  const n = x.length;
  const { projection: p, rescale } = plan.rule;
  let output, difference;
  if (p) {
    const [a, b] = [uncond, cond].map((o) => pictureOf(plan, step, x, o));
    difference = combine(n, [[1, b], [-1, a], [p.momentum, before]]);
    const share = p.threshold == null ? 1 : Math.min(1, p.threshold / Math.sqrt(dot(difference, difference)));
    const along = (share * dot(difference, b)) / Math.max(dot(b, b), 1e-24);
    const more = w - 1;
    output = outputOf(plan, step, x, combine(n, [[1 - more * along * (1 - p.eta), b], [more * share, difference]]));
  } else output = combine(n, [[1 - w, uncond], [w, cond]]);
  if (rescale) output = combine(n, [[(rescale * deviation(cond)) / deviation(output) + 1 - rescale, output]]);
  return { output, difference };
};

const clipped = (clip, x) => {
  if (!clip) return x;
  let s = clip.range ?? Infinity, by = 1;
  if ("ratio" in clip) {
    const sizes = Float64Array.from(x, Math.abs).sort(), at = clip.ratio * (x.length - 1), k = Math.floor(at);
    const quantile = sizes[k] + (at - k) * ((sizes[k + 1] ?? sizes[k]) - sizes[k]);
    by = s = Math.min(Math.max(quantile, 1), clip.max ?? Infinity);
  }
  return x.map((v) => Math.max(-s, Math.min(s, v)) / by);
};

// Step i from what was recorded, at the scale w. Memory: the earlier evaluations, newest first, and what projected
// guidance remembers.
export const take = (plan, i, recorded, w, { earlier, before }) => {
  const step = plan.steps[i], { x } = recorded, n = x.length;
  const { output, difference } = guide(plan, step, recorded, w, before);
  const x0 = clipped(plan.clip, pictureOf(plan, step, x, output));
  const noise = plan.keeps_noise ? noiseOf(plan, step, x, output) : combine(n, [[1 / step.rates[1], x], [-step.rates[0] / step.rates[1], x0]]);
  const evaluation = { x, x0, noise }, all = [evaluation, ...earlier];
  const sum = (of) => of.flatMap(([a, b, c], k) => (all[k] ? [[a, all[k].x0], [b, all[k].noise], [c, all[k].x]] : []));
  if (step.correction) evaluation.x = combine(n, sum(step.correction));
  let next = combine(n, [...sum(step.of), [step.fresh, recorded.drawn]]);
  // Outside the mask the picture was put back.
  if (recorded.mask) next = next.map((v, j) => (recorded.mask[j % recorded.mask.length] ? v : recorded.next[j]));
  return { x0, noise, next, evaluation, difference };
};

// Takes every step of a run again; each with the memory that it had, and how far the next sample is from the recorded one.
export const replay = (plan, recorded, scales) => {
  let earlier = [], before = null;
  return recorded.map((of, i) => {
    const memory = { earlier, before };
    const { next, evaluation, difference } = take(plan, i, of, scales[i], memory);
    earlier = [evaluation, ...earlier].slice(plan.steps[i].forget).slice(0, 8);
    before = difference ?? before;
    const spread = deviation(of.next);
    const residual = next.reduce((worst, v, j) => Math.max(worst, Math.abs(v - of.next[j]) / spread), 0);
    return { memory, residual };
  });
};
