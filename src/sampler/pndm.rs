//! Pseudo numerical methods for diffusion models, Liu et al. 2022.

use super::ddim::pairs;
use super::{Coefficients, EARLIER, PlannedStep, Position, Settings, Weights};
use crate::prediction::Prediction;
use crate::schedule::Schedule;
use crate::{Error, Result};

/// The weights of the last looks' outputs in a linear multistep, the newest first: Adams-Bashforth on even steps.
///
/// ```text
/// e' = e                                                   one look
/// e' = (3 e - e_1) / 2                                     two
/// e' = (23 e - 16 e_1 + 5 e_2) / 12                        three
/// e' = (55 e - 59 e_1 + 37 e_2 - 9 e_3) / 24               four: Liu et al. 2022, eq. 9
/// ```
pub fn plms_weights(looks: usize) -> [f64; 4] {
    match looks {
        0 | 1 => [1., 0., 0., 0.],
        2 => [3. / 2., -1. / 2., 0., 0.],
        3 => [23. / 12., -16. / 12., 5. / 12., 0.],
        _ => [55. / 24., -59. / 24., 37. / 24., -9. / 24.],
    }
}

/// One step from `from` to `to` of a sample that some look saw, by a mix of the looks' outputs.
///
/// The outputs are mixed as the model gives them. A mix of v is turned to noise at `from`, with the sample that the step
/// starts from, as diffusers does.
struct Transfer<'a> {
    prediction: Prediction,
    from: Position,
    to: Position,
    /// Which look's sample it starts from, 0 the newest.
    base: usize,
    /// Where the looks were, the newest first, and the weight of each output.
    outputs: &'a [(Position, f64)],
}

impl Transfer<'_> {
    /// ```text
    /// x_to = alpha_to / alpha_from x + (sigma_to - sigma_from alpha_to / alpha_from) e'     Liu et al. 2022, eq. 11
    /// ```
    fn coefficients(&self) -> Coefficients {
        let share = self.to.alpha / self.from.alpha;
        let noise = self.to.sigma - self.from.sigma * share;
        let mut looks = [Weights::default(); 1 + EARLIER];
        looks[self.base].x_t += share;
        for (look, (at, weight)) in looks.iter_mut().zip(self.outputs) {
            match self.prediction {
                Prediction::V => {
                    // v = alpha eps - sigma x_0 at the look, eps = alpha v + sigma x at the step's start
                    look.noise_pred += noise * self.from.alpha * weight * at.alpha;
                    look.x_0 -= noise * self.from.alpha * weight * at.sigma;
                }
                _ => look.noise_pred += noise * weight,
            }
        }
        if self.prediction == Prediction::V {
            looks[self.base].x_t += noise * self.from.sigma;
        }
        Coefficients::from_looks(looks, 0.)
    }
}

pub(super) fn plan(
    s: &Schedule,
    list: &[usize],
    stride: usize,
    runge_kutta: bool,
    settings: &Settings,
) -> Result<Vec<PlannedStep>> {
    let pairs = pairs(s, list, stride, settings)?;
    let prediction = settings.prediction;
    let (mut steps, begun) = if runge_kutta {
        begin_with_runge_kutta(s, &pairs, stride, settings)?
    } else {
        begin_twice(s, &pairs, stride, settings)?
    };
    for (i, (from, to)) in pairs.iter().enumerate().skip(begun) {
        let looks: Vec<Position> = pairs[..=i].iter().rev().take(4).map(|pair| pair.0).collect();
        let weights = plms_weights(looks.len());
        let outputs: Vec<(Position, f64)> = looks.into_iter().zip(weights).collect();
        let step = Transfer { prediction, from: *from, to: *to, base: 0, outputs: &outputs };
        steps.push(PlannedStep::new(*from, *to, step.coefficients()));
    }
    Ok(steps)
}

/// The first step is taken twice: as a guess, then with the mean of the outputs at both of its ends. The second look is
/// not remembered. Returns the looks and the steps that they take.
fn begin_twice(
    s: &Schedule,
    pairs: &[(Position, Position)],
    stride: usize,
    settings: &Settings,
) -> Result<(Vec<PlannedStep>, usize)> {
    let prediction = settings.prediction;
    let Some((from, to)) = pairs.first().copied() else { return Ok((Vec::new(), 0)) };
    let guess = Transfer { prediction, from, to, base: 0, outputs: &[(from, 1.)] };
    let mut steps = vec![PlannedStep::new(from, to, guess.coefficients())];
    if let Some((second, _)) = pairs.get(1).copied() {
        // By the stride of diffusers, the step that ends on the second timestep began elsewhere.
        let start = match settings.as_diffusers {
            false => from,
            true => Position::of(s, second.t as usize + stride)?,
        };
        let outputs = [(second, 0.5), (from, 0.5)];
        let again = Transfer { prediction, from: start, to: second, base: 1, outputs: &outputs };
        steps.push(PlannedStep {
            forget: 1,
            ..PlannedStep::new(second, second, again.coefficients())
        });
    }
    Ok((steps, 1))
}

/// The first three steps are Runge-Kutta's of order 4: looks at the start, twice in the middle, and at the end, of which
/// the first is remembered; Liu et al. 2022, eq. 12.
fn begin_with_runge_kutta(
    s: &Schedule,
    pairs: &[(Position, Position)],
    stride: usize,
    settings: &Settings,
) -> Result<(Vec<PlannedStep>, usize)> {
    let prediction = settings.prediction;
    if pairs.is_empty() {
        return Ok((Vec::new(), 0));
    }
    if pairs.len() < 4 {
        let todo = "its first three steps are Runge-Kutta's";
        return Err(Error::argument("steps of pndm-rk", "4 and more", pairs.len(), todo));
    }
    let mut steps = Vec::new();
    for pair in pairs.windows(2).take(3) {
        let (from, end) = (pair[0].0, pair[1].0);
        let half = match settings.as_diffusers {
            false => (from.t - end.t) as usize / 2,
            true => stride / 2,
        };
        let above = Position::of(s, (from.t as usize).saturating_sub(half))?;
        let middle = Position::of(s, end.t as usize + half)?;
        let stage = |at: Position, to: Position, base: usize, outputs: &[(Position, f64)]| {
            let step = Transfer { prediction, from, to, base, outputs };
            PlannedStep::new(at, to, step.coefficients())
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

    #[test]
    fn the_multistep_is_exact_for_cubics() {
        // The mean over one step ahead, from values at 0, 1, 2 and 3 steps back.
        for looks in 1..=4usize {
            for power in 0..looks as i32 {
                let got: f64 =
                    (0..looks).map(|k| plms_weights(looks)[k] * (-(k as f64)).powi(power)).sum();
                let mean = 1. / f64::from(power + 1);
                assert!((got - mean).abs() < 1e-12, "{looks} looks, power {power}: {got}, {mean}");
            }
        }
    }

    #[test]
    fn three_runge_kutta_steps_need_four() {
        let s = Schedule::stable_diffusion();
        let settings = Settings::default();
        assert!(plan(&s, &[700, 400, 100], 300, true, &settings).is_err());
        assert_eq!(plan(&s, &[900, 700, 400, 100], 250, true, &settings).unwrap().len(), 13);
        assert_eq!(plan(&s, &[700, 400, 100], 300, false, &settings).unwrap().len(), 4);
        assert_eq!(plan(&s, &[700], 1000, false, &settings).unwrap().len(), 1);
    }
}
