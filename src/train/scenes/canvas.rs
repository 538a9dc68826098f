//! A small painter: backgrounds, shadows and sprites on a square of pixels.
//!
//! Positions and lengths are in units of the picture's side, so that every size shows the same.

use std::f32::consts::TAU;

use super::grammar::{Background, Colour};
use super::random::Random;
use super::sprites::{Sprite, step};

pub(super) struct Canvas {
    size: usize,
    pixels: Vec<[f32; 3]>,
}

/// A colour as 0xRRGGBB.
fn hex(rgb: u32) -> [f32; 3] {
    [rgb >> 16, rgb >> 8, rgb].map(|c| (c & 255) as f32)
}

fn mix(a: [f32; 3], b: [f32; 3], share: f32) -> [f32; 3] {
    [0, 1, 2].map(|i| a[i] + share * (b[i] - a[i]))
}

impl Canvas {
    pub(super) fn new(size: usize) -> Self {
        Self { size, pixels: vec![[255.0; 3]; size * size] }
    }

    pub(super) fn to_rgb(&self) -> Vec<u8> {
        self.pixels.iter().flatten().map(|c| c.round().clamp(0.0, 255.0) as u8).collect()
    }

    fn blend(&mut self, x: usize, y: usize, colour: [f32; 3], share: f32) {
        let pixel = &mut self.pixels[y * self.size + x];
        *pixel = mix(*pixel, colour, share);
    }

