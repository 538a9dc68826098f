//! Pseudo numerical methods for diffusion models, Liu et al. 2022.

use super::grid::Grid;
use super::{Coefficients, EARLIER, EvaluationCoefficients, Options, PlannedStep, Position};
use crate::prediction::Prediction;
use crate::schedule::Spacing;
use crate::{Error, Result};

/// The weights of the last evaluations' outputs in a linear multistep, the newest first: Adams-Bashforth on even steps.
///
/// ```text
/// e' = e                                                   one evaluation
/// e' = (3 e - e_1) / 2                                     two
/// e' = (23 e - 16 e_1 + 5 e_2) / 12                        three
/// e' = (55 e - 59 e_1 + 37 e_2 - 9 e_3) / 24               four: Liu et al. 2022, eq. 9
/// ```
pub fn plms_weights(evaluations: usize) -> [f64; 4] {
    match evaluations {
        0 | 1 => [1., 0., 0., 0.],
        2 => [3. / 2., -1. / 2., 0., 0.],
        3 => [23. / 12., -16. / 12., 5. / 12., 0.],
        _ => [55. / 24., -59. / 24., 37. / 24., -9. / 24.],
    }
}

/// One step from `from` to `to` of a sample that was evaluated, by a mix of the evaluations' outputs.
///
/// The outputs are mixed as the model gives them. A mix of v is converted to noise at `from`, with the sample that the step
/// starts from, as diffusers does.
struct Transfer<'a> {
    prediction: Prediction,
    from: Position,
    to: Position,
    /// Which evaluation's sample it starts from, 0 the newest.
    base: usize,
    /// Where the model was evaluated, the newest first, and the weight of each output.
    outputs: &'a [(Position, f64)],
}

impl Transfer<'_> {
    /// ```text
    /// share = signal_rate_to / signal_rate_from
    /// x_to = share x + (noise_rate_to - share noise_rate_from) e'     Liu et al. 2022, eq. 11
    /// ```
    fn coefficients(&self) -> Coefficients {
        let share = self.to.signal_rate / self.from.signal_rate;
        let noise = self.to.noise_rate - self.from.noise_rate * share;
        let mut evaluations = [EvaluationCoefficients::default(); 1 + EARLIER];
        evaluations[self.base].of_x_t += share;
        for (of, (at, weight)) in evaluations.iter_mut().zip(self.outputs) {
            match self.prediction {
                Prediction::V => {
                    // v = signal_rate eps - noise_rate x_0 where the model was evaluated,
                    // eps = signal_rate v + noise_rate x at the step's start
                    of.of_noise_pred += noise * self.from.signal_rate * weight * at.signal_rate;
                    of.of_x_0 -= noise * self.from.signal_rate * weight * at.noise_rate;
                }
                _ => of.of_noise_pred += noise * weight,
            }
        }
        if self.prediction == Prediction::V {
            evaluations[self.base].of_x_t += noise * self.from.noise_rate;
        }
        Coefficients::of_evaluations(evaluations)
    }
}

pub(super) fn plan(grid: &Grid<'_>, options: &Options) -> Result<Vec<PlannedStep>> {
    if grid.settings.as_diffusers && !options.runge_kutta {
        return plan_as_diffusers(grid);
    }
    if grid.settings.as_diffusers && grid.skipped() > 0 {
        let advice = "diffusers takes the coefficients of the steps that are left out; take pndm-rk, or pndm-diffusers";
        return Err(Error::argument("pndm-rk-diffusers", "all steps", "a later start").hint(advice));
    }
    let prediction = grid.settings.prediction;
    let (mut steps, begun) =
        if options.runge_kutta { begin_with_runge_kutta(grid)? } else { begin_twice(grid)? };
    for i in grid.taken().skip(begun) {
        let (from, to) = grid.step(i);
        let evaluated = grid.evaluated(i, 4);
        let weights = plms_weights(evaluated.len());
        let outputs: Vec<(Position, f64)> = evaluated.into_iter().zip(weights).collect();
        let step = Transfer { prediction, from, to, base: 0, outputs: &outputs };
        steps.push(PlannedStep::new(grid.number(i), from, to, step.coefficients()));
    }
    Ok(steps)
}

/// The first step is taken twice: as a guess, then with the mean of the outputs at both of its ends. The second evaluation
/// is forgotten. Returns the planned evaluations and the number of steps that they take.
fn begin_twice(grid: &Grid<'_>) -> Result<(Vec<PlannedStep>, usize)> {
    let prediction = grid.settings.prediction;
    let pairs = grid.steps();
    let Some((from, to)) = pairs.first().copied() else { return Ok((Vec::new(), 0)) };
    let guess = Transfer { prediction, from, to, base: 0, outputs: &[(from, 1.)] };
    let mut steps = vec![PlannedStep::new(0, from, to, guess.coefficients())];
    if let Some((second, _)) = pairs.get(1).copied() {
        let outputs = [(second, 0.5), (from, 0.5)];
        let again = Transfer { prediction, from, to: second, base: 1, outputs: &outputs };
        steps.push(PlannedStep {
            forget: 1,
            ..PlannedStep::new(0, second, second, again.coefficients())
        });
    }
    Ok((steps, 1))
}

