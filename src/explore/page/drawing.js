// Pictures, and latents as colours, onto a canvas of their own size.

export const drawPicture = (canvas, { image, left, top, width, height }) => {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(image, left, top, width, height, 0, 0, width, height);
};

const fill = (canvas, width, height, color) => {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), data = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) data.data.set(color(i % width, Math.floor(i / width)), 4 * i);
  context.putImageData(data, 0, 0);
};

// By the linear map from latents to colours. A gain is for differences, which have no colour of their own.
export const drawLinear = (canvas, x, [channels, h, w], { weights, bias }, gain) =>
  fill(canvas, w, h, (col, row) => {
    const rgb = [0, 0, 0, 255];
    for (let k = 0; k < 3; k++) {
      let v = gain ? 0 : bias[k];
      for (let c = 0; c < channels; c++) v += weights[c][k] * x[(c * h + row) * w + col] * (gain ?? 1);
      rgb[k] = Math.round(Math.min(Math.max(v / 2 + 0.5, 0), 1) * 255);
    }
    return rgb;
  });

// The channels in rows of two: blue below 0, orange above.
export const drawChannels = (canvas, x, [channels, h, w], colors, limit) => {
  const columns = Math.min(channels, 2);
  fill(canvas, columns * w, Math.ceil(channels / columns) * h, (col, row) => {
    const c = Math.floor(row / h) * columns + Math.floor(col / w);
    if (c >= channels) return [0, 0, 0, 0];
    const v = Math.max(-1, Math.min(1, x[c * h * w + (row % h) * w + (col % w)] / limit));
    const at = Math.round((v + 1) * 64) * 6;
    return [0, 2, 4].map((k) => parseInt(colors.slice(at + k, at + k + 2), 16)).concat(255);
  });
};

// Attention as a spotlight: what is not looked at is dark.
export const drawSpotlight = (canvas, map) => {
  if (!map) return fill(canvas, 1, 1, () => [0, 0, 0, 0]);
  const most = Math.max(1, ...map.cells);
  fill(canvas, map.w, map.h, (col, row) => [8, 8, 20, 215 * (1 - map.cells[row * map.w + col] / most)]);
};
