//! The trained networks as a diffusers folder.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::models::clip::TextConfig;
use crate::tensor_file::write_tensors;
use crate::write_file::write_file;
use crate::{Error, Result};

/// Writes a component of a diffusers folder: `config.json` and f16 weights. Only those whose names start
/// with `prefix` are written, without it.
pub(super) fn write_component<'a>(
    folder: &Path,
    class: &str,
    config: &impl serde::Serialize,
    weights: impl Iterator<Item = (&'a str, &'a Tensor)>,
    prefix: &str,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join("config.json");
    let mut json = serde_json::to_value(config).map_err(|e| Error::config(&path, e))?;
    if let Some(keys) = json.as_object_mut() {
        let key = if class.starts_with("CLIP") { "architectures" } else { "_class_name" };
        let value = match key {
            "architectures" => json!([class]),
            _ => json!(class),
        };
        keys.insert(key.into(), value);
    }
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::config(&path, e))?;
    let weights: Vec<(String, Tensor)> = weights
        .filter_map(|(name, t)| {
            Some((name.strip_prefix(prefix)?.to_owned(), t.to_kind(Kind::Half)))
        })
        .collect();
    let stem = if class.starts_with("CLIP") { "model" } else { "diffusion_pytorch_model" };
    write_tensors(folder.join(format!("{stem}.safetensors")), &weights, &[])?;
    write_file(&path, format!("{text}\n").as_bytes())
}

pub(super) const VAE_FILES: [&str; 2] = ["config.json", "diffusion_pytorch_model.safetensors"];
pub(super) const TOKENIZER_FILES: [&str; 4] =
    ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

pub(super) fn copy_files(from: &Path, to: &Path, files: &[&str]) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for file in files {
        let source = from.join(file);
        let bytes = std::fs::read(&source).map_err(|e| Error::io(&source, e))?;
        write_file(to.join(file), &bytes)?;
    }
    Ok(())
}

/// Writes the scheduler's configuration and `model_index.json`.
pub(super) fn write_pipeline_files(folder: &Path) -> Result<()> {
    let scheduler = folder.join("scheduler");
    std::fs::create_dir_all(&scheduler).map_err(|e| Error::io(&scheduler, e))?;
    write_json(&scheduler.join("scheduler_config.json"), &scheduler_config())?;
    write_json(&folder.join("model_index.json"), &model_index())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_file(path, format!("{value:#}\n").as_bytes())
}

/// The encoder's configuration, with the keys that transformers needs besides.
pub(super) fn text_config(text: &TextConfig) -> Result<Value> {
    let mut config = serde_json::to_value(text).map_err(|e| Error::config("config.json", e))?;
    if let Some(keys) = config.as_object_mut() {
        keys.insert("model_type".into(), json!("clip_text_model"));
        // Otherwise transformers would compute in the file's f16 while the U-Net computes in f32.
        keys.insert("dtype".into(), json!("float32"));
        keys.insert("projection_dim".into(), json!(text.hidden_size));
        keys.insert("bos_token_id".into(), json!(49406));
        keys.insert("eos_token_id".into(), json!(49407));
        keys.insert("pad_token_id".into(), json!(49407));
    }
    Ok(config)
}

/// Stable Diffusion's own schedule.
fn scheduler_config() -> Value {
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

fn model_index() -> Value {
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
