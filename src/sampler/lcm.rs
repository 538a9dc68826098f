//! Latent consistency models, Luo et al. 2023.

use tch::Tensor;

use super::grid::{Grid, time_list};
use super::{Coefficients, Options, PlanSettings, PlannedStep, Position, StepOutput};
use crate::prediction::x_0_from_epsilon;
use crate::schedule::{Schedule, Step};
use crate::{Error, Result};

/// The standard deviation of the data that the boundary condition assumes.
const SIGMA_DATA: f64 = 0.5;
/// The factor of timesteps in the boundary condition.
const TIMESTEP_SCALING: f64 = 10.;

/// The coefficients of a step of a consistency model: to the picture that it predicts, then with fresh noise back up to
/// `to`. The last step, where `to` is the picture, adds no noise.
///
/// ```text
/// c_skip = 0.5^2 / ((10 t)^2 + 0.5^2)        c_out = 10 t / sqrt((10 t)^2 + 0.5^2)
/// f = c_skip x_t + c_out x_0                 x_to = signal_rate_to f + noise_rate_to noise
/// ```
/// Luo et al. 2023, section 3 and algorithm 3.
pub fn lcm_coefficients(from: Position, to: Position) -> Coefficients {
    let t = from.t * TIMESTEP_SCALING;
    let c_skip = SIGMA_DATA.powi(2) / (t.powi(2) + SIGMA_DATA.powi(2));
    let c_out = t / t.hypot(SIGMA_DATA);
    Coefficients {
        of_x_0: to.signal_rate * c_out,
        of_x_t: to.signal_rate * c_skip,
        of_noise: to.noise_rate,
        ..Coefficients::default()
    }
}

/// A step of a consistency model. The last one ignores its noise.
///
/// # Shapes
/// `x_t`, `noise_pred` and `noise` alike; both outputs are the same.
/// # Errors
/// A step outside the schedule; shapes that differ.
pub fn lcm_step(
    s: &Schedule,
    step: Step,
    x_t: &Tensor,
    noise_pred: &Tensor,
    noise: &Tensor,
) -> Result<StepOutput> {
    let x_0 = x_0_from_epsilon(s, step.t, x_t, noise_pred)?;
    let (from, to) = Position::of_step(s, step)?;
    let c = lcm_coefficients(from, to);
    let mean = c.of_x_0 * &x_0 + c.of_x_t * x_t;
    Ok(StepOutput { prev_sample: c.with_noise(mean, Some(noise))?, pred_original_sample: x_0 })
}

/// `n` of the timesteps that the teacher's sampler visited, evenly spaced from the noisiest on. From image to image,
/// `strength` is the share of the teacher's timesteps, counted from the cleanest, that is left.
///
/// # Errors
/// More steps than there are left of the teacher's; a strength outside [0, 1].
pub fn lcm_timesteps(
    s: &Schedule,
    n: usize,
    original_steps: usize,
    strength: f64,
) -> Result<Vec<usize>> {
    let total = s.num_train_timesteps();
    if !(1..=total).contains(&original_steps) {
        return Err(Error::argument("original steps", format!("1 to {total}"), original_steps));
    }
    if !(0. ..=1.).contains(&strength) {
        return Err(Error::argument("strength", "0 to 1", strength));
    }
    let left = (original_steps as f64 * strength) as usize;
    if !(1..=left.min(original_steps)).contains(&n) {
        let advice = "a consistency model has no more steps than its teacher took";
        return Err(Error::argument("steps", format!("1 to {left}"), n).hint(advice));
    }
    let gap = total / original_steps;
    let index = |i: usize| (i as f64 * (left as f64 / n as f64)).floor() as usize;
    Ok((0..n).map(|i| (left - index(i)) * gap - 1).collect())
}

/// The timesteps that were given, or the teacher's.
pub(super) fn grid<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    options: &Options,
) -> Result<Grid<'a>> {
    let list = match settings.timesteps {
        Some(_) => time_list(s, n, settings),
        None => lcm_timesteps(s, n, options.original_steps, 1.),
    };
    Grid::to_picture(s, settings, &list?)
}

pub(super) fn plan(grid: &Grid<'_>, _: &Options) -> Result<Vec<PlannedStep>> {
    grid.each_step(|from, to| Ok(lcm_coefficients(from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_itself_is_its_own_answer() {
        let c = lcm_coefficients(Position::PICTURE, Position::PICTURE);
        assert_eq!((c.of_x_0, c.of_x_t, c.of_noise), (0., 1., 0.));
    }

    #[test]
    fn timesteps_are_the_teachers() {
        let (s, settings) = (Schedule::stable_diffusion(), PlanSettings::default());
        let list = |n| -> Result<Vec<f64>> {
            let grid = grid(&s, n, &settings, &Options::DEFAULT)?;
            Ok(grid.steps().iter().map(|(from, _)| from.t).collect())
        };
        assert_eq!(list(4).unwrap(), [999., 759., 499., 259.]);
        assert_eq!(list(1).unwrap(), [999.]);
        assert!(list(51).is_err() && list(0).is_err());
        let of_picture = |n, strength| lcm_timesteps(&s, n, 50, strength);
        assert_eq!(of_picture(4, 0.5).unwrap(), [499, 379, 259, 139]);
        assert!(of_picture(4, 0.07).is_err() && of_picture(1, 0.).is_err());
        for strength in [1.1, f64::INFINITY, f64::NAN, -1.] {
            assert!(of_picture(4, strength).is_err());
        }
    }
}
