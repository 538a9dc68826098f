//! The backgrounds of scenes: plain colours and landscapes.

use std::f32::consts::TAU;

use super::grammar::{Background, Colour};
use super::painting::{Painting, hex};
use super::random::Random;

/// Paints the whole canvas.
pub(super) fn paint_background(
    painting: &mut Painting,
    background: Background,
    random: &mut Random,
) {
    let phase = random.unit() * TAU;
    let ground = Ground { phase, horizon: random.between(0.56, 0.64) };
    match background {
        Background::White => {}
        Background::Plain(colour) => {
            let colour = hex(plain(colour));
            let shift = random.between(-7.0, 7.0);
            painting.fill(colour.map(|c| c + shift));
        }
        Background::Grass => grass(painting, &ground, random),
        Background::Beach => beach(painting, &ground, random),
        Background::Night => night(painting, &ground, random),
        Background::Sunset => sunset(painting, &ground, random),
        Background::Snow => snow(painting, &ground, random),
        Background::Sea => sea(painting, &ground, random),
    }
}

/// Where the ground of a landscape begins.
struct Ground {
    horizon: f32,
    /// Of its hills.
    phase: f32,
}

impl Ground {
    /// A wavy line around `y`.
    fn swell(&self, y: f32, height: f32, waves: f32) -> impl Fn(f32) -> f32 {
        let phase = self.phase;
        move |x: f32| y + height * (waves * TAU * x + phase).sin()
    }
}

/// Hills of grass with flowers, under a cloudy sky.
fn grass(painting: &mut Painting, ground: &Ground, random: &mut Random) {
    painting.gradient(0.0, ground.horizon, &[0x6ec3f5, 0xc9ecfb]);
    for _ in 0..2 {
        let at = [random.between(0.05, 0.95), random.between(0.06, 0.24)];
        painting.cloud(at, random.between(0.2, 0.32), 0xffffff, 0.9);
    }
    painting.ground(ground.swell(ground.horizon - 0.03, 0.035, 0.8), 0x8fd06a, 0x8fd06a);
    painting.ground(ground.swell(ground.horizon + 0.06, -0.025, 0.6), 0x66b84c, 0x4c9f3e);
    for _ in 0..9 {
        let at = [random.unit(), random.between(ground.horizon + 0.12, 0.99)];
        painting.ellipse(at, [0.008, 0.022], 0.2, 0x3c8a35, 0.8);
        painting.ellipse([at[0] + 0.018, at[1]], [0.007, 0.015], 0.2, 0x3c8a35, 0.8);
    }
    for _ in 0..4 {
        let at = [random.unit(), random.between(ground.horizon + 0.14, 0.98)];
        painting.disc(at, 0.013, 0xfff6c9, 0.95);
    }
}

/// Sand, surf and sea under the sun.
fn beach(painting: &mut Painting, ground: &Ground, random: &mut Random) {
    painting.gradient(0.0, ground.horizon, &[0x86d3f7, 0xe3f6fb]);
    painting.disc([random.between(0.12, 0.88), random.between(0.1, 0.2)], 0.075, 0xffe27a, 1.0);
    painting.ground(|_| ground.horizon - 0.06, 0x2fb5c7, 0x57cfd2);
    painting.ground(ground.swell(ground.horizon + 0.07, 0.018, 1.3), 0xffffff, 0xffffff);
    painting.ground(ground.swell(ground.horizon + 0.09, 0.018, 1.3), 0xf6dfa6, 0xe8c37f);
    for _ in 0..14 {
        let at = [random.unit(), random.between(ground.horizon + 0.15, 0.99)];
        painting.disc(at, 0.008, 0xc99f5f, 0.6);
    }
}

/// A dark hill under stars and a crescent moon.
fn night(painting: &mut Painting, ground: &Ground, random: &mut Random) {
    painting.gradient(0.0, ground.horizon + 0.1, &[0x0d1440, 0x27336f]);
    for _ in 0..16 {
        let at = [random.unit(), random.between(0.02, ground.horizon)];
        painting.disc(at, random.between(0.006, 0.011), 0xfff4cf, random.between(0.6, 1.0));
    }
    let at = [random.between(0.1, 0.9), random.between(0.1, 0.18)];
    painting.disc(at, 0.08, 0xfff1b8, 1.0);
    painting.disc([at[0] + 0.04, at[1] - 0.018], 0.068, 0x121a4a, 1.0);
    painting.ground(ground.swell(ground.horizon + 0.05, 0.03, 0.7), 0x2c3f66, 0x1d2c50);
}

/// Dark hills before a low sun.
fn sunset(painting: &mut Painting, ground: &Ground, random: &mut Random) {
    painting.gradient(0.0, ground.horizon, &[0x7a4a9e, 0xe0607e, 0xff9a5a, 0xffd27a]);
    painting.disc([random.between(0.15, 0.85), ground.horizon - 0.03], 0.12, 0xfff0a8, 1.0);
    for _ in 0..2 {
        let at = [random.unit(), random.between(0.1, 0.35)];
        painting.ellipse(at, [random.between(0.12, 0.2), 0.018], 0.4, 0xffc9a0, 0.7);
    }
    painting.ground(ground.swell(ground.horizon, 0.025, 0.8), 0x8d4a63, 0x6d3656);
    painting.ground(ground.swell(ground.horizon + 0.1, -0.02, 0.6), 0x74405f, 0x54294a);
}

/// Snowy hills in a snowfall.
fn snow(painting: &mut Painting, ground: &Ground, random: &mut Random) {
    painting.gradient(0.0, ground.horizon, &[0x9db9d6, 0xdbe7f2]);
    painting.ground(ground.swell(ground.horizon - 0.02, 0.03, 0.8), 0xd3e2f0, 0xd3e2f0);
    painting.ground(ground.swell(ground.horizon + 0.06, -0.025, 0.6), 0xfbfdff, 0xe2ecf6);
    for _ in 0..22 {
        let at = [random.unit(), random.between(0.0, ground.horizon)];
        painting.disc(at, random.between(0.009, 0.016), 0xffffff, 0.95);
    }
}

/// Open water under a cloudy sky.
fn sea(painting: &mut Painting, ground: &Ground, random: &mut Random) {
    painting.gradient(0.0, ground.horizon, &[0x8fd0f5, 0xdff3fd]);
    for _ in 0..2 {
        let at = [random.between(0.05, 0.95), random.between(0.06, 0.24)];
        painting.cloud(at, random.between(0.2, 0.3), 0xffffff, 0.9);
    }
    painting.ground(|_| ground.horizon, 0x2e8fd0, 0x12539b);
    for i in 0..12 {
        let y = ground.horizon + 0.04 + 0.36 * i as f32 / 12.0;
        let width = 0.03 + 0.12 * (y - ground.horizon);
        painting.wave([random.unit(), y], width, 0x9fd8f5, 0.75);
    }
}

/// Plain backgrounds are a little softer than the colours of objects.
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
