//! Many pictures in one.

use std::collections::HashSet;

use crate::picture::Rgb8;
use crate::{Error, Result};

/// Pictures side by side in `columns`, each pixel a square of `scale` pixels. Gaps and empty places are
/// white.
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