    /// Rows from the height `y0` to `y1`, shading from one colour to the next.
    fn gradient(&mut self, y0: f32, y1: f32, stops: &[u32]) {
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

    /// An ellipse with a soft rim: `soft` 0 is only anti-aliased, 1 fades from the middle.
    fn ellipse(&mut self, at: [f32; 2], radius: [f32; 2], soft: f32, colour: u32, share: f32) {
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

    fn disc(&mut self, at: [f32; 2], radius: f32, colour: u32, share: f32) {
        self.ellipse(at, [radius, radius], 0.0, colour, share);
    }

    /// Ground below a wavy line, a little darker towards the viewer.
    fn ground(&mut self, line: impl Fn(f32) -> f32, far: u32, near: u32) {
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

    fn cloud(&mut self, at: [f32; 2], width: f32, colour: u32, share: f32) {
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

    /// Short light strokes, as on water.
    fn wave(&mut self, at: [f32; 2], width: f32, colour: u32, share: f32) {
        self.ellipse(at, [width, 0.009], 0.3, colour, share);
    }

    /// Paints the whole canvas.
    pub(super) fn background(&mut self, background: Background, random: &mut Random) {
        let phase = random.unit() * TAU;
        let swell = move |y: f32, height: f32, waves: f32| {
            move |x: f32| y + height * (waves * TAU * x + phase).sin()
        };
        let horizon = random.between(0.56, 0.64);
        match background {
            Background::White => {}
            Background::Plain(colour) => {
                let colour = hex(plain(colour));
                let shift = random.between(-7.0, 7.0);
                self.pixels.fill(colour.map(|c| c + shift));
            }
            Background::Grass => {
                self.gradient(0.0, horizon, &[0x6ec3f5, 0xc9ecfb]);
                for _ in 0..2 {
                    let at = [random.between(0.05, 0.95), random.between(0.06, 0.24)];
                    self.cloud(at, random.between(0.2, 0.32), 0xffffff, 0.9);
                }
                self.ground(swell(horizon - 0.03, 0.035, 0.8), 0x8fd06a, 0x8fd06a);
                self.ground(swell(horizon + 0.06, -0.025, 0.6), 0x66b84c, 0x4c9f3e);
                for _ in 0..9 {
                    let at = [random.unit(), random.between(horizon + 0.12, 0.99)];
                    self.ellipse(at, [0.008, 0.022], 0.2, 0x3c8a35, 0.8);
                    self.ellipse([at[0] + 0.018, at[1]], [0.007, 0.015], 0.2, 0x3c8a35, 0.8);
                }
                for _ in 0..4 {
                    let at = [random.unit(), random.between(horizon + 0.14, 0.98)];
                    self.disc(at, 0.013, 0xfff6c9, 0.95);
                }
            }
            Background::Beach => {
                self.gradient(0.0, horizon, &[0x86d3f7, 0xe3f6fb]);
                self.disc(
                    [random.between(0.12, 0.88), random.between(0.1, 0.2)],
                    0.075,
                    0xffe27a,
                    1.0,
                );
                self.ground(|_| horizon - 0.06, 0x2fb5c7, 0x57cfd2);
                self.ground(swell(horizon + 0.07, 0.018, 1.3), 0xffffff, 0xffffff);
                self.ground(swell(horizon + 0.09, 0.018, 1.3), 0xf6dfa6, 0xe8c37f);
                for _ in 0..14 {
                    let at = [random.unit(), random.between(horizon + 0.15, 0.99)];
                    self.disc(at, 0.008, 0xc99f5f, 0.6);
                }
            }
            Background::Night => {
                self.gradient(0.0, horizon + 0.1, &[0x0d1440, 0x27336f]);
                for _ in 0..16 {
                    let at = [random.unit(), random.between(0.02, horizon)];
                    self.disc(at, random.between(0.006, 0.011), 0xfff4cf, random.between(0.6, 1.0));
                }
                let at = [random.between(0.1, 0.9), random.between(0.1, 0.18)];
                self.disc(at, 0.08, 0xfff1b8, 1.0);
                self.disc([at[0] + 0.04, at[1] - 0.018], 0.068, 0x121a4a, 1.0);
                self.ground(swell(horizon + 0.05, 0.03, 0.7), 0x2c3f66, 0x1d2c50);
            }
            Background::Sunset => {
                self.gradient(0.0, horizon, &[0x7a4a9e, 0xe0607e, 0xff9a5a, 0xffd27a]);
                self.disc([random.between(0.15, 0.85), horizon - 0.03], 0.12, 0xfff0a8, 1.0);
                for _ in 0..2 {
                    let at = [random.unit(), random.between(0.1, 0.35)];
                    self.ellipse(at, [random.between(0.12, 0.2), 0.018], 0.4, 0xffc9a0, 0.7);
                }
                self.ground(swell(horizon, 0.025, 0.8), 0x8d4a63, 0x6d3656);
                self.ground(swell(horizon + 0.1, -0.02, 0.6), 0x74405f, 0x54294a);
            }
            Background::Snow => {
                self.gradient(0.0, horizon, &[0x9db9d6, 0xdbe7f2]);
                self.ground(swell(horizon - 0.02, 0.03, 0.8), 0xd3e2f0, 0xd3e2f0);
                self.ground(swell(horizon + 0.06, -0.025, 0.6), 0xfbfdff, 0xe2ecf6);
                for _ in 0..22 {
                    let at = [random.unit(), random.between(0.0, horizon)];
                    self.disc(at, random.between(0.009, 0.016), 0xffffff, 0.95);
                }
            }
            Background::Sea => {
                self.gradient(0.0, horizon, &[0x8fd0f5, 0xdff3fd]);
                for _ in 0..2 {
                    let at = [random.between(0.05, 0.95), random.between(0.06, 0.24)];
                    self.cloud(at, random.between(0.2, 0.3), 0xffffff, 0.9);
                }
                self.ground(|_| horizon, 0x2e8fd0, 0x12539b);
                for i in 0..12 {
                    let y = horizon + 0.04 + 0.36 * i as f32 / 12.0;
                    let width = 0.03 + 0.12 * (y - horizon);
                    self.wave([random.unit(), y], width, 0x9fd8f5, 0.75);
                }
            }
        }
    }

    /// The soft dark patch under a thing that stands on the ground.
    pub(super) fn shadow(&mut self, at: [f32; 2], width: f32, share: f32) {
        self.ellipse(at, [0.46 * width, 0.07 * width], 0.45, 0x1c2440, share);
    }

    /// Draws a sprite so that its box has its top left corner at `at` and the given width and
    /// height. Below the line `water`, if there is one, it is hidden by the sea.
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

/// Which source pixels, with which weights, make each picture pixel along one axis: a box filter
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

/// Plain backgrounds are a little softer than the colours of things.
fn plain(colour: Colour) -> u32 {
    match colour {
        Colour::Red => 0xdc4444,
        Colour::Orange => 0xf59a3d,
        Colour::Yellow => 0xfbdc5c,
        Colour::Green => 0x5fb85f,
        Colour::Blue => 0x4a86e0,
        Colour::Purple => 0x9463cf,
        Colour::Pink => 0xf8a9c8,
    }
}
