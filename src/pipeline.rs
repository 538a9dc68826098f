//! Stable Diffusion from prompt to picture: nothing but the stages, composed.
//!
//! A [`Request`] says what is drawn, a [`StableDiffusion`] of any family draws it:
//!
//! | Task | The request | The family |
//! |---|---|---|
//! | text to image | `prompts`, SDXL also `prompts_2` and `sizes` | any but the next three |
//! | inpainting | `init`, `mask` | inpainting (9 channels); any other keeps the rest of the picture by force |
//! | depth to image | `depth`, and `init` to start from a picture | depth (5 channels) |
//! | upscaling | `small`, `noise_level` | x4 upscaler (7 channels) |
//! | image to image | `init` with a strength | any |
//! | variations of a seed | `variation` | any |
//! | between two requests | [`StableDiffusion::generate_between`] | any |
//! | back to noise | `init`, [`StableDiffusion::invert`] | any |

mod invert;
mod prepared;
mod request;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Kind, Tensor, no_grad};

use crate::models::clip::{TextEncoder, Tokenizer};
use crate::models::unet::UNet;
use crate::models::vae::{Tiling, Vae, VaeConfig};
use crate::sampler::{Method, Plan, SamplingStep, SchedulerConfig, lcm_timesteps};
use crate::schedule::Schedule;
use crate::trace::Trace;
use crate::weights::{self, Checkpoint, Lora, Params};
use crate::{Error, Result};

pub use invert::ddim_inverse_step;
pub use prepared::{Beside, Kept, Prepared};
pub use request::{Generation, Request};
pub use text::Text;

/// The pipelines of diffusers that this is.
const PIPELINES: [&str; 11] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
    "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
];

/// What matters here of `model_index.json`.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name", default)]
    class_name: Option<String>,
    #[serde(default)]
    force_zeros_for_empty_prompt: Option<bool>,
    #[serde(default)]
    max_noise_level: Option<usize>,
}

