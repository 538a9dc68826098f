//! Opening a model: the parts of a checkpoint, built and checked against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Kind};

use super::StableDiffusion;
use crate::checkpoint::Checkpoint;
use crate::models::clip::TextEncoder;
use crate::models::unet::UNet;
use crate::models::vae::{Vae, VaeConfig};
use crate::tensor_file::json::truth;
use crate::{Error, Result};

/// diffusers' pipelines whose folders open.
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

/// The fields of `model_index.json` that matter here.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name", default)]
    class_name: Option<String>,
    #[serde(default, deserialize_with = "truth")]
    force_zeros_for_empty_prompt: bool,
    #[serde(default)]
    max_noise_level: Option<usize>,
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

    /// Opens the embedded model, `data/tiny` of this project.
    ///
    /// # Errors
    /// As [`StableDiffusion::open`].
    pub fn tiny() -> Result<Self> {
        Self::open(tiny_folder(), Kind::Float, crate::device::pick(None)?.device)
    }

    /// Builds the model of a checkpoint that is already open.
    ///
    /// # Errors
    /// As [`StableDiffusion::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, kind: Kind, device: Device) -> Result<Self> {
        let ModelIndex { class_name, force_zeros_for_empty_prompt, max_noise_level } =
            checkpoint.model_index()?;
        if let Some(class) = class_name.filter(|class| !PIPELINES.contains(&class.as_str())) {
            let message = format!("{class} is not one of {}", PIPELINES.join(", "));
            return Err(Error::config(checkpoint.path.join("model_index.json"), message));
        }
        let scheduler = |name: &str| checkpoint.scheduler(name).transpose();
        let low_res = scheduler("low_res_scheduler")?;
        let scheduler = scheduler("scheduler")?.ok_or_else(|| {
            let message = format!("cannot draw pictures: it is {}", checkpoint.described());
            Error::weights(&checkpoint.path, message)
        })?;
        std::thread::scope(|scope| {
            // Its words are read while the networks' numbers are.
            let place = checkpoint.tokenizer_place("tokenizer");
            let tokenizer = scope.spawn(move || place?.open());
            let tokenizer = || tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic));
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
                tokenizer: tokenizer()?,
                text_encoder,
                tokenizer_2: (second && checkpoint.has_tokenizer("tokenizer_2"))
                    .then(|| checkpoint.tokenizer("tokenizer_2"))
                    .transpose()?,
                text_encoder_2,
                zeros_for_empty_prompt: force_zeros_for_empty_prompt,
                unet,
                vae,
                schedule: scheduler.schedule()?,
                scheduler,
                low_res_schedule: low_res.map(|config| config.schedule()).transpose()?,
                max_noise_level: max_noise_level.unwrap_or(350),
                tiling: None,
                device,
                home: None,
                notes: checkpoint.notes_of_parts(),
                params,
                changed: BTreeSet::new(),
            };
            check_parts(&model, &checkpoint.path)?;
            Ok(model)
        })
    }
}

/// The embedded model's folder: beside the library's source, or what `DIFFUSCOPE_TINY` names.
pub fn tiny_folder() -> PathBuf {
    match std::env::var_os("DIFFUSCOPE_TINY") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join("tiny"),
    }
}

/// Refuses parts that belong to different models.
fn check_parts(model: &StableDiffusion, folder: &Path) -> Result<()> {
    let (text, unet, vae) = (model.text_encoder.config(), model.unet.config(), model.vae.config());
    let fits = |what: &str, a: i64, b: i64| {
        let message = format!("its parts belong to different models: {what}, {a} and {b}");
        if a == b { Ok(()) } else { Err(Error::config(folder, message)) }
    };
    let text_2 = model.text_encoder_2.as_ref().map(TextEncoder::config);
    fits(
        "the text encoders' width and the U-Net's cross_attention_dim",
        text.hidden_size + text_2.map_or(0, |text| text.hidden_size),
        unet.cross_attention_dim,
    )?;
    let added = (text_2, unet.projection_class_embeddings_input_dim, unet.addition_time_embed_dim);
    if let (Some(text), Some(all), Some(each_size)) = added {
        let what = "the second text encoder's projection_dim and the U-Net's pooled width";
        fits(what, text.projection_dim, all - 6 * each_size)?;
    }
    let sdxl = [model.tokenizer_2.is_some(), text_2.is_some(), unet.addition_embed_type.is_some()];
    if sdxl.contains(&true) && sdxl.contains(&false) {
        let message = "a second text encoder, its tokenizer and a U-Net that takes its pooled embedding \
                       (addition_embed_type) belong together; some of them are missing";
        return Err(Error::config(folder, message));
    }
    if model.extra_channels().is_none() {
        let (got, latents) = (unet.in_channels, vae.latent_channels);
        fits("the U-Net's in_channels and the VAE's latent_channels", got, latents)?;
    }
    fits(
        "the VAE's latent_channels and the U-Net's out_channels",
        vae.latent_channels,
        unet.out_channels,
    )
}
