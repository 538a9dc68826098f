//! DPM-Solver and DPM-Solver++, Lu et al. 2022 (a) and (b): exact for the linear part of the differential equation, and a
//! Taylor expansion in lambda for the model's part.
//!
//! The papers call the signal rate `alpha_t`, the noise rate `sigma_t`, and `lambda_t = log(alpha_t / sigma_t)`.

use super::grid::{Grid, in_lambda};
use super::{
    Coefficients, DpmSolver, EARLIER, EvaluationCoefficients, FinalSigma, Options, PlanSettings,
    PlannedStep, Position, SolverForm, SolverType,
};
use crate::schedule::{Schedule, Spacing};
use crate::{Error, Result};

impl DpmSolver {
    fn check(self) -> Result<()> {
        if !(1..=3).contains(&self.order) {
            return Err(Error::argument("solver order", "1 to 3", self.order));
        }
        // Nobody has written these down.
        if self.sde && self.form == SolverForm::Noise && (self.order == 3 || self.single) {
            let expected = "dpmsolver++, or multistep of order 1 and 2";
            return Err(Error::argument("stochastic dpmsolver", expected, format!("{self:?}")));
        }
        Ok(())
    }

    /// The coefficients of a step of length `h` in lambda: of the sample that it starts from; of the value and of its first
    /// and second difference; of fresh noise.
    ///
    /// ```text
    /// DPM-Solver++   x = noise_rate_t / noise_rate_s x - signal_rate_t (z phi_1 D_0 + z phi_2 D_1 + z phi_3 D_2),  z = -h
    /// DPM-Solver     x = signal_rate_t / signal_rate_s x - noise_rate_t (z phi_1 D_0 + z phi_2 D_1 + z phi_3 D_2),  z = h
    /// ```
    /// Lu et al. 2022 (b), eq. 8 and (a), eq. 3.7. With fresh noise, Lu et al. 2022 (b), section 5: z is doubled in the
    /// first, the sum in the second.
    fn step(self, from: Position, to: Position) -> (f64, [f64; 3], f64) {
        let h = to.lambda() - from.lambda();
        let (kept_signal, kept_noise) =
            (to.signal_rate / from.signal_rate, to.noise_rate / from.noise_rate);
        let (share, z, outer, noise) = match (self.form, self.sde) {
            (SolverForm::Data, false) => (kept_noise, -h, -to.signal_rate, 0.),
            (SolverForm::Data, true) => {
                let noise = to.noise_rate * (-(-2. * h).exp_m1()).sqrt();
                (kept_noise * (-h).exp(), -2. * h, -to.signal_rate, noise)
            }
            (SolverForm::Noise, false) => (kept_signal, h, -to.noise_rate, 0.),
            (SolverForm::Noise, true) => {
                let noise = to.noise_rate * (2. * h).exp_m1().sqrt();
                (kept_signal, h, -2. * to.noise_rate, noise)
            }
        };
        let [one, two, three] = z_phis(z);
        (share, [outer * one, outer * two, outer * three], noise)
    }

    /// The coefficient of the second difference as diffusers has it where fresh noise is added: its sign differs from the
    /// equation's.
    fn third(self, third: f64, to: Position, h: f64, as_diffusers: bool) -> f64 {
        if self.sde && as_diffusers {
            // -phi_2 - 1/2 in place of -(phi_2 - 1/2)
            let z = -2. * h;
            let phi_2 = (z.exp_m1() / z - 1.) / z;
            return to.signal_rate * (-phi_2 - 0.5);
        }
        third
    }

    /// The coefficients of what is expanded, for each evaluation.
    fn expanded(self, values: [f64; 1 + EARLIER]) -> [EvaluationCoefficients; 1 + EARLIER] {
        let none = EvaluationCoefficients::default();
        values.map(|value| match self.form {
            SolverForm::Data => EvaluationCoefficients { of_x_0: value, ..none },
            SolverForm::Noise => EvaluationCoefficients { of_noise_pred: value, ..none },
        })
    }
}

