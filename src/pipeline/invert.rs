//! From a picture back to the noise that a deterministic sampler draws it from.

use tch::{Tensor, no_grad};

use super::{Request, StableDiffusion};
use crate::sampler::Method;
use crate::schedule::{Schedule, Step};
use crate::{Error, Result};

/// A DDIM step the other way, from the less noisy sample to the noisier one.
///
/// ```text
/// x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps
/// x_0 = (x_prev - sqrt(1 - alpha_bar_prev) eps) / sqrt(alpha_bar_prev)
/// ```
/// Dhariwal & Nichol 2021, appendix F: Song et al. 2020, eq. 12, read backwards.
///
/// # Shapes
/// `x_prev` and `noise_pred` alike; returns the same.
/// # Errors
/// A step outside the schedule or that does not go down; shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::pipeline::ddim_inverse_step;
/// use diffuscope::{noise::standard_normal, sampler::ddim_step, schedule::{Schedule, Step}};
/// let (s, step) = (Schedule::stable_diffusion(), Step { t: 999, t_prev: Some(900) });
/// let (x_t, noise_pred) = (standard_normal(&[1, 4, 8, 8], 0)?, standard_normal(&[1, 4, 8, 8], 1)?);
/// let x_prev = ddim_step(&s, step, &x_t, &noise_pred)?.prev_sample;
/// let back = ddim_inverse_step(&s, step, &x_prev, &noise_pred)?;
/// assert!((back - x_t).abs().max().double_value(&[]) < 1e-5);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn ddim_inverse_step(
    s: &Schedule,
    step: Step,
    x_prev: &Tensor,
    noise_pred: &Tensor,
) -> Result<Tensor> {
    crate::forward::same_shape("noise_pred", noise_pred, x_prev)?;
    let (alpha_bar_t, alpha_bar_prev) = (s.alpha_bar(step.t)?, s.alpha_bar_prev(step)?);
    let x_0 = (x_prev - (1. - alpha_bar_prev).sqrt() * noise_pred) / alpha_bar_prev.sqrt();
    Ok(alpha_bar_t.sqrt() * x_0 + (1. - alpha_bar_t).sqrt() * noise_pred)
}

impl StableDiffusion {
    /// The latents that DDIM starts from to draw the picture `init` of the request with its prompt, steps and
    /// guidance scale: give them as `initial_latents` to a request without `init`.
    ///
    /// The model's prediction at the noisier sample is needed to get there. With 1 iteration it is taken at
    /// the less noisy one, as in diffusers' inverse scheduler; every further one takes it where the last one
    /// led, and a few of them return the picture (Pan et al. 2023, "Effective Real Image Editing with
    /// Accelerated Iterative Diffusion Inversion"). With a strength below 1, it stops as far from the noise.
    ///
    /// # Errors
    /// A request without a picture, or with another sampler than DDIM; no iteration.
    pub fn invert(&self, request: &Request, iterations: usize) -> Result<Tensor> {
        let Some((image, _)) = &request.init else {
            return Err(Error::argument("init", "the picture to invert", "none", ""));
        };
        let prepared = self.prepare(request)?;
        let plan = &prepared.plan;
        if plan.sampler.method != (Method::Ddim { eta: 0. }) || iterations == 0 {
            let got = format!("{}, {iterations}", plan.sampler);
            return Err(Error::argument(
                "inversion",
                "ddim without eta, 1 iteration or more",
                got,
                "",
            ));
        }
        let mut x = self.encode(image, None)?.expand_as(&prepared.x_t).to_device(self.device);
        self.using(&["unet"], || {
            for (position, step) in plan.steps.iter().rev().map(|s| (s.position, s.pair())) {
                let mut x_t = x.shallow_clone();
                for _ in 0..iterations {
                    let output = no_grad(|| prepared.predict(&x_t, step.t as f64))?;
                    let noise_pred = position.noise_pred(plan.prediction, &x_t, &output)?;
                    x_t = ddim_inverse_step(&self.schedule, step, &x, &noise_pred)?;
                }
                x = x_t;
            }
            Ok(())
        })?;
        Ok(x.to_device(tch::Device::Cpu))
    }
}
