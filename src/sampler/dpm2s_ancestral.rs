//! DPM-Solver++ 2S to a lower sigma, and fresh noise back up, as k-diffusion has it.

use tch::Tensor;

use super::grid::Grid;
use super::two_stages::{self, Stages, middle, with_second_picture};
use super::{Coefficients, Options, PlannedStep, StepOutput, ancestral_sigmas};
use crate::Result;

/// Lu et al. 2022 (b), algorithm 1 with r = 1/2, to an ancestral sigma.
fn stages(sigma: f64, sigma_next: f64) -> Result<Stages> {
    let (down, up) = ancestral_sigmas(sigma, sigma_next);
    let second = Coefficients { of_noise: up, ..with_second_picture(sigma, down) };
    Stages::after_euler(sigma, middle(sigma, down), second)
}

/// An ancestral step of DPM-Solver++ 2S; to sigma 0, an Euler step, which ignores its noise. `predict(x, sigma)` predicts
/// the noise in `x = x_0 + sigma eps`.
///
/// # Shapes
/// `x` (not scaled), its predictions and `noise` alike; both outputs are the same.
/// # Errors
/// Sigmas that do not go down; shapes that differ; what `predict` fails with.
pub fn dpm2s_ancestral_step(
    sigma: f64,
    sigma_next: f64,
    x: &Tensor,
    predict: impl FnMut(&Tensor, f64) -> Result<Tensor>,
    noise: &Tensor,
) -> Result<StepOutput> {
    two_stages::step(stages, (sigma, sigma_next), x, predict, [None, Some(noise)])
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    two_stages::plan(grid, stages)
}
