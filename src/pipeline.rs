//! Stable Diffusion from prompt to picture: nothing but the stages, composed.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Kind, Tensor, no_grad};

use crate::models::clip::{TextEncoder, Tokenizer};
use crate::models::unet::UNet;
use crate::models::vae::Vae;
use crate::prediction::Prediction;
use crate::sampler::{Plan, Sampler, Sampling, SamplingStep, noises_of_seeds};
use crate::schedule::{BetaSchedule, Schedule, Spacing};
use crate::trace::Trace;
use crate::weights::{Checkpoint, read_config};
use crate::{Error, Result};

/// `scheduler/scheduler_config.json`, whatever diffusers class wrote it.
///
/// What a file leaves out is what diffusers' class for the sampler in use would assume.
#[derive(Debug, Clone, Deserialize)]
pub struct SchedulerConfig {
    #[serde(rename = "_class_name", default)]
    class_name: String,
    num_train_timesteps: usize,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: BetaSchedule,
    #[serde(default)]
    trained_betas: Option<Vec<f64>>,
    #[serde(default = "epsilon")]
    prediction_type: Prediction,
    #[serde(default)]
    timestep_spacing: Option<Spacing>,
    #[serde(default)]
    steps_offset: usize,
    #[serde(default)]
    set_alpha_to_one: Option<bool>,
    #[serde(default)]
    clip_sample: Option<bool>,
    #[serde(default)]
    clip_sample_range: Option<f64>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

fn epsilon() -> Prediction {
    Prediction::Epsilon
}

/// Settings that would change the numbers and that no sampler here knows.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("rescale_betas_zero_snr", "false"),
    ("thresholding", "false"),
    ("use_karras_sigmas", "false"),
    ("use_exponential_sigmas", "false"),
    ("use_beta_sigmas", "false"),
    ("final_sigmas_type", "\"zero\""),
    ("interpolation_type", "\"linear\""),
    ("variance_type", "\"fixed_small\""),
];

impl SchedulerConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing or lacks a key; a setting that would change the numbers and is not
    /// supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_json(read_config(&path)?, path.as_ref())
    }

    /// The same of what was read from `path`, or made for it.
    pub(crate) fn from_json(json: serde_json::Value, path: &Path) -> Result<Self> {
        let config: Self = serde_json::from_value(json).map_err(|e| Error::config(path, e))?;
        for (name, known) in UNSUPPORTED {
            let got = config.others.get(name).map(ToString::to_string);
            if let Some(got) = got.filter(|got| got != known && got != "null") {
                let message = format!("{name} is {got}; only {known} is supported");
                return Err(Error::config(path, message));
            }
        }
        if config.clip_sample_range.is_some_and(|range| range != 1.) {
            return Err(Error::config(path, "only a clip_sample_range of 1 is supported"));
        }
        Ok(config)
    }

    /// The noise schedule.
    ///
    /// # Errors
    /// Betas outside (0, 1).
    pub fn schedule(&self) -> Result<Schedule> {
        match &self.trained_betas {
            Some(betas) => Schedule::from_betas(betas.clone()),
            None => Schedule::new(
                self.beta_schedule,
                self.beta_start,
                self.beta_end,
                self.num_train_timesteps,
            ),
        }
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction_type
    }

    /// The sampler that the file names, DDIM where it is none of ours.
    pub fn sampler(&self) -> Sampler {
        self.class_name.parse().unwrap_or(Sampler::Ddim { eta: 0. })
    }
}

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
    /// What the unconditional prediction is told; empty for nothing.
    pub negative_prompt: String,
    /// The sampler; `None` for the one that the model's folder names.
    pub sampler: Option<Sampler>,
    /// The number of reverse steps.
    pub num_inference_steps: usize,
    /// How far to go from the unconditional towards the conditional prediction, and past it.
    pub guidance_scale: f64,
    /// The first picture's seed; the next picture has the next one.
    pub seed: i64,
    /// Pixels; `None` for the size that the model was trained on.
    pub width: Option<i64>,
    /// Pixels; `None` for the size that the model was trained on.
    pub height: Option<i64>,
    /// The picture to start from, [1, 3, H, W] in [-1, 1], and how much of it is noised away, 0 to 1.
    pub init: Option<(Tensor, f64)>,
    /// Standard noise [B, 4, h, w] to start from, in place of the seed's: diffusers' `latents=`.
    pub initial_latents: Option<Tensor>,
}

impl Request {
    /// One picture of `prompt` with seed 0: 30 steps, guidance scale 5.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompts: vec![prompt.into()],
            negative_prompt: String::new(),
            sampler: None,
            num_inference_steps: 30,
            guidance_scale: 5.,
            seed: 0,
            width: None,
            height: None,
            init: None,
            initial_latents: None,
        }
    }
}

