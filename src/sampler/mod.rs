//! The reverse process: one file a family of samplers, each step a pure function.
//!
//! Every step ends on a weighted sum of what is known: the sample, the picture and the noise that the model saw in it,
//! what it saw in earlier samples, fresh noise. The weights are all that samplers differ in, see [`Coefficients`], and
//! they are known before the first step: a [`Plan`] lists them.

mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm_solver;
mod euler;
mod heun;
mod lcm;
mod lms;
mod name;
mod plan;
mod pndm;
mod position;
mod sampling;
mod unipc;

use tch::Tensor;

pub use config::SchedulerConfig;
pub use ddim::{ddim_coefficients, ddim_step, ddim_step_eta};
pub use ddpm::{ddpm_coefficients, ddpm_step};
pub use deis::deis_coefficients;
pub use dpm_solver::{
    DpmSolver, Form, Solver, dpm_solver_multistep_coefficients, dpm_solver_singlestep_coefficients,
};
pub use euler::{ancestral_sigmas, euler_ancestral_coefficients, euler_coefficients, euler_step};
pub use heun::{dpm2_coefficients, heun_coefficients};
pub use lcm::{lcm_coefficients, lcm_timesteps};
pub use lms::lms_coefficients;
pub use name::{Method, Sampler};
pub use plan::{Clip, Plan, PlannedStep, Settings};
pub use pndm::plms_weights;
pub use position::{FinalSigma, Position, Sigmas};
pub use sampling::{Sampling, SamplingStep};
pub use unipc::{UniPc, unipc_corrector, unipc_predictor};

use crate::{Error, Result};

/// What a reverse step gives.
#[derive(Debug)]
pub struct StepOutput {
    /// The sample at the next, less noisy timestep.
    pub prev_sample: Tensor,
    /// x_0 as it looks from here.
    pub pred_original_sample: Tensor,
}

/// What the model saw in one sample.
#[derive(Debug)]
pub struct Look {
    /// Where the sample stood.
    pub position: Position,
    /// The sample; a corrector's, where there is one.
    pub x_t: Tensor,
    /// The picture that the model saw in it.
    pub x_0: Tensor,
    /// The noise that the model saw in it.
    pub noise_pred: Tensor,
}

impl Look {
    /// The same look, sharing its tensors.
    pub fn shallow_clone(&self) -> Self {
        Self {
            position: self.position,
            x_t: self.x_t.shallow_clone(),
            x_0: self.x_0.shallow_clone(),
            noise_pred: self.noise_pred.shallow_clone(),
        }
    }
}

/// The weights of one look in a step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Weights {
    /// Of the picture that the model saw.
    pub x_0: f64,
    /// Of the noise that it saw.
    pub noise_pred: f64,
    /// Of the sample that it looked at.
    pub x_t: f64,
}

/// How many looks a step can remember beside the newest.
pub const EARLIER: usize = 3;

/// The weights of one reverse step:
///
/// ```text
/// prev_sample = x_0 * pred_original_sample + noise_pred * noise_pred + x_t * x_t + noise * noise
///             + the same of the looks before, the last one first
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Coefficients {
    /// Of the predicted picture.
    pub x_0: f64,
    /// Of the predicted noise.
    pub noise_pred: f64,
    /// Of the sample that the step starts from.
    pub x_t: f64,
    /// Of fresh noise.
    pub noise: f64,
    /// Of earlier looks, the last one first: what multistep and two-stage samplers remember.
    pub earlier: [Weights; EARLIER],
}

impl Coefficients {
    /// The weights of the newest look and of those before it.
    pub fn of_looks(&self) -> [Weights; 1 + EARLIER] {
        let Self { x_0, noise_pred, x_t, earlier: [a, b, c], .. } = *self;
        [Weights { x_0, noise_pred, x_t }, a, b, c]
    }

    /// The weights of looks, the newest first.
    fn from_looks(looks: [Weights; 1 + EARLIER], noise: f64) -> Self {
        let [Weights { x_0, noise_pred, x_t }, a, b, c] = looks;
        Self { x_0, noise_pred, x_t, noise, earlier: [a, b, c] }
    }

    /// The weighted sum over `looks`, the newest first. `noise` is needed where its weight is not 0.
    ///
    /// # Errors
    /// A look or a noise that has a weight and is missing; shapes that differ.
    pub fn sum(&self, looks: &[&Look], noise: Option<&Tensor>) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        let mut add = |weight: f64, tensor: &Tensor| {
            let term = tensor * weight;
            sum = Some(match sum.take() {
                Some(sum) => sum + term,
                None => term,
            });
        };
        let newest = looks.first().ok_or_else(|| missing("looks", "the newest and more"))?;
        let shape = newest.x_t.size();
        for (i, weights) in self.of_looks().into_iter().enumerate() {
            for (weight, which) in [(weights.x_0, 0), (weights.noise_pred, 1), (weights.x_t, 2)] {
                if weight == 0. {
                    continue;
                }
                let look =
                    looks.get(i).ok_or_else(|| missing("looks", format!("{} of them", i + 1)))?;
                let tensor = [&look.x_0, &look.noise_pred, &look.x_t][which];
                if tensor.size() != shape {
                    return Err(Error::shape("look", format!("{shape:?}"), &tensor.size()));
                }
                add(weight, tensor);
            }
        }
        if self.noise != 0. {
            let noise = noise.ok_or_else(|| missing("noise", "a tensor like x_t"))?;
            crate::forward::same_shape("noise", noise, &newest.x_t)?;
            add(self.noise, &noise.to_device(newest.x_t.device()).to_kind(newest.x_t.kind()));
        }
        Ok(sum.unwrap_or_else(|| newest.x_t.zeros_like()))
    }

    /// The weighted sum of one look alone.
    pub(crate) fn apply(
        &self,
        x_0: Tensor,
        noise_pred: &Tensor,
        x_t: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<StepOutput> {
        let look = Look {
            position: Position::PICTURE,
            x_t: x_t.shallow_clone(),
            x_0,
            noise_pred: noise_pred.shallow_clone(),
        };
        let prev_sample = self.sum(&[&look], noise)?;
        Ok(StepOutput { prev_sample, pred_original_sample: look.x_0 })
    }
}

fn missing(what: &str, expected: impl ToString) -> Error {
    Error::argument(what, expected, "none", "")
}

/// The weights of [`Weights::x_0`] and [`Weights::x_t`] that carry a sample from `from` to `to` on a straight line of
/// unchanged noise: a DDIM step, an Euler step and a DPM-Solver step of order 1 are this one step.
///
/// ```text
/// x_to = alpha_to x_0 + sigma_to eps = sigma_to / sigma_from x + (alpha_to - alpha_from sigma_to / sigma_from) x_0
/// ```
fn straight(from: Position, to: Position) -> Weights {
    let share = to.sigma / from.sigma;
    Weights { x_0: to.alpha - from.alpha * share, noise_pred: 0., x_t: share }
}
