//! The distribution of a picture's latents.

use std::fmt;

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// The distribution of a picture's latents: an independent normal distribution of each number.
pub struct Posterior {
    /// The mean, unscaled, [B, latent_channels, h, w].
    pub mean: Tensor,
    /// The logarithm of the variance, clamped to [-30, 20].
    pub logvar: Tensor,
}

impl fmt::Debug for Posterior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Posterior {{ mean: {:?} }}", self.mean.size())
    }
}

impl Posterior {
    /// `z = mean + exp(logvar / 2) noise`, Kingma & Welling 2013, section 2.4.
    ///
    /// # Errors
    /// `noise` whose shape is not that of `mean`.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        if noise.size() != self.mean.size() {
            return Err(Error::shape("noise", format!("{:?}", self.mean.size()), &noise.size()));
        }
        Ok(&self.mean + (&self.logvar * 0.5).exp() * noise.to_device(self.mean.device()))
    }

    /// `KL(q || N(0, I)) = (mean^2 + exp(logvar) - 1 - logvar) / 2`, averaged over all numbers;
    /// Kingma & Welling 2013, appendix B.
    pub fn kl(&self) -> Tensor {
        let (mean, logvar) = (self.mean.to_kind(Kind::Float), self.logvar.to_kind(Kind::Float));
        ((mean.square() + logvar.exp() - 1. - logvar) * 0.5).mean(Kind::Float)
    }
}