/// A Stable Diffusion of any family: the networks, tokenizers and schedules of its folder. All parts are open.
pub struct StableDiffusion {
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Ids to context.
    pub text_encoder: TextEncoder,
    /// SDXL: the second text encoder's tokenizer, which pads otherwise.
    pub tokenizer_2: Option<Tokenizer>,
    /// SDXL: ids to the rest of the context and to the pooled embedding.
    pub text_encoder_2: Option<TextEncoder>,
    /// SDXL: whether the unconditional text is all zeros where there is no negative prompt.
    pub zeros_for_empty_prompt: bool,
    /// Noisy latents, timestep and context to a prediction.
    pub unet: UNet,
    /// Pictures to latents and back.
    pub vae: Vae,
    /// The noise at every timestep.
    pub schedule: Schedule,
    /// What the model's folder says of sampling.
    pub scheduler: SchedulerConfig,
    /// The x4 upscaler: the noise of the small picture.
    pub low_res_schedule: Option<Schedule>,
    /// The x4 upscaler: how much of it the small picture may have.
    pub max_noise_level: usize,
    /// Tiles for pictures that do not fit into memory; `None` for the whole picture at once.
    pub tiling: Option<Tiling>,
    /// Where the networks compute.
    pub device: Device,
    /// Where they are while they do not, if they move: see [`StableDiffusion::offloaded`].
    home: Option<Device>,
    /// What was assumed when the checkpoint was opened, in words for a person.
    pub notes: Vec<String>,
    /// The networks' tensors by name, and those of them that low-rank changes were added to.
    params: BTreeMap<String, Params>,
    changed: BTreeSet<(&'static str, String)>,
}

impl StableDiffusion {
    /// Opens a diffusers folder, one `.safetensors` or `.ckpt` file in latent-diffusion's keys, or (feature `hub`)
    /// what an id of the Hugging Face hub names. The networks compute in `kind`; latents stay f32.
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
        let ModelIndex { class_name, force_zeros_for_empty_prompt, max_noise_level } =
            checkpoint.index()?;
        if let Some(class) = class_name.filter(|class| !PIPELINES.contains(&class.as_str())) {
            let message = format!("{class} is none of {}", PIPELINES.join(", "));
            return Err(Error::config(checkpoint.path.join("model_index.json"), message));
        }
        let scheduler = |name: &str| {
            let found = checkpoint.schedulers.get(name);
            found.map(|(json, path)| SchedulerConfig::from_json(json.clone(), path)).transpose()
        };
        let low_res = scheduler("low_res_scheduler")?;
        let scheduler = scheduler("scheduler")?.ok_or_else(|| {
            let message = format!("cannot draw pictures: it is {}", checkpoint.family);
            Error::weights(&checkpoint.path, message)
        })?;
        let mut params = BTreeMap::new();
        let mut text = |name| {
            checkpoint.build(name, kind, device, |p, config| {
                params.insert(String::from(name), p.clone());
                TextEncoder::new(p, config)
            })
        };
        let second = checkpoint.networks.contains_key("text_encoder_2");
        let text_encoder = text("text_encoder")?;
        let text_encoder_2 = second.then(|| text("text_encoder_2")).transpose()?;
        let unet = checkpoint.build("unet", kind, device, |p, config| {
            params.insert("unet".into(), p.clone());
            UNet::new(p, config)
        })?;
        let vae_kind = checkpoint.config::<VaeConfig>("vae")?.kind(kind);
        let vae = checkpoint.build("vae", vae_kind, device, |p, config| {
            params.insert("vae".into(), p.clone());
            Vae::new(p, config)
        })?;
        let model = Self {
            tokenizer: checkpoint.tokenizer("tokenizer")?,
            text_encoder,
            tokenizer_2: (second && checkpoint.has_tokenizer("tokenizer_2"))
                .then(|| checkpoint.tokenizer("tokenizer_2"))
                .transpose()?,
            text_encoder_2,
            zeros_for_empty_prompt: force_zeros_for_empty_prompt.unwrap_or(false),
            unet,
            vae,
            schedule: scheduler.schedule()?,
            scheduler,
            low_res_schedule: low_res.map(|config| config.schedule()).transpose()?,
            max_noise_level: max_noise_level.unwrap_or(350),
            tiling: None,
            device,
            home: None,
            notes: checkpoint.notes(),
            params,
            changed: BTreeSet::new(),
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

    /// Adds low-rank changes to the networks' weights, each with its strength: 1 as it was trained, 0 nothing.
    /// Those of an earlier call are taken out: an empty list leaves the checkpoint's own weights, bit for bit,
    /// because every changed tensor is read from its file again.
    ///
    /// ```no_run
    /// # use diffuscope::{pipeline::StableDiffusion, weights::Lora};
    /// # let mut model = StableDiffusion::tiny()?;
    /// model.set_loras(&[(Lora::open("watercolour.safetensors")?, 0.8)])?;
    /// model.set_loras(&[])?;
    /// # Ok::<(), diffuscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// A strength that is not finite; changes made for another model, or that leave numbers that are not finite.
    /// The model then has the checkpoint's own weights, or still those of before.
    pub fn set_loras(&mut self, loras: &[(Lora, f64)]) -> Result<()> {
        weights::merge(&self.params, &mut self.changed, loras)
    }

    /// The same model, whose networks stay where they were opened (the CPU, say) and move to `device` each while it is
    /// used: a GPU then needs room for the largest of them alone, and the way there and back takes time.
    ///
    /// ```no_run
    /// # use diffuscope::pipeline::StableDiffusion;
    /// # use tch::{Device, Kind};
    /// let model = StableDiffusion::open("sdxl", Kind::Half, Device::Cpu)?.offloaded(Device::Cuda(0));
    /// # Ok::<(), diffuscope::Error>(())
    /// ```
    pub fn offloaded(mut self, device: Device) -> Self {
        self.home = Some(self.home.unwrap_or(self.device));
        self.device = device;
        self
    }

    /// Runs what needs these networks with them on the device where they compute.
    fn using<T>(&self, networks: &[&str], run: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(home) = self.home else { return run() };
        let all = || networks.iter().filter_map(|name| self.params.get(*name));
        let done = all().try_for_each(|params| params.move_to(self.device)).and_then(|()| run());
        all().try_for_each(|params| params.move_to(home))?;
        done
    }

    /// The tensors of `unet`, `vae`, `text_encoder` or `text_encoder_2`, by name: the memory that the network computes
    /// with. Empty for any other name.
    pub fn tensors(&self, network: &str) -> Vec<(String, Tensor)> {
        self.params.get(network).map(Params::variables).unwrap_or_default()
    }

    fn check(&self, folder: &Path) -> Result<()> {
        let (text, unet, vae) = (self.text_encoder.config(), self.unet.config(), self.vae.config());
        let fits = |what: &str, a: i64, b: i64| {
            let message = format!("its parts are of different models: {what}, {a} and {b}");
            if a == b { Ok(()) } else { Err(Error::config(folder, message)) }
        };
        let text_2 = self.text_encoder_2.as_ref().map(TextEncoder::config);
        fits(
            "the text encoders' width and the U-Net's cross_attention_dim",
            text.hidden_size + text_2.map_or(0, |text| text.hidden_size),
            unet.cross_attention_dim,
        )?;
        let added =
            (text_2, unet.projection_class_embeddings_input_dim, unet.addition_time_embed_dim);
        if let (Some(text), Some(all), Some(each_size)) = added {
            let what = "the second text encoder's projection_dim and the U-Net's pooled width";
            fits(what, text.projection_dim, all - 6 * each_size)?;
        }
        let both =
            [self.tokenizer_2.is_some(), text_2.is_some(), unet.addition_embed_type.is_some()];
        if both.contains(&true) && both.contains(&false) {
            let message = "a second text encoder, its tokenizer and a U-Net that is told of its pooled \
                           embedding (addition_embed_type) belong together; some of them are missing";
            return Err(Error::config(folder, message));
        }
        if self.beside().is_none() {
            let (got, latents) = (unet.in_channels, vae.latent_channels);
            fits("the U-Net's in_channels and the VAE's latent_channels", got, latents)?;
        }
        fits(
            "the VAE's latent_channels and the U-Net's out_channels",
            vae.latent_channels,
            unet.out_channels,
        )
    }

    /// The reverse steps of a request.
    ///
    /// # Errors
    /// Steps that the schedule cannot give.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        let sampler = request.sampler.unwrap_or_else(|| self.scheduler.sampler());
        let mut settings = self.scheduler.settings(sampler);
        settings.clip = request.clip.unwrap_or(settings.clip);
        let steps = request.num_inference_steps;
        let Some((_, strength)) = request.init else {
            return Plan::new(sampler, &self.schedule, steps, &settings);
        };
        if !(0. ..=1.).contains(&strength) {
            let expected = "0 (the picture as it is) to 1 (nothing of it)";
            return Err(Error::argument("strength", expected, strength, ""));
        }
        if let (Method::Lcm { original_steps }, None) = (sampler.method, &settings.timesteps) {
            // A consistency model takes all its steps, within the part that the strength leaves.
            let list = lcm_timesteps(&self.schedule, steps, original_steps, strength)?;
            settings.timesteps = Some(list);
            return Plan::new(sampler, &self.schedule, steps, &settings);
        }
        let skipped = steps - (steps as f64 * strength) as usize;
        Plan::starting_at(sampler, &self.schedule, steps, &settings, skipped)
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

    /// The shape of one picture's latents: that of what is given, else of the size that is asked for.
    fn latent_shape(&self, request: &Request) -> Result<Vec<i64>> {
        let (factor, batch) = (self.vae.config().factor(), request.prompts.len() as i64);
        let fits = |what: &str, x: &Tensor, channels: i64| {
            let size = x.size();
            let all = matches!(size[..], [n, c, h, w] if (n == 1 || n == batch) && c == channels && h * w > 0);
            let expected = format!("[1, {channels}, H, W] or [{batch}, {channels}, H, W]");
            if all { Ok((size[2], size[3])) } else { Err(Error::shape(what, expected, &size)) }
        };
        let (mut width, mut height) = (request.width, request.height);
        if let Some((image, _)) = &request.init {
            let (h, w) = fits("the picture to start from", image, self.vae.config().in_channels)?;
            (height, width) = (Some(h), Some(w));
        } else if let Some(small) = &request.small {
            let (h, w) = fits("the small picture", small, self.vae.config().out_channels)?;
            (height, width) = (Some(h * factor), Some(w * factor));
        } else if let Some(latents) = &request.initial_latents
            && latents.dim() == 4
        {
            // Latents say their size where nobody else does.
            height = height.or(Some(latents.size()[2] * factor));
            width = width.or(Some(latents.size()[3] * factor));
        }
        let (width, height) = self.size(width, height)?;
        if let Some(mask) = &request.mask
            && fits("mask", mask, 1)? != (height, width)
        {
            return Err(Error::shape("mask", format!("[1, 1, {height}, {width}]"), &mask.size()));
        }
        if let Some(depth) = &request.depth {
            fits("depth", depth, 1)?;
        }
        self.check_memory(request.prompts.len(), width, height)?;
        Ok(vec![self.vae.config().latent_channels, height / factor, width / factor])
    }

    /// Refuses what would surely exhaust the memory: a system that runs out kills the program, or
    /// another one. Counted are the activations of the widest layers in f32.
    fn check_memory(&self, batch: usize, width: i64, height: i64) -> Result<()> {
        let Some(free) = crate::device::free_memory(self.device) else { return Ok(()) };
        let widest = |channels: &[i64]| channels.first().copied().unwrap_or(0) as f64;
        let pixels = batch as f64 * width as f64 * height as f64;
        let cells = pixels / (self.vae.config().factor() as f64).powi(2);
        let tile = self.tiling.map_or(f64::INFINITY, |t| t.tile as f64).powi(2);
        let at_once = pixels.min(batch as f64 * tile * pixels / cells);
        let vae = at_once * widest(&self.vae.config().block_out_channels) * 6.;
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

    /// Latents to pictures [B, 3, H, W] on the CPU.
    ///
    /// # Errors
    /// Latents of another shape, or that are not finite.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        if latents.isfinite().all().int64_value(&[]) == 0 {
            let todo = "use f32, or a smaller guidance scale";
            return Err(Error::argument("latents", "finite numbers", "NaN or infinite", todo));
        }
        let decode = || no_grad(|| self.vae.decode_tiled(latents, self.tiling));
        Ok(self.using(&["vae"], decode)?.to_device(Device::Cpu))
    }

