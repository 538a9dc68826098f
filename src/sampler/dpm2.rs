//! DPM-Solver-2 as k-diffusion has it, without and with fresh noise: the second evaluation in the middle of log sigma.

use tch::Tensor;

use super::grid::Grid;
use super::two_stages::{self, Stages, middle, of_latest};
use super::{
    Coefficients, EvaluationCoefficients, Options, PlannedStep, StepOutput, ancestral_sigmas,
};
use crate::Result;

/// The coefficients of a second stage that uses the derivative in the middle of the step for all of it.
///
/// ```text
/// x_next = x + (sigma_next - sigma) (x' - x_0') / sigma_middle
/// ```
/// The midpoint method; Karras et al. 2022, appendix D.2, with the middle in log sigma as DPM-Solver-2 has it, Lu et al.
/// 2022, algorithm 1.
pub fn dpm2_coefficients(sigma: f64, sigma_middle: f64, sigma_next: f64) -> Coefficients {
    let slope = (sigma_next - sigma) / sigma_middle;
    Coefficients {
        of_x_0: -slope,
        of_x_t: slope,
        earlier: of_latest(EvaluationCoefficients {
            of_x_t: 1.,
            ..EvaluationCoefficients::default()
        }),
        ..Coefficients::default()
    }
}

fn stages(sigma: f64, sigma_next: f64) -> Result<Stages> {
    let half = middle(sigma, sigma_next);
    Stages::after_euler(sigma, half, dpm2_coefficients(sigma, half, sigma_next))
}

fn ancestral_stages(sigma: f64, sigma_next: f64) -> Result<Stages> {
    let (down, up) = ancestral_sigmas(sigma, sigma_next);
    let half = middle(sigma, down);
    let second = Coefficients { of_noise: up, ..dpm2_coefficients(sigma, half, down) };
    Stages::after_euler(sigma, half, second)
}

/// A step of DPM-Solver-2; to sigma 0, an Euler step. `predict(x, sigma)` predicts the noise in `x = x_0 + sigma eps`.
///
/// # Shapes
/// `x` (not scaled) and its predictions alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ; what `predict` fails with.
pub fn dpm2_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    predict: impl FnMut(&Tensor, f64) -> Result<Tensor>,
) -> Result<StepOutput> {
    two_stages::step(stages, (sigma, sigma_next), x, predict, [None, None])
}

/// The same to a lower sigma, and fresh noise back up; to sigma 0, an Euler step, which ignores its noise.
///
/// # Shapes
/// `x` (not scaled), its predictions and `noise` alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ; what `predict` fails with.
pub fn dpm2_ancestral_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    predict: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    noise: &Tensor,
) -> Result<StepOutput> {
    two_stages::step(ancestral_stages, (sigma, sigma_next), x, predict, [None, Some(noise)])
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    two_stages::plan(grid, stages)
}

pub(super) fn plan_ancestral(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    two_stages::plan(grid, ancestral_stages)
}
