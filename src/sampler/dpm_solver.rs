//! DPM-Solver and DPM-Solver++, Lu et al. 2022 (a) and (b): exact for the linear part of the differential equation, a
//! Taylor expansion in `lambda = log(alpha / sigma)` for the model's part.

use super::{Coefficients, EARLIER, PlannedStep, Position, Weights};
use crate::{Error, Result};

/// What the solver expands: the picture that the model saw (DPM-Solver++), or the noise (DPM-Solver).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The picture: DPM-Solver++.
    Data,
    /// The noise: DPM-Solver.
    Noise,
}

/// How the first derivative's integral is taken; the names are the reference's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// To first order: half of what the value itself has.
    Midpoint,
    /// Exactly.
    Heun,
}

/// Which of the solvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpmSolver {
    /// 1 to 3.
    pub order: usize,
    /// Whether a step of order k starts from the sample of k looks ago, and is followed by one of order 1; else every
    /// step remembers the looks before it.
    pub single: bool,
    /// What is expanded.
    pub form: Form,
    /// Whether fresh noise is added: the solver of the stochastic equation.
    pub sde: bool,
    /// How the first derivative's integral is taken.
    pub solver: Solver,
    /// Whether fewer than 15 steps end on ones of lower order; single steps do whatever their number is, and always where
    /// their number or their end asks for it.
    pub lower_order_final: bool,
    /// Whether the last step is of order 1.
    pub euler_at_final: bool,
}

impl DpmSolver {
    /// DPM-Solver++ 2M.
    pub const MULTISTEP: Self = Self {
        order: 2,
        single: false,
        form: Form::Data,
        sde: false,
        solver: Solver::Midpoint,
        lower_order_final: true,
        euler_at_final: false,
    };

    /// DPM-Solver++ 2S.
    pub const SINGLESTEP: Self = Self { single: true, lower_order_final: false, ..Self::MULTISTEP };

    fn check(self) -> Result<()> {
        if !(1..=3).contains(&self.order) {
            return Err(Error::argument("solver order", "1 to 3", self.order, ""));
        }
        // Nobody has written these down.
        if self.sde && self.form == Form::Noise && (self.order == 3 || self.single) {
            let expected = "dpmsolver++, or multistep of order 1 and 2";
            return Err(Error::argument("stochastic dpmsolver", expected, format!("{self:?}"), ""));
        }
        Ok(())
    }

    /// The weights of a step from `from` of length `h` in lambda to `to`: of the sample that it starts from, and of the
    /// value, the first and the second difference.
    ///
    /// ```text
    /// DPM-Solver++   x = sigma_t / sigma_s x - alpha_t (z phi_1 D_0 + z phi_2 D_1 + z phi_3 D_2),  z = -h
    /// DPM-Solver     x = alpha_t / alpha_s x - sigma_t (z phi_1 D_0 + z phi_2 D_1 + z phi_3 D_2),  z = h
    /// ```
    /// Lu et al. 2022 (b), eq. 8 and (a), eq. 3.7. With fresh noise, Lu et al. 2022 (b), section 5: z counts twice in
    /// the first, the sum in the second.
    fn step(self, from: Position, to: Position) -> (f64, [f64; 3], f64) {
        let h = to.lambda() - from.lambda();
        let (share, z, outer, noise) = match (self.form, self.sde) {
            (Form::Data, false) => (to.sigma / from.sigma, -h, -to.alpha, 0.),
            (Form::Data, true) => {
                let share = to.sigma / from.sigma * (-h).exp();
                (share, -2. * h, -to.alpha, to.sigma * (-(-2. * h).exp_m1()).sqrt())
            }
            (Form::Noise, false) => (to.alpha / from.alpha, h, -to.sigma, 0.),
            (Form::Noise, true) => {
                (to.alpha / from.alpha, h, -2. * to.sigma, to.sigma * (2. * h).exp_m1().sqrt())
            }
        };
        let [one, two, three] = z_phis(z);
        (share, [outer * one, outer * two, outer * three], noise)
    }

