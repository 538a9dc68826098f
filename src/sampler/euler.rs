//! Euler's method in sigma, Karras et al. 2022.
//!
//! The sample is `x = x_0 + sigma eps`, which grows with its noise: a network that was trained on samples of variance 1
//! is given `x / sqrt(sigma^2 + 1)`.

use tch::Tensor;

use super::grid::Grid;
use super::{Coefficients, Options, PlannedStep, StepOutput};
use crate::check::alike;
use crate::{Error, Result};

/// The coefficients of an Euler step.
///
/// ```text
/// d = (x - x_0) / sigma        x_next = x + (sigma_next - sigma) d
///                                     = (1 - sigma_next / sigma) x_0 + sigma_next / sigma x
/// ```
/// Karras et al. 2022, eq. 4 and algorithm 1.
///
/// # Errors
/// A sigma that is not above 0, or a next one that is above it.
pub fn euler_coefficients(sigma: f64, sigma_next: f64) -> Result<Coefficients> {
    if !(sigma > 0. && sigma.is_finite()) {
        return Err(Error::argument("sigma", "above 0", sigma));
    }
    if !(0. ..=sigma).contains(&sigma_next) {
        return Err(Error::argument("sigma_next", format!("0 to {sigma}"), sigma_next));
    }
    let share = sigma_next / sigma;
    Ok(Coefficients { of_x_0: 1. - share, of_x_t: share, ..Coefficients::default() })
}

/// An Euler step on an epsilon prediction: `x_0 = x - sigma eps`.
///
/// # Shapes
/// `x` (not scaled) and `noise_pred` alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ.
pub fn euler_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    noise_pred: &Tensor,
) -> Result<StepOutput> {
    alike("noise_pred", noise_pred, x)?;
    let x_0 = x - sigma * noise_pred;
    let c = euler_coefficients(sigma, sigma_next)?;
    let prev_sample = c.of_x_0 * &x_0 + c.of_x_t * x;
    Ok(StepOutput { prev_sample, pred_original_sample: x_0 })
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    grid.each_step(|from, to| euler_coefficients(from.sigma(), to.sigma()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use crate::sampler::ddim_step;
    use crate::schedule::{Schedule, Step};
    use tch::Kind;

    #[test]
    fn euler_in_sigma_is_ddim_in_other_words() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let (t, t_prev) = (700usize, 400usize);
        let (a, b) = (s.alphas_cumprod()[t], s.alphas_cumprod()[t_prev]);
        let x_t = standard_normal(&[16], 1)?.to_kind(Kind::Double);
        let eps = standard_normal(&[16], 2)?.to_kind(Kind::Double);
        let ddim = ddim_step(&s, Step { t, t_prev: Some(t_prev) }, &x_t, &eps)?;
        let euler = euler_step(s.sigmas()[t], s.sigmas()[t_prev], &(&x_t / a.sqrt()), &eps)?;
        let gap = euler.prev_sample * b.sqrt() - ddim.prev_sample;
        assert!(gap.abs().max().double_value(&[]) < 1e-12);
        Ok(())
    }

    #[test]
    fn sigmas_that_go_up_are_refused() {
        for (sigma, next) in [(0., 0.), (1., 2.), (f64::NAN, 0.), (1., -1.)] {
            assert!(euler_coefficients(sigma, next).is_err());
        }
    }
}
