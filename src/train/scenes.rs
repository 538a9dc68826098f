//! The training pictures: sprites on simple backgrounds, each with a caption that is true of it.
//!
//! A seed decides everything: what is in the picture, how it is said and where it stands. The
//! truth and the caption of a seed are the same on every machine; pixels can differ by the last
//! bit of the machine's sine.

mod canvas;
mod grammar;
mod random;
mod sprites;

use std::collections::HashSet;

use canvas::Canvas;
pub use grammar::{
    Background, Colour, Form, Object, Relation, Style, Thing, Truth, caption, vocabulary,
};
use random::Random;
use serde::{Deserialize, Serialize};
use sprites::Sprites;

use crate::picture::Rgb8;
use crate::{Error, Result};

/// A picture, what is said of it and what is true of it.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The caption; every word of it is true.
    pub caption: String,
    /// All that could be said.
    pub truth: Truth,
    /// The picture.
    pub picture: Rgb8,
}

/// Which combinations a scene can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Never a held-out combination.
    Train,
    /// Always at least one held-out combination.
    HeldOut,
    /// Anything.
    Any,
}

/// The combinations that training never shows: `data/held_out.json`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct HeldOut {
    /// Colours of objects.
    pub colours: Vec<(Colour, Object)>,
    /// Objects in one picture, in either order.
    pub objects: Vec<(Object, Object)>,
}

impl HeldOut {
    /// The list that is fixed for good.
    pub fn fixed() -> Result<Self> {
        serde_json::from_str(include_str!("../../data/held_out.json"))
            .map_err(|e| Error::config("data/held_out.json", e))
    }

    fn has_colour(&self, thing: Thing) -> bool {
        self.colours.iter().any(|&(c, o)| thing.colour == Some(c) && thing.object == o)
    }

    fn has_objects(&self, a: Object, b: Object) -> bool {
        self.objects.iter().any(|&pair| pair == (a, b) || pair == (b, a))
    }

    /// Whether a scene has a held-out combination.
    pub fn contains(&self, truth: &Truth) -> bool {
        truth.objects.iter().any(|&thing| self.has_colour(thing))
            || matches!(truth.objects[..], [a, b] if self.has_objects(a.object, b.object))
    }
}

/// Makes scenes. Parsing the sprites takes a moment: make one and keep it.
pub struct Scenes {
    size: usize,
    sprites: Sprites,
    held_out: HeldOut,
}

impl Scenes {
    /// Scenes of `size` x `size` pixels.
    ///
    /// # Errors
    /// A size outside 16 to 1024; a sprite that cannot be read.
    pub fn new(size: usize) -> Result<Self> {
        if !(16..=1024).contains(&size) {
            return Err(Error::argument("the scenes' size", "16 to 1024 pixels", size, ""));
        }
        Ok(Self { size, sprites: Sprites::new(2 * size)?, held_out: HeldOut::fixed()? })
    }

    /// The side of the pictures, in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The combinations that training never shows.
    pub fn held_out(&self) -> &HeldOut {
        &self.held_out
    }

    /// The scene of a seed.
    ///
    /// # Errors
    /// None with the fixed list; a list that leaves nothing to draw.
    pub fn scene(&self, seed: u64, split: Split) -> Result<Scene> {
        let mut random = Random::new(seed);
        let (caption, truth, _) = self.say(&mut random, split)?;
        let picture = self.render(&truth, random.next())?;
        Ok(Scene { caption, truth, picture })
    }

    /// The caption and the truth of the scene of a seed, and which of it the caption says, without the
    /// picture.
    ///
    /// # Errors
    /// As [`Scenes::scene`].
    pub fn describe(&self, seed: u64, split: Split) -> Result<(String, Truth, Form)> {
        self.say(&mut Random::new(seed), split)
    }

    fn say(&self, random: &mut Random, split: Split) -> Result<(String, Truth, Form)> {
        let truth = self.draw(random, split)?;
        let form = Form { style: random.chance(85), white: random.chance(50) };
        Ok((caption(&truth, form), truth, form))
    }

