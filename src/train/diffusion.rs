//! The diffusion model's training: text encoder and U-Net together, on latents encoded once.

use std::path::Path;

use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};

use super::run::begin_from;
use super::vae::{write_component, write_sheet};
use super::{Learner, Optimizer, Parts, Progress, Settings, Task, run};
use crate::forward::add_noise;
use crate::guidance::guide;
use crate::models::clip::{TextConfig, TextEncoder, Tokenizer};
use crate::models::unet::{UNet, UNetConfig};
use crate::models::vae::Vae;
use crate::noise::{standard_normal, with_seed};
use crate::schedule::{Schedule, Spacing, steps, timesteps};
use crate::weights::{Params, TensorFile, write_file, write_tensors};
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

impl Captioned {
    /// Writes what was encoded, marked with what it was encoded from.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path, source: &str) -> Result<()> {
        let tensors = [("latents", &self.latents), ("ids", &self.ids)]
            .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        write_tensors(path, &tensors, &[("source".into(), source.into())])
    }

    /// Reads it back if it was encoded from the same source.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn load(path: &Path, source: &str) -> Result<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        let file = TensorFile::open(path)?;
        if file.metadata().get("source").map(String::as_str) != Some(source) {
            return Ok(None);
        }
        Ok(Some(Self { latents: file.tensor("latents")?, ids: file.tensor("ids")? }))
    }
}

/// `L = || eps - eps_theta(x_t, t, c) ||^2`, averaged over all numbers of a sample; Ho et al. 2020, eq. 14.
///
/// # Shapes
/// `noise_pred`, `noise` [B, ...]; returns `[B]` in f32.
/// # Errors
/// Shapes that differ.
pub fn denoising_loss(noise_pred: &Tensor, noise: &Tensor) -> Result<Tensor> {
    if noise_pred.size() != noise.size() {
        return Err(Error::shape("noise_pred", format!("{:?}", noise.size()), &noise_pred.size()));
    }
    let wide = |x: &Tensor| x.to_kind(Kind::Float);
    Ok((wide(noise_pred) - wide(noise)).square().flatten(1, -1).mean_dim(-1, false, Kind::Float))
}

/// What each timestep's loss is multiplied with, so that those at which hardly any noise is left do not
/// take all of the network's strength.
///
/// ```text
/// w_t = min(SNR_t, gamma) / SNR_t      Hang et al. 2023, section 3.4, for a prediction of the noise
/// ```
///
/// # Shapes
/// `t` `[B]` int64; returns `[B]` in f32.
/// # Errors
/// `gamma` that is not above 0; `t` outside `0..num_train_timesteps`.
pub fn min_snr_weight(s: &Schedule, t: &Tensor, gamma: f64) -> Result<Tensor> {
    if !(gamma.is_finite() && gamma > 0.) {
        return Err(Error::argument("min-SNR gamma", "above 0", gamma, ""));
    }
    let all: Vec<f32> = s.snr().into_iter().map(|snr| (snr.min(gamma) / snr) as f32).collect();
    let total = all.len() as i64;
    if t.numel() == 0 || t.min().int64_value(&[]) < 0 || t.max().int64_value(&[]) >= total {
        return Err(Error::argument("t", format!("timesteps in 0..{total}"), "others", ""));
    }
    Ok(Tensor::from_slice(&all).index_select(0, &t.to_device(Device::Cpu)))
}

/// The part of the vocabulary that the captions use. Only its rows of the token embedding are
/// trained: 49408 rows that never change would cost as much as the U-Net.
struct Vocabulary {
    /// Ids in CLIP's numbering, ascending; their places are the numbering of the training.
    ids: Vec<i64>,
    /// The number of ids in CLIP's numbering.
    size: i64,
}

