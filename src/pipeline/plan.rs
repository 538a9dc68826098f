//! The reverse steps of a request.

use super::{Request, StableDiffusion};
use crate::sampler::{Plan, lcm_timesteps};
use crate::{Error, Result};

/// The sampler's plan, with the model's own settings; a picture to start from skips the steps that its strength leaves
/// out.
pub(super) fn plan(model: &StableDiffusion, request: &Request) -> Result<Plan> {
    let sampler = request.sampler.unwrap_or_else(|| model.scheduler.sampler());
    let mut settings = model.scheduler.settings(sampler)?;
    settings.clip = request.clip.unwrap_or(settings.clip);
    let steps = request.num_inference_steps;
    let Some(strength) = request.init.as_ref().map(|init| init.strength) else {
        return Plan::new(sampler, &model.schedule, steps, &settings);
    };
    if !(0. ..=1.).contains(&strength) {
        let expected = "0 (the picture as it is) to 1 (nothing of it)";
        return Err(Error::argument("strength", expected, strength));
    }
    if sampler.method.is("lcm") && settings.timesteps.is_none() {
        // A consistency model takes all its steps, within the part that the strength leaves.
        let original_steps = sampler.options.original_steps;
        let list = lcm_timesteps(&model.schedule, steps, original_steps, strength)?;
        settings.timesteps = Some(list);
        return Plan::new(sampler, &model.schedule, steps, &settings);
    }
    let skipped = steps.saturating_sub((steps as f64 * strength) as usize);
    Plan::starting_at(sampler, &model.schedule, steps, &settings, skipped)
}
