//! The U-Net's other inputs: text, sizes, noise levels, and channels of other pictures.

use tch::{Device, Kind, Tensor};

use super::drawn_noise::DrawnNoise;
use super::request::NOISE_LEVEL;
use super::text::{EncodedText, RequestTexts};
use super::{ExtraChannels, ImageSizes, InitImage, LowResImage, Request, StableDiffusion};
use crate::forward::add_noise;
use crate::models::unet::{Conditions, guidance_embedding};
use crate::{Error, Result};

/// Everything but the sample, the timestep and, where the U-Net runs twice, the contexts. `shape` is that of one
/// picture's latents.
pub(super) fn conditions(
    model: &StableDiffusion,
    request: &Request,
    texts: &RequestTexts,
    shape: &[i64],
    noise: &DrawnNoise,
) -> Result<Conditions> {
    let (batch, config) = (request.prompts.len(), model.unet.config());
    let mut conditions = with_text(
        Conditions::from(&texts.cond.context),
        &texts.uncond,
        &texts.cond,
        is_guided(model),
    )?;
    if config.addition_embed_type.is_some() {
        let factor = model.vae.config().factor();
        let sizes = request.sdxl.as_ref().and_then(|sdxl| sdxl.sizes);
        let sizes = sizes.unwrap_or(ImageSizes::whole(shape[1] * factor, shape[2] * factor));
        conditions.time_ids =
            Some(Tensor::from_slice(&sizes.time_ids().repeat(batch)).view([-1, 6]));
    }
    if let Some(width) = config.time_cond_proj_dim {
        let scales = vec![request.guidance.scale; batch];
        conditions.timestep_cond = Some(guidance_embedding(&scales, width)?);
    }
    if config.num_class_embeds.is_some() {
        let level = request.low_res.as_ref().map_or(NOISE_LEVEL, |low_res| low_res.noise_level);
        conditions.class_labels = Some(Tensor::from_slice(&vec![level as i64; batch]));
    }
    conditions.channels = match model.extra_channels() {
        Some(ExtraChannels::MaskedImage) => {
            let init = request.init.as_ref();
            init.map(|init| masked_image(model, init, noise, shape)).transpose()?
        }
        Some(ExtraChannels::DepthMap) => {
            request.depth.as_ref().map(|depth| depth_cells(&depth.0, shape)).transpose()?
        }
        Some(ExtraChannels::LowResImage) => {
            let low_res = request.low_res.as_ref().zip(noise.low_res.as_ref());
            low_res.map(|(low_res, noise)| low_res_image(model, low_res, noise)).transpose()?
        }
        Some(ExtraChannels::None) | None => None,
    };
    Ok(conditions)
}

/// Whether the U-Net runs twice a step. A network that is told the guidance scale runs once, and there is nothing to
/// guide.
pub(super) fn is_guided(model: &StableDiffusion) -> bool {
    model.unet.config().time_cond_proj_dim.is_none()
}

/// The same conditions with another text: the pooled embeddings have one row for every row that the U-Net sees.
pub(super) fn with_text(
    conditions: Conditions,
    uncond: &EncodedText,
    cond: &EncodedText,
    guided: bool,
) -> Result<Conditions> {
    let text_embeds = match (&uncond.text_embeds, &cond.text_embeds) {
        (Some(uncond), Some(cond)) if guided => Some(Tensor::f_cat(&[uncond, cond], 0)?),
        (_, cond) => cond.as_ref().map(Tensor::shallow_clone),
    };
    Ok(Conditions { context: cond.context.shallow_clone(), text_embeds, ..conditions })
}

/// The mask, and the latents of the picture with grey where the mask covers it: [B, 1 + 4, h, w].
fn masked_image(
    model: &StableDiffusion,
    init: &InitImage,
    noise: &DrawnNoise,
    shape: &[i64],
) -> Result<Tensor> {
    let Some(mask) = &init.mask else { return Err(Error::argument("mask", "a picture", "none")) };
    let batch = noise.start.size()[0];
    let open = mask.to_device(init.image.device()).lt(0.5).to_kind(init.image.kind());
    let masked = (&init.image * open).expand([batch, -1, -1, -1], false);
    let latents = model.encode(&masked, noise.masked.as_ref())?;
    let mask = mask_cells(mask, shape).expand([batch, -1, -1, -1], false);
    Ok(Tensor::f_cat(&[mask, latents], 1)?)
}

/// The small pictures noised to their noise level, by their own schedule: [B, 3, h, w].
fn low_res_image(model: &StableDiffusion, low_res: &LowResImage, noise: &Tensor) -> Result<Tensor> {
    let Some(schedule) = &model.low_res_schedule else {
        return Err(Error::argument("low_res_scheduler", "a schedule", "none")
            .hint("open a whole folder of the upscaler"));
    };
    let level = low_res.noise_level;
    if level > model.max_noise_level {
        let expected = format!("0 to {}", model.max_noise_level);
        return Err(Error::argument("noise_level", expected, level));
    }
    let small = low_res.image.to_device(Device::Cpu).to_kind(Kind::Float).f_expand_as(noise)?;
    add_noise(schedule, level, &small, noise)
}

/// The mask in latent cells, 1 where the picture is drawn anew.
pub(super) fn mask_cells(mask: &Tensor, shape: &[i64]) -> Tensor {
    let mask = mask.to_device(Device::Cpu).ge(0.5).to_kind(Kind::Float);
    mask.upsample_nearest2d([shape[1], shape[2]], None, None)
}

/// A depth map in latent cells, from -1 for the farthest to 1 for the nearest.
fn depth_cells(depth: &Tensor, shape: &[i64]) -> Result<Tensor> {
    let depth = depth.to_device(Device::Cpu).to_kind(Kind::Float);
    let depth = depth.upsample_bicubic2d([shape[1], shape[2]], false, None, None);
    let (low, high) = (depth.amin([1, 2, 3], true), depth.amax([1, 2, 3], true));
    let range = high - &low;
    let least = range.min().double_value(&[]);
    if !(least.is_finite() && least > 0.) {
        return Err(Error::argument("depth", "finite and not the same everywhere", least)
            .hint("draw from noise where everything is equally near"));
    }
    Ok((depth - low) * 2. / range - 1.)
}
