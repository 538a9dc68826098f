//! What stands in one place of a sheet.

use std::fmt;

use tch::Tensor;

use super::latent_channels::LatentChannels;
use super::theme;
use crate::picture::{self, Rgb8};
use crate::{Error, Result};

/// One picture on a [`Sheet`](super::Sheet): a picture, or latents.
#[derive(Clone)]
pub struct Tile {
    pub(super) image: Rgb8,
    /// Whether every value stays a sharp square.
    pub(super) sharp: bool,
}

impl fmt::Debug for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tile of {:?}", self.image)
    }
}

impl Tile {
    /// A picture `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`.
    ///
    /// # Errors
    /// Another shape; NaN or infinity.
    pub fn picture(image: &Tensor) -> Result<Self> {
        Ok(Self { image: picture::one(image)?, sharp: false })
    }

    pub(super) fn longest(&self) -> u32 {
        self.image.width.max(self.image.height)
    }

    /// Latents `[1, C, h, w]` or `[C, h, w]`: their channels side by side in rows of two, blue for
    /// `-limit`, white for 0, orange for `limit`.
    ///
    /// Values beyond `limit` have the colour of the limit.
    ///
    /// # Errors
    /// Another shape; NaN or infinity; a limit that is not above 0.
    pub fn latents(latents: &Tensor, limit: f64) -> Result<Self> {
        if !(limit.is_finite() && limit > 0.) {
            return Err(Error::argument("limit", "a number above 0", limit));
        }
        let latents = LatentChannels::new(latents)?;
        let columns = latents.channels.len().min(2);
        let rows = latents.channels.len().div_ceil(columns);
        let (w, h) = (latents.width as usize, latents.height as usize);
        let mut pixels = theme::CARD.repeat(w * columns * h * rows);
        for (i, channel) in latents.channels.iter().enumerate() {
            for (at, value) in channel.iter().enumerate() {
                let (x, y) = (i % columns * w + at % w, i / columns * h + at / w);
                let to = (y * w * columns + x) * 3;
                pixels[to..to + 3].copy_from_slice(&theme::diverging(f64::from(*value) / limit));
            }
        }
        let (width, height) = ((w * columns) as u32, (h * rows) as u32);
        Ok(Self { image: Rgb8 { width, height, pixels }, sharp: true })
    }
}

impl TryFrom<&Tensor> for Tile {
    type Error = Error;

    fn try_from(image: &Tensor) -> Result<Self> {
        Self::picture(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_latents_are_sharp_and_signed() {
        let values = Tensor::from_slice(&[-2f32, 0., 1., 2.]).view([4, 1, 1]);
        let tile = Tile::latents(&values, 2.).unwrap().image;
        assert_eq!((tile.width, tile.height), (2, 2));
        let expected: Vec<u8> =
            [-1., 0., 0.5, 1.].iter().flat_map(|v| theme::diverging(*v)).collect();
        assert_eq!(tile.pixels, expected);
        assert!(Tile::latents(&values, 0.).is_err());
    }
}
