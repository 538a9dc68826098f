//! Everything that is known before the first step, as values.

use tch::{Device, Kind, Tensor, no_grad};

use super::{Request, StableDiffusion, Text};
use crate::denoiser::{Conditioned, Denoiser};
use crate::guidance::{Guidance, guide};
use crate::models::unet::{Conditions, guidance_embedding};
use crate::models::vae::Posterior;
use crate::noise::{normals_of_seeds, slerp};
use crate::sampler::{Plan, Sampling};
use crate::{Error, Result};

/// Everything that is known before the first step.
pub struct Prepared<'a> {
    /// The U-Net and what it is told beside the texts.
    pub denoiser: Conditioned<'a>,
    /// The steps.
    pub plan: Plan,
    /// The first sample, on the networks' device.
    pub x_t: Tensor,
    /// The noise of every step, where the sampler adds some.
    pub noises: Vec<Tensor>,
    /// The contexts without the prompts and with them; `None` for a network that is told the guidance scale
    /// and runs once.
    pub contexts: Option<(Tensor, Tensor)>,
    /// Where prompts change over the steps: the look from which on other contexts hold, upwards.
    pub later_contexts: Vec<(usize, (Tensor, Tensor))>,
    /// How two predictions become one.
    pub guidance: Guidance,
    /// What stays as it was, where a model that was not made for it repaints a part of a picture.
    pub kept: Option<Kept>,
}

/// The part of a picture that stays as it was while a model that knows of no mask draws all of it.
pub struct Kept {
    /// 1 where the picture is drawn anew, [1 or B, 1, h, w].
    pub mask: Tensor,
    /// The picture's latents, [B, 4, h, w].
    pub x_0: Tensor,
    /// The noise that the drawing started from.
    pub noise: Tensor,
}

impl Kept {
    /// The sample before step `i`, with the picture back where the mask is 0, as noisy as the sample is:
    ///
    /// ```text
    /// x = mask x + (1 - mask) (x_0 noised to step i)      Lugmayr et al. 2022, eq. 8
    /// ```
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn restore(&self, plan: &Plan, i: usize, x: &Tensor) -> Result<Tensor> {
        let here = |x_: &Tensor| x_.to_device(x.device());
        let mask = here(&self.mask);
        let known = here(&plan.noised(i, &self.x_0, &self.noise)?);
        Ok(known * (1. - &mask) + x * mask)
    }
}

impl<'a> Prepared<'a> {
    /// The reverse process, one owned record a step.
    ///
    /// # Errors
    /// As [`Sampling::new`].
    pub fn sampling(&self) -> Result<Sampling<'_, Conditioned<'a>>> {
        let contexts = self.contexts.as_ref().map(|(uncond, cond)| (uncond, cond));
        let noises = self.noises.iter().map(Tensor::shallow_clone).collect();
        let (plan, x_t) = (self.plan.clone(), self.x_t.shallow_clone());
        Sampling::new(&self.denoiser, plan, x_t, contexts, self.guidance.clone(), noises)
    }

    /// The contexts that begin to hold at look `i`, where a prompt changes there.
    pub(super) fn contexts_at(&self, i: usize) -> Option<(&Tensor, &Tensor)> {
        let found = self.later_contexts.iter().find(|(from, _)| *from == i);
        found.map(|(_, (uncond, cond))| (uncond, cond))
    }

    /// The prediction for `x_t` at the timestep `t`, guided by the plain rule; scaled as the model is to see it.
    ///
    /// # Errors
    /// Shapes that the model does not take.
    pub fn predict(&self, x_t: &Tensor, t: f64) -> Result<Tensor> {
        let t = Tensor::from_slice(&[t as f32]);
        let Some((uncond, cond)) = &self.contexts else {
            return self.denoiser.predict(x_t, &t, None);
        };
        let context = Tensor::f_cat(&[uncond, cond], 0)?;
        let both = self.denoiser.predict(&Tensor::f_cat(&[x_t, x_t], 0)?, &t, Some(&context))?;
        let half = x_t.size()[0];
        guide(&both.narrow(0, 0, half), &both.narrow(0, half, half), self.guidance.scale)
    }

