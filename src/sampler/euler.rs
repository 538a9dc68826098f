//! Euler's method in sigma, Karras et al. 2022.
//!
//! The sample is `x = x_0 + sigma eps`, which grows with its noise: a network that was trained on
//! samples of variance 1 sees `x / sqrt(sigma^2 + 1)`.

use tch::Tensor;

use super::{Coefficients, StepOutput};
use crate::forward::same_shape;
use crate::schedule::{Schedule, Spacing, timesteps, timesteps_f64};
use crate::{Error, Result};

/// A step from one sigma to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SigmaStep {
    /// The timestep that the model is told: between two training timesteps under linspace.
    pub t: f64,
    /// The noise here.
    pub sigma: f64,
    /// The noise after the step; 0 at the end.
    pub sigma_next: f64,
}

impl SigmaStep {
    /// What the sample is multiplied with before the model sees it: `1 / sqrt(sigma^2 + 1)`.
    pub fn input_scale(&self) -> f64 {
        1. / (self.sigma.powi(2) + 1.).sqrt()
    }
}

/// The steps from the noisiest sigma down to 0, sigmas between training timesteps on a line.
///
/// # Errors
/// As [`timesteps`].
pub fn sigma_steps(
    s: &Schedule,
    num_inference_steps: usize,
    spacing: Spacing,
    steps_offset: usize,
) -> Result<Vec<SigmaStep>> {
    let list: Vec<f64> = match spacing {
        Spacing::Linspace => timesteps_f64(s, num_inference_steps, spacing, steps_offset)?,
        _ => timesteps(s, num_inference_steps, spacing, steps_offset)?
            .into_iter()
            .map(|t| t as f64)
            .collect(),
    };
    let sigmas = s.sigmas();
    let sigma_at = |t: f64| {
        let (low, part) = (t.floor() as usize, t - t.floor());
        let high = (low + 1).min(sigmas.len() - 1);
        sigmas[low] + (sigmas[high] - sigmas[low]) * part
    };
    let next = list.iter().skip(1).map(|&t| sigma_at(t)).chain([0.]);
    Ok(list
        .iter()
        .zip(next)
        .map(|(&t, sigma_next)| SigmaStep { t, sigma: sigma_at(t), sigma_next })
        .collect())
}

/// The weights of an Euler step.
///
/// ```text
/// d = (x - x_0) / sigma        x_next = x + (sigma_next - sigma) d
///                                     = (1 - sigma_next / sigma) x_0 + sigma_next / sigma x
/// ```
/// Karras et al. 2022, eq. 4 and algorithm 1.
///
/// # Errors
/// A sigma that is not above 0, or a next one that is not below it.
pub fn euler_coefficients(step: SigmaStep) -> Result<Coefficients> {
    let SigmaStep { sigma, sigma_next, .. } = step;
    if !(sigma > 0. && sigma.is_finite()) {
        return Err(Error::argument("sigma", "above 0", sigma, ""));
    }
    if !(0. ..sigma).contains(&sigma_next) {
        return Err(Error::argument("sigma_next", format!("0 to below {sigma}"), sigma_next, ""));
    }
    let share = sigma_next / sigma;
    Ok(Coefficients { x_0: 1. - share, noise_pred: 0., x_t: share, noise: 0. })
}

/// An Euler step on an epsilon prediction: `x_0 = x - sigma eps`.
///
/// # Shapes
/// `x` (not scaled) and `noise_pred` alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ.
pub fn euler_step(step: SigmaStep, x: &Tensor, noise_pred: &Tensor) -> Result<StepOutput> {
    same_shape("noise_pred", noise_pred, x)?;
    let x_0 = x - noise_pred * step.sigma;
    euler_coefficients(step)?.apply(x_0, noise_pred, x, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use crate::sampler::ddim_step;
    use crate::schedule::Step;
    use tch::Kind;

    #[test]
    fn euler_in_sigma_is_ddim_in_other_words() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let (t, t_prev) = (700usize, 400usize);
        let (a, b) = (s.alphas_cumprod()[t], s.alphas_cumprod()[t_prev]);
        let x_t = standard_normal(&[16], 1)?.to_kind(Kind::Double);
        let eps = standard_normal(&[16], 2)?.to_kind(Kind::Double);
        let ddim = ddim_step(&s, Step { t, t_prev: Some(t_prev) }, &x_t, &eps)?;
        let step = SigmaStep { t: 700., sigma: s.sigmas()[t], sigma_next: s.sigmas()[t_prev] };
        let euler = euler_step(step, &(&x_t / a.sqrt()), &eps)?;
        let gap = euler.prev_sample * b.sqrt() - ddim.prev_sample;
        assert!(gap.abs().max().double_value(&[]) < 1e-12);
        assert!(
            ((&x_t / a.sqrt()) * step.input_scale() - &x_t).abs().max().double_value(&[]) < 1e-12
        );
        Ok(())
    }

    #[test]
    fn sigmas_that_do_not_go_down_are_refused() {
        let step = |sigma, sigma_next| SigmaStep { t: 1., sigma, sigma_next };
        for (sigma, next) in [(0., 0.), (1., 1.), (1., 2.), (f64::NAN, 0.), (1., -1.)] {
            assert!(euler_coefficients(step(sigma, next)).is_err());
        }
    }
}
