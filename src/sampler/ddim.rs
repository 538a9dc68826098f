//! Denoising diffusion implicit models, Song et al. 2020.

use tch::Tensor;

use super::grid::Grid;
use super::{Coefficients, Options, PlannedStep, StepOutput};
use crate::check::alike;
use crate::prediction::x_0_from_epsilon;
use crate::schedule::{Schedule, Step};
use crate::{Error, Result};

/// The coefficients of a DDIM step.
///
/// ```text
/// std_dev_t = eta sqrt((1 - alpha_bar_prev) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_prev)
/// x_prev = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - std_dev_t^2) eps + std_dev_t noise
/// ```
/// Song et al. 2020, eq. 12 and 16.
///
/// # Errors
/// A step outside the schedule or that does not go down; `eta` outside [0, 1].
pub fn ddim_coefficients(s: &Schedule, step: Step, eta: f64) -> Result<Coefficients> {
    if !(0. ..=1.).contains(&eta) {
        return Err(Error::argument("eta", "0 (deterministic) to 1 (as DDPM)", eta));
    }
    let (alpha_bar_t, alpha_bar_prev) = (s.alpha_bar(step.t)?, s.alpha_bar_prev(step)?);
    // Rounding may make the variance of a step that stays where it is negative.
    let variance = (1. - alpha_bar_prev) / (1. - alpha_bar_t) * (1. - alpha_bar_t / alpha_bar_prev);
    let std_dev_t = eta * variance.max(0.).sqrt();
    Ok(Coefficients {
        of_x_0: alpha_bar_prev.sqrt(),
        of_noise_pred: (1. - alpha_bar_prev - std_dev_t.powi(2)).max(0.).sqrt(),
        of_noise: std_dev_t,
        ..Coefficients::default()
    })
}

/// A deterministic DDIM step: [`ddim_step_eta`] with `eta` 0.
///
/// # Shapes
/// `x_t` and `noise_pred` alike; both outputs are the same.
/// # Errors
/// A step outside the schedule; shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::{noise::standard_normal, sampler::ddim_step, schedule::{Schedule, Step}};
/// let s = Schedule::stable_diffusion();
/// let x_t = standard_normal(&[1, 4, 8, 8], 0)?;
/// let out = ddim_step(&s, Step { t: 999, t_prev: Some(979) }, &x_t, &x_t)?;
/// assert_eq!(out.prev_sample.size(), [1, 4, 8, 8]);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn ddim_step(
    s: &Schedule,
    step: Step,
    x_t: &Tensor,
    noise_pred: &Tensor,
) -> Result<StepOutput> {
    let x_0 = x_0_from_epsilon(s, step.t, x_t, noise_pred)?;
    let c = ddim_coefficients(s, step, 0.)?;
    let prev_sample = c.of_x_0 * &x_0 + c.of_noise_pred * noise_pred;
    Ok(StepOutput { prev_sample, pred_original_sample: x_0 })
}

/// A DDIM step that adds as much of `noise` as `eta` says.
///
/// # Shapes
/// `x_t`, `noise_pred` and `noise` alike; both outputs are the same.
/// # Errors
/// A step outside the schedule; `eta` outside [0, 1]; shapes that differ.
pub fn ddim_step_eta(
    s: &Schedule,
    step: Step,
    x_t: &Tensor,
    noise_pred: &Tensor,
    eta: f64,
    noise: &Tensor,
) -> Result<StepOutput> {
    let x_0 = x_0_from_epsilon(s, step.t, x_t, noise_pred)?;
    let c = ddim_coefficients(s, step, eta)?;
    let mean = c.of_x_0 * &x_0 + c.of_noise_pred * noise_pred;
    Ok(StepOutput { prev_sample: c.with_noise(mean, Some(noise))?, pred_original_sample: x_0 })
}

/// A DDIM step backwards, from the less noisy sample to the noisier one.
///
/// ```text
/// x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps
/// x_0 = (x_prev - sqrt(1 - alpha_bar_prev) eps) / sqrt(alpha_bar_prev)
/// ```
/// Dhariwal & Nichol 2021, appendix F: Song et al. 2020, eq. 12, read backwards.
///
/// # Shapes
/// `x_prev` and `noise_pred` alike; returns the same.
/// # Errors
/// A step outside the schedule or that does not go down; shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::sampler::{ddim_inverse_step, ddim_step};
/// use diffuscope::{noise::standard_normal, schedule::{Schedule, Step}};
/// let (s, step) = (Schedule::stable_diffusion(), Step { t: 999, t_prev: Some(900) });
/// let (x_t, noise_pred) = (standard_normal(&[1, 4, 8, 8], 0)?, standard_normal(&[1, 4, 8, 8], 1)?);
/// let x_prev = ddim_step(&s, step, &x_t, &noise_pred)?.prev_sample;
/// let back = ddim_inverse_step(&s, step, &x_prev, &noise_pred)?;
/// assert!((back - x_t).abs().max().double_value(&[]) < 1e-5);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn ddim_inverse_step(
    s: &Schedule,
    step: Step,
    x_prev: &Tensor,
    noise_pred: &Tensor,
) -> Result<Tensor> {
    alike("noise_pred", noise_pred, x_prev)?;
    let (alpha_bar_t, alpha_bar_prev) = (s.alpha_bar(step.t)?, s.alpha_bar_prev(step)?);
    let x_0 = (x_prev - (1. - alpha_bar_prev).sqrt() * noise_pred) / alpha_bar_prev.sqrt();
    Ok(alpha_bar_t.sqrt() * x_0 + (1. - alpha_bar_t).sqrt() * noise_pred)
}

pub(super) fn plan(grid: &Grid<'_>, options: &Options) -> Result<Vec<PlannedStep>> {
    grid.each_step(|from, to| ddim_coefficients(grid.schedule, from.step_to(to), options.eta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::add_noise;
    use crate::noise::standard_normal;
    use tch::Kind;

    #[test]
    fn with_the_true_noise_it_lands_on_the_forward_process() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x_0 = standard_normal(&[2, 4, 4, 4], 1)?.to_kind(Kind::Double);
        let noise = standard_normal(&[2, 4, 4, 4], 2)?.to_kind(Kind::Double);
        let at = |t: usize| add_noise(&s, t, &x_0, &noise);
        for (t, t_prev) in [(999, Some(500)), (500, Some(1)), (1, Some(0)), (20, None)] {
            let out = ddim_step(&s, Step { t, t_prev }, &at(t)?, &noise)?;
            let expected = t_prev.map_or(Ok(x_0.shallow_clone()), at)?;
            assert!((out.prev_sample - expected).abs().max().double_value(&[]) < 1e-12);
            assert!((out.pred_original_sample - &x_0).abs().max().double_value(&[]) < 1e-12);
        }
        Ok(())
    }

    #[test]
    fn a_step_keeps_the_variance_whatever_eta_is() -> Result<()> {
        let s = Schedule::stable_diffusion();
        for eta in [0., 0.3, 1.] {
            let c = ddim_coefficients(&s, Step { t: 700, t_prev: Some(600) }, eta)?;
            let rest = 1. - s.alphas_cumprod()[600];
            assert!((c.of_noise_pred.powi(2) + c.of_noise.powi(2) - rest).abs() < 1e-12);
        }
        let up = Step { t: 5, t_prev: Some(9) };
        assert!(ddim_coefficients(&s, up, 0.).is_err());
        assert!(ddim_coefficients(&s, Step { t: 5, t_prev: None }, 1.5).is_err());
        Ok(())
    }
}