    /// Part of the way from this start to `other`'s: on the sphere from noise to noise, on a line from text
    /// to text. All else is this one's.
    ///
    /// # Errors
    /// Starts of other shapes, or of one guided and one unguided model.
    pub fn towards(mut self, other: &Self, weight: f64) -> Result<Self> {
        let line = |a: &Tensor, b: &Tensor| {
            crate::forward::same_shape("the other's text", b, a)?;
            Ok::<_, Error>(a * (1. - weight) + b * weight)
        };
        self.x_t = slerp(&self.x_t, &other.x_t, weight)?;
        let (mine, theirs) = (&mut self.denoiser.conditions, &other.denoiser.conditions);
        mine.context = line(&mine.context, &theirs.context)?;
        if let (Some(a), Some(b)) = (&mine.text_embeds, &theirs.text_embeds) {
            mine.text_embeds = Some(line(a, b)?);
        }
        if let (Some(a), Some(b)) = (&self.contexts, &other.contexts) {
            self.contexts = Some((line(&a.0, &b.0)?, line(&a.1, &b.1)?));
        }
        Ok(self)
    }
}

/// What stands beside the noisy latents in the input of a family's U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: an ordinary model.
    Nothing,
    /// Inpainting: the mask, and the latents of the picture without what it covers.
    MaskedPicture,
    /// Depth to image: the depth.
    Depth,
    /// The x4 upscaler: the small picture, noised.
    SmallPicture,
}

/// The noise of one request, in the order in which it is drawn from every picture's generator.
struct Drawn {
    small: Option<Tensor>,
    posterior: Option<Tensor>,
    start: Tensor,
    masked: Option<Tensor>,
    steps: Vec<Tensor>,
}

impl StableDiffusion {
    /// What stands beside the latents in the U-Net's input; `None` for a number of channels that is no
    /// family's.
    pub fn beside(&self) -> Option<Beside> {
        let (latents, all) = (self.vae.config().latent_channels, self.unet.config().in_channels);
        let families = [
            (0, Beside::Nothing),
            (latents + 1, Beside::MaskedPicture),
            (1, Beside::Depth),
            (self.vae.config().out_channels, Beside::SmallPicture),
        ];
        families.into_iter().find(|(more, _)| latents + more == all).map(|(_, beside)| beside)
    }

