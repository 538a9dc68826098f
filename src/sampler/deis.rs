//! Diffusion exponential integrator sampler, Zhang & Chen 2022: polynomials of the noise in log rho.

use super::{Coefficients, EARLIER, PlannedStep, Position, Weights};
use crate::{Error, Result};

/// The weights of a DEIS step: the noise of up to three looks, each weighted by the integral of its Lagrange polynomial
/// in `log rho`, `rho = sigma / alpha`.
///
/// ```text
/// x_t / alpha_t = x / alpha + sum_j eps_j int_rho^rho_t prod_{k != j} (log tau - log rho_k) / (log rho_j - log rho_k) dtau
/// ```
/// Zhang & Chen 2022, eq. 14 and 15, their tAB-DEIS in log rho. `looks` are where the model looked, the newest first.
///
/// # Errors
/// No look, or more than three.
pub fn deis_coefficients(looks: &[Position], to: Position) -> Result<Coefficients> {
    let from = match looks {
        [from, ..] if looks.len() <= 3 => *from,
        _ => return Err(Error::argument("looks", "1 to 3", looks.len(), "")),
    };
    let rho = |p: &Position| p.sigma / p.alpha;
    let logs: Vec<f64> = looks.iter().map(|look| rho(look).ln()).collect();
    let mut weights = [Weights::default(); 1 + EARLIER];
    for (j, weight) in weights.iter_mut().enumerate().take(looks.len()) {
        let others: Vec<f64> =
            logs.iter().enumerate().filter(|(k, _)| *k != j).map(|(_, log)| *log).collect();
        let below: f64 = others.iter().map(|other| logs[j] - other).product();
        // Of 1, L - a and (L - a)(L - b), with L = log tau.
        let antiderivative = |tau: f64| {
            if tau == 0. {
                return 0.;
            }
            let log = tau.ln();
            let (one, two) = (log - 1., log * log - 2. * log + 2.);
            tau * match others[..] {
                [a] => one - a,
                [a, b] => two - (a + b) * one + a * b,
                _ => 1.,
            }
        };
        let integral = (antiderivative(rho(&to)) - antiderivative(rho(&from))) / below;
        weight.noise_pred = to.alpha * integral;
    }
    weights[0].x_t = to.alpha / from.alpha;
    Ok(Coefficients::from_looks(weights, 0.))
}

/// `positions` of all steps and the end; the first `skipped` are not taken, and nothing is known of them.
pub(super) fn plan(
    positions: &[Position],
    order: usize,
    lower_order_final: bool,
    skipped: usize,
) -> Result<Vec<PlannedStep>> {
    if !(1..=3).contains(&order) {
        return Err(Error::argument("solver order", "1 to 3", order, ""));
    }
    let n = positions.len().saturating_sub(1);
    let few = lower_order_final && n < 15;
    let step = |i: usize| {
        let order = match n - 1 - i {
            0 if few => 1,
            1 if few => order.min(2),
            _ => order,
        };
        let known = order.min(i - skipped + 1);
        let looks: Vec<Position> = positions[i + 1 - known..=i].iter().rev().copied().collect();
        let to = positions[i + 1];
        Ok(PlannedStep::new(positions[i], to, deis_coefficients(&looks, to)?))
    };
    (skipped..n).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// eps = 1, log rho, (log rho)^2 is integrated exactly.
    #[test]
    fn a_step_of_order_k_integrates_powers_below_k() -> Result<()> {
        let at = |rho: f64| Position { t: 1., alpha: 1., sigma: rho };
        let (rhos, to) = ([2., 3., 5.], 1.3);
        for order in 1..=3usize {
            let looks: Vec<Position> = rhos[..order].iter().map(|&rho| at(rho)).collect();
            let c = deis_coefficients(&looks, at(to))?;
            for power in 0..order {
                let of = |r: f64| r * [1., r.ln() - 1., r.ln().powi(2) - 2. * r.ln() + 2.][power];
                let values = rhos.iter().map(|r| r.ln().powi(power as i32));
                let got: f64 = c.of_looks().iter().zip(values).map(|(w, v)| w.noise_pred * v).sum();
                assert!((got - (of(to) - of(2.))).abs() < 1e-12, "order {order}, power {power}");
            }
        }
        assert!(deis_coefficients(&[], at(1.)).is_err());
        Ok(())
    }
}
