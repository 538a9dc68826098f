//! Samplers of two stages: every step looks twice, and starts again from the sample of its first look.

use super::{
    Coefficients, PlannedStep, Position, Weights, ancestral_sigmas, euler_coefficients, straight,
};
use crate::Result;

/// The weights of Heun's second stage: the mean of the derivatives at both ends of the step.
///
/// ```text
/// d = (x - x_0) / sigma                        at the first look
/// d' = (x' - x_0') / sigma_next                at the second, x' = x + (sigma_next - sigma) d
/// x_next = x + (sigma_next - sigma) (d + d') / 2
/// ```
/// Karras et al. 2022, algorithm 2.
pub fn heun_coefficients(sigma: f64, sigma_next: f64) -> Coefficients {
    let half = (sigma_next - sigma) / 2.;
    let (first, second) = (half / sigma, half / sigma_next);
    Coefficients {
        x_0: -second,
        x_t: second,
        earlier: earlier(Weights { x_0: -first, noise_pred: 0., x_t: 1. + first }),
        ..Coefficients::default()
    }
}

/// The weights of a second stage that takes the derivative in the middle of the step for the whole of it.
///
/// ```text
/// x_next = x + (sigma_next - sigma) (x' - x_0') / sigma_middle
/// ```
/// The midpoint method; Karras et al. 2022, appendix D.2, with the middle in log sigma as DPM-Solver-2 has it, Lu et al.
/// 2022, algorithm 1.
pub fn dpm2_coefficients(sigma: f64, sigma_middle: f64, sigma_next: f64) -> Coefficients {
    let slope = (sigma_next - sigma) / sigma_middle;
    Coefficients {
        x_0: -slope,
        x_t: slope,
        earlier: earlier(Weights { x_0: 0., noise_pred: 0., x_t: 1. }),
        ..Coefficients::default()
    }
}

/// From the sample of the first look to `to`, with the picture that the second look saw.
fn second_look(from: Position, to: f64) -> Coefficients {
    let Weights { x_0, x_t, .. } = straight(from, at(0., to));
    Coefficients {
        x_0,
        earlier: earlier(Weights { x_0: 0., noise_pred: 0., x_t }),
        ..Coefficients::default()
    }
}

fn earlier(last: Weights) -> [Weights; super::EARLIER] {
    [last, Weights::default(), Weights::default()]
}

fn at(t: f64, sigma: f64) -> Position {
    Position { t, alpha: 1., sigma }
}

/// The middle of two sigmas, in log sigma.
fn middle(a: f64, b: f64) -> f64 {
    (a * b).sqrt()
}

/// Two looks for every step but the last, which is Euler's.
fn two_stages(
    positions: &[Position],
    stages: impl Fn(Position, Position) -> Result<[PlannedStep; 2]>,
) -> Result<Vec<PlannedStep>> {
    let mut steps = Vec::with_capacity(2 * positions.len());
    for (i, pair) in positions.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        if i + 2 == positions.len() {
            steps.push(PlannedStep::new(from, to, euler_coefficients(from.sigma, to.sigma)?));
        } else {
            steps.extend(stages(from, to)?);
        }
    }
    Ok(steps)
}

pub(super) fn plan(positions: &[Position]) -> Result<Vec<PlannedStep>> {
    two_stages(positions, |from, to| {
        Ok([
            PlannedStep::new(from, to, euler_coefficients(from.sigma, to.sigma)?),
            PlannedStep::new(to, to, heun_coefficients(from.sigma, to.sigma)),
        ])
    })
}

pub(super) fn plan_dpm2(
    positions: &[Position],
    t_of: impl Fn(f64) -> f64,
) -> Result<Vec<PlannedStep>> {
    two_stages(positions, |from, to| {
        let half = middle(from.sigma, to.sigma);
        let half = at(t_of(half), half);
        Ok([
            PlannedStep::new(from, half, euler_coefficients(from.sigma, half.sigma)?),
            PlannedStep::new(half, to, dpm2_coefficients(from.sigma, half.sigma, to.sigma)),
        ])
    })
}

pub(super) fn plan_dpm2_ancestral(
    positions: &[Position],
    t_of: impl Fn(f64) -> f64,
) -> Result<Vec<PlannedStep>> {
    two_stages(positions, |from, to| {
        let (down, up) = ancestral_sigmas(from.sigma, to.sigma);
        let half = middle(from.sigma, down);
        let half = at(t_of(half), half);
        let second = dpm2_coefficients(from.sigma, half.sigma, down);
        Ok([
            PlannedStep::new(from, half, euler_coefficients(from.sigma, half.sigma)?),
            PlannedStep::new(half, to, Coefficients { noise: up, ..second }),
        ])
    })
}

/// DPM-Solver++ (SDE) of k-diffusion: both stages go down to an ancestral sigma and get fresh noise; the second takes
/// the picture that was seen in the middle for the whole step.
pub(super) fn plan_dpm_sde(
    positions: &[Position],
    t_of: impl Fn(f64) -> f64,
) -> Result<Vec<PlannedStep>> {
    two_stages(positions, |from, to| {
        let half = middle(from.sigma, to.sigma);
        let half = at(t_of(half), half);
        let (down, up) = ancestral_sigmas(from.sigma, half.sigma);
        let first = Coefficients { noise: up, ..euler_coefficients(from.sigma, down)? };
        let (down, up) = ancestral_sigmas(from.sigma, to.sigma);
        let second = Coefficients { noise: up, ..second_look(from, down) };
        Ok([PlannedStep::new(from, half, first), PlannedStep::new(half, to, second)])
    })
}

/// DPM-Solver++ 2S, Lu et al. 2022 (b), algorithm 1 with r = 1/2, to an ancestral sigma, and fresh noise at its end.
pub(super) fn plan_dpm2s_ancestral(
    positions: &[Position],
    t_of: impl Fn(f64) -> f64,
) -> Result<Vec<PlannedStep>> {
    two_stages(positions, |from, to| {
        let (down, up) = ancestral_sigmas(from.sigma, to.sigma);
        let half = middle(from.sigma, down);
        let half = at(t_of(half), half);
        let second = Coefficients { noise: up, ..second_look(from, down) };
        Ok([
            PlannedStep::new(from, half, euler_coefficients(from.sigma, half.sigma)?),
            PlannedStep::new(half, to, second),
        ])
    })
}
