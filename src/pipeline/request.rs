//! What one generation is asked for.

use std::fmt;

use tch::Tensor;

use crate::guidance::Guidance;
use crate::sampler::{Clip, Sampler};
use crate::short::{Few, Start, starts};

/// Everything that one generation depends on.
///
/// What belongs to one task or one family is a type of its own: [`InitImage`], [`DepthMap`], [`LowResImage`], [`Sdxl`],
/// [`Variation`]. A model refuses what it cannot use.
///
/// # Examples
/// ```
/// use diffuscope::pipeline::Request;
/// let request = Request { guidance: 7.5.into(), seed: 7, ..Request::new("a red apple") };
/// assert_eq!(request.num_inference_steps, 30);
/// let several = Request::batch(["a red apple", "a boat"]);
/// assert_eq!(several.prompts.len(), 2);
/// ```
pub struct Request {
    /// One picture each.
    pub prompts: Vec<String>,
    /// The prompt of the unconditional prediction, which guidance leads away from; empty for none.
    pub negative_prompt: String,
    /// Whether the prompts carry weights, `(word:1.3)`, and change over the steps, `[cat:dog:0.4]`: see
    /// [`crate::prompt`]. Otherwise brackets are plain text, as in diffusers.
    pub weighted_prompts: bool,
    /// How many of the text encoder's last layers are skipped.
    pub clip_skip: ClipSkip,
    /// The sampler; `None` for the one that the checkpoint names.
    pub sampler: Option<Sampler>,
    /// The number of reverse steps.
    pub num_inference_steps: usize,
    /// How the conditional and the unconditional prediction become one: a scale, `7.5.into()`, or more than that. Scale
    /// 0 is the prediction without the prompt and 1 the one with it; diffusers takes anything below 1 for 1.
    pub guidance: Guidance,
    /// Keeps the predicted picture within a range, in place of what the checkpoint says.
    pub clip: Option<Clip>,
    /// The first picture's seed; the next picture has the next one. A seed from 2^63 on, as some programs write them, is
    /// `seed as i64`: torch takes the same 64 bits.
    pub seed: i64,
    /// Every picture's seed; empty for `seed` and the ones after it.
    pub seeds: Vec<i64>,
    /// Pictures near the seeds' own.
    pub variation: Option<Variation>,
    /// Standard noise [B, 4, h, w] to start from, in place of the seeds': diffusers' `latents=`.
    pub initial_latents: Option<Tensor>,
    /// Pixels; `None` for the size that the model was trained on.
    pub width: Option<i64>,
    /// Pixels; `None` for the size that the model was trained on.
    pub height: Option<i64>,
    /// Image to image and inpainting: the picture to start from.
    pub init: Option<InitImage>,
    /// Depth to image: how near everything is.
    pub depth: Option<DepthMap>,
    /// The x4 upscaler: the picture to enlarge.
    pub low_res: Option<LowResImage>,
    /// SDXL: the second text encoder's prompts, and sizes.
    pub sdxl: Option<Sdxl>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompts", &Few(&starts(&self.prompts)))
            .field("negative_prompt", &Start(&self.negative_prompt))
            .field("sampler", &self.sampler)
            .field("num_inference_steps", &self.num_inference_steps)
            .field("guidance", &self.guidance.scale)
            .field("seeds", &Few(&self.picture_seeds()))
            .finish_non_exhaustive()
    }
}

impl Request {
    /// One picture of `prompt` with seed 0: 30 steps, guidance scale 5.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self::batch([prompt])
    }

    /// One picture for every prompt, drawn together: seeds 0, 1, 2 ..., 30 steps, guidance scale 5.
    pub fn batch(prompts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            prompts: prompts.into_iter().map(Into::into).collect(),
            negative_prompt: String::new(),
            weighted_prompts: false,
            clip_skip: ClipSkip::default(),
            sampler: None,
            num_inference_steps: 30,
            guidance: 5.0.into(),
            clip: None,
            seed: 0,
            seeds: Vec::new(),
            variation: None,
            initial_latents: None,
            width: None,
            height: None,
            init: None,
            depth: None,
            low_res: None,
            sdxl: None,
        }
    }
}

impl Request {
    /// Every picture's seed.
    pub fn picture_seeds(&self) -> Vec<i64> {
        match self.seeds.as_slice() {
            [] => (0..self.prompts.len() as i64).map(|i| self.seed.wrapping_add(i)).collect(),
            seeds => seeds.to_vec(),
        }
    }
}

/// Shares the tensors.
impl Clone for Request {
    fn clone(&self) -> Self {
        Self {
            prompts: self.prompts.clone(),
            negative_prompt: self.negative_prompt.clone(),
            guidance: self.guidance.clone(),
            seeds: self.seeds.clone(),
            initial_latents: self.initial_latents.as_ref().map(Tensor::shallow_clone),
            init: self.init.clone(),
            depth: self.depth.clone(),
            low_res: self.low_res.clone(),
            sdxl: self.sdxl.clone(),
            ..*self
        }
    }
}

