//! DPM-Solver++ with fresh noise in both of its stages, as k-diffusion has it.

use tch::Tensor;

use super::grid::Grid;
use super::two_stages::{self, Stages, middle, with_second_picture};
use super::{Coefficients, Options, PlannedStep, StepOutput, ancestral_sigmas, euler_coefficients};
use crate::Result;

/// Both stages go down to an ancestral sigma and get fresh noise; the second one uses the picture that was predicted in the
/// middle for the whole step.
fn stages(sigma: f64, sigma_next: f64) -> Result<Stages> {
    let half = middle(sigma, sigma_next);
    let (down, up) = ancestral_sigmas(sigma, half);
    let first = Coefficients { of_noise: up, ..euler_coefficients(sigma, down)? };
    let (down, up) = ancestral_sigmas(sigma, sigma_next);
    let second = Coefficients { of_noise: up, ..with_second_picture(sigma, down) };
    Ok(Stages { middle: Some(half), first, second })
}

/// A step of DPM-Solver++ (SDE); to sigma 0, an Euler step, which ignores its noise. `predict(x, sigma)` predicts the noise
/// in `x = x_0 + sigma eps`; `noises` are those of the first and of the second stage.
///
/// # Shapes
/// `x` (not scaled), its predictions and `noises` alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ; what `predict` fails with.
pub fn dpm_sde_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    predict: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    noises: [&Tensor; 2],
) -> Result<StepOutput> {
    two_stages::step(stages, (sigma, sigma_next), x, predict, noises.map(Some))
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    two_stages::plan(grid, stages)
}