/// `z phi_k(z)` of the exponential integrators, k = 1, 2, 3:
///
/// ```text
/// phi_1 = (exp(z) - 1) / z        phi_2 = (phi_1 - 1) / z        phi_3 = (phi_2 - 1/2) / z
/// ```
/// For small `z` the differences cancel, so their series are used.
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

/// The coefficients of a multistep step of order `evaluated.len()`: the earlier evaluations give the differences.
///
/// ```text
/// D_0 = m_0,  D_1 = (h / h_0)(m_0 - m_1)                                              order 2
/// D_1 = D_10 + h_0 / (h_0 + h_1) (D_10 - D_11),  D_2 = h / (h_0 + h_1) (D_10 - D_11)  order 3
/// ```
/// Lu et al. 2022 (b), algorithm 2; `h_0`, `h_1` are the lengths of the steps before in lambda. `evaluated` is where the
/// model was evaluated, the newest first.
///
/// # Errors
/// No evaluation, or more than three.
pub fn dpm_solver_multistep_coefficients(
    solver: DpmSolver,
    evaluated: &[Position],
    to: Position,
    as_diffusers: bool,
) -> Result<Coefficients> {
    solver.check()?;
    let lambda = |k: usize| evaluated.get(k).map_or(0., Position::lambda);
    let from = match evaluated {
        [from, ..] if evaluated.len() <= 3 => *from,
        _ => return Err(Error::argument("evaluations", "1 to 3", evaluated.len())),
    };
    let (share, [one, two, three], noise) = solver.step(from, to);
    let (h, h_0, h_1) = (to.lambda() - lambda(0), lambda(0) - lambda(1), lambda(1) - lambda(2));
    let mut values = [one, 0., 0., 0.];
    let mut add = |weight: f64, difference: [f64; 3]| {
        values.iter_mut().zip(difference).for_each(|(value, d)| *value += weight * d);
    };
    let first = [h / h_0, -h / h_0, 0.];
    match evaluated.len() {
        1 => (),
        2 if solver.solver_type == SolverType::Midpoint => add(one / 2., first),
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
    let mut of = solver.expanded(values);
    of[0].of_x_t = share;
    Ok(Coefficients { of_noise: noise, ..Coefficients::of_evaluations(of) })
}

/// The coefficients of a single-step step of order `evaluated.len()`: it starts again from the sample of the oldest
/// evaluation, and the later ones give the differences.
///
/// ```text
/// D_0 = m_1,  D_1 = (h / h_0)(m_0 - m_1)                                               order 2
/// D_0 = m_2,  D_10 = (h / h_1)(m_1 - m_2),  D_11 = (h / h_0)(m_0 - m_2)                order 3
/// D_1 = (h_0 D_10 - h_1 D_11) / (h_0 - h_1),  D_2 = 2 h (D_11 - D_10) / (h_0 - h_1)
/// ```
/// Lu et al. 2022 (a), algorithms 1 and 2; `h`, `h_0`, `h_1` are the distances in lambda of the end, the newest and the
/// middle evaluation from the oldest. `evaluated` is where the model was evaluated, the newest first.
///
/// # Errors
/// No evaluation, or more than three.
pub fn dpm_solver_singlestep_coefficients(
    solver: DpmSolver,
    evaluated: &[Position],
    to: Position,
    as_diffusers: bool,
) -> Result<Coefficients> {
    solver.check()?;
    let base = evaluated.len().saturating_sub(1);
    let from = match evaluated.last() {
        Some(from) if evaluated.len() <= 3 => *from,
        _ => return Err(Error::argument("evaluations", "1 to 3", evaluated.len())),
    };
    let (share, [one, two, three], noise) = solver.step(from, to);
    let away = |position: Position| position.lambda() - from.lambda();
    let h = away(to);
    let mut values = [0.; 1 + EARLIER];
    values[base] = one;
    let mut add = |weight: f64, difference: [f64; 3]| {
        values.iter_mut().zip(difference).for_each(|(value, d)| *value += weight * d);
    };
    match *evaluated {
        [newest, _] => {
            let ratio = h / away(newest);
            let weight = if solver.solver_type == SolverType::Midpoint { one / 2. } else { two };
            add(weight, [ratio, -ratio, 0.]);
        }
        [newest, middle, _] => {
            let (h_0, h_1) = (away(newest), away(middle));
            let (inner, outer) = ([0., h / h_1, -h / h_1], [h / h_0, 0., -h / h_0]);
            if solver.solver_type == SolverType::Midpoint {
                add(two, outer);
            } else {
                let third = solver.third(three, to, h, as_diffusers) * 2. * h;
                add((two * h_0 - third) / (h_0 - h_1), inner);
                add((third - two * h_1) / (h_0 - h_1), outer);
            }
        }
        _ => (),
    }
    let mut of = solver.expanded(values);
    of[base].of_x_t = share;
    Ok(Coefficients { of_noise: noise, ..Coefficients::of_evaluations(of) })
}

/// The order of every step of a single-step solver: from 1 up to the solver's, again and again, with a shorter round at the
/// end where the number of steps asks for it.
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

/// The single-step solvers of diffusers know no spacing but linspace.
pub(super) fn grid<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    options: &Options,
) -> Result<Grid<'a>> {
    let solver = options.dpm_solver;
    let spacing = if solver.single { Spacing::Linspace } else { settings.spacing };
    let end = match solver.form {
        SolverForm::Data => FinalSigma::Zero,
        SolverForm::Noise => FinalSigma::SigmaMin,
    };
    in_lambda(s, n, settings, spacing, end)
}