/// The steps as diffusers counts them: along its list of timesteps, in which the second one stands twice, and by a stride.
///
/// A later start cuts this list. Its first timestep is then noisier than the first of the steps that are left, and from
/// the third evaluation on a sample is taken for one step less noisy than it is.
fn plan_as_diffusers(grid: &Grid<'_>) -> Result<Vec<PlannedStep>> {
    let prediction = grid.settings.prediction;
    let again = grid.len().min(2) - grid.len().min(1);
    let list: Vec<usize> = (0..1 + again).chain(1..grid.len()).skip(grid.skipped()).collect();
    if grid.steps().is_empty() {
        return Ok(Vec::new());
    }
    let (mut steps, mut evaluated) = (Vec::new(), Vec::new());
    for (count, (at, to)) in list.into_iter().map(|k| grid.step(k)).enumerate() {
        if count == 1 {
            let from = Position::of(grid.schedule, at.t as usize + grid.stride())?;
            let outputs = [(at, 0.5), (evaluated[0], 0.5)];
            let step = Transfer { prediction, from, to: at, base: 1, outputs: &outputs };
            let planned = PlannedStep::new(0, at, at, step.coefficients());
            steps.push(PlannedStep { forget: 1, ..planned });
            continue;
        }
        evaluated.insert(0, at);
        evaluated.truncate(4);
        let weights = plms_weights(evaluated.len());
        let outputs: Vec<(Position, f64)> = evaluated.iter().copied().zip(weights).collect();
        let step = Transfer { prediction, from: at, to, base: 0, outputs: &outputs };
        steps.push(PlannedStep::new(count.saturating_sub(1), at, to, step.coefficients()));
    }
    Ok(steps)
}

/// The first three steps are Runge-Kutta steps of order 4, which evaluate the model at the start, twice in the middle and
/// at the end; the first evaluation is remembered. Liu et al. 2022, eq. 12.
fn begin_with_runge_kutta(grid: &Grid<'_>) -> Result<(Vec<PlannedStep>, usize)> {
    let (s, prediction, pairs) = (grid.schedule, grid.settings.prediction, grid.steps());
    if pairs.is_empty() {
        return Ok((Vec::new(), 0));
    }
    if pairs.len() < 4 {
        let advice = "its first three steps are Runge-Kutta's";
        return Err(Error::argument("steps of pndm-rk", "4 or more", pairs.len()).hint(advice));
    }
    let mut steps = Vec::new();
    for (k, pair) in pairs.windows(2).take(3).enumerate() {
        let (from, end) = (pair[0].0, pair[1].0);
        let half = match grid.settings.as_diffusers {
            false => (from.t - end.t) as usize / 2,
            true => grid.stride() / 2,
        };
        let above = Position::of(s, (from.t as usize).saturating_sub(half))?;
        // With an odd stride and leading spacing, PNDM's own, diffusers evaluates one timestep below the sample.
        let leads = grid.settings.spacing == Spacing::Leading && grid.settings.timesteps.is_none();
        let middle = match grid.settings.as_diffusers || leads {
            false => above,
            true => Position::of(s, end.t as usize + half)?,
        };
        let stage = |at: Position, to: Position, base: usize, outputs: &[(Position, f64)]| {
            let step = Transfer { prediction, from, to, base, outputs };
            PlannedStep::new(k, at, to, step.coefficients())
        };
        let (third, sixth) = (1. / 3., 1. / 6.);
        steps.push(stage(from, above, 0, &[(from, 1.)]));
        steps.push(stage(middle, middle, 1, &[(middle, 1.)]));
        steps.push(stage(middle, end, 2, &[(middle, 1.)]));
        let all = [(end, sixth), (middle, third), (middle, third), (from, sixth)];
        steps.push(PlannedStep { forget: 3, ..stage(end, end, 3, &all) });
    }
    Ok((steps, 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::PlanSettings;
    use crate::sampler::grid::in_time;
    use crate::schedule::Schedule;

    #[test]
    fn the_multistep_is_exact_for_cubics() {
        // The mean over one step ahead, from values at 0, 1, 2 and 3 steps back.
        for count in 1..=4usize {
            for power in 0..count as i32 {
                let got: f64 =
                    (0..count).map(|k| plms_weights(count)[k] * (-(k as f64)).powi(power)).sum();
                let mean = 1. / f64::from(power + 1);
                assert!((got - mean).abs() < 1e-12, "{count}, power {power}: {got}, {mean}");
            }
        }
    }

    #[test]
    fn three_runge_kutta_steps_need_four() {
        let s = Schedule::stable_diffusion();
        let planned = |list: &[usize], runge_kutta: bool| {
            let settings =
                PlanSettings { timesteps: Some(list.to_vec()), ..PlanSettings::default() };
            let options = Options { runge_kutta, ..Options::DEFAULT };
            let grid = in_time(&s, list.len(), &settings, &options)?;
            Ok::<_, Error>(plan(&grid, &options)?.len())
        };
        assert!(planned(&[700, 400, 100], true).is_err());
        assert_eq!(planned(&[900, 700, 400, 100], true).unwrap(), 13);
        assert_eq!(planned(&[700, 400, 100], false).unwrap(), 4);
        assert_eq!(planned(&[700], false).unwrap(), 1);
    }
}
