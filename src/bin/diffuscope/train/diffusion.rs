//! `diffuscope train diffusion`: the text encoder and the U-Net.

use std::path::PathBuf;

use clap::Args;
use diffuscope::device::check_memory;
use diffuscope::models::clip::{TextConfig, Tokenizer};
use diffuscope::models::unet::UNetConfig;
use diffuscope::models::vae::Vae;
use diffuscope::tensor_file::{TensorFile, weight_files};
use diffuscope::train::diffusion::{DiffusionSettings, FrozenParts, train_diffusion};
use diffuscope::train::{CaptionedLatents, TrainSettings};
use diffuscope::{Error, Result};
use tch::{Device, Kind};

use super::args::TrainArgs;
use super::progress::show_progress;
use super::scenes::{Composer, TrainingScenes};
use crate::terminal::say;

#[derive(Args)]
pub struct DiffusionArgs {
    #[command(flatten)]
    common: TrainArgs,
    /// Folder with the `vae/` of `diffuscope train vae`
    #[arg(long)]
    vae: PathBuf,
    /// Folder of CLIP's tokenizer
    #[arg(long, default_value = "data/tokenizer")]
    tokenizer: PathBuf,
    /// Channels of each level of the U-Net
    #[arg(long, value_delimiter = ',', default_values_t = [64, 128, 192])]
    widths: Vec<i64>,
    /// Residual blocks per level
    #[arg(long, default_value_t = 2)]
    layers: i64,
    /// Attention heads
    #[arg(long, default_value_t = 4)]
    heads: i64,
    /// Width of the text encoder
    #[arg(long, default_value_t = 128)]
    text_width: i64,
    /// Layers of the text encoder
    #[arg(long, default_value_t = 2)]
    text_layers: i64,
    /// Share of captions that are replaced by the empty one
    #[arg(long, default_value_t = 0.1)]
    caption_dropout: f64,
    /// Weight each timestep's loss by min(SNR, G) / SNR, so that nearly clean latents do not dominate; without this
    /// option all timesteps have the same weight
    #[arg(long, value_name = "G")]
    min_snr: Option<f64>,
    /// Guidance scale of the sample sheets
    #[arg(long, default_value_t = 5.)]
    guidance: f64,
}

pub fn run(args: DiffusionArgs) -> Result<()> {
    let settings = args.common.settings(&[("vae", &args.vae), ("tokenizer", &args.tokenizer)])?;
    let vae = Vae::open(args.vae.join("vae"), Kind::Float, settings.device)?;
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let latents = captioned_latents(&args, &settings, &tokenizer)?;
    let cells = args.common.size as i64 / vae.config().factor();
    let frozen = FrozenParts {
        tokenizer: &tokenizer,
        tokenizer_folder: &args.tokenizer,
        vae: &vae,
        vae_folder: &args.vae,
    };
    let progress = show_progress(settings.steps);
    say(&train_diffusion(&latents, &frozen, &args.diffusion_settings(cells), &settings, progress)?
        .to_string());
    Ok(())
}

impl DiffusionArgs {
    /// `cells`: the side of the latents.
    fn diffusion_settings(&self, cells: i64) -> DiffusionSettings {
        let attends: Vec<bool> = (0..self.widths.len()).map(|i| i > 0).collect();
        DiffusionSettings {
            text: TextConfig {
                vocab_size: 49408,
                hidden_size: self.text_width,
                // What is too large stays so, and is refused where the configuration is checked.
                intermediate_size: self.text_width.saturating_mul(4),
                num_hidden_layers: self.text_layers,
                num_attention_heads: self.heads,
                max_position_embeddings: 77,
                hidden_act: "quick_gelu".into(),
                layer_norm_eps: 1e-5,
                eos_token_id: 49407,
                projection_dim: self.text_width,
            },
            unet: UNetConfig::narrow(
                &self.widths,
                &attends,
                self.layers,
                self.heads,
                self.text_width,
                cells,
            ),
            caption_dropout: self.caption_dropout,
            min_snr: self.min_snr,
            prompts: PROMPTS.map(str::to_owned).to_vec(),
            guidance_scale: self.guidance,
        }
    }
}

/// The latents and token ids of the scenes: encoded once, and kept in the out folder for the next start.
fn captioned_latents(
    args: &DiffusionArgs,
    settings: &TrainSettings,
    tokenizer: &Tokenizer,
) -> Result<CaptionedLatents> {
    let folder = args.vae.join("vae");
    let vae = Vae::open(&folder, settings.kind, settings.device)?;
    let weights = weight_files(&folder)?.remove(0);
    let sum = TensorFile::open(&weights)?.metadata().get("crc32").cloned().unwrap_or_default();
    let TrainArgs { scenes, size, seed, out, .. } = &args.common;
    let kind = settings.kind;
    let source =
        format!("{scenes} scenes of {size} pixels, paraphrased, seed {seed}, VAE {sum}, {kind:?}");
    let path = out.join("latents.safetensors");
    if let Some(latents) = CaptionedLatents::load(&path, &source)? {
        return Ok(latents);
    }
    // The pictures of all of them at once would take gigabytes.
    let part = |scenes: Result<TrainingScenes>| {
        let TrainingScenes { pictures, captions, .. } = scenes?;
        CaptionedLatents::encode(&pictures, &captions, &vae, tokenizer)
    };
    let side = (args.common.size as i64 / vae.config().factor()) as f64;
    let bytes =
        *scenes as f64 * (8. * vae.config().latent_channels as f64 * side * side + 77. * 16.);
    check_memory(Device::Cpu, format!("the latents of {scenes} scenes"), bytes)
        .map_err(|e| e.hint("train on fewer scenes, or on smaller ones"))?;
    let parts = Composer::new(&args.common, 4096)?.parts().map(part).collect::<Result<Vec<_>>>()?;
    let latents = CaptionedLatents::cat(&parts)?;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    latents.save(&path, &source)?;
    Ok(latents)
}

/// The prompts of the sample sheets, which use every part of the grammar.
const PROMPTS: [&str; 16] = [
    "a red apple on the grass, flat",
    "a cat on the beach, cartoon",
    "a blue fish on the sea, 3d",
    "a rocket at night, flat",
    "a snowman in the snow, cartoon",
    "a house at sunset, 3d",
    "a yellow star on a blue background, flat",
    "a green umbrella on a pink background, 3d",
    "two strawberries on the grass, cartoon",
    "three donuts on a yellow background, flat",
    "a small purple mushroom in the snow, 3d",
    "a dog left of a ball on the grass, cartoon",
    "a pink cake left of a blue key, flat",
    "a crown above a green diamond at night, 3d",
    "a butterfly above a rose on the grass, flat",
    "an orange fox in the snow, cartoon",
];
