//! `diffuscope train vae`: the autoencoder.

use std::path::PathBuf;

use clap::Args;
use diffuscope::Result;
use diffuscope::models::vae::VaeConfig;
use diffuscope::train::vae::{VaeLossWeights, train_vae};

use super::args::TrainArgs;
use super::progress::show_progress;
use super::scenes::TrainingScenes;
use crate::terminal::say;

#[derive(Args)]
pub struct VaeArgs {
    #[command(flatten)]
    common: TrainArgs,
    /// Channels of each level; each level but the last halves the picture
    #[arg(long, value_delimiter = ',', default_values_t = [32, 64, 96])]
    widths: Vec<i64>,
    /// Residual blocks per level
    #[arg(long, default_value_t = 1)]
    layers: i64,
    /// Groups of the group norms
    #[arg(long, default_value_t = 16)]
    groups: i64,
    /// Weight of the edges in the loss
    #[arg(long, default_value_t = 1.)]
    edge: f64,
    /// Weight of the latents' divergence from the standard normal distribution in the loss
    #[arg(long, default_value_t = 1e-4)]
    kl: f64,
    /// A judge's folder: the distance of a picture and its reconstruction in the judge's feature maps becomes a part of
    /// the loss
    #[arg(long, value_name = "FOLDER")]
    judge: Option<PathBuf>,
    /// Weight of that distance in the loss
    #[arg(long, default_value_t = 0.1)]
    perceptual: f64,
}

pub fn run(args: VaeArgs) -> Result<()> {
    let levels = args.widths.len();
    let config = VaeConfig {
        block_out_channels: args.widths.clone(),
        down_block_types: vec!["DownEncoderBlock2D".into(); levels],
        up_block_types: vec!["UpDecoderBlock2D".into(); levels],
        layers_per_block: args.layers,
        norm_num_groups: args.groups,
        sample_size: args.common.size as i64,
        scaling_factor: 1.,
        ..VaeConfig::default()
    };
    let judge: Vec<_> = args.judge.iter().map(|judge| ("judge", judge.as_path())).collect();
    let settings = args.common.settings(&judge)?;
    let scenes = TrainingScenes::compose(&args.common)?;
    let VaeArgs { edge, kl, perceptual, judge, .. } = args;
    let weights = VaeLossWeights { edge, kl, perceptual, judge };
    let progress = show_progress(settings.steps);
    say(&train_vae(&scenes.pictures, &config, &weights, &settings, progress)?.to_string());
    Ok(())
}