    /// 60 in 100 single things, 15 two or three of a kind, 25 pairs.
    fn draw(&self, random: &mut Random, split: Split) -> Result<Truth> {
        let none = || Error::argument("held_out.json", "a list that leaves something", "none", "");
        let kind = random.next() % 100;
        let held_colour = split == Split::HeldOut && random.chance(50);
        let held_objects = split == Split::HeldOut && !held_colour;
        let pair = kind >= 75 || held_objects;

        let mut objects = Vec::new();
        if held_objects {
            let (a, b) = random.pick(&self.held_out.objects).ok_or_else(none)?;
            let order = if random.chance(50) { [a, b] } else { [b, a] };
            for object in order {
                objects.push(self.colour(object, random, Split::Train).ok_or_else(none)?);
            }
        } else {
            objects.push(if held_colour {
                let (colour, object) = random.pick(&self.held_out.colours).ok_or_else(none)?;
                Thing { object, colour: Some(colour) }
            } else {
                let object = random.pick(Object::ALL).ok_or_else(none)?;
                self.colour(object, random, split).ok_or_else(none)?
            });
            if pair {
                let first = objects[0].object;
                let others: Vec<Object> = Object::ALL
                    .iter()
                    .copied()
                    .filter(|&o| o != first)
                    .filter(|&o| split == Split::Any || !self.held_out.has_objects(first, o))
                    .collect();
                let object = random.pick(&others).ok_or_else(none)?;
                let split = if split == Split::Any { split } else { Split::Train };
                objects.push(self.colour(object, random, split).ok_or_else(none)?);
            }
        }
        let relation = pair.then(|| match random.chance(50) {
            true => Relation::LeftOf,
            false => Relation::Above,
        });
        let count = if pair { 1 } else { [1, 2, 3][counted(kind)] };
        let small = !pair && count == 1 && random.chance(20);
        let background = self.place(&objects, random).ok_or_else(none)?;
        let style = random.pick(Style::ALL).ok_or_else(none)?;
        Ok(Truth { objects, count, small, relation, background, style })
    }

    /// Gives a thing a colour word, three times of four if it can have one.
    fn colour(&self, object: Object, random: &mut Random, split: Split) -> Option<Thing> {
        let named = random.chance(76);
        if !object.takes_colour() || !named {
            return Some(Thing { object, colour: None });
        }
        let all: Vec<Colour> = Colour::ALL
            .iter()
            .copied()
            .filter(|&c| {
                split == Split::Any || !self.held_out.has_colour(Thing { object, colour: Some(c) })
            })
            .collect();
        random.pick(&all).map(|colour| Thing { object, colour: Some(colour) })
    }

    /// A background on which all the things can be seen.
    fn place(&self, things: &[Thing], random: &mut Random) -> Option<Background> {
        let hidden = |background: Background| match background {
            Background::Plain(plain) => things.iter().any(|thing| match thing.colour {
                Some(colour) => colour == plain,
                None => thing.object.own_colours().contains(&plain),
            }),
            _ => false,
        };
        let all: Vec<Background> =
            Background::all().into_iter().filter(|&one| !hidden(one)).collect();
        random.pick(&all)
    }

    /// Paints a scene; `jitter` decides the positions and the background's details.
    ///
    /// # Errors
    /// A truth that no caption could say: a count outside 1 to 3, more than two objects, one
    /// object with a relation, a colour on an object that keeps its own.
    pub fn render(&self, truth: &Truth, jitter: u64) -> Result<Rgb8> {
        check(truth)?;
        let mut random = Random::new(jitter);
        let mut canvas = Canvas::new(self.size);
        canvas.background(truth.background, &mut random);
        let plain = matches!(truth.background, Background::White | Background::Plain(_));
        let turned = random.chance(50);
        for spot in spots(truth, plain, &mut random) {
            let thing = truth.objects[spot.thing];
            let sprite = self.sprites.get(thing.object, truth.style, thing.colour);
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
        let side = self.size as u32;
        Ok(Rgb8 { width: side, height: side, pixels: canvas.to_rgb() })
    }
}

/// The index of the count, of a draw of 0 to 99: 60 one, 8 two, 7 three.
fn counted(kind: u64) -> usize {
    usize::from(kind >= 60) + usize::from(kind >= 68)
}

/// Where one sprite goes: its middle, or its foot if it stands, and its longer side.
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
    // Middles on a plain background, feet on the ground.
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
    let wrong = |expected: &str, got: String| Err(Error::argument("the scene", expected, got, ""));
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

/// Pictures side by side in `columns`, each pixel as a square of `scale`. White where there is
/// none.
///
/// # Errors
/// No pictures, no columns, a scale of 0, or pictures of different sizes.
pub fn sheet(pictures: &[Rgb8], columns: usize, scale: usize) -> Result<Rgb8> {
    let sizes: HashSet<_> = pictures.iter().map(|p| (p.width, p.height)).collect();
    if sizes.len() != 1 || columns == 0 || scale == 0 {
        return Err(Error::argument(
            "the sheet",
            "pictures of one size, at least one column and a scale of at least 1",
            format!("{} sizes, {columns} columns, scale {scale}", sizes.len()),
            "",
        ));
    }
    let gap = 2 * scale;
    let row = pictures[0].width as usize;
    let (w, h) = (row * scale, pictures[0].height as usize * scale);
    let columns = columns.min(pictures.len());
    let width = columns * (w + gap) - gap;
    let height = pictures.len().div_ceil(columns) * (h + gap) - gap;
    let mut pixels = vec![255; width * height * 3];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (i % columns * (w + gap), i / columns * (h + gap));
        for y in 0..h {
            for x in 0..w {
                let from = 3 * (y / scale * row + x / scale);
                let to = 3 * ((top + y) * width + left + x);
                pixels[to..to + 3].copy_from_slice(&picture.pixels[from..from + 3]);
            }
        }
    }
    Ok(Rgb8 { width: width as u32, height: height as u32, pixels })
}

#[cfg(test)]
mod tests;