    /// The second difference as diffusers weighs it where fresh noise is added: its sign is another than the equation's.
    fn third(self, third: f64, to: Position, h: f64, as_diffusers: bool) -> f64 {
        if self.sde && as_diffusers {
            // -phi_2 - 1/2 in place of -(phi_2 - 1/2)
            let z = -2. * h;
            let phi_2 = (z.exp_m1() / z - 1.) / z;
            return to.alpha * (-phi_2 - 0.5);
        }
        third
    }

    fn weights(self, values: [f64; 1 + EARLIER]) -> [Weights; 1 + EARLIER] {
        values.map(|value| match self.form {
            Form::Data => Weights { x_0: value, ..Weights::default() },
            Form::Noise => Weights { noise_pred: value, ..Weights::default() },
        })
    }
}

/// `z phi_k(z)` of the exponential integrators, k = 1, 2, 3:
///
/// ```text
/// phi_1 = (exp(z) - 1) / z        phi_2 = (phi_1 - 1) / z        phi_3 = (phi_2 - 1/2) / z
/// ```
/// Small `z` by their series, because the differences cancel there.
pub(super) fn z_phis(z: f64) -> [f64; 3] {
    if z.abs() < 1e-2 {
        // phi_k = sum_n z^n / (n + k)!
        let series = |first: f64, k: f64| -> f64 {
            let mut term = first;
            let mut sum = 0.;
            for n in 1..9 {
                sum += term;
                term *= z / (k + f64::from(n));
            }
            sum
        };
        return [z * series(1., 1.), z * series(0.5, 2.), z * series(1. / 6., 3.)];
    }
    let one = z.exp_m1();
    let two = one / z - 1.;
    [one, two, two / z - 0.5]
}

/// The weights of a multistep step of order `looks.len()`: the looks before the newest give the differences.
///
/// ```text
/// D_0 = m_0,  D_1 = (h / h_0)(m_0 - m_1)                                              order 2
/// D_1 = D_10 + h_0 / (h_0 + h_1) (D_10 - D_11),  D_2 = h / (h_0 + h_1) (D_10 - D_11)  order 3
/// ```
/// Lu et al. 2022 (b), algorithm 2; `h_0`, `h_1` are the lengths of the steps before in lambda. `looks` are where the
/// model looked, the newest first.
///
/// # Errors
/// No look, or more than three.
pub fn dpm_solver_multistep_coefficients(
    solver: DpmSolver,
    looks: &[Position],
    to: Position,
    as_diffusers: bool,
) -> Result<Coefficients> {
    solver.check()?;
    let lambda = |k: usize| looks.get(k).map_or(0., Position::lambda);
    let from = match looks {
        [from, ..] if looks.len() <= 3 => *from,
        _ => return Err(Error::argument("looks", "1 to 3", looks.len(), "")),
    };
    let (share, [one, two, three], noise) = solver.step(from, to);
    let (h, h_0, h_1) = (to.lambda() - lambda(0), lambda(0) - lambda(1), lambda(1) - lambda(2));
    let mut values = [one, 0., 0., 0.];
    let mut add = |weight: f64, difference: [f64; 3]| {
        values.iter_mut().zip(difference).for_each(|(value, d)| *value += weight * d);
    };
    let first = [h / h_0, -h / h_0, 0.];
    match looks.len() {
        1 => (),
        2 if solver.solver == Solver::Midpoint => add(one / 2., first),
        2 => add(two, first),
        _ => {
            let second = [0., h / h_1, -h / h_1];
            let apart: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
            let apart = [apart[0], apart[1], apart[2]];
            add(two, first);
            add(two * h_0 / (h_0 + h_1), apart);
            add(solver.third(three, to, h, as_diffusers) * h / (h_0 + h_1), apart);
        }
    }
    let mut looks = solver.weights(values);
    looks[0].x_t = share;
    Ok(Coefficients::from_looks(looks, noise))
}

