// Where the answers come from. A source has
//   about                         the plan, the prompts and the runs, as the page's data says them
//   numbers(run)                  for every step: x, uncond, cond, drawn noise and the next sample
//   picture(run, what, step, at)  the decoded picture: an image and the part of it that counts; nothing if there is none
//   attention(run, step, token)   for every cell 0 to 1; nothing if there is none
// and each answer may be a promise. This one reads the page; a server would be another.
const fromBase64 = (text) => Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

export class RecordedFile {
  constructor() {
    this.about = JSON.parse(this.text("data"));
    this.bytes = fromBase64(this.text("numbers"));
    this.maps = fromBase64(this.text("attention"));
    this.images = new Map();
  }

  text(id) {
    return document.getElementById(id).textContent;
  }

  numbers(run) {
    const { latents, steps } = this.about, { format, has, offset, mask } = this.about.runs[run];
    const n = latents.reduce((a, b) => a * b), view = new DataView(this.bytes.buffer);
    let at = offset;
    const read = () => {
      const out = new Float32Array(n);
      const factor = format === "i16" ? view.getFloat32(at, true) : 1;
      if (format === "i16") at += 4;
      for (let i = 0; i < n; i++, at += format === "i16" ? 2 : 4) out[i] = format === "i16" ? factor * view.getInt16(at, true) : view.getFloat32(at, true);
      return out;
    };
    const all = steps.map((_, i) => ({ x: read(), uncond: has[i] & 1 ? read() : null, cond: has[i] & 2 ? read() : null, drawn: has[i] & 4 ? read() : null, mask }));
    const last = read();
    all.forEach((of, i) => (of.next = all[i + 1]?.x ?? last));
    return all;
  }

  async picture(run, what, step, at) {
    const i = this.about.atlases.findIndex((a) => a.run === run && a.what === what && (a.at ?? null) === (at ?? null) && a.steps.includes(step));
    if (i < 0) return null;
    const { steps, columns } = this.about.atlases[i], [height, width] = this.about.picture;
    if (!this.images.has(i)) {
      const blob = new Blob([fromBase64(this.text(`atlas-${i}`))], { type: "image/png" });
      this.images.set(i, createImageBitmap(blob, { colorSpaceConversion: "none" }));
    }
    const k = steps.indexOf(step);
    return { image: await this.images.get(i), left: (k % columns) * width, top: Math.floor(k / columns) * height, width, height };
  }

  attention(run, step, token) {
    const { scale, attention } = this.about.runs[run], maps = this.about.maps[scale];
    if (attention == null || token == null || token >= maps.tokens) return null;
    const [h, w] = maps.size, from = attention + (step * maps.tokens + token) * h * w;
    const cells = this.maps.subarray(from, from + h * w);
    return { h, w, cells, most: (Math.max(...cells) / 255) * maps.largest[token] };
  }
}
