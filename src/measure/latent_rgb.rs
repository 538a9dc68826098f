//! Latents as colours, without a decoder: the best linear map.

use std::fmt;

use tch::{Kind, Tensor};

use crate::device::in_f64_on_cpu;
use crate::short::Digits;
use crate::{Error, Result};

/// A linear map from a cell's latents to its mean colour.
///
/// ```text
/// rgb = bias + sum_c weight_c latents_c
/// ```
#[derive(Clone, PartialEq)]
pub struct LatentRgb {
    /// For every channel, what it adds to red, green and blue in [-1, 1].
    pub weights: Vec<[f64; 3]>,
    /// The colour of latents that are 0.
    pub bias: [f64; 3],
    /// The share of the pictures' variance, cell by cell, that the map explains: 1 is all of it. NaN for pictures of one
    /// colour.
    pub r_squared: f64,
}

impl fmt::Debug for LatentRgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (channels, share) = (self.weights.len(), Digits(self.r_squared));
        write!(f, "LatentRgb {{ {channels} channels, R^2 = {share} }}")
    }
}

/// Latents and pictures as rows: [n, C] and [n, 3], a row a cell.
fn cells(latents: &Tensor, image: &Tensor) -> Result<(Tensor, Tensor)> {
    let (l, p) = (latents.size(), image.size());
    let ([b, c, h, w], [pb, 3, ph, pw]) = (&l[..], &p[..]) else {
        return Err(Error::shape("latents and pictures", "[B, C, h, w] and [B, 3, H, W]", &l));
    };
    if b != pb || l.contains(&0) || ph % h != 0 || pw % w != 0 {
        let expected = format!("[{b}, 3, H, W], sides a multiple of {h} and {w}");
        return Err(Error::shape("pictures", expected, &p));
    }
    let rows = |x: Tensor, width: i64| x.permute([0, 2, 3, 1]).reshape([-1, width]);
    let latents = in_f64_on_cpu(latents)?;
    let (a, b) = (ph / h, pw / w);
    let image =
        in_f64_on_cpu(image)?.f_avg_pool2d([a, b], [a, b], [0, 0], false, true, None::<i64>)?;
    Ok((rows(latents, *c), rows(image, 3)))
}

/// The linear map from latents to the mean colours of their cells that errs least, in f64.
///
/// ```text
/// min sum_cells |bias + W latents - rgb|^2        R^2 = 1 - |residual|^2 / |rgb - mean|^2
/// ```
/// # Shapes
/// `latents` [B, C, h, w]; `image` [B, 3, H, W] in [-1, 1], whose sides are multiples of h and w.
/// # Errors
/// Other shapes; NaN or infinity.
///
/// # Examples
/// ```
/// let x = diffuscope::noise::standard_normal(&[1, 4, 8, 8], 0)?;
/// let image = x.narrow(1, 0, 3) * 0.2 + 0.1;
/// let fit = diffuscope::measure::latent_rgb(&x, &image)?;
/// assert!(fit.r_squared > 0.999 && (fit.weights[1][1] - 0.2).abs() < 1e-4);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn latent_rgb(latents: &Tensor, image: &Tensor) -> Result<LatentRgb> {
    let (x, y) = cells(latents, image)?;
    if bool::try_from((x.sum(Kind::Double) + y.sum(Kind::Double)).isfinite().logical_not())? {
        return Err(Error::argument("latents and pictures", "finite numbers", "NaN or infinity"));
    }
    let x = Tensor::f_cat(&[&x, &Tensor::ones([x.size()[0], 1], (Kind::Double, x.device()))], 1)?;
    let (normal, right) = (x.tr().matmul(&x), x.tr().matmul(&y));
    // A channel that never changes has no weight of its own: the pseudo-inverse shares it out.
    let solved = normal.f_pinverse(1e-12)?.matmul(&right);
    let residual = (x.matmul(&solved) - &y).square().sum(Kind::Double).double_value(&[]);
    let mean = y.mean_dim(0, true, Kind::Double);
    let total = (&y - mean).square().sum(Kind::Double).double_value(&[]);
    let numbers = Vec::<f64>::try_from(solved.contiguous().flatten(0, -1))?;
    let mut weights: Vec<[f64; 3]> = numbers.chunks(3).map(|c| [c[0], c[1], c[2]]).collect();
    let bias = weights.pop().unwrap_or_default();
    Ok(LatentRgb { weights, bias, r_squared: 1. - residual / total })
}

impl LatentRgb {
    /// Latents [B, C, h, w] as pictures of their cells, [B, 3, h, w] in f64 on the CPU.
    ///
    /// # Errors
    /// Another shape or number of channels.
    pub fn preview(&self, latents: &Tensor) -> Result<Tensor> {
        let channels = self.weights.len() as i64;
        if latents.dim() != 4 || latents.size()[1] != channels {
            let expected = format!("[B, {channels}, h, w]");
            return Err(Error::shape("latents", expected, &latents.size()));
        }
        let weights = Tensor::from_slice(self.weights.as_flattened()).view([channels, 3]);
        let bias = Tensor::from_slice(&self.bias).view([1, 3, 1, 1]);
        let mixed = in_f64_on_cpu(latents)?.permute([0, 2, 3, 1]).matmul(&weights);
        Ok(mixed.permute([0, 3, 1, 2]) + bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    #[test]
    fn a_linear_decoder_is_found_again_and_what_is_not_linear_counts() -> Result<()> {
        let x = standard_normal(&[3, 4, 8, 8], 1)?;
        let told = LatentRgb {
            weights: vec![[0.1, 0.2, 0.3], [0., -0.1, 0.], [0.2, 0., 0.1], [0., 0., 0.05]],
            bias: [0.1, 0., -0.2],
            r_squared: 1.,
        };
        let image = told.preview(&x)?.upsample_nearest2d([16, 16], None, None);
        let fit = latent_rgb(&x, &image)?;
        let apart = (fit.preview(&x)? - told.preview(&x)?).abs().max().double_value(&[]);
        assert!(apart < 1e-9 && fit.r_squared > 1. - 1e-9, "{apart} {fit:?}");
        let noise = standard_normal(&[3, 3, 8, 8], 2)?;
        assert!(latent_rgb(&x, &noise)?.r_squared < 0.2);
        Ok(())
    }

    #[test]
    fn a_channel_that_never_changes_and_one_colour_are_no_division_by_zero() -> Result<()> {
        let x = standard_normal(&[1, 4, 4, 4], 1)?;
        let dead = Tensor::f_cat(&[&x.narrow(1, 0, 3), &x.narrow(1, 3, 1).zeros_like()], 1)?;
        let fit = latent_rgb(&dead, &(x.narrow(1, 0, 3) * 0.1))?;
        assert!(fit.r_squared > 0.999 && fit.weights[3] == [0.; 3], "{fit:?}");
        let grey = x.narrow(1, 0, 3).zeros_like();
        assert!(latent_rgb(&x, &grey)?.r_squared.is_nan());
        assert!(latent_rgb(&x, &grey.narrow(2, 0, 3)).is_err());
        assert!(latent_rgb(&(&x * f64::NAN), &grey).is_err());
        assert!(fit.preview(&x.narrow(1, 0, 3)).is_err());
        Ok(())
    }
}
