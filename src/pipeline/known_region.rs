//! Inpainting with a model that was not made for it: the rest of the picture is put back after every step.

use std::fmt;

use tch::Tensor;

use crate::Result;
use crate::device::moved;
use crate::sampler::Plan;

/// The part of a picture that stays as it was while a model that knows of no mask draws all of it.
pub struct KnownRegion {
    /// 1 where the picture is drawn anew, [1 or B, 1, h, w]. All three are best where the sample is.
    pub mask: Tensor,
    /// The picture's latents, [B, 4, h, w].
    pub x_0: Tensor,
    /// The noise that the drawing started from.
    pub noise: Tensor,
}

impl fmt::Debug for KnownRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownRegion {{ mask: {:?}, x_0: {:?} }}", self.mask.size(), self.x_0.size())
    }
}

impl KnownRegion {
    /// The sample before evaluation `i`, with the picture back where the mask is 0, as noisy as the sample is:
    ///
    /// ```text
    /// x = mask x + (1 - mask) (x_0 noised to there)      Lugmayr et al. 2022, eq. 8
    /// ```
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn restore(&self, plan: &Plan, i: usize, x: &Tensor) -> Result<Tensor> {
        let here = |tensor: &Tensor| moved(tensor, x.device());
        let known = plan.noised(i, &here(&self.x_0)?, &here(&self.noise)?)?;
        let mask = here(&self.mask)?;
        Ok(known * (1. - &mask) + x * mask)
    }
}
