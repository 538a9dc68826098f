//! Everything that is known of a request before its first step, as values.

use std::collections::BTreeSet;
use std::fmt;

use tch::Tensor;

use super::conditions::{conditions, is_guided, mask_cells, with_text};
use super::drawn_noise::{DrawnNoise, draw_noise};
use super::plan::plan;
use super::size::latent_shape;
use super::text::{EncodedText, RequestTexts, texts};
use super::{ExtraChannels, KnownRegion, Request, StableDiffusion};
use crate::check::alike;
use crate::denoiser::{Denoiser, Half};
use crate::device::moved;
use crate::guidance::{Guidance, Needs, guide};
use crate::models::clip::Encoding;
use crate::models::unet::{Conditioned, Conditions};
use crate::noise::slerp;
use crate::sampler::{Plan, Sampling};
use crate::timesteps::Timesteps;
use crate::{Error, Result};

/// Everything that is known before the first step.
pub struct Prepared<'a> {
    /// The U-Net with its inputs other than the sample, the timestep and, where it runs twice, the contexts.
    pub denoiser: Conditioned<'a>,
    /// The steps.
    pub plan: Plan,
    /// The first sample, on the networks' device, as all that follows.
    pub x_t: Tensor,
    /// One for each step that adds some, in their order.
    pub noises: Vec<Tensor>,
    /// The contexts without the prompts and with them; `None` for a network that is told the guidance scale and runs
    /// once.
    pub contexts: Option<(Tensor, Tensor)>,
    /// The texts that hold later, in order, where prompts change over the steps.
    pub later_texts: Vec<LaterText<'a>>,
    /// How two predictions become one.
    pub guidance: Guidance,
    /// The part of the picture that stays, where a model that was not made for inpainting redraws the rest.
    pub known_region: Option<KnownRegion>,
    /// What is asked for, one a picture: its prompt and its seed.
    pub captions: Vec<String>,
    /// What the first text encoder read of the prompts, one a picture.
    pub encodings: Vec<Encoding>,
    /// What a person should know, see [`StableDiffusion::warnings`].
    pub notes: Vec<String>,
}

/// The text that holds from one model evaluation on, where prompts change over the steps.
pub struct LaterText<'a> {
    /// The first evaluation that it holds for.
    pub from: usize,
    /// The U-Net with this text's pooled embedding, and its context where there is nothing to guide.
    pub denoiser: Conditioned<'a>,
    /// The contexts, as [`Prepared::contexts`].
    pub contexts: Option<(Tensor, Tensor)>,
}

impl fmt::Debug for LaterText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaterText {{ from evaluation {} }}", self.from)
    }
}

/// The U-Net and both contexts, as far as there are two.
type HeldText<'p, 'a> = (&'p Conditioned<'a>, Option<(&'p Tensor, &'p Tensor)>);

impl fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepared {{ {:?}, x_t: {:?} }}", self.plan, self.x_t.size())
    }
}

/// Everything that is known of a request before its first step.
pub(super) fn prepare<'a>(model: &'a StableDiffusion, request: &Request) -> Result<Prepared<'a>> {
    check(model, request)?;
    let plan = plan(model, request)?;
    let shape = latent_shape(model, request, &plan)?;
    let texts = texts(model, request, &plan)?;
    let noise = draw_noise(model, request, &plan, &shape)?;
    let x_0 = init_latents(model, request, &noise)?;
    let x_t = first_sample(request, &plan, x_0.as_ref(), &noise)?;
    let conditions = conditions(model, request, &texts, &shape, &noise)?;
    let guided = is_guided(model);
    let DrawnNoise { start, steps: noises, .. } = noise;
    // All of it is where the networks compute before the first step, which then has nothing to move.
    let here = |x: Tensor| moved(&x, model.device);
    let conditions = conditions.to_device(model.device);
    let texts = texts.on(model.device)?;
    Ok(Prepared {
        known_region: known_region(model, request, x_0, start, &shape),
        later_texts: later_texts(model, &conditions, &texts)?,
        denoiser: Conditioned { unet: &model.unet, conditions },
        plan,
        x_t: here(x_t)?,
        noises: noises.into_iter().map(here).collect::<Result<_>>()?,
        contexts: contexts(model, &texts.uncond, &texts.cond),
        guidance: if guided { request.guidance.clone() } else { 1.0.into() },
        captions: captions(request),
        encodings: texts.cond.encodings,
        notes: model.warnings(request)?,
    })
}

/// Both contexts, of a model that runs twice.
fn contexts(
    model: &StableDiffusion,
    uncond: &EncodedText,
    cond: &EncodedText,
) -> Option<(Tensor, Tensor)> {
    let both = || (uncond.context.shallow_clone(), cond.context.shallow_clone());
    is_guided(model).then(both)
}

