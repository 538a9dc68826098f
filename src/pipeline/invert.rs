//! From a picture back to the noise that a deterministic sampler draws it from.

use tch::{Tensor, no_grad};

use super::{Request, StableDiffusion};
use crate::sampler::ddim_inverse_step;
use crate::{Error, Result, interrupt};

impl StableDiffusion {
    /// The latents from which DDIM draws the picture `init` of the request, with its prompt, steps and guidance scale:
    /// give them as `initial_latents` to a request without `init`.
    ///
    /// Getting there needs the model's prediction at the noisier sample, which is not known yet. With 1 iteration the
    /// prediction at the less noisy sample is taken instead, as in diffusers' inverse scheduler; every further iteration
    /// takes it where the last one led, and a few of them give the picture back (Pan et al. 2023, "Effective Real Image
    /// Editing with Accelerated Iterative Diffusion Inversion"). A strength below 1 stops as far from the noise.
    ///
    /// # Errors
    /// A request without a picture, or with another sampler than DDIM; no iteration.
    pub fn invert(&self, request: &Request, iterations: usize) -> Result<Tensor> {
        let Some(init) = &request.init else {
            return Err(Error::argument("init", "the picture to invert", "none"));
        };
        let prepared = self.prepare(request)?;
        let plan = &prepared.plan;
        let deterministic = plan.sampler.method.is("ddim") && !plan.sampler.is_stochastic();
        if !deterministic || iterations == 0 {
            let got = format!("{}, {iterations}", plan.sampler);
            return Err(Error::argument("inversion", "ddim without eta, 1 iteration or more", got));
        }
        let mut x = self.encode(&init.image, None)?.expand_as(&prepared.x_t).to_device(self.device);
        let timesteps: Vec<i64> = plan.steps.iter().map(|s| s.pair().t as i64).collect();
        self.using(&["unet"], || {
            let timesteps = Tensor::from_slice(&timesteps).f_to_device(self.device)?.split(1, 0);
            for (i, planned) in plan.steps.iter().enumerate().rev() {
                let (position, step) = (planned.position, planned.pair());
                let steps = plan.steps.len();
                interrupt::check(|| format!("after {} of {steps} steps back", steps - 1 - i))?;
                let mut x_t = x.shallow_clone();
                for _ in 0..iterations {
                    let output = no_grad(|| prepared.predict(i, &x_t, &timesteps[i]))?;
                    let noise_pred = plan.prediction.noise(&position.rates(), &x_t, &output)?;
                    x_t = ddim_inverse_step(&self.schedule, step, &x, &noise_pred)?;
                }
                x = x_t;
            }
            Ok(())
        })?;
        Ok(x.to_device(tch::Device::Cpu))
    }
}
