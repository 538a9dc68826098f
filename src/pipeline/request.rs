//! What one generation is asked for, and what it gives.

use tch::Tensor;

use crate::guidance::Guidance;
use crate::sampler::{Clip, Sampler};

/// Everything that one generation depends on.
///
/// # Examples
/// ```
/// use diffuscope::pipeline::Request;
/// let request = Request { guidance_scale: 5., seed: 7, ..Request::new("a red apple") };
/// assert_eq!(request.num_inference_steps, 30);
/// ```
#[derive(Debug)]
pub struct Request {
    /// One picture each.
    pub prompts: Vec<String>,
    /// SDXL: what the second text encoder reads, one a picture; empty for the same prompts.
    pub prompts_2: Vec<String>,
    /// What the unconditional prediction is told; empty for nothing.
    pub negative_prompt: String,
    /// SDXL: what the second text encoder reads of it; `None` for the same.
    pub negative_prompt_2: Option<String>,
    /// How many of the text encoder's last layers are skipped, as diffusers counts: 0 for none. (The webui's
    /// "clip skip 2" is 1.)
    pub clip_skip: usize,
    /// The same for the negative prompt; `None` for as many as the prompts. diffusers skips none: `Some(0)`.
    pub negative_clip_skip: Option<usize>,
    /// The sampler; `None` for the one that the model's folder names.
    pub sampler: Option<Sampler>,
    /// The number of reverse steps.
    pub num_inference_steps: usize,
    /// How far to go from the unconditional towards the conditional prediction, and past it. 0 is the
    /// prediction without the prompt and 1 the one with it; diffusers calls both 1 and anything below 1.
    pub guidance_scale: f64,
    /// More than one scale for all steps; `None` for the plain rule at `guidance_scale`.
    pub guidance: Option<Guidance>,
    /// Whether the prompts have weights, `(word:1.3)`, and change over the steps, `[cat:dog:0.4]`: see
    /// [`crate::prompt`]. Else brackets are read as they are, as diffusers does.
    pub weighted_prompts: bool,
    /// Keeps the predicted picture within its range in place of what the model's folder says.
    pub clip: Option<Clip>,
    /// The first picture's seed; the next picture has the next one.
    pub seed: i64,
    /// Every picture's seed; empty for `seed` and the ones after it.
    pub seeds: Vec<i64>,
    /// Variations of a seed: the first picture's other seed (the next picture has the next one), and how far
    /// the noise is turned towards that one's, 0 to 1.
    pub variation: Option<(i64, f64)>,
    /// Pixels; `None` for the size that the model was trained on.
    pub width: Option<i64>,
    /// Pixels; `None` for the size that the model was trained on.
    pub height: Option<i64>,
    /// The picture to start from, [1, 3, H, W] in [-1, 1] or one for every prompt, and how much of it is
    /// noised away, 0 to 1.
    pub init: Option<(Tensor, f64)>,
    /// Where the picture to start from is drawn anew: at 0.5 and above, [1, 1, H, W] or one for every prompt.
    /// With a strength of 1 nothing of what was there is left.
    pub mask: Option<Tensor>,
    /// Depth to image: how near everything is, [1, 1, h, w] or one for every prompt, of any size and scale;
    /// larger is nearer.
    pub depth: Option<Tensor>,
    /// The x4 upscaler: the small picture, [1, 3, h, w] in [-1, 1], or one for every prompt.
    pub small: Option<Tensor>,
    /// The x4 upscaler: the timestep up to which the small picture is noised.
    pub noise_level: usize,
    /// SDXL: height and width of the original, top and left of the crop, height and width of the target;
    /// `None` for a whole picture of the size that is drawn.
    pub sizes: Option<[i64; 6]>,
    /// Whether a picture's latents are drawn from what the encoder says, as diffusers does, and not its mean.
    pub sample_posterior: bool,
    /// Standard noise [B, 4, h, w] to start from, in place of the seed's: diffusers' `latents=`.
    pub initial_latents: Option<Tensor>,
}

impl Request {
    /// One picture of `prompt` with seed 0: 30 steps, guidance scale 5.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompts: vec![prompt.into()],
            prompts_2: Vec::new(),
            negative_prompt: String::new(),
            negative_prompt_2: None,
            clip_skip: 0,
            negative_clip_skip: None,
            sampler: None,
            num_inference_steps: 30,
            guidance_scale: 5.,
            guidance: None,
            weighted_prompts: false,
            clip: None,
            seed: 0,
            seeds: Vec::new(),
            variation: None,
            width: None,
            height: None,
            init: None,
            mask: None,
            depth: None,
            small: None,
            noise_level: 20,
            sizes: None,
            sample_posterior: false,
            initial_latents: None,
        }
    }
}

/// What a generation gives.
#[derive(Debug)]
pub struct Generation {
    /// The final latents [B, 4, h, w], scaled as the U-Net knows them; those that there were when a run was
    /// stopped.
    pub latents: Tensor,
    /// The pictures [B, 3, H, W], about [-1, 1], in f32 on the CPU; of a run that was stopped, as they looked
    /// from there.
    pub image: Tensor,
    /// Whether all steps were taken.
    pub finished: bool,
}
