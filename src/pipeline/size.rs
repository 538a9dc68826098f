//! How large a picture is, and whether it fits into memory.

use tch::{Device, Tensor};

use super::text::changes;
use super::{Request, StableDiffusion};
use crate::device;
use crate::models::vae::pictures_at_once;
use crate::sampler::Plan;
use crate::{Error, Result};

impl StableDiffusion {
    /// A width and height in pixels that the model can draw: the ones given, or else the ones that it was trained on.
    ///
    /// # Errors
    /// A size that the VAE's factor does not divide, or outside the factor to 8192.
    pub fn size(&self, width: Option<i64>, height: Option<i64>) -> Result<(i64, i64)> {
        let factor = self.vae.config().factor();
        let trained = self.unet.config().sample_size.map(|cells| cells * factor);
        let side = |what: &str, asked: Option<i64>| {
            let expected = format!("a multiple of {factor} from {factor} to 8192");
            let Some(pixels) = asked.or(trained) else {
                return Err(Error::argument(what, expected, "none").hint("give the size in pixels"));
            };
            if !(factor..=8192).contains(&pixels) || pixels % factor != 0 {
                return Err(Error::argument(what, expected, pixels));
            }
            Ok(pixels)
        };
        Ok((side("width", width)?, side("height", height)?))
    }
}

/// The shape of one picture's latents: that of the picture that is given, or else of the size that is asked for.
pub(super) fn latent_shape(
    model: &StableDiffusion,
    request: &Request,
    plan: &Plan,
) -> Result<Vec<i64>> {
    let (factor, batch) = (model.vae.config().factor(), request.prompts.len() as i64);
    let fits = |what: &str, x: &Tensor, channels: i64| {
        let size = x.size();
        let all = matches!(size[..], [n, c, h, w] if (n == 1 || n == batch) && c == channels && h * w > 0);
        let expected = format!("[1, {channels}, H, W] or [{batch}, {channels}, H, W]");
        if all { Ok((size[2], size[3])) } else { Err(Error::shape(what, expected, &size)) }
    };
    let given: Option<(i64, i64)> = if let Some(init) = &request.init {
        Some(fits("the picture to start from", &init.image, model.vae.config().in_channels)?)
    } else if let Some(low_res) = &request.low_res {
        let (h, w) = fits("the small picture", &low_res.image, model.vae.config().out_channels)?;
        Some((h * factor, w * factor))
    } else {
        None
    };
    let agreed = |what: &str, asked: Option<i64>, given: Option<i64>| match (asked, given) {
        (Some(asked), Some(given)) if asked != given => {
            let expected = format!("{given}, as in the picture that is given");
            Err(Error::argument(what, expected, asked).hint("resize the picture, or leave it out"))
        }
        (asked, given) => Ok(asked.or(given)),
    };
    // Latents say their size where nobody else does; other latents are refused where they are used.
    let latents = request.initial_latents.as_ref().filter(|latents| latents.dim() == 4);
    let of_latents = |axis: usize| latents.map(|latents| latents.size()[axis] * factor);
    let height = agreed("height", request.height, given.map(|(h, _)| h))?.or(of_latents(2));
    let width = agreed("width", request.width, given.map(|(_, w)| w))?.or(of_latents(3));
    let (width, height) = model.size(width, height)?;
    if let Some(mask) = request.init.as_ref().and_then(|init| init.mask.as_ref())
        && fits("mask", mask, 1)? != (height, width)
    {
        return Err(Error::shape("mask", format!("[1, 1, {height}, {width}]"), &mask.size()));
    }
    if let Some(depth) = &request.depth {
        fits("depth", &depth.0, 1)?;
    }
    check_memory(model, request, plan, width, height)?;
    Ok(vec![model.vae.config().latent_channels, height / factor, width / factor])
}

/// Refuses what would surely exhaust the memory. Counts the activations of the widest layers in f32, and what is held
/// beside them until the end: noise, texts and pictures, which are on the CPU whatever the device.
fn check_memory(
    model: &StableDiffusion,
    request: &Request,
    plan: &Plan,
    width: i64,
    height: i64,
) -> Result<()> {
    let widest = |channels: &[i64]| channels.first().copied().unwrap_or(0) as f64;
    let batch = request.prompts.len() as f64;
    let pixels = batch * width as f64 * height as f64;
    let cells = pixels / (model.vae.config().factor() as f64).powi(2);
    let factor = model.vae.config().factor();
    let tile = model.tiling.map_or(f64::INFINITY, |t| t.tile as f64).powi(2) * pixels / cells;
    let pictures = pictures_at_once(width, height, factor, model.tiling).min(batch as i64) as f64;
    let at_once = pictures * tile.min(width as f64 * height as f64);
    let vae = at_once * widest(&model.vae.config().block_out_channels) * 6.;
    let unet = 2. * cells * widest(&model.unet.config().block_out_channels) * 6.;
    let noises = 2 + plan.draws();
    let contexts = 2. * (1 + changes(request, plan)?.len()) as f64;
    let text = batch * 77. * model.unet.config().cross_attention_dim as f64;
    let latents = cells * model.vae.config().latent_channels as f64;
    let kept = noises as f64 * latents + contexts * text + 3. * pixels;
    let what = format!("{batch} pictures of {width}×{height}");
    let few =
        |error: Error| error.hint("draw fewer or smaller pictures at once, or take fewer steps");
    if model.device == Device::Cpu {
        return device::check_memory(Device::Cpu, what, 4. * (vae.max(unet) + kept)).map_err(few);
    }
    device::check_memory(model.device, &what, 4. * vae.max(unet)).map_err(few)?;
    device::check_memory(Device::Cpu, &what, 4. * kept).map_err(few)
}

/// Refuses a trace that would exhaust the memory: the tensors of every step, and then all of them once more in a row.
pub(super) fn check_trace(plan: &Plan, latents: &Tensor) -> Result<()> {
    let (steps, numel) = (plan.steps.len(), latents.numel());
    let bytes = 4. * 2. * (OF_A_STEP * steps) as f64 * numel as f64;
    let checked = device::check_memory(Device::Cpu, format!("a trace of {steps} steps"), bytes);
    checked.map_err(|error| error.hint("trace fewer or smaller pictures, or fewer steps"))
}

/// The tensors that a step records: samples, outputs and predictions.
const OF_A_STEP: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::vae::Tiling;

    #[test]
    fn what_is_held_until_the_end_is_counted_before_it_is_drawn() -> Result<()> {
        let Some(free) = device::free_memory(Device::Cpu) else { return Ok(()) };
        let mut model = StableDiffusion::tiny()?;
        model.tiling = Some(Tiling { tile: 4, overlap: 1 });
        // Their noise for one step fits, that for nine hundred does not.
        let many = Request {
            sampler: Some("ddpm".parse()?),
            num_inference_steps: 900,
            ..Request::batch(vec!["a cat"; (free / 2_500_000) as usize])
        };
        let said = model.prepare(&many).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("memory that is free") && said.contains("fewer steps"), "{said}");
        let fewer = Request { num_inference_steps: 1, ..many };
        latent_shape(&model, &fewer, &model.plan(&fewer)?)?;

        let plan = model.plan(&Request { num_inference_steps: 900, ..Request::new("a cat") })?;
        let latents = Tensor::zeros([1], tch::kind::FLOAT_CPU).expand([1 << 40], false);
        assert!(
            check_trace(&plan, &latents).is_err() && check_trace(&plan, &latents.get(0)).is_ok()
        );
        Ok(())
    }
}