/// What a generation gives.
#[derive(Debug)]
pub struct Generation {
    /// The final latents [B, 4, h, w], scaled as the U-Net knows them.
    pub latents: Tensor,
    /// The pictures [B, 3, H, W], about [-1, 1], in f32 on the CPU.
    pub image: Tensor,
}

/// A Stable Diffusion: three networks, a tokenizer and a schedule. All parts are open.
pub struct StableDiffusion {
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Ids to context.
    pub text_encoder: TextEncoder,
    /// Noisy latents, timestep and context to a prediction.
    pub unet: UNet,
    /// Pictures to latents and back.
    pub vae: Vae,
    /// The noise at every timestep.
    pub schedule: Schedule,
    /// What the model's folder says of sampling.
    pub scheduler: SchedulerConfig,
    /// Where the networks are.
    pub device: Device,
    /// What was assumed when the checkpoint was opened, in words for a person.
    pub notes: Vec<String>,
}

impl StableDiffusion {
    /// Opens a diffusers folder, or one `.safetensors` or `.ckpt` file in latent-diffusion's keys. The networks
    /// compute in `kind`; latents stay f32.
    ///
    /// # Errors
    /// A path that is neither, lacks a part, or whose parts do not fit each other.
    pub fn open(path: impl AsRef<Path>, kind: Kind, device: Device) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::open(path)?, kind, device)
    }

    /// Opens a checkpoint that was looked at before, for what it is or for what it was stated to be.
    ///
    /// # Errors
    /// As [`StableDiffusion::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, kind: Kind, device: Device) -> Result<Self> {
        let scheduler = checkpoint.schedulers.get("scheduler").ok_or_else(|| {
            let message = format!("cannot draw pictures: it is {}", checkpoint.family);
            Error::weights(&checkpoint.path, message)
        })?;
        let scheduler = SchedulerConfig::from_json(scheduler.0.clone(), &scheduler.1)?;
        let model = Self {
            tokenizer: checkpoint.tokenizer("tokenizer")?,
            text_encoder: checkpoint.build("text_encoder", kind, device, TextEncoder::new)?,
            unet: checkpoint.build("unet", kind, device, UNet::new)?,
            vae: checkpoint.build("vae", kind, device, Vae::new)?,
            schedule: scheduler.schedule()?,
            scheduler,
            device,
            notes: checkpoint.notes(),
        };
        model.check(&checkpoint.path)?;
        Ok(model)
    }

    /// Opens the embedded model, `data/tiny` of this project.
    ///
    /// # Errors
    /// As [`StableDiffusion::open`].
    pub fn tiny() -> Result<Self> {
        Self::open(tiny_folder(), Kind::Float, crate::device::pick(None)?.device)
    }

    fn check(&self, folder: &Path) -> Result<()> {
        let (text, unet, vae) = (self.text_encoder.config(), self.unet.config(), self.vae.config());
        let fits = |what: &str, a: i64, b: i64| {
            let message = format!("its parts are of different models: {what}, {a} and {b}");
            if a == b { Ok(()) } else { Err(Error::config(folder, message)) }
        };
        fits(
            "the text encoder's width and the U-Net's cross_attention_dim",
            text.hidden_size,
            unet.cross_attention_dim,
        )?;
        fits("the VAE's and the U-Net's channels", vae.latent_channels, unet.in_channels)?;
        fits("the U-Net's channels in and out", unet.in_channels, unet.out_channels)
    }

    /// A prompt to its context [1, 77, width].
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express.
    pub fn context(&self, prompt: &str) -> Result<Tensor> {
        no_grad(|| self.text_encoder.encode(&self.tokenizer.encode(prompt)?.tensor()))
    }

    /// The contexts of a request, [B, 77, width] each: without the prompts and with them.
    ///
    /// # Errors
    /// As [`StableDiffusion::context`]; no prompt.
    pub fn contexts(&self, request: &Request) -> Result<(Tensor, Tensor)> {
        if request.prompts.is_empty() {
            return Err(Error::argument("prompts", "one and more", "none", ""));
        }
        let cond = request.prompts.iter().map(|p| self.context(p)).collect::<Result<Vec<_>>>()?;
        let cond = Tensor::cat(&cond, 0);
        let uncond = self.context(&request.negative_prompt)?.expand_as(&cond);
        Ok((uncond, cond))
    }

    /// What was assumed of the checkpoint, what of the prompts was too long for the text encoder, and which of their
    /// words it was never taught, in words for a person.
    ///
    /// # Errors
    /// As [`StableDiffusion::context`].
    pub fn warnings(&self, request: &Request) -> Result<Vec<String>> {
        let texts = request.prompts.iter().chain([&request.negative_prompt]);
        let mut warnings = self.notes.clone();
        let known = self.text_encoder.known_ids();
        let is_known = |id: &i64| known.binary_search(id).is_ok();
        let mut unknown = Vec::new();
        for text in texts {
            for (word, ids) in self.tokenizer.words(text)? {
                let is_word = word.contains(char::is_alphanumeric);
                if is_word && !ids.iter().all(is_known) && !unknown.contains(&word) {
                    unknown.push(word);
                }
            }
            if let Some(cut) = self.tokenizer.encode(text)?.cut {
                let all: String = cut.chars().take(200).collect();
                let dots = if all.len() < cut.len() { " ..." } else { "" };
                warnings.push(format!(
                    "the prompt is longer than 75 tokens; this part was not used: {all}{dots}"
                ));
            }
        }
        if !unknown.is_empty() {
            let ends = known.iter().map(|&id| self.tokenizer.token(id));
            let mut words: Vec<String> = ends
                .filter_map(|token| token.strip_suffix("</w>").map(str::to_owned))
                .filter(|word| word.contains(char::is_alphanumeric))
                .collect();
            words.sort();
            warnings.push(format!(
                "the model was not taught: {}; it knows these words and ends of words: {}",
                unknown.join(", "),
                words.join(", ")
            ));
        }
        Ok(warnings)
    }

    /// The reverse steps of a request.
    ///
    /// # Errors
    /// Steps that the schedule cannot give.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        let config = &self.scheduler;
        let sampler = request.sampler.unwrap_or_else(|| config.sampler());
        let euler = sampler == Sampler::Euler;
        let spacing = if euler { Spacing::Linspace } else { Spacing::Leading };
        let mut plan = Plan::new(
            sampler,
            &self.schedule,
            config.prediction_type,
            request.num_inference_steps,
            config.timestep_spacing.unwrap_or(spacing),
            config.steps_offset,
            config.set_alpha_to_one.unwrap_or(true),
        )?;
        plan.clip_sample = !euler && config.clip_sample.unwrap_or(true);
        if let Some((_, strength)) = &request.init {
            if !(0. ..=1.).contains(strength) {
                let expected = "0 (the picture as it is) to 1 (nothing of it)";
                return Err(Error::argument("strength", expected, strength, ""));
            }
            let kept = (request.num_inference_steps as f64 * strength) as usize;
            plan.positions.drain(..request.num_inference_steps - kept);
        }
        Ok(plan)
    }

    /// The first sample of a request and the noise of its steps, on the networks' device.
    ///
    /// # Errors
    /// Sizes that the VAE cannot give; initial latents of another shape.
    pub fn start(&self, request: &Request, plan: &Plan) -> Result<(Tensor, Vec<Tensor>)> {
        let shape = self.latent_shape(request)?;
        let batch = request.prompts.len();
        let seeds: Vec<i64> = (0..batch as i64).map(|i| request.seed.wrapping_add(i)).collect();
        let steps = if plan.sampler.is_stochastic() { plan.positions.len() } else { 0 };
        let mut noises = noises_of_seeds(&seeds, &shape, 1 + steps)?;
        let mut noise = noises.remove(0);
        if let Some(latents) = &request.initial_latents {
            let expected = [&[batch as i64], &shape[..]].concat();
            if latents.size() != expected {
                let what = "initial latents";
                return Err(Error::shape(what, format!("{expected:?}"), &latents.size()));
            }
            noise = latents.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
            if noise.isfinite().all().int64_value(&[]) == 0 {
                return Err(Error::argument(
                    "initial latents",
                    "finite numbers",
                    "NaN or infinity",
                    "",
                ));
            }
        }
        let x_t = match &request.init {
            Some((image, _)) => {
                let x_0 = no_grad(|| self.vae.encode(image))?;
                let x_0 = x_0.to_kind(Kind::Float).to_device(Device::Cpu);
                plan.start_from(&x_0.expand_as(&noise), &noise)?
            }
            None => plan.start(&noise),
        };
        Ok((x_t.to_device(self.device), noises))
    }

    /// A width and height in pixels that the model can draw: the ones asked for, else the ones that
    /// it was trained on.
    ///
    /// # Errors
    /// A size that the VAE's factor does not divide, or outside the factor to 8192.
    pub fn size(&self, width: Option<i64>, height: Option<i64>) -> Result<(i64, i64)> {
        let factor = self.vae.config().factor();
        let trained = self.unet.config().sample_size.map(|cells| cells * factor);
        let side = |what: &str, asked: Option<i64>| {
            let expected = format!("a multiple of {factor} from {factor} to 8192");
            let Some(pixels) = asked.or(trained) else {
                return Err(Error::argument(what, expected, "none", "give the size in pixels"));
            };
            if !(factor..=8192).contains(&pixels) || pixels % factor != 0 {
                return Err(Error::argument(what, expected, pixels, ""));
            }
            Ok(pixels)
        };
        Ok((side("width", width)?, side("height", height)?))
    }

    fn latent_shape(&self, request: &Request) -> Result<Vec<i64>> {
        let factor = self.vae.config().factor();
        let (mut width, mut height) = (request.width, request.height);
        if let Some((image, _)) = &request.init {
            let size = image.size();
            if size.len() != 4 || size[0] != 1 {
                return Err(Error::shape("the picture to start from", "[1, 3, H, W]", &size));
            }
            (height, width) = (Some(size[2]), Some(size[3]));
        } else if let Some(latents) = &request.initial_latents
            && latents.dim() == 4
        {
            // Latents say their size where nobody else does.
            height = height.or(Some(latents.size()[2] * factor));
            width = width.or(Some(latents.size()[3] * factor));
        }
        let (width, height) = self.size(width, height)?;
        self.check_memory(request.prompts.len(), width, height)?;
        Ok(vec![self.unet.config().in_channels, height / factor, width / factor])
    }

    /// Refuses what would surely exhaust the memory: a system that runs out kills the program, or
    /// another one. Counted are the activations of the widest layers in f32.
    fn check_memory(&self, batch: usize, width: i64, height: i64) -> Result<()> {
        let Some(free) = crate::device::free_memory(self.device) else { return Ok(()) };
        let widest = |channels: &[i64]| channels.first().copied().unwrap_or(0) as f64;
        let pixels = batch as f64 * width as f64 * height as f64;
        let cells = pixels / (self.vae.config().factor() as f64).powi(2);
        let vae = pixels * widest(&self.vae.config().block_out_channels) * 6.;
        let unet = 2. * cells * widest(&self.unet.config().block_out_channels) * 6.;
        let (needed, free) = (4. * vae.max(unet) / 1e9, free as f64 / 1e9);
        if needed < free {
            return Ok(());
        }
        Err(Error::argument(
            "the pictures",
            format!("a size and number that fit in {free:.1} GB, the memory that is free"),
            format!("{batch} of {width}×{height}, which need about {needed:.1} GB"),
            "draw fewer or smaller pictures at once",
        ))
    }

    /// The reverse process of a request, one owned record a step.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn sampling(&self, request: &Request) -> Result<Sampling<'_, UNet>> {
        let plan = self.plan(request)?;
        let (uncond, cond) = self.contexts(request)?;
        let (x_t, noises) = self.start(request, &plan)?;
        let contexts = Some((&uncond, &cond));
        Sampling::new(&self.unet, plan, x_t, contexts, request.guidance_scale, noises)
    }

    /// Latents to pictures [B, 3, H, W] on the CPU.
    ///
    /// # Errors
    /// Latents of another shape, or that are not finite.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        if latents.isfinite().all().int64_value(&[]) == 0 {
            let todo = "use f32, or a smaller guidance scale";
            return Err(Error::argument("latents", "finite numbers", "NaN or infinite", todo));
        }
        Ok(no_grad(|| self.vae.decode(latents))?.to_device(Device::Cpu))
    }

    /// Prompts to pictures; `each` is told of every step.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn generate_with(
        &self,
        request: &Request,
        mut each: impl FnMut(SamplingStep),
    ) -> Result<Generation> {
        let mut sampling = self.sampling(request)?;
        for step in sampling.by_ref() {
            each(step?);
        }
        let latents = sampling.into_sample();
        let image = self.decode(&latents)?;
        Ok(Generation { latents: latents.to_device(Device::Cpu), image })
    }

    /// Prompts to pictures.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        self.generate_with(request, |_| ())
    }

    /// Prompts to pictures, with everything that happened on the way.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn trace(&self, request: &Request) -> Result<Trace> {
        let mut steps = Vec::new();
        let generation = self.generate_with(request, |step| steps.push(step))?;
        Trace::new(&steps, generation)
    }
}

/// The embedded model's folder: beside the library's source, or `DIFFUSCOPE_TINY`.
pub fn tiny_folder() -> PathBuf {
    match std::env::var_os("DIFFUSCOPE_TINY") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join("tiny"),
    }
}
