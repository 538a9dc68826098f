//! Denoising diffusion probabilistic models, Ho et al. 2020.

use tch::Tensor;

use super::grid::Grid;
use super::{Coefficients, Options, PlannedStep, StepOutput};
use crate::Result;
use crate::prediction::x_0_from_epsilon;
use crate::schedule::{Schedule, Step};

/// The coefficients of a DDPM step, with the posterior's own variance.
///
/// ```text
/// alpha_t = alpha_bar_t / alpha_bar_prev        beta_t = 1 - alpha_t
/// mean = sqrt(alpha_bar_prev) beta_t / (1 - alpha_bar_t) x_0
///      + sqrt(alpha_t) (1 - alpha_bar_prev) / (1 - alpha_bar_t) x_t
/// variance = (1 - alpha_bar_prev) / (1 - alpha_bar_t) beta_t
/// ```
/// Ho et al. 2020, eq. 6 and 7; between timesteps further apart, alpha_t is their quotient.
///
/// # Errors
/// A step outside the schedule or that does not go down.
pub fn ddpm_coefficients(s: &Schedule, step: Step) -> Result<Coefficients> {
    let (alpha_bar_t, alpha_bar_prev) = (s.alpha_bar(step.t)?, s.alpha_bar_prev(step)?);
    let alpha_t = alpha_bar_t / alpha_bar_prev;
    let (beta_t, rest, rest_prev) = (1. - alpha_t, 1. - alpha_bar_t, 1. - alpha_bar_prev);
    Ok(Coefficients {
        of_x_0: alpha_bar_prev.sqrt() * beta_t / rest,
        of_x_t: alpha_t.sqrt() * rest_prev / rest,
        of_noise: (rest_prev / rest * beta_t).sqrt(),
        ..Coefficients::default()
    })
}

/// A DDPM step. The last one ignores its noise.
///
/// # Shapes
/// `x_t`, `noise_pred` and `noise` alike; both outputs are the same.
/// # Errors
/// A step outside the schedule; shapes that differ.
pub fn ddpm_step(
    s: &Schedule,
    step: Step,
    x_t: &Tensor,
    noise_pred: &Tensor,
    noise: &Tensor,
) -> Result<StepOutput> {
    let x_0 = x_0_from_epsilon(s, step.t, x_t, noise_pred)?;
    let c = ddpm_coefficients(s, step)?;
    let mean = c.of_x_0 * &x_0 + c.of_x_t * x_t;
    Ok(StepOutput { prev_sample: c.with_noise(mean, Some(noise))?, pred_original_sample: x_0 })
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    grid.each_step(|from, to| ddpm_coefficients(grid.schedule, from.step_to(to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use tch::Kind;

    #[test]
    fn the_two_forms_of_the_mean_agree() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x_t = standard_normal(&[8], 1)?.to_kind(Kind::Double);
        let eps = standard_normal(&[8], 2)?.to_kind(Kind::Double);
        for t in [1, 2, 500, 999] {
            let step = Step { t, t_prev: Some(t - 1) };
            let mean = ddpm_step(&s, step, &x_t, &eps, &x_t.zeros_like())?.prev_sample;
            // Ho et al. 2020, eq. 11
            let (alpha, beta) = (s.alphas()[t], s.betas()[t]);
            let direct =
                (&x_t - &eps * (beta / (1. - s.alphas_cumprod()[t]).sqrt())) / alpha.sqrt();
            assert!((mean - direct).abs().max().double_value(&[]) < 1e-12, "t = {t}");
        }
        Ok(())
    }

    #[test]
    fn the_last_step_ignores_its_noise() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x = standard_normal(&[8], 1)?;
        let last = Step { t: 0, t_prev: None };
        let (a, b) = (ddpm_step(&s, last, &x, &x, &x)?, ddpm_step(&s, last, &x, &x, &(&x * 9.))?);
        assert!(a.prev_sample.equal(&b.prev_sample));
        assert!(a.prev_sample.equal(&a.pred_original_sample));
        Ok(())
    }
}
