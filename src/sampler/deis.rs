//! Diffusion exponential integrator sampler, Zhang & Chen 2022: polynomials of the noise in log rho.

use super::grid::Grid;
use super::{Coefficients, Deis, EARLIER, EvaluationCoefficients, Options, PlannedStep, Position};
use crate::{Error, Result};

/// The coefficients of a DEIS step: the noise of up to three evaluations, each weighted by the integral of its Lagrange
/// polynomial in `log rho`. The paper's rho is our sigma.
///
/// ```text
/// x_t / signal_rate_t = x / signal_rate
///     + sum_j eps_j int_rho^rho_t prod_{k != j} (log tau - log rho_k) / (log rho_j - log rho_k) dtau
/// ```
/// Zhang & Chen 2022, eq. 14 and 15, their tAB-DEIS in log rho. `evaluated` is where the model was evaluated, the newest
/// first.
///
/// # Errors
/// No evaluation, or more than three.
pub fn deis_coefficients(evaluated: &[Position], to: Position) -> Result<Coefficients> {
    let from = match evaluated {
        [from, ..] if evaluated.len() <= 3 => *from,
        _ => return Err(Error::argument("evaluations", "1 to 3", evaluated.len())),
    };
    let logs: Vec<f64> = evaluated.iter().map(|at| at.sigma().ln()).collect();
    let mut of = [EvaluationCoefficients::default(); 1 + EARLIER];
    for (j, of) in of.iter_mut().enumerate().take(evaluated.len()) {
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
        let integral = (antiderivative(to.sigma()) - antiderivative(from.sigma())) / below;
        of.of_noise_pred = to.signal_rate * integral;
    }
    of[0].of_x_t = to.signal_rate / from.signal_rate;
    Ok(Coefficients::of_evaluations(of))
}

pub(super) fn plan(grid: &Grid<'_>, options: &Options) -> Result<Vec<PlannedStep>> {
    let Deis { order, lower_order_final } = options.deis;
    if !(1..=3).contains(&order) {
        return Err(Error::argument("solver order", "1 to 3", order));
    }
    let n = grid.len();
    let few = lower_order_final && n < 15;
    let step = |i: usize| {
        let order = match n - 1 - i {
            0 if few => 1,
            1 if few => order.min(2),
            _ => order,
        };
        let (from, to) = grid.step(i);
        Ok(PlannedStep::new(
            grid.number(i),
            from,
            to,
            deis_coefficients(&grid.evaluated(i, order), to)?,
        ))
    };
    grid.taken().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// eps = 1, log rho, (log rho)^2 is integrated exactly.
    #[test]
    fn a_step_of_order_k_integrates_powers_below_k() -> Result<()> {
        let at = |rho: f64| Position::in_sigma(1., rho);
        let (rhos, to) = ([2., 3., 5.], 1.3);
        for order in 1..=3usize {
            let evaluated: Vec<Position> = rhos[..order].iter().map(|&rho| at(rho)).collect();
            let c = deis_coefficients(&evaluated, at(to))?;
            for power in 0..order {
                let integral =
                    |r: f64| r * [1., r.ln() - 1., r.ln().powi(2) - 2. * r.ln() + 2.][power];
                let values = rhos.iter().map(|r| r.ln().powi(power as i32));
                let of = c.by_evaluation();
                let got: f64 = of.iter().zip(values).map(|(c, v)| c.of_noise_pred * v).sum();
                assert!(
                    (got - (integral(to) - integral(2.))).abs() < 1e-12,
                    "order {order}, power {power}"
                );
            }
        }
        assert!(deis_coefficients(&[], at(1.)).is_err());
        Ok(())
    }
}