impl Vocabulary {
    fn of(ids: &Tensor, more: &[Tensor], size: i64) -> Result<Self> {
        let mut all: Vec<i64> = Vec::try_from(ids.reshape([-1]))?;
        for ids in more {
            all.extend(Vec::<i64>::try_from(ids.reshape([-1]))?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self { ids: all, size })
    }

    /// CLIP's ids to the training's; every id is known.
    fn renumber(&self, ids: &Tensor) -> Tensor {
        ids.bucketize(&Tensor::from_slice(&self.ids), false, false)
    }

    /// The trained rows in a table of the whole vocabulary; the rows of words that no caption has
    /// are zero, they say nothing.
    fn expand(&self, rows: &Tensor) -> Tensor {
        let rows = rows.to_device(Device::Cpu);
        Tensor::zeros([self.size, rows.size()[1]], (rows.kind(), Device::Cpu)).index_copy(
            0,
            &Tensor::from_slice(&self.ids),
            &rows,
        )
    }
}

/// What of a training is not in [`Settings`].
pub struct Recipe {
    /// The text encoder.
    pub text: TextConfig,
    /// The U-Net.
    pub unet: UNetConfig,
    /// The share of captions that are dropped, so that guidance has an unconditional prediction.
    pub caption_dropout: f64,
    /// The gamma of [`min_snr_weight`]; without it all timesteps weigh the same.
    pub min_snr: Option<f64>,
    /// Prompts of the sample sheets.
    pub prompts: Vec<String>,
    /// The guidance scale of the sample sheets.
    pub guidance_scale: f64,
}

struct Denoising<'a> {
    recipe: &'a Recipe,
    batch: i64,
    timesteps: i64,
    data: &'a Captioned,
    vocabulary: Vocabulary,
    /// The caption's ids, the prompts' and the empty one's, in the training's numbering.
    ids: Tensor,
    prompts: Tensor,
    empty: Tensor,
    vae: &'a Vae,
    /// The folders that the tokenizer and the VAE are copied from.
    from: [&'a Path; 2],
}

struct Denoiser {
    text_encoder: TextEncoder,
    unet: UNet,
    schedule: Schedule,
    min_snr: Option<f64>,
}

impl Learner for Denoiser {
    /// Of latents, timesteps, noise and token ids.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, Parts)> {
        let [x_0, t, noise, ids] = batch else {
            return Err(Error::argument("batch", "latents, t, noise and ids", batch.len(), ""));
        };
        let x_t = add_noise(&self.schedule, t, x_0, noise)?;
        let context = self.text_encoder.encode(ids)?;
        let noise_pred = self.unet.forward(&x_t, t, &context)?;
        let loss = denoising_loss(&noise_pred, &noise.to_device(noise_pred.device()))?;
        let plain = loss.mean(Kind::Float);
        let Some(gamma) = self.min_snr else { return Ok((plain, Vec::new())) };
        let weight = min_snr_weight(&self.schedule, t, gamma)?.to_device(loss.device());
        let parts = vec![("unweighted", plain.double_value(&[]))];
        Ok(((loss * weight).mean(Kind::Float), parts))
    }
}

