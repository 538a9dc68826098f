// The page: state, controls, and what they show.
import { combine, noiseOf, norm, dot, replay, take } from "./engine.js";
import { RecordedFile } from "./source.js";
import { drawChannels, drawLinear, drawPicture, drawSpotlight } from "./drawing.js";
import { Chart, Plane } from "./instruments.js";

const QUANTITIES = {
  x0: ["x̂₀", "predicted picture", "the picture that the guided noise says is in the sample"],
  xt: ["xₜ", "sample", "the sample that this step starts from"],
  uncond: ["ε̂ without", "noise without the prompt"],
  cond: ["ε̂ with", "noise with the prompt"],
  guided: ["ε̂ guided", "guided noise"],
  difference: ["difference", "difference of the two noises"],
  next: ["next xₜ", "next sample", "the sample that this step ends on"],
};
const KINDS = { picture: "decoded", linear: "linear preview", channels: "channels" };
// At most three frames a second of what looks like noise.
const CALM = 340;

const $ = (id) => document.getElementById(id);
const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const number = (v, digits = 3) => {
  if (!Number.isFinite(v)) return "–";
  const text = v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5) ? v.toExponential(digits - 1) : String(+v.toPrecision(digits));
  return text.replace("-", "−");
};

export const start = (source) => {
  const plan = source.about, last = plan.steps.length - 1, scales = plan.scales.map(Number);
  const least = Math.min(-2, ...scales.filter(Number.isFinite)), most = Math.max(20, ...scales.filter(Number.isFinite));
  const initial = { step: last, seed: 0, scale: plan.usual, w: null, show: plan.decoder ? "x0" : "next", as: "picture", side: 0, token: null };
  const state = { ...initial };
  const runs = new Map();
  let playing = null, settled = null;

  const runOf = (side) => plan.runs.findIndex((r) => r.side === side && r.scale === state.scale && r.seed === Math.min(state.seed, plan.sides[side].seeds.length - 1));
  const load = async (r) => {
    const steps = await source.numbers(r), checked = replay(plan, steps, plan.runs[r].scales);
    const noises = steps.map((of, i) => [of.uncond, of.cond].map((o) => o && noiseOf(plan, plan.steps[i], of.x, o)));
    runs.set(r, { steps, checked, noises, residual: Math.max(...checked.map((c) => c.residual)) });
  };

  // All that step i of a run shows at the scale w; the stage, its small copies and the instruments ask for the same.
  const answers = new Map();
  const answer = (r, i, w) => {
    const key = `${r} ${i} ${w}`;
    if (!answers.has(key)) {
      if (answers.size > 3) answers.clear();
      answers.set(key, compute(r, i, w));
    }
    return answers.get(key);
  };
  const compute = (r, i, w) => {
    const { steps, checked, noises } = runs.get(r), of = steps[i], n = of.x.length, { rates, next } = plan.steps[i];
    const [uncond, cond] = noises[i], taken = take(plan, i, of, w, checked[i].memory);
    return {
      xt: combine(n, [[1 / Math.hypot(...rates), of.x]]), x0: taken.x0, uncond, cond, guided: taken.noise,
      difference: uncond && cond && combine(n, [[1, cond], [-1, uncond]]),
      next: combine(n, [[1 / Math.hypot(...next), taken.next]]), drawn: of.drawn,
    };
  };

  const ownScale = (r) => plan.runs[r].scales[state.step];
  const scaleAt = (r) => state.w ?? ownScale(r);
  const turned = (r) => state.w !== null && Math.abs(state.w - ownScale(r)) > 1e-9;
  const canTurn = (r) => (plan.runs[r].has[state.step] & 3) === 3;

  // The decoded picture of what is shown, if there is one.
  const decoded = (r, show) => {
    const same = !turned(r), i = state.step;
    if (show === "next") return same ? (i === last ? source.picture(r, "next", i) : source.picture(r, "xt", i + 1)) : null;
    if (show === "x0" && !same) return source.picture(r, "x0", i, state.w);
    return same || !["x0", "guided"].includes(show) ? source.picture(r, show, i) : null;
  };

  const jobs = new WeakMap();
  // Paints when it may: noise waits until the last frame has stood long enough.
  const paint = (canvas, noisy, draw) => {
    const job = jobs.get(canvas) ?? { at: -CALM };
    jobs.set(canvas, job);
    clearTimeout(job.timer);
    const turn = (job.turn = {});
    job.timer = setTimeout(async () => {
      const done = await draw(() => job.turn === turn);
      if (done) job.at = performance.now();
    }, noisy ? Math.max(0, job.at + CALM - performance.now()) : 0);
  };

  const paintQuantity = (canvas, r, show, said) => {
    const x = answer(r, state.step, scaleAt(r))[show], { as, step, w } = state;
    paint(canvas, show !== "x0" || as === "channels", async (current) => {
      let kind = as, picture = null;
      if (as === "picture") {
        picture = await decoded(r, show);
        kind = picture ? "picture" : "linear";
      }
      if (!current()) return false;
      let note = KINDS[kind];
      if (!x) {
        Object.assign(canvas, { width: 1, height: 1 });
        note = "this step did not ask for it";
      } else if (kind === "picture") drawPicture(canvas, picture);
      else if (kind === "linear") {
        const gain = show === "difference" ? 1 / (norm(x) || 1) : null;
        drawLinear(canvas, x, plan.latents, plan.linear, gain);
        note = gain ? `linear preview, ${number(gain)} times as strong` : `linear preview, R² = ${plan.linear.r2 === null ? "unknown" : number(plan.linear.r2)}`;
      } else {
        const limit = show === "difference" ? Math.max(...x.map(Math.abs)) || 1 : 4;
        drawChannels(canvas, x, plan.latents, plan.colors, limit);
        note = `channels, blue −${number(limit)} to orange ${number(limit)}`;
      }
      await said?.(note);
      canvas.dataset.shown = [show, kind, step + 1, w ?? "own"].join(" ");
      return true;
    });
  };

  const group = (id, name, options, key, read = (v) => v) => {
    const box = $(id);
    for (const [value, label, extra] of options) {
      const input = element("input", { type: "radio", name, value });
      input.addEventListener("change", () => set({ [key]: read(value), ...(key === "scale" ? { w: null } : {}) }));
      box.append(element("label", {}, input, ...(extra ? [extra] : []), element("span", { textContent: label })));
    }
    box.hidden = options.length < 2;
  };
  const choose = (name, value) => document.querySelectorAll(`input[name=${name}]`).forEach((input) => (input.checked = input.value === String(value)));

  // One stage a prompt.
  const stages = plan.sides.map((side, k) => {
    const stage = $("stage").content.cloneNode(true).firstElementChild, find = (what) => stage.querySelector(what);
    find(".letter").textContent = "AB"[k];
    find("bdi").textContent = side.prompt.trim() || "(no text)";
    // One prompt stands in the title.
    find("h2").hidden = plan.sides.length < 2;
    side.tokens.forEach((token, t) => {
      const text = token.replace("</w>", ""), end = t === 0 || t === side.tokens.length - 1;
      const chip = plan.maps.length
        ? element("button", { type: "button", onclick: () => set({ token: state.side === k && state.token === t ? null : t, side: k }) })
        : element("span", {});
      chip.className = end ? "chip end" : "chip";
      chip.append(element("bdi", { textContent: end ? (t ? "end" : "start") : text }));
      find(".chips").append(element("li", {}, chip));
    });
    stage.setAttribute("aria-label", plan.sides.length > 1 ? `Prompt ${"AB"[k]}` : "Picture");
    $("stages").append(stage);
    return { stage, picture: find(".picture"), map: find(".map"), caption: find(".caption"), chips: [...stage.querySelectorAll(".chip")] };
  });
  $("stages").classList.toggle("two", stages.length > 1);

  const said = (side) => {
    const r = runOf(side), [, name] = QUANTITIES[state.show];
    return `${name}, step ${state.step + 1} of ${last + 1}, t = ${number(plan.steps[state.step].t, 4)}, guidance ${number(scaleAt(r))}${turned(r) ? ` in place of ${number(ownScale(r))}` : ""}`;
  };

  const drawStage = ({ picture, map, caption, chips }, k) => {
    const r = runOf(k), token = state.side === k ? state.token : null;
    paintQuantity(picture, r, state.show, async (note) => {
      const spot = await source.attention(r, state.step, token);
      const looked = spot ? `; attention of “${plan.sides[k].tokens[token].replace("</w>", "")}”, at most ${number(spot.most)}` : "";
      drawSpotlight(map, spot);
      const text = `${said(k)}: ${note}${looked}`;
      caption.replaceChildren(element("b", { textContent: QUANTITIES[state.show][0] }), ` ${text}`);
      picture.setAttribute("aria-label", `${plan.sides[k].prompt}: ${text}`);
    });
    if (plan.maps.length) chips.forEach((chip, t) => chip.setAttribute("aria-pressed", token === t));
  };

  const thumbs = {};
  const charts = ["alpha", "snr", "norms", "angle"].map((id) => new Chart(id, (i) => chartSays[id](i), (step) => set({ step })));
  const plane = new Plane((w) => set({ w: Math.round(Math.max(least, Math.min(most, w)) * 10) / 10 }));
  let measured = null;
  const chartSays = {
    alpha: (i) => `alpha-bar at step ${i + 1}: ${number(measured.alpha[i])}`,
    snr: (i) => `signal-to-noise ratio at step ${i + 1}: ${number(10 ** measured.snr[i])}`,
    norms: (i) => `lengths at step ${i + 1}: without the prompt ${number(measured.norms[0][i])}, with it ${number(measured.norms[1][i])}, difference ${number(measured.norms[2][i])}`,
    angle: (i) => `angle at step ${i + 1}: ${number(measured.angle[i])} degrees`,
  };
  const measure = (r) => {
    if (measured?.run === r) return;
    const { noises } = runs.get(r), both = ([u, c], of) => (u && c ? of(u, c) : NaN);
    measured = {
      run: r,
      alpha: plan.steps.map(({ rates: [s, n] }) => (s * s) / (s * s + n * n)),
      snr: plan.steps.map(({ rates: [s, n] }) => 2 * Math.log10(s / n)),
      norms: [
        noises.map(([u]) => (u ? norm(u) : NaN)),
        noises.map(([, c]) => (c ? norm(c) : NaN)),
        noises.map((of) => both(of, (u, c) => norm(combine(u.length, [[1, c], [-1, u]])))),
      ],
      angle: noises.map((of) => both(of, (u, c) => (Math.acos(Math.max(-1, Math.min(1, dot(u, c) / Math.sqrt(dot(u, u) * dot(c, c))))) * 180) / Math.PI)),
    };
    charts[0].lines([{ name: "plain", values: measured.alpha }]);
    charts[1].lines([{ name: "plain", values: measured.snr }]);
    charts[2].lines(["uncond", "cond", "difference"].map((name, k) => ({ name, values: measured.norms[k] })));
    charts[3].lines([{ name: "plain", values: measured.angle }]);
  };

  const drawInstruments = () => {
    const r = runOf(state.side), i = state.step, of = answer(r, i, scaleAt(r));
    measure(r);
    charts.forEach((chart) => chart.point(i));
    plane.draw(of.uncond, of.cond, of.guided, [least, most, ownScale(r)]);
    const text = measured.angle[i] >= 0
      ? `Lengths ${number(measured.norms[0][i])} without and ${number(measured.norms[1][i])} with the prompt, ${number(measured.angle[i])}° apart; guided ${number(norm(of.guided))}.${canTurn(r) ? " Drag the point, or move the slider." : ""}`
      : "This step has one prediction: there is no plane.";
    $("plane-said").textContent = text;
    $("plane").setAttribute("aria-label", text);
    for (const show in thumbs) paintQuantity(thumbs[show], r, show);
  };

  // The equations with their numbers, and the table of weights.
  const drawSums = () => {
    const r = runOf(state.side), i = state.step, { rates: [s, n], of, fresh, correction, t } = plan.steps[i], w = scaleAt(r);
    const { rule } = plan, terms = (list) => list.filter(([v]) => v).map(([v, name], k) => `${v < 0 ? (k ? " − " : "−") : k ? " + " : ""}${number(Math.abs(v), 4)} ${name}`).join("") || "0";
    const lines = [];
    const add = (label, text) => lines.push(element("p", {}, element("span", { textContent: label }), element("b", { textContent: text })));
    if (!canTurn(r)) add("Guided", "the one prediction as it is");
    else if (rule.projection) add("Guided", `with + ${number(w - 1)} · (difference without its part along “with”)`);
    else add("Guided", `without + ${number(w)} · (with − without)`);
    if (rule.rescale && canTurn(r)) add("Rescaled", `${number(rule.rescale)} of the way to the spread of “with”`);
    add("Picture", { epsilon: `x̂₀ = (xₜ − ${number(n, 4)} ε̂) / ${number(s, 4)}`, v_prediction: `x̂₀ = ${terms([[s / (s * s + n * n), "xₜ"], [-n / Math.hypot(s, n), "v̂"]])}`, sample: "x̂₀ = output" }[plan.prediction] + (plan.clip ? ", clipped" : ""));
    if (correction) add("Corrected", "xₜ is first replaced by the corrector’s sum");
    const earlier = of.slice(1).flatMap(([a, b, c], k) => [[a, `x̂₀(${k + 1} before)`], [b, `ε̂(${k + 1} before)`], [c, `xₜ(${k + 1} before)`]]);
    add("Next", `xₜ′ = ${terms([[of[0][0], "x̂₀"], [of[0][1], "ε̂"], [of[0][2], "xₜ"], ...earlier, [fresh, "fresh noise"]])}`);
    if (plan.runs[r].mask) add("Put back", "outside the mask the picture returns after the step");
    $("sums").replaceChildren(...lines);
    const rows = [["this evaluation", of[0], correction?.[0]], ...of.slice(1).map((v, k) => [`${k + 1} before`, v, correction?.[k + 1]])].filter(([, v, c], k) => !k || [...v, ...(c ?? [])].some(Boolean));
    const head = ["", "of x̂₀", "of ε̂", "of xₜ", ...(correction ? ["corrector: x̂₀", "ε̂", "xₜ"] : [])];
    const cells = (list) => list.map((v) => element("td", { textContent: number(v, 5) }));
    $("weights").replaceChildren(
      element("caption", { textContent: `Weights at t = ${number(t, 4)}${fresh ? `, fresh noise ${number(fresh, 5)}` : ""}` }),
      element("thead", {}, element("tr", {}, ...head.map((textContent) => element(textContent ? "th" : "td", textContent ? { textContent, scope: "col" } : {})))),
      element("tbody", {}, ...rows.map(([name, v, c]) => element("tr", {}, element("th", { textContent: name, scope: "row" }), ...cells(v), ...(correction ? cells(c) : [])))),
    );
  };

  const drawControls = () => {
    const r = runOf(state.side), own = ownScale(r), two = plan.steps[last].step !== last;
    $("step").value = state.step + 1;
    $("step-said").textContent = `${state.step + 1} / ${last + 1}, t = ${number(plan.steps[state.step].t, 4)}`;
    $("step").setAttribute("aria-valuetext", `step ${state.step + 1} of ${last + 1}${two ? ` (evaluations; step ${plan.steps[state.step].step + 1})` : ""}`);
    $("w").value = scaleAt(r);
    $("w").disabled = !canTurn(r);
    $("w-said").textContent = number(scaleAt(r));
    $("own").textContent = `Back to ${number(own)}`;
    $("own").disabled = !turned(r);
    const why = canTurn(r) ? "" : plan.once ? "This model runs once a step: the guidance scale is one of its inputs." : "This step asked for one prediction alone: there is nothing to turn.";
    $("w-why").textContent = why;
    $("w-why").hidden = !why;
    for (const [name, value] of [["runs", state.scale], ["seeds", state.seed], ["as", state.as], ["show", state.show], ["side", state.side]]) choose(name, value);
    const { residual } = runs.get(r), ok = residual < 1e-3, badge = $("badge");
    badge.className = ok ? "good" : "bad";
    badge.textContent = `${ok ? "✓" : "✗"} ${last + 1} steps taken again here: ${residual === 0 ? "no difference" : `at most ${number(residual, 2)} apart`}`;
    badge.title = "The largest difference to the recorded samples, as a share of their standard deviation; below 0.001 is good.";
    badge.dataset.residual = residual;
  };

  const write = () => {
    const words = { step: state.step + 1, run: plan.scales[state.scale], seed: state.seed, w: state.w, show: state.show, as: state.as, side: plan.sides.length > 1 ? "AB"[state.side] : null, token: state.token };
    const text = new URLSearchParams(Object.entries(words).filter(([, v]) => v !== null)).toString();
    // In a frame of its own document the address is not the page's.
    if (location.protocol !== "about:") history.replaceState(null, "", `#${text}`);
  };
  const read = () => {
    const words = new URLSearchParams(location.hash.slice(1)), whole = (key, low, high, or) => {
      const v = Number(words.get(key) ?? NaN);
      return Number.isInteger(v) && v >= low && v <= high ? v : or;
    };
    const scale = plan.scales.indexOf(words.get("run")), w = words.has("w") ? Number(words.get("w")) : NaN, side = "AB".indexOf(words.get("side") ?? "A");
    Object.assign(state, initial, {
      step: whole("step", 1, last + 1, initial.step + 1) - 1,
      seed: whole("seed", 0, Math.max(...plan.sides.map((s) => s.seeds.length)) - 1, 0),
      scale: scale < 0 ? initial.scale : scale,
      w: w >= least && w <= most ? w : null,
      show: QUANTITIES[words.get("show")] ? words.get("show") : initial.show,
      as: KINDS[words.get("as")] ? words.get("as") : "picture",
      side: side < plan.sides.length ? Math.max(0, side) : 0,
    });
    state.token = whole("token", 0, plan.sides[state.side].tokens.length - 1, null);
  };

  let frame = 0;
  const draw = async () => {
    const missing = stages.map((_, k) => runOf(k)).filter((r) => !runs.has(r));
    if (missing.length) await Promise.all(missing.map(load));
    frame = 0;
    drawControls();
    stages.forEach(drawStage);
    drawInstruments();
    drawSums();
    clearTimeout(settled);
    settled = setTimeout(() => {
      write();
      if (!playing) $("status").textContent = said(state.side);
    }, 400);
  };
  const set = (change) => {
    Object.assign(state, change);
    frame ||= requestAnimationFrame(draw);
  };
  const stop = () => {
    clearInterval(playing);
    playing = null;
    $("play").textContent = "Play";
  };
  const play = () => {
    if (playing) return stop();
    if (state.step === last) set({ step: 0 });
    $("play").textContent = "Pause";
    playing = setInterval(() => (state.step < last ? set({ step: state.step + 1 }) : stop()), 400);
  };

  $("step").max = last + 1;
  Object.assign($("w"), { min: least, max: most });
  $("scales").append(...scales.filter(Number.isFinite).map((value) => element("option", { value })));
  group("runs", "runs", plan.scales.map((s, k) => [k, s]), "scale", Number);
  const seeds = plan.sides.reduce((a, b) => (b.seeds.length > a.length ? b.seeds : a), []);
  group("seeds", "seeds", seeds.map((s, k) => [k, [...new Set(plan.sides.map(({ seeds }) => seeds[k] ?? seeds.at(-1)))].join(" and ")]), "seed", Number);
  group("as", "as", Object.entries(KINDS).filter(([k]) => k !== "picture" || plan.atlases.length).map(([k, name]) => [k, k === "picture" ? "picture" : name]), "as");
  group("side", "side", plan.sides.map((_, k) => [k, "AB"[k]]), "side", Number);
  group("show", "show", Object.entries(QUANTITIES).map(([k, [short]]) => [k, short, (thumbs[k] = element("canvas", { ariaHidden: "true" }))]), "show");
  $("step").addEventListener("input", (event) => {
    stop();
    set({ step: event.target.value - 1 });
  });
  $("w").addEventListener("input", (event) => set({ w: +event.target.value }));
  $("own").addEventListener("click", () => set({ w: null }));
  $("play").addEventListener("click", play);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, button, [tabindex]")) return;
    const to = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1, Home: 0, End: last }[event.key];
    if (event.key === " ") play();
    else if (to === undefined) return;
    else {
      stop();
      set({ step: Math.max(0, Math.min(last, to)) });
    }
    event.preventDefault();
  });
  addEventListener("hashchange", () => {
    read();
    set({});
  });
  $("about").append(...plan.about.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", {}, element("bdi", { textContent: value }))]));
  $("notes").append(...plan.notes.map((note) => element("li", {}, element("bdi", { textContent: note }))));
  read();
  draw().then(() => {
    $("still").hidden = true;
    $("app").hidden = $("badge").hidden = false;
    fitFrame();
  });
};

// In a notebook's cell: as high as it needs, and the still picture beside it makes room.
const fitFrame = () => {
  const frame = window.frameElement;
  if (!frame) return;
  if (frame.previousElementSibling?.tagName === "IMG") frame.previousElementSibling.style.display = "none";
  new ResizeObserver(() => (frame.style.height = `${document.documentElement.offsetHeight + 4}px`)).observe(document.documentElement);
};

start(new RecordedFile());
