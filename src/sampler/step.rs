//! A reverse step: as it is planned, and its result.

use std::fmt;

use tch::Tensor;

use super::{Coefficients, Position};
use crate::schedule::Step;
use crate::short::Digits;

/// The result of a reverse step.
#[derive(Debug)]
pub struct StepOutput {
    /// The sample at the next, less noisy timestep.
    pub prev_sample: Tensor,
    /// The picture that the model saw at the start of the step.
    pub pred_original_sample: Tensor,
}

/// One evaluation of the model and the coefficients of the step that follows it.
#[derive(Clone, Copy, PartialEq)]
pub struct PlannedStep {
    /// The step that the evaluation belongs to, counted from 0 at the first one that is taken.
    pub step: usize,
    /// Where the sample is.
    pub position: Position,
    /// Where the step ends.
    pub next: Position,
    /// A corrector: before the step, the sample is replaced by this sum.
    pub correction: Option<Coefficients>,
    /// The coefficients of the step.
    pub coefficients: Coefficients,
    /// How many of the newest evaluations the following steps do not see.
    pub forget: usize,
}

impl fmt::Debug for PlannedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = [self.position.t, self.next.t].map(Digits);
        let corrected = if self.correction.is_some() { ", corrected first" } else { "" };
        write!(f, "PlannedStep {{ t = {from} to {to}{corrected}: {:?} }}", self.coefficients)
    }
}

impl PlannedStep {
    pub(super) fn new(
        step: usize,
        position: Position,
        next: Position,
        coefficients: Coefficients,
    ) -> Self {
        Self { step, position, next, correction: None, coefficients, forget: 0 }
    }

    /// Whether it takes fresh noise.
    pub fn adds_noise(&self) -> bool {
        self.coefficients.of_noise != 0.
    }

    /// Whether all its coefficients are numbers.
    pub(super) fn is_finite(&self) -> bool {
        let of = |c: &Coefficients| {
            let each = c.by_evaluation().map(|e| [e.of_x_0, e.of_noise_pred, e.of_x_t]);
            c.of_noise.is_finite() && each.as_flattened().iter().all(|value| value.is_finite())
        };
        of(&self.coefficients) && self.correction.as_ref().is_none_or(of)
    }

    /// The timestep that the model is given.
    pub fn timestep(&self) -> f64 {
        self.position.t
    }

    /// The step as [`super::ddim_step`] and [`super::ddpm_step`] take it.
    pub fn pair(&self) -> Step {
        self.position.step_to(self.next)
    }
}
