//! UniPC, Zhao et al. 2023: a predictor as DPM-Solver's, and a corrector that uses the next look once more.

use tch::{Kind, Tensor};

use super::dpm_solver::z_phis;
use super::{Coefficients, EARLIER, PlannedStep, Position, Weights};
use crate::{Error, Result};

/// Which of the solvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniPc {
    /// 1 to 3.
    pub order: usize,
    /// Whether B(h) is `exp(h) - 1`; else `h`.
    pub bh2: bool,
    /// Whether the picture that the model saw is expanded; else the noise.
    pub predict_x0: bool,
    /// Whether the last steps are of lower order.
    pub lower_order_final: bool,
}

impl UniPc {
    /// UniPC-2 with B2, on the picture.
    pub const DEFAULT: Self =
        Self { order: 2, bh2: true, predict_x0: true, lower_order_final: true };

    /// The sample's share, `z`, and what the sum is multiplied with, of a step.
    fn step(self, from: Position, to: Position) -> (f64, f64, f64) {
        let h = to.lambda() - from.lambda();
        match self.predict_x0 {
            true => (to.sigma / from.sigma, -h, -to.alpha),
            false => (to.alpha / from.alpha, h, -to.sigma),
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

    fn value(self, value: f64) -> Weights {
        match self.predict_x0 {
            true => Weights { x_0: value, ..Weights::default() },
            false => Weights { noise_pred: value, ..Weights::default() },
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
    Ok(Vec::try_from(solved.to_kind(Kind::Double))?)
}

fn check(looks: &[Position]) -> Result<Position> {
    match looks {
        [from, ..] if looks.len() <= 3 => Ok(*from),
        _ => Err(Error::argument("looks", "1 to 3", looks.len(), "")),
    }
}

/// The weights of the predictor of order `looks.len()`.
///
/// ```text
/// x_t = sigma_t / sigma_s x - alpha_t (z phi_1 m_0 + B(z) sum_k rho_k (m_k - m_0) / r_k),  z = -h
/// ```
/// Zhao et al. 2023, eq. 3 for the picture, `r_k = (lambda_k - lambda_0) / h`; for the noise alpha and sigma change places
/// and z is h. `looks` are where the model looked, the newest first.
///
/// # Errors
/// No look, or more than three.
pub fn unipc_predictor(solver: UniPc, looks: &[Position], to: Position) -> Result<Coefficients> {
    let from = check(looks)?;
    let (share, z, outer) = solver.step(from, to);
    let h = to.lambda() - from.lambda();
    let distances: Vec<f64> = looks[1..].iter().map(|l| (l.lambda() - from.lambda()) / h).collect();
    let (b, sides) = solver.right_sides(z);
    // For one other look, any choice has the same order; this is the reference's.
    let rhos = if distances.len() == 1 { vec![0.5] } else { rhos(&distances, &sides)? };
    let mut values = [0.; 1 + EARLIER];
    values[0] = outer * z_phis(z)[0];
    for (k, (rho, r)) in rhos.iter().zip(&distances).enumerate() {
        let weight = outer * b * rho / r;
        values[k + 1] += weight;
        values[0] -= weight;
    }
    let mut weights = values.map(|value| solver.value(value));
    weights[0].x_t = share;
    Ok(Coefficients::from_looks(weights, 0.))
}

/// The weights of the corrector: the same step once more, with the look at its end. `looks` begins with that look, which
/// stands at the end of the step; the sum takes its place.
///
/// ```text
/// x_t = sigma_t / sigma_s x - alpha_t (z phi_1 m_0 + B(z) (sum_k rho_k (m_k - m_0) / r_k + rho (m_t - m_0)))
/// ```
/// Zhao et al. 2023, eq. 8.
///
/// # Errors
/// Fewer than two looks, or more than four.
pub fn unipc_corrector(solver: UniPc, looks: &[Position]) -> Result<Coefficients> {
    let (to, before) = match looks {
        [to, before @ ..] => (*to, before),
        [] => return Err(Error::argument("looks", "2 to 4", 0, "")),
    };
    let from = check(before)?;
    let (share, z, outer) = solver.step(from, to);
    let h = to.lambda() - from.lambda();
    let mut distances: Vec<f64> =
        before[1..].iter().map(|l| (l.lambda() - from.lambda()) / h).collect();
    distances.push(1.);
    let (b, sides) = solver.right_sides(z);
    let rhos = if distances.len() == 1 { vec![0.5] } else { rhos(&distances, &sides)? };
    let mut values = [0.; 1 + EARLIER];
    values[1] = outer * z_phis(z)[0];
    for (k, (rho, r)) in rhos.iter().zip(&distances).enumerate() {
        let weight = outer * b * rho / r;
        // The last distance is that of the look at the end.
        let look = if k + 1 == distances.len() { 0 } else { k + 2 };
        values[look] += weight;
        values[1] -= weight;
    }
    let mut weights = values.map(|value| solver.value(value));
    weights[1].x_t = share;
    Ok(Coefficients::from_looks(weights, 0.))
}

pub(super) fn plan(positions: &[Position], solver: UniPc) -> Result<Vec<PlannedStep>> {
    if !(1..=3).contains(&solver.order) {
        return Err(Error::argument("solver order", "1 to 3", solver.order, ""));
    }
    let n = positions.len().saturating_sub(1);
    let newest_first = |i: usize, count: usize| -> Vec<Position> {
        positions[i + 1 - count..=i].iter().rev().copied().collect()
    };
    let (mut steps, mut last_order) = (Vec::with_capacity(n), 0);
    for i in 0..n {
        let (at, to) = (positions[i], positions[i + 1]);
        let correction = match last_order {
            0 => None,
            order => Some(unipc_corrector(solver, &newest_first(i, order + 1))?),
        };
        let left = if solver.lower_order_final || to.sigma == 0. { n - i } else { 3 };
        let order = solver.order.min(left).min(i + 1);
        let coefficients = unipc_predictor(solver, &newest_first(i, order), to)?;
        steps.push(PlannedStep { correction, ..PlannedStep::new(at, to, coefficients) });
        last_order = order;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corrector_integrates_what_its_looks_can_express() -> Result<()> {
        let at = |lambda: f64| {
            let sigma = (-lambda).exp();
            let alpha = 1. / sigma.hypot(1.);
            Position { t: 1., alpha, sigma: sigma * alpha }
        };
        let (lambdas, to) = ([0.8, 0.3, -0.2, -0.9], at(0.8));
        let integral = |power: usize| {
            let of = |l: f64| l.exp() * [1., l - 1., l * l - 2. * l + 2.][power];
            to.sigma * (of(0.8) - of(0.3))
        };
        for order in 2..=3usize {
            for bh2 in [true, false] {
                let solver = UniPc { order, bh2, ..UniPc::DEFAULT };
                let looks: Vec<Position> = lambdas[..=order].iter().map(|&l| at(l)).collect();
                let c = unipc_corrector(solver, &looks)?;
                for power in 0..=order.min(2) {
                    let powers = lambdas.iter().map(|l| l.powi(power as i32));
                    let got: f64 = c.of_looks().iter().zip(powers).map(|(w, v)| w.x_0 * v).sum();
                    let gap = (got - integral(power)).abs();
                    assert!(gap < 1e-10, "order {order}, power {power}: {gap:e}");
                }
            }
        }
        Ok(())
    }
}
