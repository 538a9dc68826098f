//! How a network is trained.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tch::{Device, Kind};

use super::optimizer::OptimizerConfig;
use crate::device::check_present;
use crate::{Error, Result};

/// How long, how fast and where a network is trained.
#[derive(Clone)]
pub struct TrainSettings {
    /// The folder for the log, the checkpoint, the sheets and the network.
    pub out: PathBuf,
    /// The number of steps of the whole training, including those before an interruption.
    pub steps: u64,
    /// Pictures per step.
    pub batch: i64,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps during which the rate rises from 0. Afterwards it falls to nearly 0 along half a cosine.
    pub warmup: u64,
    /// The seed of the fresh weights and of all random numbers.
    pub seed: i64,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Steps between two sheets of samples.
    pub sheet_every: u64,
    /// Stop after this step, with a checkpoint, although the training is longer.
    pub stop_at: Option<u64>,
    /// Replicas of the network that are trained in parallel, each on its own core with its share of a batch.
    pub workers: usize,
    /// Start from the networks of this diffusers folder instead of fresh ones. A checkpoint takes precedence.
    pub from: Option<PathBuf>,
    /// The dtype that the network computes in; the weights are kept in f32.
    pub kind: Kind,
    /// The device that the network is on.
    pub device: Device,
    /// How a step is taken.
    pub optimizer: OptimizerConfig,
}

impl fmt::Debug for TrainSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainSettings")
            .field("out", &self.out)
            .field("steps", &self.steps)
            .field("batch", &self.batch)
            .field("learning_rate", &self.learning_rate)
            .field("seed", &self.seed)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl TrainSettings {
    /// The learning rate of a step, counted from 1.
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.learning_rate * step as f64 / self.warmup.max(1) as f64;
        }
        let rest = (self.steps.saturating_sub(self.warmup)).max(1) as f64;
        let done = (step - self.warmup) as f64 / rest;
        self.learning_rate * (0.02 + 0.98 * 0.5 * (1. + (std::f64::consts::PI * done).cos()))
    }

    pub(super) fn check(&self) -> Result<()> {
        check_present(self.device)?;
        if self.steps == 0 {
            return Err(Error::argument("steps", "1 or more", 0));
        }
        if !(1..=1 << 16).contains(&self.batch) {
            return Err(Error::argument("batch", format!("1 to {}", 1 << 16), self.batch));
        }
        if !(1..=1 << 10).contains(&self.workers) {
            return Err(Error::argument("workers", format!("1 to {}", 1 << 10), self.workers));
        }
        if !(0. ..1.).contains(&self.optimizer.ema_decay) {
            let expected = "0 or more, and below 1";
            return Err(Error::argument("the average's decay", expected, self.optimizer.ema_decay));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.) {
            return Err(Error::argument("learning rate", "above 0", self.learning_rate));
        }
        Ok(())
    }
}