    /// Everything that is known of a request before its first step.
    ///
    /// # Errors
    /// A request that cannot be met: what the family needs is missing, what it cannot use is there, or does
    /// not fit.
    pub fn prepare(&self, request: &Request) -> Result<Prepared<'_>> {
        self.check_request(request)?;
        let plan = self.plan(request)?;
        let encoders = ["text_encoder", "text_encoder_2"];
        let ((uncond, cond), later_contexts) = self.using(&encoders, || {
            let first = self.texts_at(request, 0, plan.num_inference_steps)?;
            Ok((first, self.later_contexts(request, &plan)?))
        })?;
        let shape = self.latent_shape(request)?;
        let drawn = self.draw(request, &plan, &shape)?;
        let x_0 = match &request.init {
            Some((image, _)) => {
                let image = image.f_expand([request.prompts.len() as i64, -1, -1, -1], false)?;
                Some(self.encode(&image, drawn.posterior.as_ref())?)
            }
            None => None,
        };
        let whole = request.mask.is_some() && request.init.as_ref().is_some_and(|(_, s)| *s == 1.);
        let x_t = match &x_0 {
            Some(x_0) if !whole => plan.noised(0, x_0, &drawn.start)?,
            _ => plan.start(&drawn.start),
        };
        let conditions = self.conditions(request, &shape, &drawn, (&uncond, &cond))?;
        let kept = match (&request.mask, x_0, self.beside()) {
            (None, ..) | (_, None, _) | (.., Some(Beside::MaskedPicture)) => None,
            (Some(mask), Some(x_0), _) => {
                Some(Kept { mask: small_mask(mask, &shape), x_0, noise: drawn.start })
            }
        };
        let guided = self.unet.config().time_cond_proj_dim.is_none();
        let guidance = match &request.guidance {
            _ if !guided => 1.0.into(),
            Some(guidance) => guidance.clone(),
            None => request.guidance_scale.into(),
        };
        Ok(Prepared {
            denoiser: Conditioned { unet: &self.unet, conditions },
            plan,
            x_t: x_t.to_device(self.device),
            noises: drawn.steps,
            contexts: guided.then_some((uncond.context, cond.context)),
            later_contexts,
            guidance,
            kept,
        })
    }

    /// Whether the request has what the family needs, and nothing that it cannot use.
    fn check_request(&self, request: &Request) -> Result<()> {
        let beside = self.beside();
        let needs = |what: &str, got: bool, needed: bool| match (got, needed) {
            (false, true) => {
                Err(Error::argument(what, "a picture", "none", "this model draws from one"))
            }
            (true, false) => {
                Err(Error::argument(what, "none", "one", "this model does not use it"))
            }
            _ => Ok(()),
        };
        needs("depth", request.depth.is_some(), beside == Some(Beside::Depth))?;
        needs("small", request.small.is_some(), beside == Some(Beside::SmallPicture))?;
        let masked = request.mask.is_some();
        if beside == Some(Beside::MaskedPicture) || masked {
            needs("mask", masked, true)?;
            needs("init, the picture under the mask,", request.init.is_some(), true)?;
        }
        let distilled = self.unet.config().time_cond_proj_dim.is_some();
        if distilled && !request.negative_prompt.is_empty() {
            let todo = "a distilled model has no prediction without the prompt";
            return Err(Error::argument("negative_prompt", "none", "one", todo));
        }
        if request.sizes.is_some() && self.unet.config().addition_embed_type.is_none() {
            return Err(Error::argument(
                "sizes",
                "none",
                "some",
                "this model is not told of sizes",
            ));
        }
        let count = request.prompts.len();
        if !request.seeds.is_empty() && request.seeds.len() != count {
            let expected = format!("{count}, one a prompt");
            return Err(Error::argument("seeds", expected, request.seeds.len(), ""));
        }
        Ok(())
    }

    /// All noise of a request. Every picture draws from its own seed, so that it is the same alone.
    fn draw(&self, request: &Request, plan: &Plan, shape: &[i64]) -> Result<Drawn> {
        let after =
            |seed: i64| (0..request.prompts.len() as i64).map(move |i| seed.wrapping_add(i));
        let seeds = match request.seeds.as_slice() {
            [] => after(request.seed).collect(),
            seeds => seeds.to_vec(),
        };
        let latents = || shape.to_vec();
        let small = request.small.as_ref().map(|x| x.size().split_off(1.min(x.dim())));
        let sampled = request.sample_posterior;
        let whole = request.init.as_ref().is_some_and(|(_, strength)| *strength == 1.);
        // diffusers does not encode what the noise covers.
        let covered = whole && self.beside() == Some(Beside::MaskedPicture);
        let posterior = (sampled && request.init.is_some() && !covered).then(latents);
        let masked = (sampled && request.mask.is_some()).then(latents);
        let steps = if plan.sampler.is_stochastic() { plan.steps.len() } else { 0 };
        let once = [small.clone(), posterior.clone(), Some(latents()), masked.clone()];
        let shapes: Vec<Vec<i64>> =
            once.into_iter().flatten().chain((0..steps).map(|_| latents())).collect();
        let mut all = normals_of_seeds(&seeds, &shapes)?.into_iter();
        let mut next = |shape: Option<Vec<i64>>| shape.and_then(|_| all.next());
        let (small, posterior) = (next(small), next(posterior));
        let start = next(Some(latents())).unwrap_or_default();
        let masked = next(masked);
        let mut drawn = Drawn { small, posterior, start, masked, steps: all.collect() };
        if let Some((seed, weight)) = request.variation {
            if !(0. ..=1.).contains(&weight) {
                let expected = "0 (the seed itself) to 1 (the other)";
                return Err(Error::argument("variation", expected, weight, ""));
            }
            let others: Vec<i64> = after(seed).collect();
            let other = normals_of_seeds(&others, &[latents()])?.remove(0);
            drawn.start = slerp(&drawn.start, &other, weight)?;
        }
        if let Some(latents) = &request.initial_latents {
            drawn.start = initial(latents, &drawn.start.size())?;
        }
        Ok(drawn)
    }

    /// A picture's scaled latents in f32 on the CPU: the mean, or drawn with `noise`.
    pub(super) fn encode(&self, image: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let encode = || no_grad(|| self.vae.posterior_tiled(image, self.tiling));
        let posterior = self.using(&["vae"], encode)?;
        let float = |x: &Tensor| x.to_device(Device::Cpu).to_kind(Kind::Float);
        let posterior =
            Posterior { mean: float(&posterior.mean), logvar: float(&posterior.logvar) };
        let z = match noise {
            Some(noise) => posterior.sample(noise)?,
            None => posterior.mean,
        };
        Ok(self.vae.scale(&z))
    }

    /// What the U-Net is told beside the sample, the timestep and, where it runs twice, the contexts.
    fn conditions(
        &self,
        request: &Request,
        shape: &[i64],
        drawn: &Drawn,
        (uncond, cond): (&Text, &Text),
    ) -> Result<Conditions> {
        let (batch, config) = (request.prompts.len(), self.unet.config());
        let mut conditions = Conditions::from(&cond.context);
        if let (Some(uncond), Some(cond)) = (&uncond.text_embeds, &cond.text_embeds) {
            conditions.text_embeds = Some(Tensor::f_cat(&[uncond, cond], 0)?);
        }
        if config.addition_embed_type.is_some() {
            let factor = self.vae.config().factor();
            let (height, width) = (shape[1] * factor, shape[2] * factor);
            let sizes = request.sizes.unwrap_or([height, width, 0, 0, height, width]);
            conditions.time_ids = Some(Tensor::from_slice(&sizes.repeat(batch)).view([-1, 6]));
        }
        if let Some(width) = config.time_cond_proj_dim {
            let scales = vec![request.guidance_scale; batch];
            conditions.timestep_cond = Some(guidance_embedding(&scales, width));
        }
        if config.num_class_embeds.is_some() {
            conditions.class_labels =
                Some(Tensor::from_slice(&vec![request.noise_level as i64; batch]));
        }
        conditions.channels = match (self.beside(), &request.mask, &request.init) {
            (Some(Beside::MaskedPicture), Some(mask), Some((image, _))) => {
                Some(self.masked_picture(mask, image, drawn, shape)?)
            }
            (Some(Beside::Depth), ..) => {
                request.depth.as_ref().map(|d| depth(d, shape)).transpose()?
            }
            (Some(Beside::SmallPicture), ..) => self.small_picture(request, drawn)?,
            _ => None,
        };
        Ok(conditions)
    }

    /// The mask, and the latents of the picture with grey where the mask covers it: [B, 1 + 4, h, w].
    fn masked_picture(
        &self,
        mask: &Tensor,
        image: &Tensor,
        drawn: &Drawn,
        shape: &[i64],
    ) -> Result<Tensor> {
        let batch = drawn.start.size()[0];
        let open = mask.to_device(image.device()).lt(0.5).to_kind(image.kind());
        let masked = (image * open).expand([batch, -1, -1, -1], false);
        let latents = self.encode(&masked, drawn.masked.as_ref())?;
        let mask = small_mask(mask, shape).expand([batch, -1, -1, -1], false);
        Ok(Tensor::f_cat(&[mask, latents], 1)?)
    }

    /// The small pictures noised to the noise level, with their own schedule: [B, 3, h, w].
    fn small_picture(&self, request: &Request, drawn: &Drawn) -> Result<Option<Tensor>> {
        let (Some(small), Some(noise)) = (&request.small, &drawn.small) else { return Ok(None) };
        let Some(schedule) = &self.low_res_schedule else {
            let todo = "open a whole folder of the upscaler";
            return Err(Error::argument("low_res_scheduler", "a schedule", "none", todo));
        };
        let level = request.noise_level;
        if level > self.max_noise_level {
            let expected = format!("0 to {}", self.max_noise_level);
            return Err(Error::argument("noise_level", expected, level, ""));
        }
        let small = small.to_device(Device::Cpu).to_kind(Kind::Float).f_expand_as(noise)?;
        let t = Tensor::from_slice(&[level as i64]);
        Ok(Some(crate::forward::add_noise(schedule, &t, &small, noise)?))
    }
}