/// The weights of a single-step step of order `looks.len()`: it starts again from the sample of the oldest look, and the
/// looks since then give the differences.
///
/// ```text
/// D_0 = m_1,  D_1 = (h / h_0)(m_0 - m_1)                                               order 2
/// D_0 = m_2,  D_10 = (h / h_1)(m_1 - m_2),  D_11 = (h / h_0)(m_0 - m_2)                order 3
/// D_1 = (h_0 D_10 - h_1 D_11) / (h_0 - h_1),  D_2 = 2 h (D_11 - D_10) / (h_0 - h_1)
/// ```
/// Lu et al. 2022 (a), algorithms 1 and 2; `h`, `h_0`, `h_1` are the distances in lambda of the end, the newest and the
/// middle look from the oldest. `looks` are where the model looked, the newest first.
///
/// # Errors
/// No look, or more than three.
pub fn dpm_solver_singlestep_coefficients(
    solver: DpmSolver,
    looks: &[Position],
    to: Position,
    as_diffusers: bool,
) -> Result<Coefficients> {
    solver.check()?;
    let base = looks.len().saturating_sub(1);
    let from = match looks.last() {
        Some(from) if looks.len() <= 3 => *from,
        _ => return Err(Error::argument("looks", "1 to 3", looks.len(), "")),
    };
    let (share, [one, two, three], noise) = solver.step(from, to);
    let away = |position: Position| position.lambda() - from.lambda();
    let h = away(to);
    let mut values = [0.; 1 + EARLIER];
    values[base] = one;
    let mut add = |weight: f64, difference: [f64; 3]| {
        values.iter_mut().zip(difference).for_each(|(value, d)| *value += weight * d);
    };
    match *looks {
        [newest, _] => {
            let ratio = h / away(newest);
            let weight = if solver.solver == Solver::Midpoint { one / 2. } else { two };
            add(weight, [ratio, -ratio, 0.]);
        }
        [newest, middle, _] => {
            let (h_0, h_1) = (away(newest), away(middle));
            let (inner, outer) = ([0., h / h_1, -h / h_1], [h / h_0, 0., -h / h_0]);
            if solver.solver == Solver::Midpoint {
                add(two, outer);
            } else {
                let third = solver.third(three, to, h, as_diffusers) * 2. * h;
                add((two * h_0 - third) / (h_0 - h_1), inner);
                add((third - two * h_1) / (h_0 - h_1), outer);
            }
        }
        _ => (),
    }
    let mut looks = solver.weights(values);
    looks[base].x_t = share;
    Ok(Coefficients::from_looks(looks, noise))
}

/// The order of every step of a single-step solver: from 1 up, again and again, and from the end such that the whole
/// number of steps is met.
fn singlestep_orders(solver: DpmSolver, steps: usize, ends_on_picture: bool) -> Vec<usize> {
    let order = solver.order;
    let lower = solver.lower_order_final || !steps.is_multiple_of(order) || ends_on_picture;
    let whole = |count: usize| (0..count).flat_map(|_| 1..=order);
    let mut orders: Vec<usize> = match (lower, order, steps % order) {
        (true, 3, 0) => whole((steps / 3).saturating_sub(1)).chain([1, 2, 1]).collect(),
        (true, 3, 1) => whole(steps / 3).chain([1]).collect(),
        (true, 3, _) => whole(steps / 3).chain([1, 2]).collect(),
        (true, 2, 0) => whole((steps / 2).saturating_sub(1)).chain([1, 1]).collect(),
        (true, 2, _) => whole(steps / 2).chain([1]).collect(),
        _ => whole(steps / order).collect(),
    };
    if let (true, Some(last)) = (ends_on_picture, orders.last_mut()) {
        *last = 1;
    }
    orders
}

