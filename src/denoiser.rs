//! What a sampler needs of a model, and a model that is exactly right.

use tch::{Kind, Tensor};

use crate::models::unet::{Conditions, UNet};
use crate::schedule::Schedule;
use crate::{Error, Result};

/// Anything that looks at a noisy sample and says something of what is in it.
pub trait Denoiser {
    /// The prediction for `x_t` at `t`.
    ///
    /// # Shapes
    /// `x_t` [B, ...]; `t` `[B]` or one number; `context` [B, tokens, width] where the model has one;
    /// returns what `x_t` is.
    /// # Errors
    /// Shapes that the model does not take.
    fn predict(&self, x_t: &Tensor, t: &Tensor, context: Option<&Tensor>) -> Result<Tensor>;
}

impl Denoiser for UNet {
    fn predict(&self, x_t: &Tensor, t: &Tensor, context: Option<&Tensor>) -> Result<Tensor> {
        let todo = "encode a prompt, the empty one for no condition";
        let context = context
            .ok_or_else(|| Error::argument("context", "[B, tokens, width]", "none", todo))?;
        self.forward(x_t, t, context)
    }
}

/// A U-Net with what it is told beside the sample and the timestep, the same at every step.
///
/// A context that the sampler gives stands in place of the conditions' own. What has fewer rows than the
/// sample is repeated: [B, ...] serves both halves [uncond, cond] of a guided prediction.
pub struct Conditioned<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// What it is told.
    pub conditions: Conditions,
}

impl Denoiser for Conditioned<'_> {
    fn predict(&self, x_t: &Tensor, t: &Tensor, context: Option<&Tensor>) -> Result<Tensor> {
        let mut conditions = Conditions::from(&self.conditions);
        if let Some(context) = context {
            conditions.context = context.shallow_clone();
        }
        let batch = x_t.size().first().copied().unwrap_or(1);
        self.unet.forward(x_t, t, conditions.for_batch(batch)?)
    }
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
/// let t = Tensor::from_slice(&[999i64]);
/// let noise_pred = exact.predict(&Tensor::zeros([1, 1], tch::kind::FLOAT_CPU), &t, None)?;
/// assert!(noise_pred.double_value(&[0, 0]).abs() < 1e-6);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub struct ExactDenoiser {
    schedule: Schedule,
    /// [N, features] in f64
    data: Tensor,
    shape: Vec<i64>,
}

impl ExactDenoiser {
    /// The denoiser of the samples `data` [N, ...].
    ///
    /// # Errors
    /// No sample.
    pub fn new(schedule: Schedule, data: &Tensor) -> Result<Self> {
        let size = data.size();
        if size.len() < 2 || size.contains(&0) {
            return Err(Error::shape("data", "[N, ...] with N of 1 and more", &size));
        }
        let shape = size[1..].to_vec();
        let data = data.to_kind(Kind::Double).flatten(1, -1);
        Ok(Self { schedule, data, shape })
    }

    /// `E[x_0 | x_t]`: the average of the data, each weighted by how likely `x_t` comes from it.
    ///
    /// # Errors
    /// Samples of another shape than the data's; `t` outside the schedule.
    pub fn x_0(&self, x_t: &Tensor, t: usize) -> Result<Tensor> {
        let alpha_bar_t = self.schedule.alpha_bar(t)?;
        if x_t.dim() == 0 || x_t.size()[1..] != self.shape {
            return Err(Error::shape("x_t", format!("[B] + {:?}", self.shape), &x_t.size()));
        }
        let x = x_t.to_kind(Kind::Double).flatten(1, -1).unsqueeze(1);
        let gaps = x - (&self.data * alpha_bar_t.sqrt()).unsqueeze(0);
        let distance = gaps.square().sum_dim_intlist(-1, false, Kind::Double);
        let weights = (distance / (-2. * (1. - alpha_bar_t))).softmax(-1, Kind::Double);
        Ok(weights.matmul(&self.data).reshape(x_t.size()).to_kind(x_t.kind()))
    }
}

impl Denoiser for ExactDenoiser {
    fn predict(&self, x_t: &Tensor, t: &Tensor, _context: Option<&Tensor>) -> Result<Tensor> {
        let t = t.reshape([-1]).to_kind(Kind::Int64);
        if t.numel() != 1 && t.size()[..] != x_t.size()[..1] {
            return Err(Error::shape("t", "one number, or one a sample", &t.size()));
        }
        let of = |x: &Tensor, t: i64| {
            let t = usize::try_from(t).unwrap_or(usize::MAX);
            let x_0 = self.x_0(x, t)?;
            crate::prediction::epsilon_from_x_0(&self.schedule, t, x, &x_0)
        };
        if t.numel() == 1 {
            return of(x_t, t.int64_value(&[0]));
        }
        let each = (0..t.size()[0])
            .map(|i| of(&x_t.narrow(0, i, 1), t.int64_value(&[i])))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&each, 0))
    }
}
