//! The diffusion model's training: text encoder and U-Net together, on latents that were encoded once.

use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::export::{
    TOKENIZER_FILES, VAE_FILES, copy_files, text_config, write_component, write_pipeline_files,
};
use super::initial_weights::load_initial_weights;
use super::latents::CaptionedLatents;
use super::losses::{denoising_loss, min_snr_weight};
use super::optimizer::Optimizer;
use super::pictures::{near, rows};
use super::run::{TrainProgress, run};
use super::settings::TrainSettings;
use super::sheet::write_sheet;
use super::task::{LossParts, Trainable, TrainingTask};
use super::trained::Trained;
use super::vocabulary::Vocabulary;
use crate::device::send;
use crate::forward::add_noise;
use crate::guidance::guide;
use crate::models::clip::{TextConfig, TextEncoder, Tokenizer};
use crate::models::params::Params;
use crate::models::unet::{UNet, UNetConfig};
use crate::models::vae::Vae;
use crate::noise::{standard_normal, with_seed};
use crate::sampler::ddim_step;
use crate::schedule::{Schedule, Spacing, steps, timesteps};
use crate::short::{Few, starts};
use crate::{Error, Result};

/// The settings of a diffusion model's training besides [`TrainSettings`].
pub struct DiffusionSettings {
    /// The configuration of the text encoder.
    pub text: TextConfig,
    /// The configuration of the U-Net.
    pub unet: UNetConfig,
    /// The share of captions that are replaced by the empty one, for the unconditional prediction of guidance.
    pub caption_dropout: f64,
    /// The gamma of [`min_snr_weight`]; without it all timesteps have the same weight.
    pub min_snr: Option<f64>,
    /// The prompts of the sample sheets.
    pub prompts: Vec<String>,
    /// The guidance scale of the sample sheets.
    pub guidance_scale: f64,
}

impl fmt::Debug for DiffusionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiffusionSettings")
            .field("caption_dropout", &self.caption_dropout)
            .field("min_snr", &self.min_snr)
            .field("prompts", &Few(&starts(&self.prompts)))
            .field("guidance_scale", &self.guidance_scale)
            .finish_non_exhaustive()
    }
}

/// The trained parts of a model that its text encoder and U-Net are trained for, and where they are.
pub struct FrozenParts<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its folder.
    pub tokenizer_folder: &'a Path,
    /// The autoencoder.
    pub vae: &'a Vae,
    /// The folder with its `vae/`.
    pub vae_folder: &'a Path,
}

impl fmt::Debug for FrozenParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vae, tokenizer) = (self.vae_folder.display(), self.tokenizer_folder.display());
        write!(f, "FrozenParts {{ vae of {vae}, tokenizer of {tokenizer} }}")
    }
}

struct DiffusionTask<'a> {
    diffusion: &'a DiffusionSettings,
    batch: i64,
    timesteps: i64,
    /// Where the network is, and the latents if they fit. All else here is on the CPU.
    device: Device,
    latents: Tensor,
    vocabulary: Vocabulary,
    /// The ids of the captions, of the prompts and of the empty caption, in the training's numbering.
    ids: Tensor,
    prompts: Tensor,
    empty: Tensor,
    frozen: &'a FrozenParts<'a>,
}

struct TrainableDiffusion {
    text_encoder: TextEncoder,
    unet: UNet,
    schedule: Schedule,
    min_snr: Option<f64>,
}

impl Trainable for TrainableDiffusion {
    /// `batch`: latents, timesteps, noise and token ids; the second and the last are on the CPU, where they are checked.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, LossParts)> {
        let [x_0, t, noise, ids] = batch else {
            return Err(Error::argument("batch", "latents, t, noise and ids", batch.len()));
        };
        let x_t = add_noise(&self.schedule, t, x_0, noise)?;
        let context = self.text_encoder.encode(ids)?;
        let noise_pred = self.unet.forward(&x_t, t, &context)?;
        let loss = denoising_loss(&noise_pred, noise)?;
        let plain = loss.mean(Kind::Float);
        let Some(gamma) = self.min_snr else { return Ok((plain, Vec::new())) };
        let weight = min_snr_weight(&self.schedule, t, gamma)?;
        let weight = send(&weight, Kind::Float, loss.device());
        let parts = vec![("unweighted", plain)];
        Ok(((loss * weight).mean(Kind::Float), parts))
    }
}

