//! What the samplers of two stages share: every step evaluates the model twice, and the second stage starts again from the
//! sample of the first evaluation.

use tch::Tensor;

use super::coefficients::straight;
use super::grid::Grid;
use super::{
    Coefficients, EARLIER, EvaluationCoefficients, PlannedStep, Position, StepOutput,
    euler_coefficients,
};
use crate::Result;
use crate::check::alike;

/// Both stages of a step.
pub(super) struct Stages {
    /// The sigma of the second evaluation; `None` for the one at which the step ends.
    pub middle: Option<f64>,
    /// From the step's start to the second evaluation.
    pub first: Coefficients,
    /// To the end of the step.
    pub second: Coefficients,
}

impl Stages {
    /// The stages that evaluate the model a second time at `middle`, after an Euler step.
    pub fn after_euler(sigma: f64, middle: f64, second: Coefficients) -> Result<Self> {
        Ok(Self { middle: Some(middle), first: euler_coefficients(sigma, middle)?, second })
    }
}

/// The middle of two sigmas, in log sigma.
pub(super) fn middle(a: f64, b: f64) -> f64 {
    (a * b).sqrt()
}

/// The coefficients of earlier evaluations where only the latest has some.
pub(super) fn of_latest(latest: EvaluationCoefficients) -> [EvaluationCoefficients; EARLIER] {
    [latest, EvaluationCoefficients::default(), EvaluationCoefficients::default()]
}

/// From the sample of the first evaluation at `sigma` to `sigma_next`, with the picture of the second evaluation.
pub(super) fn with_second_picture(sigma: f64, sigma_next: f64) -> Coefficients {
    let (from, to) = (Position::in_sigma(0., sigma), Position::in_sigma(0., sigma_next));
    let EvaluationCoefficients { of_x_0, of_x_t, .. } = straight(from, to);
    Coefficients {
        of_x_0,
        earlier: of_latest(EvaluationCoefficients { of_x_t, ..EvaluationCoefficients::default() }),
        ..Coefficients::default()
    }
}

/// Two evaluations for every step but the last, which is an Euler step.
pub(super) fn plan(
    grid: &Grid<'_>,
    stages: fn(f64, f64) -> Result<Stages>,
) -> Result<Vec<PlannedStep>> {
    let mut planned = Vec::with_capacity(2 * grid.len());
    for (i, &(from, to)) in grid.steps().iter().enumerate() {
        if i + 1 == grid.steps().len() {
            let c = euler_coefficients(from.sigma(), to.sigma())?;
            planned.push(PlannedStep::new(i, from, to, c));
            continue;
        }
        let Stages { middle, first, second } = stages(from.sigma(), to.sigma())?;
        let between = middle.map_or(to, |sigma| grid.at_sigma(sigma));
        planned.push(PlannedStep::new(i, from, between, first));
        planned.push(PlannedStep::new(i, between, to, second));
    }
    Ok(planned)
}

/// One step with both of its stages; to sigma 0, an Euler step. `noises`: fresh noise of the first and the second stage.
pub(super) fn step(
    stages: fn(f64, f64) -> Result<Stages>,
    (sigma, sigma_next): (f64, f64),
    x: &Tensor,
    mut predict: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    noises: [Option<&Tensor>; 2],
) -> Result<StepOutput> {
    let mut picture = |x: &Tensor, sigma: f64| -> Result<Tensor> {
        let noise_pred = predict(x, sigma)?;
        alike("noise_pred", &noise_pred, x)?;
        Ok(x - sigma * noise_pred)
    };
    let whole = euler_coefficients(sigma, sigma_next)?;
    let x_0 = picture(x, sigma)?;
    if sigma_next == 0. {
        let prev_sample = whole.of_x_0 * &x_0 + whole.of_x_t * x;
        return Ok(StepOutput { prev_sample, pred_original_sample: x_0 });
    }
    let Stages { middle, first, second } = stages(sigma, sigma_next)?;
    let between = first.with_noise(first.of_x_0 * &x_0 + first.of_x_t * x, noises[0])?;
    let x_0_between = picture(&between, middle.unwrap_or(sigma_next))?;
    let start = second.earlier[0];
    let mean = second.of_x_0 * x_0_between
        + second.of_x_t * between
        + start.of_x_0 * &x_0
        + start.of_x_t * x;
    Ok(StepOutput { prev_sample: second.with_noise(mean, noises[1])?, pred_original_sample: x_0 })
}