/// How many of the text encoder's last layers are skipped, as diffusers counts: 0 for none. (The webui's "clip skip 2"
/// is 1.)
///
/// # Examples
/// ```
/// use diffuscope::pipeline::ClipSkip;
/// // diffusers skips layers for the prompt alone.
/// let as_diffusers = ClipSkip { negative: 0, ..1.into() };
/// assert_eq!(as_diffusers, ClipSkip { prompt: 1, negative: 0 });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClipSkip {
    /// For the prompts.
    pub prompt: usize,
    /// For the negative prompt.
    pub negative: usize,
}

impl From<usize> for ClipSkip {
    /// As many for the negative prompt as for the prompts.
    fn from(layers: usize) -> Self {
        Self { prompt: layers, negative: layers }
    }
}

/// The picture that image to image and inpainting start from.
#[derive(Debug)]
pub struct InitImage {
    /// [1, 3, H, W] in [-1, 1], or one for every prompt.
    pub image: Tensor,
    /// How much of it is noised away, 0 (nothing) to 1 (everything).
    pub strength: f64,
    /// Where it is drawn anew: at 0.5 and above, [1, 1, H, W] or one for every prompt; `None` for everywhere. With a
    /// strength of 1 nothing of what was there is left.
    pub mask: Option<Tensor>,
    /// Whether its latents are sampled from the encoder's distribution, as diffusers does, in place of the mean.
    pub sample_posterior: bool,
}

/// Shares the tensors.
impl Clone for InitImage {
    fn clone(&self) -> Self {
        let mask = self.mask.as_ref().map(Tensor::shallow_clone);
        Self { image: self.image.shallow_clone(), mask, ..*self }
    }
}

impl InitImage {
    /// A picture that is drawn anew everywhere, from the mean of its latents.
    pub fn new(image: Tensor, strength: f64) -> Self {
        Self { image, strength, mask: None, sample_posterior: false }
    }
}

/// Depth to image: how near everything is, [1, 1, h, w] or one for every prompt, of any size and scale; larger is
/// nearer.
#[derive(Debug)]
pub struct DepthMap(pub Tensor);

/// Shares the tensor.
impl Clone for DepthMap {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

/// diffusers' usual noise level of a small picture.
pub(super) const NOISE_LEVEL: usize = 20;

/// The picture that the x4 upscaler enlarges.
#[derive(Debug)]
pub struct LowResImage {
    /// [1, 3, h, w] in [-1, 1], or one for every prompt.
    pub image: Tensor,
    /// The timestep up to which it is noised.
    pub noise_level: usize,
}

/// Shares the tensor.
impl Clone for LowResImage {
    fn clone(&self) -> Self {
        Self { image: self.image.shallow_clone(), noise_level: self.noise_level }
    }
}

impl LowResImage {
    /// A picture at diffusers' usual noise level, 20.
    pub fn new(image: Tensor) -> Self {
        Self { image, noise_level: NOISE_LEVEL }
    }
}

/// What SDXL is told beside its prompts.
#[derive(Clone, Default)]
pub struct Sdxl {
    /// What the second text encoder reads, one for every picture; empty for the same prompts.
    pub prompts_2: Vec<String>,
    /// What it reads in place of the negative prompt; `None` for the same.
    pub negative_prompt_2: Option<String>,
    /// The sizes that the model was trained with; `None` for a whole picture of the size that is drawn.
    pub sizes: Option<ImageSizes>,
}

impl fmt::Debug for Sdxl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sdxl")
            .field("prompts_2", &Few(&starts(&self.prompts_2)))
            .field("negative_prompt_2", &self.negative_prompt_2.as_deref().map(Start))
            .field("sizes", &self.sizes)
            .finish()
    }
}

/// SDXL's size conditioning, in pixels, under diffusers' names: Podell et al. 2023, section 2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSizes {
    /// Height and width of the original.
    pub original_size: (i64, i64),
    /// Top and left of the crop.
    pub crops_coords_top_left: (i64, i64),
    /// Height and width of the target.
    pub target_size: (i64, i64),
}

impl ImageSizes {
    /// A whole picture that was never cropped or resized.
    pub fn whole(height: i64, width: i64) -> Self {
        let size = (height, width);
        Self { original_size: size, crops_coords_top_left: (0, 0), target_size: size }
    }

    /// In the order of the U-Net's `time_ids`.
    pub(super) fn time_ids(self) -> [i64; 6] {
        let Self { original_size: a, crops_coords_top_left: b, target_size: c } = self;
        [a.0, a.1, b.0, b.1, c.0, c.1]
    }
}

/// A picture near a seed's: its noise turned towards another seed's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variation {
    /// The first picture's other seed; the next picture has the next one.
    pub seed: i64,
    /// How far the noise is turned: 0 (the seed itself) to 1 (the other).
    pub weight: f64,
}
