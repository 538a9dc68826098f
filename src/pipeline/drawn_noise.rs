//! All the noise of a request, drawn before its first step.

use tch::{Kind, Tensor};

use super::ExtraChannels;
use super::{Request, StableDiffusion};
use crate::noise::{normals_of_seeds, slerp};
use crate::sampler::Plan;
use crate::{Error, Result};

/// The noise of one request, in the order in which it is drawn from every picture's generator.
pub(super) struct DrawnNoise {
    /// For the small picture of the x4 upscaler.
    pub low_res: Option<Tensor>,
    /// For sampling the latents of the picture to start from.
    pub posterior: Option<Tensor>,
    /// What the first sample is made of.
    pub start: Tensor,
    /// For sampling the latents of the masked picture.
    pub masked: Option<Tensor>,
    /// One for each step that adds some.
    pub steps: Vec<Tensor>,
}

/// Draws every picture's noise from its own seed, so that the picture is the same alone. `shape` is that of one
/// picture's latents.
pub(super) fn draw_noise(
    model: &StableDiffusion,
    request: &Request,
    plan: &Plan,
    shape: &[i64],
) -> Result<DrawnNoise> {
    let seeds = request.picture_seeds();
    let latents = || shape.to_vec();
    let low_res = request.low_res.as_ref().map(|low_res| {
        let size = low_res.image.size();
        size[1.min(size.len())..].to_vec()
    });
    let init = request.init.as_ref();
    let sampled = init.is_some_and(|init| init.sample_posterior);
    let whole = init.is_some_and(|init| init.strength == 1.);
    // diffusers does not encode what the noise covers.
    let covered = whole && model.extra_channels() == Some(ExtraChannels::MaskedImage);
    let posterior = (sampled && !covered).then(latents);
    let masked = init.filter(|init| sampled && init.mask.is_some()).map(|_| latents());
    let once = [low_res.clone(), posterior.clone(), Some(latents()), masked.clone()];
    let shapes: Vec<Vec<i64>> =
        once.into_iter().flatten().chain((0..plan.draws()).map(|_| latents())).collect();
    let mut all = normals_of_seeds(&seeds, &shapes)?.into_iter();
    let mut next = |shape: Option<Vec<i64>>| shape.and_then(|_| all.next());
    let (low_res, posterior) = (next(low_res), next(posterior));
    let mut start = next(Some(latents())).unwrap_or_default();
    let masked = next(masked);
    if let Some(variation) = request.variation {
        if !(0. ..=1.).contains(&variation.weight) {
            let expected = "0 (the seed itself) to 1 (the other)";
            return Err(Error::argument("variation", expected, variation.weight));
        }
        let others: Vec<i64> =
            (0..seeds.len() as i64).map(|i| variation.seed.wrapping_add(i)).collect();
        let other = normals_of_seeds(&others, &[latents()])?.remove(0);
        start = slerp(&start, &other, variation.weight)?;
    }
    if let Some(latents) = &request.initial_latents {
        start = checked_latents(latents, &start.size())?;
    }
    Ok(DrawnNoise { low_res, posterior, start, masked, steps: all.collect() })
}

/// Latents that a person gives in place of the seeds' noise, in f32 on the CPU.
fn checked_latents(latents: &Tensor, expected: &[i64]) -> Result<Tensor> {
    if latents.size() != expected {
        return Err(Error::shape("initial latents", format!("{expected:?}"), &latents.size()));
    }
    let noise = latents.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?;
    if noise.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::argument("initial latents", "finite numbers", "NaN or infinity"));
    }
    Ok(noise)
}