/// What holds from the evaluations on at which prompts change: all that depends on a text.
fn later_texts<'a>(
    model: &'a StableDiffusion,
    first: &Conditions,
    texts: &RequestTexts,
) -> Result<Vec<LaterText<'a>>> {
    let later = |(from, (uncond, cond)): &(usize, (EncodedText, EncodedText))| {
        let conditions = with_text(Conditions::from(first), uncond, cond, is_guided(model))?;
        Ok(LaterText {
            from: *from,
            denoiser: Conditioned { unet: &model.unet, conditions },
            contexts: contexts(model, uncond, cond),
        })
    };
    texts.later.iter().map(later).collect()
}

/// The prompt and the seed of every picture.
fn captions(request: &Request) -> Vec<String> {
    let seeds = request.picture_seeds();
    let said = |(prompt, seed): (&String, i64)| match prompt.trim() {
        "" => format!("(no text), seed {seed}"),
        prompt => format!("{prompt}, seed {seed}"),
    };
    request.prompts.iter().zip(seeds).map(said).collect()
}

/// Refuses a request that lacks what the family needs, or holds what it cannot use.
fn check(model: &StableDiffusion, request: &Request) -> Result<()> {
    let (extra, config) = (model.extra_channels(), model.unet.config());
    let needs = |what: &str, got: bool, needed: bool| match (got, needed) {
        (false, true) => {
            Err(Error::argument(what, "a picture", "none").hint("this model draws from one"))
        }
        (true, false) => {
            Err(Error::argument(what, "none", "one").hint("this model does not use it"))
        }
        _ => Ok(()),
    };
    needs("depth", request.depth.is_some(), extra == Some(ExtraChannels::DepthMap))?;
    needs("small (low_res)", request.low_res.is_some(), extra == Some(ExtraChannels::LowResImage))?;
    if extra == Some(ExtraChannels::MaskedImage) {
        needs("init (the picture under the mask)", request.init.is_some(), true)?;
        needs("mask", request.init.as_ref().is_some_and(|init| init.mask.is_some()), true)?;
    }
    if config.time_cond_proj_dim.is_some() {
        let distilled = "a distilled model has no prediction without the prompt";
        if !request.negative_prompt.is_empty() {
            return Err(Error::argument("negative_prompt", "none", "one").hint(distilled));
        }
        if request.guidance != request.guidance.scale.into() {
            return Err(Error::argument("guidance", "one scale", "more than that").hint(distilled));
        }
    }
    let sizes = request.sdxl.as_ref().is_some_and(|sdxl| sdxl.sizes.is_some());
    if sizes && config.addition_embed_type.is_none() {
        return Err(
            Error::argument("sizes", "none", "some").hint("this model is not told of sizes")
        );
    }
    let count = request.prompts.len();
    if !request.seeds.is_empty() && request.seeds.len() != count {
        let expected = format!("{count}, one a prompt");
        return Err(Error::argument("seeds", expected, request.seeds.len()));
    }
    if request.variation.is_some() && request.initial_latents.is_some() {
        return Err(Error::argument("variation", "none beside initial latents", "one")
            .hint("it turns the noise of seeds"));
    }
    Ok(())
}

/// The latents of the picture to start from, one row a prompt.
fn init_latents(
    model: &StableDiffusion,
    request: &Request,
    noise: &DrawnNoise,
) -> Result<Option<Tensor>> {
    let Some(init) = &request.init else { return Ok(None) };
    let image = init.image.f_expand([request.prompts.len() as i64, -1, -1, -1], false)?;
    model.encode(&image, noise.posterior.as_ref()).map(Some)
}

/// Where the steps start: noise, or a picture noised as far as the plan's first step.
fn first_sample(
    request: &Request,
    plan: &Plan,
    x_0: Option<&Tensor>,
    noise: &DrawnNoise,
) -> Result<Tensor> {
    // With all of it redrawn, nothing of what the mask covers may shine through.
    let anew = request.init.as_ref().is_some_and(|init| init.mask.is_some() && init.strength == 1.);
    match x_0 {
        Some(x_0) if !anew => plan.noised(0, x_0, &noise.start),
        _ => Ok(plan.start(&noise.start)),
    }
}

/// What has to be put back after every step: nothing for a model that was made for inpainting.
fn known_region(
    model: &StableDiffusion,
    request: &Request,
    x_0: Option<Tensor>,
    noise: Tensor,
    shape: &[i64],
) -> Option<KnownRegion> {
    let mask = request.init.as_ref()?.mask.as_ref()?;
    match model.extra_channels() {
        Some(ExtraChannels::MaskedImage) => None,
        _ => {
            let here = |x: Tensor| x.to_device(model.device);
            let (mask, x_0) = (here(mask_cells(mask, shape)), here(x_0?));
            Some(KnownRegion { mask, x_0, noise: here(noise) })
        }
    }
}