pub(super) fn plan(grid: &Grid<'_>, options: &Options) -> Result<Vec<PlannedStep>> {
    let solver = options.dpm_solver;
    solver.check()?;
    let (n, ends_on_picture) = (grid.len(), grid.ends_on_picture());
    if ends_on_picture && solver.form == SolverForm::Noise {
        let advice = "its noise is not defined on the picture; let it end on sigma_min";
        return Err(Error::argument("final sigma of dpmsolver", "sigma_min", "zero").hint(advice));
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
        let ((from, to), evaluated) = (grid.step(i), grid.evaluated(i, orders[i]));
        let coefficients = match solver.single {
            true => dpm_solver_singlestep_coefficients,
            false => dpm_solver_multistep_coefficients,
        };
        let c = coefficients(solver, &evaluated, to, grid.settings.as_diffusers)?;
        Ok(PlannedStep::new(grid.number(i), from, to, c))
    };
    grid.taken().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lambda: f64) -> Position {
        Position::in_time(1., (-lambda).exp())
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

    /// With the exact integral of x_0 = 1, lambda, lambda^2 as the test: `noise_rate_t int exp(lambda) x_0 dlambda`.
    #[test]
    fn a_step_of_order_k_integrates_powers_below_k() -> Result<()> {
        let lambdas = [0.3, -0.2, -0.9];
        let to = at(0.8);
        let integral = |power: i32| {
            let of = |l: f64| l.exp() * [1., l - 1., l * l - 2. * l + 2.][power as usize];
            to.noise_rate * (of(0.8) - of(0.3))
        };
        for order in 1..=3usize {
            let solver = DpmSolver { order, solver_type: SolverType::Heun, ..DpmSolver::MULTISTEP };
            let evaluated: Vec<Position> = lambdas[..order].iter().map(|&l| at(l)).collect();
            let c = dpm_solver_multistep_coefficients(solver, &evaluated, to, false)?;
            // The order-3 formula drops the half of the second difference, so it is exact to power 1 alone.
            for power in 0..order.min(2) as i32 {
                let of = c.by_evaluation();
                let got: f64 = of.iter().zip(lambdas).map(|(c, l)| c.of_x_0 * l.powi(power)).sum();
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
