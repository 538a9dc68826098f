//! Euler's method in sigma, Karras et al. 2022, and its ancestral form.
//!
//! The sample is `x = x_0 + sigma eps`, which grows with its noise: a network that was trained on samples of variance 1
//! sees `x / sqrt(sigma^2 + 1)`.

use tch::Tensor;

use super::{Coefficients, PlannedStep, Position, StepOutput};
use crate::forward::same_shape;
use crate::{Error, Result};

/// The weights of an Euler step.
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
        return Err(Error::argument("sigma", "above 0", sigma, ""));
    }
    if !(0. ..=sigma).contains(&sigma_next) {
        return Err(Error::argument("sigma_next", format!("0 to {sigma}"), sigma_next, ""));
    }
    let share = sigma_next / sigma;
    Ok(Coefficients { x_0: 1. - share, x_t: share, ..Coefficients::default() })
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
    same_shape("noise_pred", noise_pred, x)?;
    let x_0 = x - noise_pred * sigma;
    euler_coefficients(sigma, sigma_next)?.apply(x_0, noise_pred, x, None)
}

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

/// The weights of an ancestral Euler step: Euler to `sigma_down`, and `sigma_up` of fresh noise.
///
/// # Errors
/// As [`euler_coefficients`].
pub fn euler_ancestral_coefficients(sigma: f64, sigma_next: f64) -> Result<Coefficients> {
    euler_coefficients(sigma, sigma_next)?;
    let (down, up) = ancestral_sigmas(sigma, sigma_next);
    Ok(Coefficients { noise: up, ..euler_coefficients(sigma, down)? })
}

pub(super) fn plan(positions: &[Position]) -> Result<Vec<PlannedStep>> {
    each(positions, euler_coefficients)
}

pub(super) fn plan_ancestral(positions: &[Position]) -> Result<Vec<PlannedStep>> {
    each(positions, euler_ancestral_coefficients)
}

fn each(
    positions: &[Position],
    coefficients: fn(f64, f64) -> Result<Coefficients>,
) -> Result<Vec<PlannedStep>> {
    positions
        .windows(2)
        .map(|pair| {
            let (from, to) = (pair[0], pair[1]);
            Ok(PlannedStep::new(from, to, coefficients(from.sigma, to.sigma)?))
        })
        .collect()
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
