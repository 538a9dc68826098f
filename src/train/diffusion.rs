//! The diffusion model's training: text encoder and U-Net together, on latents encoded once.

use std::path::Path;

use serde_json::json;
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::vae::{write_component, write_sheet};
use super::{Optimizer, Progress, Settings, Task, run};
use crate::forward::add_noise;
use crate::guidance::guide;
use crate::models::clip::{TextConfig, TextEncoder, Tokenizer};
use crate::models::unet::{UNet, UNetConfig};
use crate::models::vae::Vae;
use crate::noise::{standard_normal, with_seed};
use crate::schedule::{Schedule, Spacing, steps, timesteps};
use crate::weights::{Params, write_file};
use crate::{Error, Result};

/// Captioned latents: what the networks learn from.
pub struct Captioned {
    /// Scaled latents [N, 4, h, w].
    pub latents: Tensor,
    /// Token ids of each caption [N, 77].
    pub ids: Tensor,
}

/// Encodes u8 pictures [N, 3, H, W] once: the U-Net then never sees a pixel.
///
/// # Errors
/// Pictures that the VAE cannot encode; captions that are not one a picture.
pub fn encode_once(
    pictures: &Tensor,
    captions: &[String],
    vae: &Vae,
    tokenizer: &Tokenizer,
) -> Result<Captioned> {
    let count = pictures.size()[0];
    if captions.len() as i64 != count {
        return Err(Error::argument(
            "captions",
            format!("{count}, one a picture"),
            captions.len(),
            "",
        ));
    }
    let mut latents = Vec::new();
    for start in (0..count).step_by(256) {
        let some = pictures.narrow(0, start, 256.min(count - start));
        latents.push(no_grad(|| vae.encode(&super::vae::to_range(&some)))?.to_kind(Kind::Float));
    }
    let mut ids = Vec::with_capacity(captions.len() * 77);
    for caption in captions {
        ids.extend(tokenizer.encode(caption)?.ids);
    }
    Ok(Captioned {
        latents: Tensor::cat(&latents, 0),
        ids: Tensor::from_slice(&ids).view([count, 77]),
    })
}

/// `L = || eps - eps_theta(x_t, t, c) ||^2`; Ho et al. 2020, eq. 14.
///
/// # Errors
/// Shapes that differ.
pub fn denoising_loss(noise_pred: &Tensor, noise: &Tensor) -> Result<Tensor> {
    if noise_pred.size() != noise.size() {
        return Err(Error::shape("noise_pred", format!("{:?}", noise.size()), &noise_pred.size()));
    }
    Ok(noise_pred.to_kind(Kind::Float).mse_loss(&noise.to_kind(Kind::Float), Reduction::Mean))
}

/// What of a training is not in [`Settings`].
pub struct Recipe {
    /// The text encoder.
    pub text: TextConfig,
    /// The U-Net.
    pub unet: UNetConfig,
    /// The share of captions that are dropped, so that guidance has an unconditional prediction.
    pub caption_dropout: f64,
    /// Prompts of the sample sheets.
    pub prompts: Vec<String>,
    /// The guidance scale of the sample sheets.
    pub guidance_scale: f64,
}

struct Denoising<'a> {
    text_encoder: TextEncoder,
    unet: UNet,
    schedule: Schedule,
    recipe: &'a Recipe,
    batch: i64,
    data: &'a Captioned,
    tokenizer: &'a Tokenizer,
    vae: &'a Vae,
    /// The folders that the tokenizer and the VAE are copied from.
    from: [&'a Path; 2],
    empty: Tensor,
}

