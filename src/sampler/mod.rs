//! The reverse process: one file a sampler, each step a pure function.
//!
//! Every step ends on a weighted sum of at most four things, and the weights are all that samplers
//! differ in: see [`Coefficients`].

mod ddim;
mod ddpm;
mod euler;
mod sampling;

use std::str::FromStr;

use tch::Tensor;

pub use ddim::{ddim_coefficients, ddim_step, ddim_step_eta};
pub use ddpm::{ddpm_coefficients, ddpm_step};
pub use euler::{SigmaStep, euler_coefficients, euler_step, sigma_steps};
pub use sampling::{Plan, Position, Sampling, SamplingStep};

use crate::{Error, Result};

/// What a reverse step gives.
#[derive(Debug)]
pub struct StepOutput {
    /// The sample at the next, less noisy timestep.
    pub prev_sample: Tensor,
    /// x_0 as it looks from here.
    pub pred_original_sample: Tensor,
}

/// The weights of one reverse step:
///
/// ```text
/// prev_sample = x_0 * pred_original_sample + noise_pred * noise_pred + x_t * x_t + noise * noise
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// Of the predicted picture.
    pub x_0: f64,
    /// Of the predicted noise.
    pub noise_pred: f64,
    /// Of the sample that the step starts from.
    pub x_t: f64,
    /// Of fresh noise.
    pub noise: f64,
}

impl Coefficients {
    /// The weighted sum. `noise` is needed where its weight is not 0.
    pub(crate) fn apply(
        &self,
        x_0: Tensor,
        noise_pred: &Tensor,
        x_t: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<StepOutput> {
        let mut sum = &x_0 * self.x_0;
        for (weight, tensor) in [(self.noise_pred, noise_pred), (self.x_t, x_t)] {
            if weight != 0. {
                sum += tensor * weight;
            }
        }
        if self.noise != 0. {
            let todo = "draw it with noise::standard_normal";
            let noise =
                noise.ok_or_else(|| Error::argument("noise", "a tensor like x_t", "none", todo))?;
            crate::forward::same_shape("noise", noise, x_t)?;
            sum += noise.to_device(x_t.device()).to_kind(x_t.kind()) * self.noise;
        }
        Ok(StepOutput { prev_sample: sum, pred_original_sample: x_0 })
    }
}

/// The samplers, by the names that people use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// Song et al. 2020; `eta` 0 is deterministic, 1 as noisy as DDPM.
    Ddim {
        /// How much fresh noise every step adds.
        eta: f64,
    },
    /// Ho et al. 2020.
    Ddpm,
    /// Karras et al. 2022, algorithm 2 without its second order.
    Euler,
}

impl Sampler {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim { .. } => "ddim",
            Self::Ddpm => "ddpm",
            Self::Euler => "euler",
        }
    }

    /// Whether its steps add fresh noise.
    pub fn is_stochastic(self) -> bool {
        match self {
            Self::Ddim { eta } => eta != 0.,
            Self::Ddpm => true,
            Self::Euler => false,
        }
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// People's names and diffusers' class names.
    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "ddim" | "ddimscheduler" => Ok(Self::Ddim { eta: 0. }),
            "ddpm" | "ddpmscheduler" => Ok(Self::Ddpm),
            "euler" | "eulerdiscretescheduler" => Ok(Self::Euler),
            _ => Err(Error::argument("sampler", "ddim, ddpm or euler", name, "")),
        }
    }
}
