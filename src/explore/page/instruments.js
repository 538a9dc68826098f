// Charts and the plane: Rust has drawn the axes; these are the lines and points.
import { dot, norm } from "./engine.js";

const make = (name, parent, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  parent.append(element);
  return element;
};

export class Chart {
  constructor(id, said, onStep) {
    this.svg = document.getElementById(`chart-${id}`);
    this.said = said;
    [this.low, this.high] = this.svg.dataset.range.split(" ").map(Number);
    this.plot = this.svg.dataset.plot.split(" ").map(Number);
    this.group = make("g", this.svg, {});
    this.svg.addEventListener("click", (event) => {
      const box = this.svg.getBoundingClientRect(), [left, right] = this.plot;
      const share = (((event.clientX - box.left) / box.width) * 240 - left) / (right - left);
      if (this.count) onStep(Math.max(0, Math.min(this.count - 1, Math.round(share * (this.count - 1)))));
    });
  }

  // Series of one value a step: {name, values}.
  lines(series) {
    const [left, right, top, bottom] = this.plot;
    this.series = series;
    this.count = series[0].values.length;
    this.at = (i, v) => [left + ((right - left) * i) / Math.max(1, this.count - 1), bottom - ((v - this.low) / (this.high - this.low)) * (bottom - top)];
    this.group.replaceChildren();
    this.cursor = make("path", this.group, { class: "cursor" });
    this.dots = series.map(({ name, values }) => {
      const there = values.map((v, i) => [i, v]).filter(([, v]) => Number.isFinite(v));
      make("polyline", this.group, { class: `line ${name}`, points: there.map(([i, v]) => this.at(i, v).map((p) => p.toFixed(1))).join(" ") });
      return make("circle", this.group, { class: `dot ${name}`, r: 4 });
    });
  }

  point(i) {
    const [, , top, bottom] = this.plot;
    this.cursor.setAttribute("d", `M${this.at(i, 0)[0]} ${top}V${bottom}`);
    this.series.forEach(({ values }, k) => {
      const there = Number.isFinite(values[i]), [x, y] = this.at(i, there ? values[i] : this.low);
      this.dots[k].setAttribute("cx", x);
      this.dots[k].setAttribute("cy", y);
      this.dots[k].setAttribute("visibility", there ? "visible" : "hidden");
    });
    this.svg.setAttribute("aria-label", this.said(i));
  }
}

export class Plane {
  constructor(onScale) {
    this.svg = document.getElementById("plane");
    const drag = (event) => {
      if (!this.view || !(event.buttons & 1)) return;
      const box = this.svg.getBoundingClientRect(), { u, along, back } = this.view;
      const p = back(((event.clientX - box.left) / box.width) * 320, ((event.clientY - box.top) / box.height) * 200);
      const length = along[0] ** 2 + along[1] ** 2;
      if (length) onScale(((p[0] - u[0]) * along[0] + (p[1] - u[1]) * along[1]) / length);
    };
    this.svg.addEventListener("pointerdown", (event) => {
      this.svg.setPointerCapture(event.pointerId);
      drag(event);
    });
    this.svg.addEventListener("pointermove", drag);
  }

  // The two predictions and what guidance makes of them, as noises; the slider's ends and the run's own scale.
  draw(uncond, cond, guided, [least, most, own]) {
    this.svg.replaceChildren();
    this.view = null;
    if (!uncond || !cond) return;
    const root = Math.sqrt(uncond.length), length = norm(uncond) || 1e-12;
    const first = (x) => dot(x, uncond) / root / root / length;
    const rest = Math.sqrt(Math.max(0, norm(cond) ** 2 - first(cond) ** 2)) || 1e-12;
    const second = (x) => (dot(x, cond) / root / root - first(x) * first(cond)) / rest;
    const u = [first(uncond), 0], c = [first(cond), rest], g = [first(guided), second(guided)];
    const along = [c[0] - u[0], c[1]], on = (w) => [u[0] + w * along[0], u[1] + w * along[1]];
    const ends = [on(least), on(most)], seen = [[0, 0], u, c, g, on(own * 1.6)];
    const [x0, x1, y0, y1] = [0, 1].flatMap((k) => [Math.min(...seen.map((p) => p[k])), Math.max(...seen.map((p) => p[k]))]);
    const size = Math.min(260 / (x1 - x0 || 1), 140 / (y1 - y0 || 1));
    const [mx, my] = [160 - (size * (x0 + x1)) / 2, 100 + (size * (y0 + y1)) / 2];
    const at = ([x, y]) => [mx + size * x, my - size * y].map((v) => +v.toFixed(1));
    this.view = { u, along, back: (x, y) => [(x - mx) / size, (my - y) / size] };
    const line = (a, b, name) => make("path", this.svg, { class: name, d: `M${at(a)}L${at(b)}` });
    line(...ends, "rail");
    line([0, 0], u, "line uncond");
    line([0, 0], c, "line cond");
    line([0, 0], g, "line guided");
    const [ox, oy] = at([0, 0]), [ux, uy] = at(u), [cx, cy] = at(c), [gx, gy] = at(g);
    make("circle", this.svg, { class: "dot origin", cx: ox, cy: oy, r: 3 });
    make("rect", this.svg, { class: "dot uncond", x: ux - 4, y: uy - 4, width: 8, height: 8 });
    make("path", this.svg, { class: "dot cond", d: `M${cx} ${cy - 6}l6 10h-12z` });
    make("circle", this.svg, { class: "dot guided knob", cx: gx, cy: gy, r: 8 });
    const label = (x, y, text, name) => {
      make("text", this.svg, { class: name, x: Math.max(34, Math.min(286, x)), y: Math.max(12, Math.min(196, y)), "text-anchor": "middle" }).textContent = text;
    };
    label(ux, uy + 20, "without", "uncond");
    if (Math.hypot(cx - gx, cy - gy) > 24) label(cx - 4, cy - 12, "with", "cond");
    label(gx, gy - 14, "guided", "guided");
  }
}
