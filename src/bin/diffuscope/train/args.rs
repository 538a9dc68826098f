//! The options that all trainings have.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use diffuscope::device::training_kind;
use diffuscope::train::{OptimizerConfig, TrainSettings};
use diffuscope::{Error, Result};
use tch::{Device, Kind};

use crate::options::{DeviceOptionArgs, Dtype, Seed};
use crate::out::check_apart;

#[derive(Args)]
pub struct TrainArgs {
    /// Folder for the log, the checkpoint, the sample sheets and the trained model; run the same command again to
    /// resume after an interruption
    #[arg(long)]
    pub out: PathBuf,
    /// Steps of the whole training
    #[arg(long)]
    steps: u64,
    /// Pictures per step
    #[arg(long, default_value_t = 32)]
    batch: i64,
    /// The highest learning rate
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
    /// Steps during which the learning rate rises
    #[arg(long, default_value_t = 200)]
    warmup: u64,
    /// Number of scenes to train on
    #[arg(long, default_value_t = 40_000)]
    pub scenes: usize,
    /// Side of the pictures, in pixels
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// Seed of the initial weights and of all random numbers
    #[arg(long, default_value = "0", allow_negative_numbers = true)]
    pub seed: Seed,
    /// The dtype that the network computes in; its weights are kept in f32 [default: bf16 where the device
    /// computes it quicker than f32, otherwise f32]
    #[arg(long, value_parser = trainable_dtype())]
    dtype: Option<Dtype>,
    #[command(flatten)]
    device: DeviceOptionArgs,
    /// Replicas of the network that are trained in parallel, each on its own core [default: on a CPU, the number of
    /// libtorch's threads; otherwise 1]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Decay of the moving average of the weights
    #[arg(long, default_value_t = 0.999)]
    ema: f64,
    /// Update the inner layers by Muon instead of AdamW
    #[arg(long)]
    muon: bool,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 5.)]
    checkpoint_minutes: f64,
    /// Steps between sample sheets
    #[arg(long, default_value_t = 1000)]
    sheet_every: u64,
    /// Diffusers folder of a trained model to start from, instead of fresh weights
    #[arg(long)]
    from: Option<PathBuf>,
    /// Stop after this step, with a checkpoint; the same command without this option continues
    #[arg(long)]
    stop_at: Option<u64>,
}

/// f16 is missing: gradients underflow in it.
fn trainable_dtype() -> impl TypedValueParser<Value = Dtype> {
    PossibleValuesParser::new(["f32", "bf16"]).try_map(|name| Dtype::from_str(&name, false))
}

impl TrainArgs {
    /// The settings of the training, on a device that it tells the user. `reads` are the folders that it reads beside
    /// `--from`, and what they are.
    pub fn settings(&self, reads: &[(&str, &Path)]) -> Result<TrainSettings> {
        let model = self.out.join("model");
        let from = self.from.iter().map(|from| ("from", from.as_path()));
        let reads: Vec<_> = reads.iter().copied().chain(from).collect();
        check_apart(&[("--out", &model)], &reads)?;
        let minutes = self.checkpoint_minutes;
        if !(0. ..=1e6).contains(&minutes) {
            return Err(Error::argument("--checkpoint-minutes", "0 to 1000000", minutes));
        }
        let (device, kind) = self.device()?;
        let cores = if device == Device::Cpu { tch::get_num_threads().max(1) as usize } else { 1 };
        Ok(TrainSettings {
            out: self.out.clone(),
            steps: self.steps,
            batch: self.batch,
            learning_rate: self.rate,
            warmup: self.warmup,
            seed: self.seed.signed(),
            checkpoint_every: Duration::from_secs_f64(minutes * 60.),
            sheet_every: self.sheet_every,
            stop_at: self.stop_at,
            workers: self.workers.map_or(cores, NonZeroUsize::get),
            from: self.from.clone(),
            kind,
            device,
            optimizer: OptimizerConfig {
                ema_decay: self.ema,
                muon: self.muon,
                ..OptimizerConfig::default()
            },
        })
    }

    /// The device of the network, and the dtype that it computes in.
    fn device(&self) -> Result<(Device, Kind)> {
        let picked = self.device.pick()?;
        let kind = self.dtype.map_or_else(|| training_kind(picked.device), Dtype::kind);
        let dtype = if kind == Kind::Float { "f32" } else { "bf16" };
        eprintln!("device: {picked}; the network computes in {dtype}");
        Ok((picked.device, kind))
    }
}
