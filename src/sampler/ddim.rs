//! Denoising diffusion implicit models, Song et al. 2020.

use tch::Tensor;

use super::{Coefficients, PlannedStep, Position, Settings, StepOutput};
use crate::prediction::x_0_from_epsilon;
use crate::schedule::{Schedule, Step};
use crate::{Error, Result};

/// The weights of a DDIM step.
///
/// ```text
/// std_dev_t = eta sqrt((1 - alpha_bar_prev) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_prev)
/// x_prev = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - std_dev_t^2) eps + std_dev_t noise
/// ```
/// Song et al. 2020, eq. 12 and 16.
///
/// # Errors
/// A step outside the schedule or that does not go down; `eta` outside [0, 1].
pub fn ddim_coefficients(s: &Schedule, step: Step, eta: f64) -> Result<Coefficients> {
    s.alpha_bar_prev(step)?;
    let next = step.t_prev.map_or(Ok(Position::PICTURE), |t_prev| Position::of(s, t_prev))?;
    coefficients(Position::of(s, step.t)?, next, eta)
}

fn coefficients(from: Position, to: Position, eta: f64) -> Result<Coefficients> {
    if !(0. ..=1.).contains(&eta) {
        return Err(Error::argument("eta", "0 (deterministic) to 1 (as DDPM)", eta, ""));
    }
    let variance = (to.sigma / from.sigma).powi(2) * (1. - (from.alpha / to.alpha).powi(2));
    let std_dev_t = eta * variance.max(0.).sqrt();
    Ok(Coefficients {
        x_0: to.alpha,
        noise_pred: (to.sigma.powi(2) - std_dev_t.powi(2)).max(0.).sqrt(),
        noise: std_dev_t,
        ..Coefficients::default()
    })
}

/// The pairs that a list of timesteps makes, and where they end.
pub(super) fn pairs(
    s: &Schedule,
    list: &[usize],
    stride: usize,
    settings: &Settings,
) -> Result<Vec<(Position, Position)>> {
    let end = match settings.set_alpha_to_one {
        true => Position::PICTURE,
        false => Position { t: 0., ..Position::of(s, 0)? },
    };
    let next = |i: usize| match settings.as_diffusers {
        false => list.get(i + 1).copied(),
        true => list[i].checked_sub(stride),
    };
    (0..list.len())
        .map(|i| Ok((Position::of(s, list[i])?, next(i).map_or(Ok(end), |t| Position::of(s, t))?)))
        .collect()
}

pub(super) fn plan(
    s: &Schedule,
    list: &[usize],
    stride: usize,
    eta: f64,
    settings: &Settings,
) -> Result<Vec<PlannedStep>> {
    pairs(s, list, stride, settings)?
        .into_iter()
        .map(|(from, to)| Ok(PlannedStep::new(from, to, coefficients(from, to, eta)?)))
        .collect()
}

/// A deterministic DDIM step: [`ddim_step_eta`] with `eta` 0.
///
/// # Shapes
/// `x_t` and `noise_pred` alike; both outputs are the same.
/// # Errors
/// A step outside the schedule; shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::{noise::standard_normal, sampler::ddim_step, schedule::{Schedule, Step}};
/// let s = Schedule::stable_diffusion();
/// let x_t = standard_normal(&[1, 4, 8, 8], 0)?;
/// let out = ddim_step(&s, Step { t: 999, t_prev: Some(979) }, &x_t, &x_t)?;
/// assert_eq!(out.prev_sample.size(), [1, 4, 8, 8]);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn ddim_step(
    s: &Schedule,
    step: Step,
    x_t: &Tensor,
    noise_pred: &Tensor,
) -> Result<StepOutput> {
    let x_0 = x_0_from_epsilon(s, step.t, x_t, noise_pred)?;
    ddim_coefficients(s, step, 0.)?.apply(x_0, noise_pred, x_t, None)
}

/// A DDIM step that adds as much of `noise` as `eta` says.
///
/// # Shapes
/// `x_t`, `noise_pred` and `noise` alike; both outputs are the same.
/// # Errors
/// A step outside the schedule; `eta` outside [0, 1]; shapes that differ.
pub fn ddim_step_eta(
    s: &Schedule,
    step: Step,
    x_t: &Tensor,
    noise_pred: &Tensor,
    eta: f64,
    noise: &Tensor,
) -> Result<StepOutput> {
    let x_0 = x_0_from_epsilon(s, step.t, x_t, noise_pred)?;
    ddim_coefficients(s, step, eta)?.apply(x_0, noise_pred, x_t, Some(noise))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::add_noise;
    use crate::noise::standard_normal;
    use tch::Kind;

    #[test]
    fn with_the_true_noise_it_lands_on_the_forward_process() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x_0 = standard_normal(&[2, 4, 4, 4], 1)?.to_kind(Kind::Double);
        let noise = standard_normal(&[2, 4, 4, 4], 2)?.to_kind(Kind::Double);
        let at = |t: usize| add_noise(&s, &Tensor::from_slice(&[t as i64]), &x_0, &noise);
        for (t, t_prev) in [(999, Some(500)), (500, Some(1)), (1, Some(0)), (20, None)] {
            let out = ddim_step(&s, Step { t, t_prev }, &at(t)?, &noise)?;
            let expected = t_prev.map_or(Ok(x_0.shallow_clone()), at)?;
            assert!((out.prev_sample - expected).abs().max().double_value(&[]) < 1e-12);
            assert!((out.pred_original_sample - &x_0).abs().max().double_value(&[]) < 1e-12);
        }
        Ok(())
    }

    #[test]
    fn a_step_keeps_the_variance_whatever_eta_is() -> Result<()> {
        let s = Schedule::stable_diffusion();
        for eta in [0., 0.3, 1.] {
            let c = ddim_coefficients(&s, Step { t: 700, t_prev: Some(600) }, eta)?;
            let rest = 1. - s.alphas_cumprod()[600];
            assert!((c.noise_pred.powi(2) + c.noise.powi(2) - rest).abs() < 1e-12);
        }
        let up = Step { t: 5, t_prev: Some(9) };
        assert!(ddim_coefficients(&s, up, 0.).is_err());
        assert!(ddim_coefficients(&s, Step { t: 5, t_prev: None }, 1.5).is_err());
        Ok(())
    }
}
