//! The checkpoint of a training, and resuming from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer::{Optimizer, OptimizerConfig};
use super::settings::TrainSettings;
use crate::tensor_file::{TensorFile, write_tensors};
use crate::{Error, Result};

/// The settings that must be the same when a training is resumed. It may become longer or shorter: the
/// learning rate then follows the new length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ResumeSettings {
    step: u64,
    seed: i64,
    batch: i64,
    learning_rate: f64,
    muon: bool,
}

/// The key of [`ResumeSettings`] in the checkpoint's metadata.
const SETTINGS_KEY: &str = "training";

impl ResumeSettings {
    fn of(settings: &TrainSettings, step: u64) -> Self {
        let TrainSettings { seed, batch, learning_rate, optimizer, .. } = *settings;
        let OptimizerConfig { muon, .. } = optimizer;
        Self { step, seed, batch, learning_rate, muon }
    }
}

impl std::fmt::Display for ResumeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, batch, learning_rate, .. } = self;
        let optimizer = if self.muon { "Muon" } else { "AdamW" };
        write!(f, "seed {seed}, batch {batch}, learning rate {learning_rate}, {optimizer}")
    }
}

/// The file of the checkpoint.
pub(super) fn checkpoint_path(settings: &TrainSettings) -> PathBuf {
    settings.out.join("checkpoint.safetensors")
}

/// Writes everything that [`resume`] needs.
pub(super) fn save(optimizer: &Optimizer, path: &Path, settings: &TrainSettings) -> Result<()> {
    let saved = ResumeSettings::of(settings, optimizer.step);
    let text = serde_json::to_string(&saved).map_err(|e| Error::config(path, e))?;
    write_tensors(path, &optimizer.state(), &[(SETTINGS_KEY.into(), text)])
}

/// Puts the optimizer into the state of the checkpoint.
pub(super) fn resume(
    optimizer: &mut Optimizer,
    path: &Path,
    settings: &TrainSettings,
) -> Result<()> {
    let file = TensorFile::open(path)?;
    let text = file.metadata().get(SETTINGS_KEY).cloned().unwrap_or_default();
    let saved: ResumeSettings = serde_json::from_str(&text)
        .map_err(|_| Error::weights(path, "is not a checkpoint of a training"))?;
    let expected = ResumeSettings::of(settings, saved.step);
    if saved != expected {
        let todo =
            format!("repeat the settings that it was started with, or remove {}", path.display());
        return Err(Error::argument("the checkpoint's settings", expected, saved).hint(todo));
    }
    optimizer.restore(&file, saved.step)
}
