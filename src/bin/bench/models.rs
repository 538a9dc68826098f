//! Models of published size with random weights: as large and as slow as the real ones, and made in a minute.

use std::path::Path;

use clap::ValueEnum;
use diffuscope::models::clip::{TextConfig, TextEncoder};
use diffuscope::models::params::Params;
use diffuscope::models::unet::{UNet, UNetConfig};
use diffuscope::models::vae::{Vae, VaeConfig};
use diffuscope::noise::with_seed;
use diffuscope::pipeline::tiny_folder;
use diffuscope::tensor_file::write_tensors;
use diffuscope::write_file::write_file;
use diffuscope::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tch::{Device, Kind};

/// A model that can be made.
#[derive(Clone, Copy, ValueEnum)]
pub enum RandomModel {
    /// Stable Diffusion 1.5, whole.
    Sd15,
    /// The U-Net of Stable Diffusion XL.
    Sdxl,
}

/// Writes the model's folder.
pub fn make(model: RandomModel, folder: &Path) -> Result<()> {
    match model {
        RandomModel::Sd15 => {
            component::<UNetConfig>(folder, "unet", sd15_unet(), 1, |p, c| {
                UNet::new(p, c).map(drop)
            })?;
            component::<VaeConfig>(folder, "vae", sd15_vae(), 2, |p, c| Vae::new(p, c).map(drop))?;
            component::<TextConfig>(folder, "text_encoder", sd15_text(), 3, |p, c| {
                TextEncoder::new(p, c).map(drop)
            })?;
            let embedded = tiny_folder();
            copy(&embedded.join("tokenizer"), &folder.join("tokenizer"))?;
            copy(&embedded.join("scheduler"), &folder.join("scheduler"))?;
            let index = embedded.join("model_index.json");
            let bytes = std::fs::read(&index).map_err(|e| Error::io(&index, e))?;
            write_file(folder.join("model_index.json"), &bytes)
        }
        RandomModel::Sdxl => component::<UNetConfig>(folder, "unet", sdxl_unet(), 1, |p, c| {
            UNet::new(p, c).map(drop)
        }),
    }
}

fn sd15_unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768,
        "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "down_block_types":
            ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types":
            ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    })
}

fn sdxl_unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "sample_size": 128, "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": true, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    })
}

fn sd15_vae() -> Value {
    json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    })
}

fn sd15_text() -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "dtype": "float32",
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768,
        "vocab_size": 49408, "max_position_embeddings": 77,
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    })
}

/// Builds a network with fresh weights and writes them; its configuration last, so that a part of a folder is none.
fn component<C: Serialize + DeserializeOwned>(
    folder: &Path,
    name: &str,
    config: Value,
    seed: i64,
    build: impl FnOnce(&Params, &C) -> Result<()>,
) -> Result<()> {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let path = folder.join("config.json");
    let params = Params::fresh(Kind::Half, Device::Cpu);
    let read: C = serde_json::from_value(config.clone()).map_err(|e| Error::config(&path, e))?;
    with_seed(seed, || build(&params, &read))?;
    let stem = if name == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
    write_tensors(folder.join(format!("{stem}.safetensors")), &params.variables(), &[])?;
    write_file(&path, format!("{config:#}\n").as_bytes())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for entry in std::fs::read_dir(from).map_err(|e| Error::io(from, e))?.flatten() {
        let bytes = std::fs::read(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        write_file(to.join(entry.file_name()), &bytes)?;
    }
    Ok(())
}
