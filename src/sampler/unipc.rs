//! UniPC, Zhao et al. 2023: a predictor like DPM-Solver's, and a corrector that uses the next evaluation a second time.
//!
//! The paper calls the signal rate `alpha_t` and the noise rate `sigma_t`.

use tch::Tensor;

use super::dpm_solver::z_phis;
use super::grid::Grid;
use super::{Coefficients, EARLIER, EvaluationCoefficients, Options, PlannedStep, Position, UniPc};
use crate::{Error, Result};

impl UniPc {
    /// Of a step: the coefficient of the sample, `z`, and the factor of the sum.
    fn step(self, from: Position, to: Position) -> (f64, f64, f64) {
        let h = to.lambda() - from.lambda();
        match self.predict_x0 {
            true => (to.noise_rate / from.noise_rate, -h, -to.signal_rate),
            false => (to.signal_rate / from.signal_rate, h, -to.noise_rate),
        }
    }

    /// `B(z)` and the right sides `b_i = z phi_{i+1}(z) i! / B(z)`, i = 1, 2, 3; Zhao et al. 2023, eq. 9.
    fn right_sides(self, z: f64) -> (f64, [f64; 3]) {
        let [one, two, three] = z_phis(z);
        // phi_4 = (phi_3 - 1/6) / z
        let four = match z.abs() < 1e-2 {
            true => z / 24. + z * z / 120. + z.powi(3) / 720. + z.powi(4) / 5040.,
            false => three / z - 1. / 6.,
        };
        let b = if self.bh2 { one } else { z };
        (b, [two / b, 2. * three / b, 6. * four / b])
    }

    /// The coefficient of what is expanded.
    fn expanded(self, value: f64) -> EvaluationCoefficients {
        let none = EvaluationCoefficients::default();
        match self.predict_x0 {
            true => EvaluationCoefficients { of_x_0: value, ..none },
            false => EvaluationCoefficients { of_noise_pred: value, ..none },
        }
    }
}

/// Solves `sum_k r_k^(i-1) rho_k = b_i`.
fn rhos(distances: &[f64], b: &[f64]) -> Result<Vec<f64>> {
    let n = distances.len() as i64;
    let rows: Vec<f64> =
        (0..n as i32).flat_map(|i| distances.iter().map(move |r| r.powi(i))).collect();
    let matrix = Tensor::from_slice(&rows).view([n, n]);
    let solved = Tensor::f_linalg_solve(&matrix, &Tensor::from_slice(&b[..n as usize]), true)?;
    Ok(Vec::try_from(solved)?)
}

fn newest(evaluated: &[Position]) -> Result<Position> {
    match evaluated {
        [from, ..] if evaluated.len() <= 3 => Ok(*from),
        _ => Err(Error::argument("evaluations", "1 to 3", evaluated.len())),
    }
}

/// The coefficients of the predictor of order `evaluated.len()`.
///
/// ```text
/// x_t = noise_rate_t / noise_rate_s x - signal_rate_t (z phi_1 m_0 + B(z) sum_k rho_k (m_k - m_0) / r_k),  z = -h
/// ```
/// Zhao et al. 2023, eq. 3 for the picture, `r_k = (lambda_k - lambda_0) / h`; for the noise the two rates change places and
/// z is h. `evaluated` is where the model was evaluated, the newest first.
///
/// # Errors
/// No evaluation, or more than three.
pub fn unipc_predictor(
    solver: UniPc,
    evaluated: &[Position],
    to: Position,
) -> Result<Coefficients> {
    let from = newest(evaluated)?;
    let (share, z, outer) = solver.step(from, to);
    let h = to.lambda() - from.lambda();
    if h == 0. {
        // A last step that ends where it begins, as on the sigma of timestep 0.
        return Ok(Coefficients { of_x_t: share, ..Coefficients::default() });
    }
    let distances: Vec<f64> =
        evaluated[1..].iter().map(|at| (at.lambda() - from.lambda()) / h).collect();
    let (b, sides) = solver.right_sides(z);
    // With one earlier evaluation any choice has the same order; this one is diffusers'.
    let rhos = if distances.len() == 1 { vec![0.5] } else { rhos(&distances, &sides)? };
    let mut values = [0.; 1 + EARLIER];
    values[0] = outer * z_phis(z)[0];
    for (k, (rho, r)) in rhos.iter().zip(&distances).enumerate() {
        let weight = outer * b * rho / r;
        values[k + 1] += weight;
        values[0] -= weight;
    }
    let mut of = values.map(|value| solver.expanded(value));
    of[0].of_x_t = share;
    Ok(Coefficients::of_evaluations(of))
}

