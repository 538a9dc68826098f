//! Latent consistency models, Luo et al. 2023.

use super::position::time_list;
use super::{Coefficients, PlannedStep, Position, Settings};
use crate::schedule::{Schedule, steps};
use crate::{Error, Result};

/// The standard deviation of the data that the boundary condition assumes.
const SIGMA_DATA: f64 = 0.5;
/// What timesteps are multiplied with in the boundary condition.
const TIMESTEP_SCALING: f64 = 10.;

/// The weights of a step of a consistency model: to the picture that it saw, and with fresh noise back up to `to`; on the
/// last step (`to` is the picture) without.
///
/// ```text
/// c_skip = 0.5^2 / ((10 t)^2 + 0.5^2)        c_out = 10 t / sqrt((10 t)^2 + 0.5^2)
/// f = c_skip x_t + c_out x_0                 x_to = alpha_to f + sigma_to noise
/// ```
/// Luo et al. 2023, section 3 and algorithm 3.
pub fn lcm_coefficients(from: Position, to: Position) -> Coefficients {
    let t = from.t * TIMESTEP_SCALING;
    let c_skip = SIGMA_DATA.powi(2) / (t.powi(2) + SIGMA_DATA.powi(2));
    let c_out = t / t.hypot(SIGMA_DATA);
    Coefficients {
        x_0: to.alpha * c_out,
        x_t: to.alpha * c_skip,
        noise: to.sigma,
        ..Coefficients::default()
    }
}

/// `n` of the timesteps that the teacher's sampler visited, evenly from the noisiest on; from a picture the noisiest is
/// the one that `strength` leaves of them.
///
/// # Errors
/// More steps than there are left of the teacher's.
pub fn lcm_timesteps(
    s: &Schedule,
    n: usize,
    original_steps: usize,
    strength: f64,
) -> Result<Vec<usize>> {
    let total = s.num_train_timesteps();
    if !(1..=total).contains(&original_steps) {
        return Err(Error::argument("original steps", format!("1 to {total}"), original_steps, ""));
    }
    let left = (original_steps as f64 * strength) as usize;
    if !(1..=left.min(original_steps)).contains(&n) {
        let todo = "a consistency model has no more steps than its teacher took";
        return Err(Error::argument("steps", format!("1 to {left}"), n, todo));
    }
    let gap = total / original_steps;
    let index = |i: usize| (i as f64 * (left as f64 / n as f64)).floor() as usize;
    Ok((0..n).map(|i| (left - index(i)) * gap - 1).collect())
}

/// The timesteps that were given, or the teacher's.
pub(super) fn timesteps(
    s: &Schedule,
    n: usize,
    original_steps: usize,
    settings: &Settings,
) -> Result<Vec<usize>> {
    match settings.timesteps {
        Some(_) => time_list(s, n, settings),
        None => lcm_timesteps(s, n, original_steps, 1.),
    }
}

pub(super) fn plan(s: &Schedule, list: &[usize]) -> Result<Vec<PlannedStep>> {
    steps(list)
        .into_iter()
        .map(|step| {
            let from = Position::of(s, step.t)?;
            let to = step.t_prev.map_or(Ok(Position::PICTURE), |t| Position::of(s, t))?;
            Ok(PlannedStep::new(from, to, lcm_coefficients(from, to)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_itself_is_its_own_answer() {
        let c = lcm_coefficients(Position::PICTURE, Position::PICTURE);
        assert_eq!((c.x_0, c.x_t, c.noise), (0., 1., 0.));
    }

    #[test]
    fn timesteps_are_the_teachers() {
        let s = Schedule::stable_diffusion();
        let list = |n| timesteps(&s, n, 50, &Settings::default());
        assert_eq!(list(4).unwrap(), [999, 759, 499, 259]);
        assert_eq!(list(1).unwrap(), [999]);
        assert!(list(51).is_err() && list(0).is_err());
        let of_picture = |n, strength| lcm_timesteps(&s, n, 50, strength);
        assert_eq!(of_picture(4, 0.5).unwrap(), [499, 379, 259, 139]);
        assert!(of_picture(4, 0.07).is_err() && of_picture(1, 0.).is_err());
    }
}
