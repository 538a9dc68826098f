//! Linear multistep in sigma.

use super::grid::Grid;
use super::{Coefficients, EARLIER, EvaluationCoefficients, Options, PlannedStep, Position};
use crate::{Error, Result};

/// The coefficients of a linear multistep: the derivatives of up to four evaluations, each weighted by the integral of its
/// Lagrange polynomial.
///
/// ```text
/// d_j = (x_j - x_0j) / sigma_j
/// x_next = x + sum_j d_j int_sigma^sigma_next prod_{k != j} (tau - sigma_k) / (sigma_j - sigma_k) dtau
/// ```
/// Adams-Bashforth on uneven steps; Hairer, Norsett & Wanner 1993, III.5. `sigmas` are those of the evaluations, the newest
/// first; Simpson's rule integrates their cubics exactly.
///
/// # Errors
/// No evaluation, more than four, or two at the same sigma.
pub fn lms_coefficients(sigmas: &[f64], sigma_next: f64) -> Result<Coefficients> {
    let expected = format!("1 to {} evaluations at different sigmas above 0", 1 + EARLIER);
    let distinct = sigmas.windows(2).all(|w| w[0] < w[1]);
    let sigma = match sigmas.first() {
        Some(&first) if first > 0. && distinct && sigmas.len() <= 1 + EARLIER => first,
        _ => return Err(Error::argument("sigmas", expected, format!("{sigmas:?}"))),
    };
    let mut evaluations = [EvaluationCoefficients::default(); 1 + EARLIER];
    for (j, (evaluation, &sigma_j)) in evaluations.iter_mut().zip(sigmas).enumerate() {
        let polynomial = |tau: f64| -> f64 {
            let others = sigmas.iter().enumerate().filter(|(k, _)| *k != j);
            others.map(|(_, sigma_k)| (tau - sigma_k) / (sigma_j - sigma_k)).product()
        };
        let middle = polynomial((sigma + sigma_next) / 2.);
        let integral =
            (sigma_next - sigma) / 6. * (polynomial(sigma) + 4. * middle + polynomial(sigma_next));
        let slope = integral / sigma_j;
        *evaluation = EvaluationCoefficients { of_x_0: -slope, of_noise_pred: 0., of_x_t: slope };
    }
    evaluations[0].of_x_t += 1.;
    Ok(Coefficients::of_evaluations(evaluations))
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    let step = |i: usize| {
        let (from, to) = grid.step(i);
        let sigmas: Vec<f64> = grid.evaluated(i, 1 + EARLIER).iter().map(Position::sigma).collect();
        Ok(PlannedStep::new(grid.number(i), from, to, lms_coefficients(&sigmas, to.sigma())?))
    };
    grid.taken().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::euler_coefficients;

    #[test]
    fn one_evaluation_is_eulers_and_a_cubic_derivative_is_integrated_exactly() -> Result<()> {
        let (lms, euler) = (lms_coefficients(&[2.], 1.)?, euler_coefficients(2., 1.)?);
        assert!(
            (lms.of_x_0 - euler.of_x_0).abs() < 1e-12 && (lms.of_x_t - euler.of_x_t).abs() < 1e-12
        );
        // d = sigma^3, so x = sigma^4 / 4; with x_0 = x - sigma d.
        let sigmas = [2., 3., 4.5, 7.];
        let x = |sigma: f64| sigma.powi(4) / 4.;
        let coefficients = lms_coefficients(&sigmas, 1.2)?.by_evaluation();
        let got: f64 = coefficients
            .iter()
            .zip(sigmas)
            .map(|(c, sigma)| c.of_x_t * x(sigma) + c.of_x_0 * (x(sigma) - sigma.powi(4)))
            .sum();
        assert!((got - x(1.2)).abs() < 1e-10, "{got}");
        assert!(lms_coefficients(&[], 1.).is_err() && lms_coefficients(&[2., 2.], 1.).is_err());
        Ok(())
    }
}