/// The coefficients of the corrector: the same step once more, with the evaluation at its end, which `evaluated` begins with.
/// The sum replaces the sample there.
///
/// ```text
/// x_t = noise_rate_t / noise_rate_s x
///     - signal_rate_t (z phi_1 m_0 + B(z) (sum_k rho_k (m_k - m_0) / r_k + rho (m_t - m_0)))
/// ```
/// Zhao et al. 2023, eq. 8.
///
/// # Errors
/// Fewer than two evaluations, or more than four.
pub fn unipc_corrector(solver: UniPc, evaluated: &[Position]) -> Result<Coefficients> {
    let (to, before) = match evaluated {
        [to, before @ ..] => (*to, before),
        [] => return Err(Error::argument("evaluations", "2 to 4", 0)),
    };
    let from = newest(before)?;
    let (share, z, outer) = solver.step(from, to);
    let h = to.lambda() - from.lambda();
    let mut distances: Vec<f64> =
        before[1..].iter().map(|at| (at.lambda() - from.lambda()) / h).collect();
    distances.push(1.);
    let (b, sides) = solver.right_sides(z);
    let rhos = if distances.len() == 1 { vec![0.5] } else { rhos(&distances, &sides)? };
    let mut values = [0.; 1 + EARLIER];
    values[1] = outer * z_phis(z)[0];
    for (k, (rho, r)) in rhos.iter().zip(&distances).enumerate() {
        let weight = outer * b * rho / r;
        // The last distance is that of the evaluation at the end.
        let which = if k + 1 == distances.len() { 0 } else { k + 2 };
        values[which] += weight;
        values[1] -= weight;
    }
    let mut of = values.map(|value| solver.expanded(value));
    of[1].of_x_t = share;
    Ok(Coefficients::of_evaluations(of))
}

pub(super) fn plan(grid: &Grid<'_>, options: &Options) -> Result<Vec<PlannedStep>> {
    let solver = options.unipc;
    if !(1..=3).contains(&solver.order) {
        return Err(Error::argument("solver order", "1 to 3", solver.order));
    }
    if !solver.predict_x0 && grid.ends_on_picture() {
        let advice = "its noise is not defined on the picture; let it end on sigma_min";
        let what = "final sigma of unipc without predict_x0";
        return Err(Error::argument(what, "sigma_min", "zero").hint(advice));
    }
    let (mut steps, mut last_order) = (Vec::with_capacity(grid.len()), 0);
    for i in grid.taken() {
        let (from, to) = grid.step(i);
        let correction = match last_order {
            0 => None,
            order => Some(unipc_corrector(solver, &grid.evaluated(i, order + 1))?),
        };
        let lowers = solver.lower_order_final || to.noise_rate == 0.;
        let left = if lowers { grid.len() - i } else { 3 };
        let evaluated = grid.evaluated(i, solver.order.min(left));
        let coefficients = unipc_predictor(solver, &evaluated, to)?;
        last_order = evaluated.len();
        let planned = PlannedStep::new(grid.number(i), from, to, coefficients);
        steps.push(PlannedStep { correction, ..planned });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corrector_integrates_what_its_evaluations_can_express() -> Result<()> {
        let at = |lambda: f64| Position::in_time(1., (-lambda).exp());
        let (lambdas, to) = ([0.8, 0.3, -0.2, -0.9], at(0.8));
        let integral = |power: usize| {
            let of = |l: f64| l.exp() * [1., l - 1., l * l - 2. * l + 2.][power];
            to.noise_rate * (of(0.8) - of(0.3))
        };
        for order in 2..=3usize {
            for bh2 in [true, false] {
                let solver = UniPc { order, bh2, ..UniPc::DEFAULT };
                let evaluated: Vec<Position> = lambdas[..=order].iter().map(|&l| at(l)).collect();
                let c = unipc_corrector(solver, &evaluated)?;
                for power in 0..=order.min(2) {
                    let powers = lambdas.iter().map(|l| l.powi(power as i32));
                    let of = c.by_evaluation();
                    let got: f64 = of.iter().zip(powers).map(|(c, v)| c.of_x_0 * v).sum();
                    let gap = (got - integral(power)).abs();
                    assert!(gap < 1e-10, "order {order}, power {power}: {gap:e}");
                }
            }
        }
        Ok(())
    }
}