impl Task for Denoising<'_> {
    fn loss(&self, seed: i64) -> Result<(Tensor, Vec<(&'static str, f64)>)> {
        let (count, cpu) = (self.data.latents.size()[0], Device::Cpu);
        let total = self.schedule.num_train_timesteps() as i64;
        let mut shape = self.data.latents.size();
        shape[0] = self.batch;
        let (index, t, noise, dropped) = with_seed(seed, || {
            let index = Tensor::randint(count, [self.batch], (Kind::Int64, cpu));
            let t = Tensor::randint(total, [self.batch], (Kind::Int64, cpu));
            let noise = Tensor::randn(&shape, (Kind::Float, cpu));
            let dropped = Tensor::rand([self.batch, 1], (Kind::Float, cpu));
            (index, t, noise, dropped.lt(self.recipe.caption_dropout))
        });
        let x_0 = self.data.latents.index_select(0, &index);
        let ids = self.empty.where_self(&dropped, &self.data.ids.index_select(0, &index));
        let x_t = add_noise(&self.schedule, &t, &x_0, &noise)?;
        let context = self.text_encoder.encode(&ids)?;
        let noise_pred = self.unet.forward(&x_t, &t, &context)?;
        Ok((denoising_loss(&noise_pred, &noise.to_device(noise_pred.device()))?, Vec::new()))
    }

    /// One picture a prompt, always from the same noise: 20 guided DDIM steps.
    fn sheet(&self, path: &Path) -> Result<()> {
        let count = self.recipe.prompts.len() as i64;
        if count == 0 {
            return Ok(());
        }
        let mut ids = Vec::new();
        for prompt in &self.recipe.prompts {
            ids.push(self.tokenizer.encode(prompt)?.tensor());
        }
        let ids = Tensor::cat(&ids, 0);
        let mut shape = self.data.latents.size();
        shape[0] = count;
        let image = no_grad(|| -> Result<Tensor> {
            let cond = self.text_encoder.encode(&ids)?;
            let uncond = self.text_encoder.encode(&self.empty.expand_as(&ids))?;
            let context = Tensor::cat(&[uncond, cond], 0);
            let mut x_t = standard_normal(&shape, 0)?;
            for step in steps(&timesteps(&self.schedule, 20, Spacing::Leading, 1)?) {
                let t = Tensor::from_slice(&[step.t as i64]);
                let both = self.unet.forward(&Tensor::cat(&[&x_t, &x_t], 0), &t, &context)?;
                let both = both.to_device(Device::Cpu).chunk(2, 0);
                let noise_pred = guide(&both[0], &both[1], self.recipe.guidance_scale)?;
                x_t =
                    crate::sampler::ddim_step(&self.schedule, step, &x_t, &noise_pred)?.prev_sample;
            }
            self.vae.decode(&x_t)
        })?;
        let columns = (1..=count).rev().find(|c| count % c == 0 && *c <= 8).unwrap_or(count);
        write_sheet(path, &image.to_device(Device::Cpu), columns)
    }

    fn export(&self, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let (text, unet) = (&self.recipe.text, &self.recipe.unet);
        let text_folder = folder.join("text_encoder");
        let names = |prefix| optimizer.average().filter(move |(n, _)| n.starts_with(prefix));
        write_component(&text_folder, "CLIPTextModel", text, names("text."), "text.")?;
        let unet_folder = folder.join("unet");
        write_component(&unet_folder, "UNet2DConditionModel", unet, names("unet."), "unet.")?;
        let [tokenizer, vae] = self.from;
        copy_files(tokenizer, &folder.join("tokenizer"), &TOKENIZER_FILES)?;
        copy_files(&vae.join("vae"), &folder.join("vae"), &VAE_FILES)?;
        let scheduler = folder.join("scheduler");
        std::fs::create_dir_all(&scheduler).map_err(|e| Error::io(&scheduler, e))?;
        write_json(&scheduler.join("scheduler_config.json"), &scheduler_config())?;
        write_json(&folder.join("model_index.json"), &model_index())
    }
}

const VAE_FILES: [&str; 2] = ["config.json", "diffusion_pytorch_model.safetensors"];
const TOKENIZER_FILES: [&str; 4] =
    ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

fn copy_files(from: &Path, to: &Path, files: &[&str]) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for file in files {
        let source = from.join(file);
        let bytes = std::fs::read(&source).map_err(|e| Error::io(&source, e))?;
        write_file(&to.join(file), &bytes)?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    write_file(path, format!("{value:#}\n").as_bytes())
}

/// Stable Diffusion's own schedule.
fn scheduler_config() -> serde_json::Value {
    json!({
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "clip_sample": false,
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": null,
    })
}

fn model_index() -> serde_json::Value {
    json!({
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [null, null],
        "image_encoder": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

/// Trains text encoder and U-Net together and leaves a whole diffusers folder in
/// `settings.out/model/`, with copies of the tokenizer's files in `tokenizer_folder` and of the `vae/`
/// in `vae_folder`.
///
/// # Errors
/// A configuration that cannot be built; whatever [`run`] refuses.
#[allow(clippy::too_many_arguments)]
pub fn train_diffusion(
    data: &Captioned,
    recipe: &Recipe,
    tokenizer_folder: &Path,
    vae_folder: &Path,
    tokenizer: &Tokenizer,
    vae: &Vae,
    settings: &Settings,
    kind: Kind,
    device: Device,
    progress: impl FnMut(&Progress),
) -> Result<()> {
    if !(0. ..=1.).contains(&recipe.caption_dropout) {
        return Err(Error::argument("caption dropout", "0 to 1", recipe.caption_dropout, ""));
    }
    let params = Params::fresh(kind, device);
    let (text_encoder, unet) = with_seed(settings.seed, || -> Result<_> {
        let text = TextEncoder::new(&(&params / "text"), &recipe.text)?;
        Ok((text, UNet::new(&(&params / "unet"), &recipe.unet)?))
    })?;
    let empty = tokenizer.encode("")?.tensor();
    let task = Denoising {
        text_encoder,
        unet,
        schedule: Schedule::stable_diffusion(),
        recipe,
        batch: settings.batch,
        data,
        tokenizer,
        vae,
        from: [tokenizer_folder, vae_folder],
        empty,
    };
    run(&params, settings, &task, progress)
}
