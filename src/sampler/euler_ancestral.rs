//! Euler's method to a lower sigma, and fresh noise back up, as k-diffusion has it.

use tch::Tensor;

use super::grid::Grid;
use super::{Coefficients, Options, PlannedStep, StepOutput, euler_coefficients};
use crate::Result;
use crate::check::alike;

/// How far an ancestral step goes down, and how much fresh noise brings it back up to `sigma_next`.
///
/// ```text
/// sigma_up = sigma_next sqrt(1 - sigma_next^2 / sigma^2)        sigma_down = sigma_next^2 / sigma
/// ```
/// The noise of DDPM's posterior, in sigma; `sigma_down^2 + sigma_up^2 = sigma_next^2`. Returns `(down, up)`.
pub fn ancestral_sigmas(sigma: f64, sigma_next: f64) -> (f64, f64) {
    let share = sigma_next / sigma;
    (sigma_next * share, sigma_next * (1. - share.powi(2)).max(0.).sqrt())
}

/// The coefficients of an ancestral Euler step: Euler to `sigma_down`, and `sigma_up` of fresh noise.
///
/// # Errors
/// As [`euler_coefficients`].
pub fn euler_ancestral_coefficients(sigma: f64, sigma_next: f64) -> Result<Coefficients> {
    euler_coefficients(sigma, sigma_next)?;
    let (down, up) = ancestral_sigmas(sigma, sigma_next);
    Ok(Coefficients { of_noise: up, ..euler_coefficients(sigma, down)? })
}

/// An ancestral Euler step on an epsilon prediction: `x_0 = x - sigma eps`. The step to sigma 0 ignores its noise.
///
/// # Shapes
/// `x` (not scaled), `noise_pred` and `noise` alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ.
pub fn euler_ancestral_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    noise_pred: &Tensor,
    noise: &Tensor,
) -> Result<StepOutput> {
    alike("noise_pred", noise_pred, x)?;
    let x_0 = x - sigma * noise_pred;
    let c = euler_ancestral_coefficients(sigma, sigma_next)?;
    let mean = c.of_x_0 * &x_0 + c.of_x_t * x;
    Ok(StepOutput { prev_sample: c.with_noise(mean, Some(noise))?, pred_original_sample: x_0 })
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    grid.each_step(|from, to| euler_ancestral_coefficients(from.sigma(), to.sigma()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmas_that_go_up_are_refused() {
        for (sigma, next) in [(0., 0.), (1., 2.), (f64::NAN, 0.), (1., -1.)] {
            assert!(euler_ancestral_coefficients(sigma, next).is_err());
        }
    }

    #[test]
    fn down_and_up_make_the_next_sigma() {
        for (sigma, next) in [(14., 10.), (1., 0.9), (0.1, 0.)] {
            let (down, up) = ancestral_sigmas(sigma, next);
            assert!((down.hypot(up) - next).abs() < 1e-12 && down <= next);
        }
    }
}