/// The mask in latent cells, 1 where the picture is drawn anew.
fn small_mask(mask: &Tensor, shape: &[i64]) -> Tensor {
    let mask = mask.to_device(Device::Cpu).ge(0.5).to_kind(Kind::Float);
    mask.upsample_nearest2d([shape[1], shape[2]], None, None)
}

/// A depth picture in latent cells, from -1 for the farthest to 1 for the nearest.
fn depth(depth: &Tensor, shape: &[i64]) -> Result<Tensor> {
    let depth = depth.to_device(Device::Cpu).to_kind(Kind::Float);
    let depth = depth.upsample_bicubic2d([shape[1], shape[2]], false, None, None);
    let (low, high) = (depth.amin([1, 2, 3], true), depth.amax([1, 2, 3], true));
    let range = high - &low;
    let least = range.min().double_value(&[]);
    if !(least.is_finite() && least > 0.) {
        let todo = "draw from noise where everything is equally near";
        return Err(Error::argument("depth", "finite and not all the same", least, todo));
    }
    Ok((depth - low) * 2. / range - 1.)
}

/// Latents that somebody gives, in place of the seed's noise.
fn initial(latents: &Tensor, expected: &[i64]) -> Result<Tensor> {
    if latents.size() != expected {
        return Err(Error::shape("initial latents", format!("{expected:?}"), &latents.size()));
    }
    let noise = latents.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
    if noise.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::argument("initial latents", "finite numbers", "NaN or infinity", ""));
    }
    Ok(noise)
}
