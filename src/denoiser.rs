//! What a sampler needs from a model, and a model that is exactly right.

use std::fmt;

use tch::{Kind, Tensor};

use crate::device::{in_f64, put};
use crate::prediction::epsilon_from_x_0;
use crate::schedule::Schedule;
use crate::timesteps::Timesteps;
use crate::{Error, Result};

/// Anything that predicts what is in a noisy sample.
pub trait Denoiser {
    /// The prediction for `x_t` at `t`.
    ///
    /// # Shapes
    /// `x_t` [B, ...]; `t` one for all or `[B]`; `context` [B, tokens, width] where the model has one; returns the shape
    /// of `x_t`.
    /// # Errors
    /// Shapes that the model does not take.
    fn predict(&self, x_t: &Tensor, t: &Timesteps, context: Option<&Tensor>) -> Result<Tensor>;

    /// The prediction for one half of a guided batch [uncond, cond] alone. A model whose other conditions have rows for
    /// both halves has to take those of this one.
    ///
    /// # Errors
    /// As [`Denoiser::predict`].
    fn predict_half(
        &self,
        _: Half,
        x_t: &Tensor,
        t: &Timesteps,
        context: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.predict(x_t, t, context)
    }
}

/// A half of a guided batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Without the prompt.
    Uncond,
    /// With the prompt.
    Cond,
}

/// The best possible noise prediction for a finite data set: no training, no error.
///
/// ```text
/// w_i = softmax_i(-|x_t - sqrt(alpha_bar_t) x_i|^2 / (2 (1 - alpha_bar_t)))
/// E[x_0 | x_t] = sum_i w_i x_i                         Karras et al. 2022, eq. 57
/// eps = (x_t - sqrt(alpha_bar_t) E[x_0 | x_t]) / sqrt(1 - alpha_bar_t)
/// ```
///
/// # Examples
/// ```
/// use diffuscope::{denoiser::{Denoiser, ExactDenoiser}, schedule::Schedule};
/// use tch::Tensor;
/// let data = Tensor::from_slice(&[-1f32, 1.]).view([2, 1]);
/// let exact = ExactDenoiser::new(Schedule::stable_diffusion(), &data)?;
/// let noise_pred = exact.predict(&Tensor::zeros([1, 1], tch::kind::FLOAT_CPU), &999.into(), None)?;
/// assert!(noise_pred.double_value(&[0, 0]).abs() < 1e-6);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub struct ExactDenoiser {
    schedule: Schedule,
    /// [N, features] in f64, where that can be computed
    data: Tensor,
    shape: Vec<i64>,
}

impl fmt::Debug for ExactDenoiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.data.size()[0];
        write!(f, "ExactDenoiser {{ {count} samples of {:?} }}", self.shape)
    }
}

impl ExactDenoiser {
    /// The denoiser of the samples `data` [N, ...].
    ///
    /// # Errors
    /// No sample.
    pub fn new(schedule: Schedule, data: &Tensor) -> Result<Self> {
        let size = data.size();
        if size.len() < 2 || size.contains(&0) {
            return Err(Error::shape("data", "[N, ...] with N of 1 or more", &size));
        }
        let shape = size[1..].to_vec();
        let data = in_f64(data)?.flatten(1, -1);
        Ok(Self { schedule, data, shape })
    }

    /// `E[x_0 | x_t]`: the mean of the data, each sample weighted by how likely `x_t` comes from it.
    ///
    /// # Errors
    /// Samples of another shape than the data's; `t` outside the schedule or between its timesteps.
    pub fn x_0(&self, x_t: &Tensor, t: impl Into<Timesteps>) -> Result<Tensor> {
        if x_t.dim() == 0 || x_t.size()[1..] != self.shape {
            return Err(Error::shape("x_t", format!("[B] + {:?}", self.shape), &x_t.size()));
        }
        let rates = self.schedule.rates(t)?;
        rates.check(x_t)?;
        let x = in_f64(x_t)?.f_to_device(self.data.device())?.flatten(1, -1).unsqueeze(1);
        // [1 or B, N, features]: the data as it is at the timestep of each sample.
        let means = rates.times(&self.data.unsqueeze(0), |signal, _| signal);
        let distance = (x - means).square().sum_dim_intlist(-1, false, Kind::Double);
        let logits = rates.under(&distance, |_, noise| -2. * noise * noise);
        let weights = logits.softmax(-1, Kind::Double);
        let x_0 = weights.matmul(&self.data).reshape(x_t.size());
        Ok(put(&x_0, x_t.kind(), x_t.device()))
    }
}

impl Denoiser for ExactDenoiser {
    fn predict(&self, x_t: &Tensor, t: &Timesteps, _context: Option<&Tensor>) -> Result<Tensor> {
        let x_0 = self.x_0(x_t, t)?;
        epsilon_from_x_0(&self.schedule, t, x_t, &x_0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    #[test]
    fn a_batch_of_several_timesteps_is_its_samples_alone() -> Result<()> {
        let data = standard_normal(&[5, 3, 2], 1)?;
        let exact = ExactDenoiser::new(Schedule::stable_diffusion(), &data)?;
        let x_t = standard_normal(&[2, 3, 2], 2)?;
        let both = exact.predict(&x_t, &[20, 700].into(), None)?;
        for (i, t) in [(0, 20), (1, 700)] {
            let alone = exact.predict(&x_t.narrow(0, i, 1), &t.into(), None)?;
            assert!((both.narrow(0, i, 1) - alone).abs().max().double_value(&[]) < 1e-6);
        }
        assert!(exact.predict(&x_t, &[1, 2, 3].into(), None).is_err());
        assert!(exact.predict(&x_t, &0.5.into(), None).is_err());
        assert!(exact.predict(&x_t.get(0).get(0).get(0), &0.into(), None).is_err());
        Ok(())
    }
}