    /// The steps from a start to pictures. `each` is told of every step and may break: the run then stops and
    /// gives what there is.
    ///
    /// # Errors
    /// A step that fails; latents that are not finite.
    pub fn run(
        &self,
        prepared: &Prepared<'_>,
        mut each: impl FnMut(SamplingStep) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let (latents, seen) = self.using(&["unet"], || {
            let mut sampling = prepared.sampling()?;
            let mut seen = None;
            for i in 0.. {
                if let Some((uncond, cond)) = prepared.contexts_at(i) {
                    sampling.set_contexts(uncond, cond)?;
                }
                let Some(step) = sampling.next() else { break };
                let mut step = step?;
                if let Some(kept) = &prepared.kept {
                    let restored = kept.restore(&prepared.plan, step.i + 1, &step.prev_sample)?;
                    step.prev_sample = restored.shallow_clone();
                    sampling.set_sample(restored);
                }
                let more = step.i + 1 < prepared.plan.steps.len();
                let x_0 = step.x_0.shallow_clone();
                if each(step).is_break() && more {
                    seen = Some(x_0);
                    break;
                }
            }
            Ok((sampling.into_sample(), seen))
        })?;
        let image = self.decode(seen.as_ref().unwrap_or(&latents))?;
        Ok(Generation { latents: latents.to_device(Device::Cpu), image, finished: seen.is_none() })
    }

    /// Prompts to pictures; `each` is told of every step and may break.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn generate_with(
        &self,
        request: &Request,
        each: impl FnMut(SamplingStep) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.run(&self.prepare(request)?, each)
    }

    /// Prompts to pictures.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        self.generate_with(request, |_| ControlFlow::Continue(()))
    }

    /// Part of the way from one request's pictures to another's: from noise to noise on the sphere, from text
    /// to text on a line. All else is as in `from`.
    ///
    /// # Errors
    /// Requests that cannot be met, or of different numbers or sizes of pictures.
    pub fn generate_between(
        &self,
        from: &Request,
        to: &Request,
        weight: f64,
    ) -> Result<Generation> {
        let prepared = self.prepare(from)?.towards(&self.prepare(to)?, weight)?;
        self.run(&prepared, |_| ControlFlow::Continue(()))
    }

    /// Prompts to pictures, with everything that happened on the way.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn trace(&self, request: &Request) -> Result<Trace> {
        let mut steps = Vec::new();
        let generation = self.generate_with(request, |step| {
            steps.push(step);
            ControlFlow::Continue(())
        })?;
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
