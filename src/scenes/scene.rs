//! Scenes: from a seed to a picture and its caption.

use std::fmt;

use super::content::draw_truth;
use super::grammar::{CaptionForm, Truth, caption};
use super::held_out::{HeldOut, Split};
use super::random::Random;
use super::render::render;
use super::sprites::Sprites;
use crate::notebook::look::{Look, Looks, shows};
use crate::picture::Rgb8;
use crate::plot::picture;
use crate::{Error, Result};

/// A picture, its caption and what is true of it.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The caption; every word of it is true.
    pub caption: String,
    /// Everything that a caption could say.
    pub truth: Truth,
    /// The picture.
    pub picture: Rgb8,
}

shows!(Scene);

impl Looks for Scene {
    fn look(&self) -> Result<Look> {
        let drawn = picture(&self.picture.to_tensor()?)?.caption(&self.caption);
        Ok(Look::picture(drawn.png()?, &self.caption))
    }
}

/// Makes scenes. Parsing the sprites takes a moment, so make one and keep it.
pub struct Scenes {
    size: usize,
    sprites: Sprites,
    held_out: HeldOut,
}

impl fmt::Debug for Scenes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scenes of {0}×{0} pixels", self.size)
    }
}

impl Scenes {
    /// The largest side.
    pub const LARGEST: usize = 1024;

    /// Scenes of `size` x `size` pixels.
    ///
    /// # Errors
    /// A size outside 16 to 1024; a sprite that cannot be read.
    pub fn new(size: usize) -> Result<Self> {
        if !(16..=Self::LARGEST).contains(&size) {
            let expected = format!("16 to {} pixels", Self::LARGEST);
            return Err(Error::argument("the scenes' size", expected, size));
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
    /// A list of held-out combinations that leaves nothing to draw, which the fixed list does not.
    pub fn scene(&self, seed: u64, split: Split) -> Result<Scene> {
        let mut random = Random::new(seed);
        let (caption, truth, _) = self.say(&mut random, split)?;
        let picture = self.render(&truth, random.next())?;
        Ok(Scene { caption, truth, picture })
    }

    /// The caption and the truth of a seed's scene, and which parts of the truth the caption says, without
    /// painting the picture.
    ///
    /// # Errors
    /// As [`Scenes::scene`].
    pub fn describe(&self, seed: u64, split: Split) -> Result<(String, Truth, CaptionForm)> {
        self.say(&mut Random::new(seed), split)
    }

    fn say(&self, random: &mut Random, split: Split) -> Result<(String, Truth, CaptionForm)> {
        let truth = draw_truth(&self.held_out, random, split)?;
        let form =
            CaptionForm { style: random.chance(85), white: random.chance(50), relation: true };
        Ok((caption(&truth, form), truth, form))
    }

    /// Paints a scene; `jitter` determines the positions and the details of the background.
    ///
    /// # Errors
    /// A truth that no caption could say: a count outside 1 to 3, more than two objects, one
    /// object with a relation, a colour on an object that keeps its own.
    pub fn render(&self, truth: &Truth, jitter: u64) -> Result<Rgb8> {
        render(self.size, &self.sprites, truth, jitter)
    }
}
