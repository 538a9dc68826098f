//! Heun's method in sigma, Karras et al. 2022, algorithm 2.

use tch::Tensor;

use super::grid::Grid;
use super::two_stages::{self, Stages, of_latest};
use super::{
    Coefficients, EvaluationCoefficients, Options, PlannedStep, StepOutput, euler_coefficients,
};
use crate::Result;

/// The coefficients of Heun's second stage: the mean of the derivatives at both ends of the step.
///
/// ```text
/// d = (x - x_0) / sigma                        at the first evaluation
/// d' = (x' - x_0') / sigma_next                at the second, x' = x + (sigma_next - sigma) d
/// x_next = x + (sigma_next - sigma) (d + d') / 2
/// ```
/// Karras et al. 2022, algorithm 2.
pub fn heun_coefficients(sigma: f64, sigma_next: f64) -> Coefficients {
    let half = (sigma_next - sigma) / 2.;
    let (first, second) = (half / sigma, half / sigma_next);
    Coefficients {
        of_x_0: -second,
        of_x_t: second,
        earlier: of_latest(EvaluationCoefficients {
            of_x_0: -first,
            of_noise_pred: 0.,
            of_x_t: 1. + first,
        }),
        ..Coefficients::default()
    }
}

fn stages(sigma: f64, sigma_next: f64) -> Result<Stages> {
    Ok(Stages {
        middle: None,
        first: euler_coefficients(sigma, sigma_next)?,
        second: heun_coefficients(sigma, sigma_next),
    })
}

/// A step of Heun's method; to sigma 0, an Euler step. `predict(x, sigma)` predicts the noise in `x = x_0 + sigma eps`.
///
/// # Shapes
/// `x` (not scaled) and its predictions alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ; what `predict` fails with.
pub fn heun_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    predict: impl FnMut(&Tensor, f64) -> Result<Tensor>,
) -> Result<StepOutput> {
    two_stages::step(stages, (sigma, sigma_next), x, predict, [None, None])
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    two_stages::plan(grid, stages)
}
