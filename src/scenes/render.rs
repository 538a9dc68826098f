//! A scene's picture: where each sprite goes, and how it is painted.

use super::background::paint_background;
use super::grammar::{Background, Relation, Truth};
use super::painting::Painting;
use super::random::Random;
use super::sprites::Sprites;
use crate::picture::Rgb8;
use crate::{Error, Result};

/// Paints a scene of `size` x `size` pixels; `jitter` determines the positions and the details of the
/// background.
pub(super) fn render(size: usize, sprites: &Sprites, truth: &Truth, jitter: u64) -> Result<Rgb8> {
    check(truth)?;
    let mut random = Random::new(jitter);
    let mut canvas = Painting::new(size);
    paint_background(&mut canvas, truth.background, &mut random);
    let plain = matches!(truth.background, Background::White | Background::Plain(_));
    let turned = random.chance(50);
    for spot in spots(truth, plain, &mut random) {
        let thing = truth.objects[spot.thing];
        let sprite = sprites.get(thing.object, truth.style, thing.colour);
        let longer = sprite.width.max(sprite.height) as f32;
        let extent = [sprite.width, sprite.height].map(|s| spot.side * s as f32 / longer);
        let x = spot.x - extent[0] / 2.0;
        let y = if spot.stands { spot.y - extent[1] } else { spot.y - extent[1] / 2.0 };
        let x = x.clamp(0.02, 0.98 - extent[0]);
        let y = y.clamp(0.02, 0.98 - extent[1]);
        let stands = spot.stands && !plain;
        let sea = truth.background == Background::Sea;
        if stands && !sea {
            let dark = if truth.background == Background::Snow { 0.22 } else { 0.38 };
            let bottom = [x + extent[0] / 2.0, y + extent[1] - 0.012];
            canvas.shadow(bottom, extent[0], dark);
        }
        let water = (stands && sea).then_some(y + 0.92 * extent[1]);
        let turned = turned && thing.object.turns();
        canvas.sprite(sprite, [x, y], extent, turned, water);
    }
    let side = size as u32;
    Ok(Rgb8 { width: side, height: side, pixels: canvas.to_rgb() })
}

/// Where one sprite goes: its centre, or its foot if it stands on the ground, and its longer side.
struct Spot {
    thing: usize,
    x: f32,
    y: f32,
    side: f32,
    stands: bool,
}

fn spots(truth: &Truth, plain: bool, random: &mut Random) -> Vec<Spot> {
    let mut spot = |thing: usize, x: [f32; 2], y: [f32; 2], side: [f32; 2], stands: bool| Spot {
        thing,
        x: random.between(x[0], x[1]),
        y: random.between(y[0], y[1]),
        side: random.between(side[0], side[1]),
        stands,
    };
    let stands = !plain;
    // Centres on a plain background, feet on the ground.
    let level = |middle: [f32; 2], foot: [f32; 2]| if plain { middle } else { foot };
    match (truth.relation, truth.count, truth.small) {
        (Some(Relation::LeftOf), ..) => {
            let y = level([0.43, 0.57], [0.8, 0.9]);
            vec![
                spot(0, [0.24, 0.28], y, [0.4, 0.46], stands),
                spot(1, [0.72, 0.76], y, [0.4, 0.46], stands),
            ]
        }
        (Some(Relation::Above), ..) => {
            let x = [0.42, 0.58];
            vec![
                spot(1, x, level([0.73, 0.76], [0.93, 0.97]), [0.4, 0.45], stands),
                spot(0, x, [0.24, 0.27], [0.4, 0.45], false),
            ]
        }
        (_, 2, _) => {
            let y = level([0.43, 0.57], [0.78, 0.9]);
            vec![
                spot(0, [0.24, 0.28], y, [0.38, 0.45], stands),
                spot(0, [0.72, 0.76], y, [0.38, 0.45], stands),
            ]
        }
        (_, 3, _) => {
            let (far, near) = (level([0.28, 0.34], [0.66, 0.7]), level([0.68, 0.74], [0.9, 0.95]));
            let side = [0.3, 0.36];
            vec![
                spot(0, [0.46, 0.54], far, side, stands),
                spot(0, [0.22, 0.28], near, side, stands),
                spot(0, [0.72, 0.78], near, side, stands),
            ]
        }
        (_, _, true) => {
            let y = level([0.35, 0.65], [0.76, 0.92]);
            vec![spot(0, [0.3, 0.7], y, [0.24, 0.29], stands)]
        }
        _ => {
            let y = level([0.46, 0.54], [0.84, 0.93]);
            vec![spot(0, [0.42, 0.58], y, [0.56, 0.68], stands)]
        }
    }
}

fn check(truth: &Truth) -> Result<()> {
    let wrong = |expected: &str, got: String| Err(Error::argument("the scene", expected, got));
    if !(1..=3).contains(&truth.count) {
        return wrong("a count of 1 to 3", truth.count.to_string());
    }
    match (truth.objects.len(), truth.relation) {
        (1, None) => {}
        (2, Some(_)) if truth.count == 1 && !truth.small => {}
        (n, _) => {
            return wrong("one object, or two with a relation and a count of 1", n.to_string());
        }
    }
    match truth.objects.iter().find(|t| t.colour.is_some() && !t.object.takes_colour()) {
        Some(thing) => wrong("a colour only for objects that take one", thing.object.to_string()),
        None => Ok(()),
    }
}
