//! The training pictures: sprites on simple backgrounds, each with a caption that is true of it.
//!
//! The seed determines everything: what is in the picture, what the caption says and where things stand. The
//! truth and the caption of a seed are the same on every machine; pixels can differ in the last bit, as the
//! sine of machines does.

mod background;
mod content;
mod grammar;
mod held_out;
mod painting;
mod phrasing;
mod random;
mod render;
mod scene;
mod sheet;
mod sprites;

pub use grammar::{
    Background, CaptionForm, Colour, Object, Relation, SpriteStyle, Thing, Truth, caption,
};
pub use held_out::{HeldOut, Split};
pub use phrasing::{paraphrase, vocabulary};
pub use scene::{Scene, Scenes};
pub use sheet::sheet;

#[cfg(test)]
mod tests;