/// `positions` of all steps and the end; the first `skipped` are not taken, and nothing is known of them.
pub(super) fn plan(
    positions: &[Position],
    solver: DpmSolver,
    skipped: usize,
    as_diffusers: bool,
) -> Result<Vec<PlannedStep>> {
    solver.check()?;
    let n = positions.len().saturating_sub(1);
    let ends_on_picture = positions.last().is_some_and(|end| end.sigma == 0.);
    if ends_on_picture && solver.form == Form::Noise {
        let todo = "its noise is not defined on the picture; let it end on sigma_min";
        return Err(Error::argument("final sigma of dpmsolver", "sigma_min", "zero", todo));
    }
    let few = solver.lower_order_final && n < 15;
    let orders = match solver.single {
        true => singlestep_orders(solver, n, ends_on_picture),
        false => (0..n)
            .map(|i| match n - 1 - i {
                0 if few || ends_on_picture || solver.euler_at_final => 1,
                1 if few => solver.order.min(2),
                _ => solver.order,
            })
            .collect(),
    };
    let step = |i: usize| {
        let known = i - skipped + 1;
        let order = orders[i].min(known);
        let looks: Vec<Position> = positions[i + 1 - order..=i].iter().rev().copied().collect();
        let to = positions[i + 1];
        let coefficients = match solver.single {
            true => dpm_solver_singlestep_coefficients(solver, &looks, to, as_diffusers)?,
            false => dpm_solver_multistep_coefficients(solver, &looks, to, as_diffusers)?,
        };
        Ok(PlannedStep::new(positions[i], to, coefficients))
    };
    (skipped..n).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lambda: f64) -> Position {
        let sigma = (-lambda).exp();
        let alpha = 1. / sigma.hypot(1.);
        Position { t: 1., alpha, sigma: sigma * alpha }
    }

    #[test]
    fn phis_by_series_and_by_definition_meet() {
        for z in [-0.01, 0.01] {
            let near = z_phis(z * 0.999_999_9);
            let far = z_phis(z * 1.000_000_1);
            for (a, b) in near.iter().zip(far) {
                assert!((a / b - 1.).abs() < 1e-6, "{z}: {a} {b}");
            }
        }
        assert_eq!(z_phis(f64::NEG_INFINITY), [-1., -1., -0.5]);
        assert_eq!(z_phis(0.), [0., 0., 0.]);
    }

    /// With the exact integral of x_0 = 1, lambda, lambda^2 as the test: `sigma_t int exp(lambda) x_0 dlambda`.
    #[test]
    fn a_step_of_order_k_integrates_powers_below_k() -> Result<()> {
        let lambdas = [0.3, -0.2, -0.9];
        let to = at(0.8);
        let integral = |power: i32| {
            let of = |l: f64| l.exp() * [1., l - 1., l * l - 2. * l + 2.][power as usize];
            to.sigma * (of(0.8) - of(0.3))
        };
        for order in 1..=3usize {
            let solver = DpmSolver { order, solver: Solver::Heun, ..DpmSolver::MULTISTEP };
            let looks: Vec<Position> = lambdas[..order].iter().map(|&l| at(l)).collect();
            let c = dpm_solver_multistep_coefficients(solver, &looks, to, false)?;
            // The order-3 formula drops the half of the second difference, so it is exact to power 1 alone.
            for power in 0..order.min(2) as i32 {
                let got: f64 =
                    c.of_looks().iter().zip(lambdas).map(|(w, l)| w.x_0 * l.powi(power)).sum();
                assert!((got - integral(power)).abs() < 1e-12, "order {order}, power {power}");
            }
        }
        Ok(())
    }

    #[test]
    fn orders_of_single_steps_meet_the_number_of_steps() {
        for steps in 1..40 {
            for order in 1..=3 {
                for (lower_order_final, picture) in [(true, true), (true, false), (false, false)] {
                    let solver = DpmSolver { order, lower_order_final, ..DpmSolver::SINGLESTEP };
                    let orders = singlestep_orders(solver, steps, picture);
                    assert_eq!(orders.len(), steps, "{order} {steps}");
                    assert!(!picture || orders[steps - 1] == 1);
                }
            }
        }
    }
}