impl TrainingTask for DiffusionTask<'_> {
    type Network = TrainableDiffusion;

    fn batch(&self, seed: i64) -> Result<Vec<Tensor>> {
        let (count, cpu) = (self.latents.size()[0], Device::Cpu);
        let mut shape = self.latents.size();
        shape[0] = self.batch;
        let (index, t, noise, dropped) = with_seed(seed, || {
            let index = Tensor::randint(count, [self.batch], (Kind::Int64, cpu));
            let t = Tensor::randint(self.timesteps, [self.batch], (Kind::Int64, cpu));
            let noise = Tensor::randn(&shape, (Kind::Float, cpu));
            let dropped = Tensor::rand([self.batch, 1], (Kind::Float, cpu));
            (index, t, noise, dropped.lt(self.diffusion.caption_dropout))
        });
        let x_0 = rows(&self.latents, &index).to_device(self.device);
        let ids = self.empty.where_self(&dropped, &self.ids.index_select(0, &index));
        Ok(vec![x_0, t, noise.to_device(self.device), ids])
    }

    /// One picture per prompt, always from the same noise, in 20 guided DDIM steps.
    fn sheet(&self, network: &TrainableDiffusion, path: &Path) -> Result<()> {
        let TrainableDiffusion { text_encoder, unet, schedule, .. } = network;
        let count = self.diffusion.prompts.len() as i64;
        if count == 0 {
            return Ok(());
        }
        let mut shape = self.latents.size();
        shape[0] = count;
        let image = no_grad(|| -> Result<Tensor> {
            let cond = text_encoder.encode(&self.prompts)?;
            let uncond = text_encoder.encode(&self.empty.expand_as(&self.prompts))?;
            let context = Tensor::cat(&[uncond, cond], 0);
            let mut x_t = standard_normal(&shape, 0)?.to_device(self.device);
            for step in steps(&timesteps(schedule, 20, Spacing::Leading, 1)?) {
                let t = Tensor::from_slice(&[step.t as i64]);
                let both = unet.forward(&Tensor::cat(&[&x_t, &x_t], 0), &t, &context)?;
                let both = both.chunk(2, 0);
                let noise_pred = guide(&both[0], &both[1], self.diffusion.guidance_scale)?;
                x_t = ddim_step(schedule, step, &x_t, &noise_pred)?.prev_sample;
            }
            self.frozen.vae.decode(&x_t)
        })?;
        let columns = (1..=count).rev().find(|c| count % c == 0 && *c <= 8).unwrap_or(count);
        write_sheet(path, &image.to_device(Device::Cpu), columns)
    }

    fn export(&self, _: &TrainableDiffusion, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let (text, unet) = (&self.diffusion.text, &self.diffusion.unet);
        let text_folder = folder.join("text_encoder");
        let names = |prefix| optimizer.average().filter(move |(n, _)| n.starts_with(prefix));
        let whole: Vec<(&str, Tensor)> = names("text.")
            .map(|(name, tensor)| match name.contains("token_embedding") {
                true => (name, self.vocabulary.expand(tensor)),
                false => (name, tensor.shallow_clone()),
            })
            .collect();
        let weights = whole.iter().map(|(name, tensor)| (*name, tensor));
        write_component(&text_folder, "CLIPTextModel", &text_config(text)?, weights, "text.")?;
        let unet_folder = folder.join("unet");
        write_component(&unet_folder, "UNet2DConditionModel", unet, names("unet."), "unet.")?;
        let FrozenParts { tokenizer_folder, vae_folder, .. } = self.frozen;
        copy_files(tokenizer_folder, &folder.join("tokenizer"), &TOKENIZER_FILES)?;
        copy_files(&vae_folder.join("vae"), &folder.join("vae"), &VAE_FILES)?;
        write_pipeline_files(folder)
    }
}

/// Trains a text encoder and a U-Net together, and writes a whole diffusers folder to `settings.out/model/`, with
/// copies of the frozen parts.
///
/// # Errors
/// A configuration that cannot be built; whatever [`run`] refuses.
pub fn train_diffusion(
    data: &CaptionedLatents,
    frozen: &FrozenParts,
    diffusion: &DiffusionSettings,
    settings: &TrainSettings,
    progress: impl FnMut(&TrainProgress),
) -> Result<Trained> {
    if !(0. ..=1.).contains(&diffusion.caption_dropout) {
        return Err(Error::argument("caption dropout", "0 to 1", diffusion.caption_dropout));
    }
    let tokenizer = frozen.tokenizer;
    let empty = tokenizer.encode("")?.tensor();
    let mut prompts = vec![];
    for prompt in &diffusion.prompts {
        prompts.push(tokenizer.encode(prompt)?.tensor());
    }
    prompts.push(empty.shallow_clone());
    let latents = near(&data.latents, settings.device)?;
    let ids = data.ids.f_to_device(Device::Cpu)?;
    let vocabulary = Vocabulary::of(&ids, &prompts, diffusion.text.vocab_size)?;
    prompts.pop();
    let text = TextConfig { vocab_size: vocabulary.ids.len() as i64, ..diffusion.text.clone() };
    let prompts = match prompts.as_slice() {
        [] => Tensor::zeros([0, 77], (Kind::Int64, Device::Cpu)),
        all => vocabulary.renumber(&Tensor::cat(all, 0)),
    };
    let schedule = Schedule::stable_diffusion();
    let known = vocabulary.ids.clone();
    let build = || {
        let params = Params::fresh(settings.kind, settings.device);
        let (text_encoder, unet) = with_seed(settings.seed, || -> Result<_> {
            let text = TextEncoder::new(&(&params / "text"), &text)?;
            Ok((text, UNet::new(&(&params / "unet"), &diffusion.unet)?))
        })?;
        if let Some(folder) = &settings.from {
            let below = |prefix| move |name: &str| name.strip_prefix(prefix).map(str::to_owned);
            load_initial_weights(
                &params,
                &folder.join("text_encoder"),
                below("text."),
                Some(&known),
            )?;
            load_initial_weights(&params, &folder.join("unet"), below("unet."), None)?;
        }
        let (schedule, min_snr) = (schedule.clone(), diffusion.min_snr);
        Ok((params, TrainableDiffusion { text_encoder, unet, schedule, min_snr }))
    };
    let task = DiffusionTask {
        diffusion,
        batch: settings.batch,
        timesteps: schedule.num_train_timesteps() as i64,
        device: settings.device,
        latents,
        ids: vocabulary.renumber(&ids),
        empty: vocabulary.renumber(&empty),
        prompts,
        vocabulary,
        frozen,
    };
    run(build, settings, &task, progress)
}
