//! A reverse step as a weighted sum of what is known.

use std::fmt;

use tch::Tensor;

use super::{Evaluation, Position};
use crate::check::alike;
use crate::short::Digits;
use crate::{Error, Result};

/// The coefficients of one evaluation in a step.
#[derive(Clone, Copy, PartialEq, Default)]
pub struct EvaluationCoefficients {
    /// Of the picture that the model saw.
    pub of_x_0: f64,
    /// Of the noise that the model saw.
    pub of_noise_pred: f64,
    /// Of the sample that was evaluated.
    pub of_x_t: f64,
}

impl fmt::Debug for EvaluationCoefficients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sum(&[
            (self.of_x_0, "x_0"),
            (self.of_noise_pred, "noise_pred"),
            (self.of_x_t, "x_t"),
        ]))
    }
}

/// How many evaluations a step can use besides the newest.
pub const EARLIER: usize = 3;

/// The coefficients of one reverse step:
///
/// ```text
/// prev_sample = of_x_0 x_0 + of_noise_pred noise_pred + of_x_t x_t + of_noise noise
///             + the same sum without noise over each earlier evaluation
/// ```
#[derive(Clone, Copy, PartialEq, Default)]
pub struct Coefficients {
    /// Of the predicted picture.
    pub of_x_0: f64,
    /// Of the predicted noise.
    pub of_noise_pred: f64,
    /// Of the sample that was evaluated.
    pub of_x_t: f64,
    /// Of fresh noise.
    pub of_noise: f64,
    /// Of earlier evaluations, the latest first: multistep and two-stage samplers use them.
    pub earlier: [EvaluationCoefficients; EARLIER],
}

impl fmt::Debug for Coefficients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = [
            (self.of_x_0, "x_0"),
            (self.of_noise_pred, "noise_pred"),
            (self.of_x_t, "x_t"),
            (self.of_noise, "noise"),
        ];
        f.write_str(&sum(&newest))?;
        let earlier = self.earlier.iter().enumerate();
        for (i, of) in earlier.filter(|(_, of)| **of != EvaluationCoefficients::default()) {
            let evaluations = if i == 0 { "evaluation" } else { "evaluations" };
            write!(f, ", {} {evaluations} before: {of:?}", i + 1)?;
        }
        Ok(())
    }
}

/// The terms that count, as they are added.
fn sum(terms: &[(f64, &str)]) -> String {
    let terms = terms.iter().filter(|(coefficient, _)| *coefficient != 0.);
    let terms: Vec<String> =
        terms.map(|(coefficient, of)| format!("{} {of}", Digits(*coefficient))).collect();
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ").replace("+ -", "- ") }
}

impl Coefficients {
    /// The coefficients of the newest evaluation and of the earlier ones.
    pub fn by_evaluation(&self) -> [EvaluationCoefficients; 1 + EARLIER] {
        let Self { of_x_0, of_noise_pred, of_x_t, earlier: [a, b, c], .. } = *self;
        [EvaluationCoefficients { of_x_0, of_noise_pred, of_x_t }, a, b, c]
    }

    /// From the coefficients of each evaluation, the newest first, and no noise.
    pub(super) fn of_evaluations(evaluations: [EvaluationCoefficients; 1 + EARLIER]) -> Self {
        let [newest, a, b, c] = evaluations;
        let EvaluationCoefficients { of_x_0, of_noise_pred, of_x_t } = newest;
        Self { of_x_0, of_noise_pred, of_x_t, of_noise: 0., earlier: [a, b, c] }
    }

    /// The weighted sum over `evaluations`, the newest first. `noise` is needed where its coefficient is not 0.
    ///
    /// # Errors
    /// An evaluation or noise that has a coefficient and is missing; shapes that differ.
    pub fn sum(&self, evaluations: &[&Evaluation], noise: Option<&Tensor>) -> Result<Tensor> {
        let newest =
            evaluations.first().ok_or_else(|| missing("evaluations", "the newest or more"))?;
        let mut sum: Option<Tensor> = None;
        for (i, of) in self.by_evaluation().into_iter().enumerate() {
            for (coefficient, which) in [(of.of_x_0, 0), (of.of_noise_pred, 1), (of.of_x_t, 2)] {
                if coefficient == 0. {
                    continue;
                }
                let evaluation = evaluations
                    .get(i)
                    .ok_or_else(|| missing("evaluations", format!("{} of them", i + 1)))?;
                let tensor = [&evaluation.x_0, &evaluation.noise_pred, &evaluation.x_t][which];
                alike("evaluation", tensor, &newest.x_t)?;
                let term = coefficient * tensor;
                sum = Some(match sum {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        self.with_noise(sum.unwrap_or_else(|| newest.x_t.zeros_like()), noise)
    }

    /// `mean + of_noise noise`, on the device and in the dtype of `mean`; without a coefficient, `noise` is not used.
    ///
    /// # Errors
    /// Noise that has a coefficient and is missing; shapes that differ.
    pub(super) fn with_noise(&self, mean: Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        if self.of_noise == 0. {
            return Ok(mean);
        }
        let noise = noise.ok_or_else(|| missing("noise", "a tensor like x_t"))?;
        alike("noise", noise, &mean)?;
        Ok(&mean + self.of_noise * noise.to_kind(mean.kind()))
    }
}

fn missing(what: &str, expected: impl ToString) -> Error {
    Error::argument(what, expected, "none")
}

/// The coefficients of `x_0` and `x_t` that carry a sample from `from` to `to` while picture and noise stay the same: a
/// DDIM step, an Euler step and a DPM-Solver step of order 1 are all this step.
///
/// ```text
/// share = noise_rate_to / noise_rate_from
/// x_to = signal_rate_to x_0 + noise_rate_to eps = share x + (signal_rate_to - share signal_rate_from) x_0
/// ```
pub(super) fn straight(from: Position, to: Position) -> EvaluationCoefficients {
    let share = to.noise_rate / from.noise_rate;
    EvaluationCoefficients {
        of_x_0: to.signal_rate - share * from.signal_rate,
        of_noise_pred: 0.,
        of_x_t: share,
    }
}
