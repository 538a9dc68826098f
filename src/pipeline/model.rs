//! A Stable Diffusion of any family: its networks, tokenizers and schedules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::{Lora, SchedulerConfig, merge_loras};
use crate::device;
use crate::memory::guarded;
use crate::models::clip::{TextEncoder, Tokenizer};
use crate::models::params::Params;
use crate::models::unet::UNet;
use crate::models::vae::{Posterior, Tiling, Vae};
use crate::schedule::Schedule;
use crate::{Error, Result};

/// A Stable Diffusion of any family: networks, tokenizers and schedules of one checkpoint. All parts are open.
pub struct StableDiffusion {
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// Ids to context.
    pub text_encoder: TextEncoder,
    /// SDXL: the second text encoder's tokenizer, which pads with another token.
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
    /// What the checkpoint says about sampling.
    pub scheduler: SchedulerConfig,
    /// The x4 upscaler: the schedule that noises the small picture.
    pub low_res_schedule: Option<Schedule>,
    /// The x4 upscaler: the largest noise level of the small picture.
    pub max_noise_level: usize,
    /// Tiles for pictures that do not fit into memory; `None` for the whole picture at once.
    pub tiling: Option<Tiling>,
    /// Where the networks compute.
    pub device: Device,
    /// Where idle networks wait, if they move: see [`StableDiffusion::offloaded`].
    pub(super) home: Option<Device>,
    /// What was assumed when the checkpoint was opened, in words for a person.
    pub notes: Vec<String>,
    /// The networks' tensors by name.
    pub(super) params: BTreeMap<String, Params>,
    /// The tensors that low-rank changes were added to.
    pub(super) changed: BTreeSet<(&'static str, String)>,
}

impl fmt::Debug for StableDiffusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size =
            self.unet.config().sample_size.map_or(0, |side| side * self.vae.config().factor());
        let (device, sampler) = (device::name(self.device), self.scheduler.sampler());
        let loras = if self.changed.is_empty() { "" } else { ", with low-rank changes" };
        write!(f, "StableDiffusion of {size}×{size} pixels on {device}, {sampler}{loras}")
    }
}

impl StableDiffusion {
    /// Adds low-rank changes to the networks' weights, each with its strength: 1 as it was trained, 0 nothing.
    ///
    /// The changes of an earlier call are taken out first. An empty list leaves the checkpoint's own weights, bit for
    /// bit, because every changed tensor is read from its file again.
    ///
    /// ```no_run
    /// # use diffuscope::{pipeline::StableDiffusion, checkpoint::Lora};
    /// # let mut model = StableDiffusion::tiny()?;
    /// model.set_loras(&[(Lora::open("watercolour.safetensors")?, 0.8)])?;
    /// model.set_loras(&[])?;
    /// # Ok::<(), diffuscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// A strength that is not finite; changes made for another model, or that leave numbers that are not finite.
    /// The model then has the checkpoint's own weights, or still has those from before.
    pub fn set_loras(&mut self, loras: &[(Lora, f64)]) -> Result<()> {
        merge_loras(&self.params, &mut self.changed, loras)
    }

    /// The same model with networks that stay where they were opened (on the CPU, say) and move to `device` only while
    /// they are used: copies go there, and are dropped after use. A GPU then needs room for the largest of them alone; the
    /// transfers take time.
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

    /// Calls `run` with these networks on the device where they compute.
    pub(super) fn using<T>(&self, networks: &[&str], run: impl FnOnce() -> Result<T>) -> Result<T> {
        let advice = self.on_less_memory();
        let all = networks.iter().filter_map(|name| self.params.get(*name));
        guarded(
            || format!("{} on {}", networks.join(" and "), device::name(self.device)),
            &advice,
            || {
                let away = all.filter(|params| params.device() != self.device);
                let _loans =
                    away.map(|params| params.lend(self.device)).collect::<Result<Vec<_>>>()?;
                run()
            },
        )
    }

    /// What to try when the memory does not suffice.
    pub(super) fn on_less_memory(&self) -> String {
        let gpu = self.device != Device::Cpu;
        let all = [
            (true, "fewer or smaller pictures at once"),
            (self.unet.kind() == Kind::Float, "f16 or bf16 (--dtype)"),
            (self.tiling.is_none(), "tiles for the autoencoder (model.tiling, --tile)"),
            (gpu && self.home.is_none(), "networks that wait on the CPU (offloaded, --offload)"),
        ];
        let try_these: Vec<&str> =
            all.into_iter().filter(|(helps, _)| *helps).map(|(_, what)| what).collect();
        format!("try {}", try_these.join(", or "))
    }

    /// The tensors of `unet`, `vae`, `text_encoder` or `text_encoder_2`, by name: the memory that the network computes
    /// with. Empty for any other name.
    pub fn tensors(&self, network: &str) -> Vec<(String, Tensor)> {
        self.params.get(network).map(Params::variables).unwrap_or_default()
    }

    /// Latents to pictures [B, 3, H, W] on the CPU.
    ///
    /// # Errors
    /// Latents of another shape, or that are not finite.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let decode = || {
            if latents.isfinite().all().int64_value(&[]) == 0 {
                return Err(Error::argument("latents", "finite numbers", "NaN or infinite")
                    .hint("use f32, or a smaller guidance scale"));
            }
            no_grad(|| Ok(self.vae.decode_tiled(latents, self.tiling)?.f_to_device(Device::Cpu)?))
        };
        self.using(&["vae"], decode)
    }

    /// A picture's scaled latents in f32 on the CPU: the posterior's mean, or a sample drawn with `noise`.
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
}
