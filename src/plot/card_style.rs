//! What pictures, sheets and latents have in common: measures, text styles, and how pictures are enlarged.

use image::imageops::FilterType;

use super::canvas::Style;
use super::theme;
use crate::Result;
use crate::picture::Rgb8;

/// The width for which sheets and latents are laid out.
pub(super) const WIDTH: u32 = 1100;
pub(super) const MARGIN: u32 = 20;
pub(super) const GAP: u32 = 10;

/// Names beside and above pictures.
pub(super) fn label() -> Style {
    Style::new(16., theme::INK)
}

/// Words below pictures.
pub(super) fn caption() -> Style {
    Style::new(15., theme::SOFT_INK)
}

/// The heading.
pub(super) fn title() -> Style {
    Style::new(20., theme::INK).bold()
}

/// Resizes so that the longest side is `side`.
pub(super) fn fit(image: &Rgb8, side: u32, filter: FilterType) -> Result<Rgb8> {
    let longest = image.width.max(image.height);
    let scaled = |length: u32| {
        ((f64::from(length) * f64::from(side) / f64::from(longest)).round() as u32).max(1)
    };
    image.resized(scaled(image.width), scaled(image.height), filter)
}

/// Enlarges by a whole number, so that every value stays a sharp square.
pub(super) fn enlarge(image: &Rgb8, factor: u32) -> Result<Rgb8> {
    image.resized(image.width * factor, image.height * factor, FilterType::Nearest)
}