impl<'a> Prepared<'a> {
    /// The same start under another rule of guidance. A network that is told its scale, and runs once, was told it already.
    pub fn guide(&mut self, guidance: &Guidance) {
        if self.contexts.is_some() {
            self.guidance = guidance.clone();
        }
    }

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

    /// The text that holds at evaluation `i`.
    pub(crate) fn text_at(&self, i: usize) -> HeldText<'_, 'a> {
        let later = self.later_texts.iter().rev().find(|later| later.from <= i);
        let (denoiser, contexts) = match later {
            Some(later) => (&later.denoiser, &later.contexts),
            None => (&self.denoiser, &self.contexts),
        };
        (denoiser, contexts.as_ref().map(|(uncond, cond)| (uncond, cond)))
    }

    /// The text that begins to hold at evaluation `i`, where a prompt changes there.
    pub(super) fn text_from(&self, i: usize) -> Option<HeldText<'_, 'a>> {
        self.later_texts.iter().any(|later| later.from == i).then(|| self.text_at(i))
    }

    /// The network's output for `x_t` at the timestep `t` with the text of evaluation `i`, guided by the plain rule;
    /// `x_t` is scaled as the network is to see it.
    ///
    /// # Errors
    /// Shapes that the model does not take.
    pub fn predict(&self, i: usize, x_t: &Tensor, t: impl Into<Timesteps>) -> Result<Tensor> {
        let t = t.into();
        let (denoiser, Some((uncond, cond))) = self.text_at(i) else {
            return self.text_at(i).0.predict(x_t, &t, None);
        };
        match Guidance::from(self.guidance.scale).needs(0, 1) {
            Needs::Uncond => return denoiser.predict_half(Half::Uncond, x_t, &t, Some(uncond)),
            Needs::Cond => return denoiser.predict_half(Half::Cond, x_t, &t, Some(cond)),
            Needs::Both => {}
        }
        let context = Tensor::f_cat(&[uncond, cond], 0)?;
        let both = denoiser.predict(&Tensor::f_cat(&[x_t, x_t], 0)?, &t, Some(&context))?;
        let half = x_t.size()[0];
        guide(&both.narrow(0, 0, half), &both.narrow(0, half, half), self.guidance.scale)
    }

    /// Part of the way from this start to `other`'s: on the sphere from noise to noise, on a line from text to text.
    /// All else is this one's.
    ///
    /// # Errors
    /// Starts of other shapes, of other steps, or of one guided and one unguided model.
    pub fn towards(mut self, other: &Self, weight: f64) -> Result<Self> {
        // Both texts of an evaluation hold at the same step, and both starts are as noisy.
        let positions = |plan: &Plan| plan.steps.iter().map(|s| s.position).collect::<Vec<_>>();
        if positions(&self.plan) != positions(&other.plan) {
            let (expected, got) = (format!("{:?}", self.plan), format!("{:?}", other.plan));
            return Err(Error::argument("the other's steps", expected, got));
        }
        self.x_t = slerp(&self.x_t, &other.x_t, weight)?;
        let changes = self.later_texts.iter().chain(&other.later_texts).map(|later| later.from);
        let changes: BTreeSet<usize> = changes.collect();
        let later = |from| {
            let (denoiser, contexts) = between(self.text_at(from), other.text_at(from), weight)?;
            Ok(LaterText { from, denoiser, contexts })
        };
        let later_texts = changes.into_iter().map(later).collect::<Result<_>>()?;
        (self.denoiser, self.contexts) = between(self.text_at(0), other.text_at(0), weight)?;
        self.later_texts = later_texts;
        for (mine, theirs) in self.captions.iter_mut().zip(&other.captions) {
            *mine = format!("{weight} of the way from {mine} to {theirs}");
        }
        let more = other.notes.iter().filter(|note| !self.notes.contains(note)).cloned();
        self.notes.extend(more.collect::<Vec<_>>());
        Ok(self)
    }
}

/// A text on the line from one to another.
fn between<'a>(
    (mine, contexts): HeldText<'_, 'a>,
    (theirs, other_contexts): HeldText<'_, 'a>,
    weight: f64,
) -> Result<(Conditioned<'a>, Option<(Tensor, Tensor)>)> {
    let line = |a: &Tensor, b: &Tensor| {
        alike("the other's text", b, a)?;
        Ok::<_, Error>(a * (1. - weight) + b * weight)
    };
    let mut conditions = Conditions::from(&mine.conditions);
    conditions.context = line(&conditions.context, &theirs.conditions.context)?;
    let pooled = conditions.text_embeds.as_ref().zip(theirs.conditions.text_embeds.as_ref());
    conditions.text_embeds = pooled.map(|(a, b)| line(a, b)).transpose()?;
    let contexts = contexts.zip(other_contexts);
    let contexts = contexts.map(|(a, b)| Ok::<_, Error>((line(a.0, b.0)?, line(a.1, b.1)?)));
    Ok((Conditioned { unet: mine.unet, conditions }, contexts.transpose()?))
}
