//! Pictures too large for memory: tiles that overlap and are blended.

use tch::Tensor;

use super::config::VaeConfig;
use crate::{Error, Result};

/// The largest side of a tile in latent cells, larger than any picture.
const LARGEST: i64 = 1 << 20;

/// How a picture that does not fit into memory is cut: into overlapping square tiles, whose overlaps are
/// blended linearly. The network normalises and attends within a tile, so the result is close to that of
/// the whole picture but not equal to it.
///
/// # Examples
/// ```
/// use diffuscope::models::vae::Tiling;
/// // Tiles of 512 pixels for an autoencoder with the factor 8.
/// let tiling = Tiling { tile: 64, overlap: 16 };
/// assert_eq!(tiling.tile - tiling.overlap, 48);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// A tile's side in latent cells.
    pub tile: i64,
    /// The cells that two neighbouring tiles share.
    pub overlap: i64,
}

impl Tiling {
    /// diffusers' default: tiles as large as the pictures that the autoencoder was trained on, overlapping by
    /// a quarter.
    pub fn of(config: &VaeConfig) -> Self {
        let tile = (config.sample_size / config.factor()).max(1);
        Self { tile, overlap: tile / 4 }
    }

    pub(super) fn check(self) -> Result<Self> {
        let Self { tile, overlap } = self;
        if !(1..=LARGEST).contains(&tile) || !(0..tile).contains(&overlap) {
            let expected = format!(
                "a tile of 1 to {LARGEST} latent cells, and an overlap of at least 0 and smaller than the tile"
            );
            return Err(Error::argument("tiling", expected, format!("{overlap} of {tile}")));
        }
        Ok(self)
    }

    /// Runs `network` on every tile of `x` and blends the results. Along a side, a latent cell is `from`
    /// numbers of `x` and `to` numbers of the result.
    pub(super) fn run(
        self,
        x: &Tensor,
        from: i64,
        to: i64,
        network: impl Fn(&Tensor) -> Tensor,
    ) -> Tensor {
        let size = x.size();
        let (height, width) = (size[2], size[3]);
        let (tile, stride) = (self.tile * from, (self.tile - self.overlap) * from);
        if height <= tile && width <= tile {
            return network(x);
        }
        let (overlap, kept) = (self.overlap * to, (self.tile - self.overlap) * to);
        let (mut above, mut bands) = (Vec::<Tensor>::new(), Vec::new());
        for top in (0..height).step_by(stride as usize) {
            let (mut row, mut band) = (Vec::<Tensor>::new(), Vec::new());
            let strip = x.narrow(2, top, tile.min(height - top));
            for (j, left) in (0..width).step_by(stride as usize).enumerate() {
                let mut y = network(&strip.narrow(3, left, tile.min(width - left)));
                if let Some(above) = above.get(j) {
                    y = blend(above, &y, 2, overlap);
                }
                if let Some(before) = row.last() {
                    y = blend(before, &y, 3, overlap);
                }
                let (h, w) = (y.size()[2], y.size()[3]);
                band.push(y.narrow(2, 0, kept.min(h)).narrow(3, 0, kept.min(w)));
                row.push(y);
            }
            bands.push(Tensor::cat(&band, 3));
            above = row;
        }
        Tensor::cat(&bands, 2)
    }
}

/// `after`, whose first `overlap` rows or columns fade in from the last ones of `before`.
fn blend(before: &Tensor, after: &Tensor, dim: i64, overlap: i64) -> Tensor {
    let (a, b) = (before.size()[dim as usize], after.size()[dim as usize]);
    let overlap = overlap.min(a).min(b);
    if overlap == 0 {
        return after.shallow_clone();
    }
    let mut shape = [1; 4];
    shape[dim as usize] = overlap;
    let ramp = Tensor::arange(overlap, (after.kind(), after.device())) / overlap as f64;
    let ramp = ramp.view(shape);
    let seam = before.narrow(dim, a - overlap, overlap) * (1. - &ramp)
        + after.narrow(dim, 0, overlap) * ramp;
    Tensor::cat(&[seam, after.narrow(dim, overlap, b - overlap)], dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_that_cannot_be_are_refused() {
        for (tile, overlap) in
            [(i64::MAX, 0), (i64::MAX, i64::MAX - 1), (LARGEST + 1, 0), (0, 0), (4, 4), (4, -1)]
        {
            assert!(Tiling { tile, overlap }.check().is_err(), "{overlap} of {tile}");
        }
        assert!(Tiling { tile: LARGEST, overlap: 0 }.check().is_ok());
    }
}
