//! A small painter: gradients, ellipses, shadows and sprites on a square of pixels.
//!
//! Positions and lengths are in units of the picture's side, so that every size shows the same.

use std::f32::consts::TAU;

use super::sprites::{Sprite, step};

pub(super) struct Painting {
    size: usize,
    pixels: Vec<[f32; 3]>,
}

/// A colour as 0xRRGGBB.
pub(super) fn hex(rgb: u32) -> [f32; 3] {
    [rgb >> 16, rgb >> 8, rgb].map(|c| (c & 255) as f32)
}

fn mix(a: [f32; 3], b: [f32; 3], share: f32) -> [f32; 3] {
    [0, 1, 2].map(|i| a[i] + share * (b[i] - a[i]))
}

impl Painting {
    pub(super) fn new(size: usize) -> Self {
        Self { size, pixels: vec![[255.0; 3]; size * size] }
    }

    pub(super) fn to_rgb(&self) -> Vec<u8> {
        self.pixels.iter().flatten().map(|c| c.round().clamp(0.0, 255.0) as u8).collect()
    }

    pub(super) fn fill(&mut self, colour: [f32; 3]) {
        self.pixels.fill(colour);
    }

    fn blend(&mut self, x: usize, y: usize, colour: [f32; 3], share: f32) {
        let pixel = &mut self.pixels[y * self.size + x];
        *pixel = mix(*pixel, colour, share);
    }

    /// Fills the rows from `y0` to `y1`, shading from one colour to the next.
    pub(super) fn gradient(&mut self, y0: f32, y1: f32, stops: &[u32]) {
        let n = self.size as f32;
        for (y, row) in self.pixels.chunks_mut(self.size).enumerate() {
            let at = (y as f32 + 0.5) / n;
            if at < y0 - 0.5 / n || at > y1 + 0.5 / n {
                continue;
            }
            let place = step(y0, y1, at) * (stops.len() - 1) as f32;
            let i = (place as usize).min(stops.len().saturating_sub(2));
            row.fill(mix(hex(stops[i]), hex(stops[i + 1]), place - i as f32));
        }
    }

    /// An ellipse with a soft rim: with `soft` 0 it is only anti-aliased, with 1 it fades from the centre.
    pub(super) fn ellipse(
        &mut self,
        at: [f32; 2],
        radius: [f32; 2],
        soft: f32,
        colour: u32,
        share: f32,
    ) {
        let n = self.size as f32;
        let bound = |c: f32| (c * n).floor().clamp(0.0, n) as usize;
        let edge = soft.max(0.7 / (n * radius[0].min(radius[1])));
        let grow = 1.0 + edge;
        for y in bound(at[1] - grow * radius[1])..bound(at[1] + grow * radius[1] + 1.0 / n) {
            for x in bound(at[0] - grow * radius[0])..bound(at[0] + grow * radius[0] + 1.0 / n) {
                let dx = ((x as f32 + 0.5) / n - at[0]) / radius[0];
                let dy = ((y as f32 + 0.5) / n - at[1]) / radius[1];
                let cover = step(1.0 + edge, 1.0 - edge, dx.hypot(dy));
                self.blend(x, y, hex(colour), cover * share);
            }
        }
    }

    pub(super) fn disc(&mut self, at: [f32; 2], radius: f32, colour: u32, share: f32) {
        self.ellipse(at, [radius, radius], 0.0, colour, share);
    }

    /// Ground below a wavy line, a little darker towards the viewer.
    pub(super) fn ground(&mut self, line: impl Fn(f32) -> f32, far: u32, near: u32) {
        let n = self.size as f32;
        for x in 0..self.size {
            let top = line((x as f32 + 0.5) / n) * n;
            for y in top.floor().clamp(0.0, n) as usize..self.size {
                let cover = (y as f32 + 1.0 - top).clamp(0.0, 1.0);
                let colour = mix(hex(far), hex(near), step(top, n, y as f32));
                self.blend(x, y, colour, cover);
            }
        }
    }