impl Task for Denoising<'_> {
    type Network = Denoiser;

    fn batch(&self, seed: i64) -> Result<Vec<Tensor>> {
        let (count, cpu) = (self.data.latents.size()[0], Device::Cpu);
        let mut shape = self.data.latents.size();
        shape[0] = self.batch;
        let (index, t, noise, dropped) = with_seed(seed, || {
            let index = Tensor::randint(count, [self.batch], (Kind::Int64, cpu));
            let t = Tensor::randint(self.timesteps, [self.batch], (Kind::Int64, cpu));
            let noise = Tensor::randn(&shape, (Kind::Float, cpu));
            let dropped = Tensor::rand([self.batch, 1], (Kind::Float, cpu));
            (index, t, noise, dropped.lt(self.recipe.caption_dropout))
        });
        let x_0 = self.data.latents.index_select(0, &index);
        let ids = self.empty.where_self(&dropped, &self.ids.index_select(0, &index));
        Ok(vec![x_0, t, noise, ids])
    }

    /// One picture a prompt, always from the same noise: 20 guided DDIM steps.
    fn sheet(&self, network: &Denoiser, path: &Path) -> Result<()> {
        let Denoiser { text_encoder, unet, schedule, .. } = network;
        let count = self.recipe.prompts.len() as i64;
        if count == 0 {
            return Ok(());
        }
        let mut shape = self.data.latents.size();
        shape[0] = count;
        let image = no_grad(|| -> Result<Tensor> {
            let cond = text_encoder.encode(&self.prompts)?;
            let uncond = text_encoder.encode(&self.empty.expand_as(&self.prompts))?;
            let context = Tensor::cat(&[uncond, cond], 0);
            let mut x_t = standard_normal(&shape, 0)?;
            for step in steps(&timesteps(schedule, 20, Spacing::Leading, 1)?) {
                let t = Tensor::from_slice(&[step.t as i64]);
                let both = unet.forward(&Tensor::cat(&[&x_t, &x_t], 0), &t, &context)?;
                let both = both.to_device(Device::Cpu).chunk(2, 0);
                let noise_pred = guide(&both[0], &both[1], self.recipe.guidance_scale)?;
                x_t = crate::sampler::ddim_step(schedule, step, &x_t, &noise_pred)?.prev_sample;
            }
            self.vae.decode(&x_t)
        })?;
        let columns = (1..=count).rev().find(|c| count % c == 0 && *c <= 8).unwrap_or(count);
        write_sheet(path, &image.to_device(Device::Cpu), columns)
    }

    fn export(&self, _: &Denoiser, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let (text, unet) = (&self.recipe.text, &self.recipe.unet);
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

/// The encoder's configuration and what transformers wants to be told besides.
fn text_config(text: &TextConfig) -> Result<serde_json::Value> {
    let mut config = serde_json::to_value(text).map_err(|e| Error::config("config.json", e))?;
    if let Some(keys) = config.as_object_mut() {
        keys.insert("model_type".into(), json!("clip_text_model"));
        // transformers would compute in the file's f16 otherwise, and the U-Net beside it in f32.
        keys.insert("dtype".into(), json!("float32"));
        keys.insert("projection_dim".into(), json!(text.hidden_size));
        keys.insert("bos_token_id".into(), json!(49406));
        keys.insert("eos_token_id".into(), json!(49407));
        keys.insert("pad_token_id".into(), json!(49407));
    }
    Ok(config)
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
    let empty = tokenizer.encode("")?.tensor();
    let mut prompts = vec![];
    for prompt in &recipe.prompts {
        prompts.push(tokenizer.encode(prompt)?.tensor());
    }
    prompts.push(empty.shallow_clone());
    let vocabulary = Vocabulary::of(&data.ids, &prompts, recipe.text.vocab_size)?;
    prompts.pop();
    let text = TextConfig { vocab_size: vocabulary.ids.len() as i64, ..recipe.text.clone() };
    let prompts = match prompts.as_slice() {
        [] => Tensor::zeros([0, 77], (Kind::Int64, Device::Cpu)),
        all => vocabulary.renumber(&Tensor::cat(all, 0)),
    };
    let schedule = Schedule::stable_diffusion();
    let rows = vocabulary.ids.clone();
    let build = || {
        let params = Params::fresh(kind, device);
        let (text_encoder, unet) = with_seed(settings.seed, || -> Result<_> {
            let text = TextEncoder::new(&(&params / "text"), &text)?;
            Ok((text, UNet::new(&(&params / "unet"), &recipe.unet)?))
        })?;
        if let Some(folder) = &settings.from {
            let below = |prefix| move |name: &str| name.strip_prefix(prefix).map(str::to_owned);
            begin_from(&params, &folder.join("text_encoder"), below("text."), Some(&rows))?;
            begin_from(&params, &folder.join("unet"), below("unet."), None)?;
        }
        let (schedule, min_snr) = (schedule.clone(), recipe.min_snr);
        Ok((params, Denoiser { text_encoder, unet, schedule, min_snr }))
    };
    let task = Denoising {
        recipe,
        batch: settings.batch,
        timesteps: schedule.num_train_timesteps() as i64,
        ids: vocabulary.renumber(&data.ids),
        empty: vocabulary.renumber(&empty),
        prompts,
        vocabulary,
        data,
        vae,
        from: [tokenizer_folder, vae_folder],
    };
    run(build, settings, &task, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_one_until_the_signal_is_gamma_times_the_noise() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let t: Vec<i64> = vec![0, 100, 999];
        let weight = Vec::<f32>::try_from(min_snr_weight(&s, &Tensor::from_slice(&t), 5.)?)?;
        for (t, weight) in t.into_iter().zip(weight) {
            let a = s.alphas_cumprod()[t as usize];
            let snr = a / (1. - a);
            assert!((f64::from(weight) - (5. / snr).min(1.)).abs() < 1e-6, "t {t}: {weight}");
        }
        for (t, gamma) in [(1000, 5.), (-1, 5.), (0, 0.), (0, f64::NAN)] {
            assert!(min_snr_weight(&s, &Tensor::from_slice(&[t as i64]), gamma).is_err());
        }
        Ok(())
    }
}