    pub(super) fn cloud(&mut self, at: [f32; 2], width: f32, colour: u32, share: f32) {
        for (dx, dy, r) in [(-0.3, 0.02, 0.2), (0.0, -0.08, 0.28), (0.3, 0.02, 0.2)] {
            let place = [at[0] + dx * width, at[1] + dy * width];
            self.ellipse(place, [r * width, 0.75 * r * width], 0.0, colour, share);
        }
        self.ellipse(
            [at[0], at[1] + 0.08 * width],
            [0.5 * width, 0.11 * width],
            0.0,
            colour,
            share,
        );
    }

    /// A short light stroke, as on water.
    pub(super) fn wave(&mut self, at: [f32; 2], width: f32, colour: u32, share: f32) {
        self.ellipse(at, [width, 0.009], 0.3, colour, share);
    }

    /// The soft dark patch under a thing that stands on the ground.
    pub(super) fn shadow(&mut self, at: [f32; 2], width: f32, share: f32) {
        self.ellipse(at, [0.46 * width, 0.07 * width], 0.45, 0x1c2440, share);
    }

    /// Draws a sprite into the box with the top left corner `at` and the given width and height. The sea hides
    /// what lies below the line `water`, if there is one.
    pub(super) fn sprite(
        &mut self,
        sprite: &Sprite,
        at: [f32; 2],
        extent: [f32; 2],
        turned: bool,
        water: Option<f32>,
    ) {
        let n = self.size as f32;
        let columns = Cover::new(at[0] * n, extent[0] * n, self.size, sprite.width, turned);
        let rows = Cover::new(at[1] * n, extent[1] * n, self.size, sprite.height, false);
        let mut line = vec![[0.0f32; 4]; sprite.width];
        for (i, y) in (rows.first..).zip(&rows.spans) {
            line.fill([0.0; 4]);
            for (j, weight) in (y.first..).zip(&y.weights) {
                let source = &sprite.pixels[j * sprite.width..(j + 1) * sprite.width];
                for (sum, pixel) in line.iter_mut().zip(source) {
                    for c in 0..4 {
                        sum[c] += weight * f32::from(pixel[c]);
                    }
                }
            }
            for (k, x) in (columns.first..).zip(&columns.spans) {
                let mut sum = [0.0f32; 4];
                for (pixel, weight) in line[x.first..].iter().zip(&x.weights) {
                    for c in 0..4 {
                        sum[c] += weight * pixel[c];
                    }
                }
                let mut over = 1.0;
                if let Some(water) = water {
                    let wavy = water * n + 0.012 * n * (k as f32 / n * TAU * 5.0).sin();
                    over = (wavy - i as f32).clamp(0.0, 1.0);
                    let foam = (1.0 - (i as f32 + 0.5 - wavy).abs() / (0.014 * n)).clamp(0.0, 1.0);
                    self.blend(k, i, hex(0xc9ecfb), foam * sum[3] / 255.0);
                }
                let alpha = over * sum[3] / 255.0;
                let pixel = &mut self.pixels[i * self.size + k];
                for c in 0..3 {
                    pixel[c] = pixel[c] * (1.0 - alpha) + over * sum[c];
                }
            }
        }
    }
}

/// Which source pixels make each pixel of the picture along one axis, and with which weights: a box filter
/// with exact areas.
struct Cover {
    first: usize,
    spans: Vec<Span>,
}

struct Span {
    first: usize,
    weights: Vec<f32>,
}

impl Cover {
    fn new(start: f32, length: f32, size: usize, source: usize, turned: bool) -> Self {
        let first = start.floor().max(0.0) as usize;
        let last = ((start + length).ceil().max(0.0) as usize).min(size);
        let scale = source as f32 / length;
        let spans = (first..last.max(first))
            .map(|i| {
                let mut from = (i as f32 - start) * scale;
                let mut to = from + scale;
                if turned {
                    (from, to) = (source as f32 - to, source as f32 - from);
                }
                let low = from.floor().clamp(0.0, source as f32) as usize;
                let high = (to.ceil().max(0.0) as usize).min(source);
                let weights = (low..high.max(low))
                    .map(|j| ((j + 1) as f32).min(to) - (j as f32).max(from))
                    .map(|cover| cover.max(0.0) / scale)
                    .collect();
                Span { first: low.min(source), weights }
            })
            .collect();
        Self { first, spans }
    }
}
