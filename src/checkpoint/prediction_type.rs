//! What a checkpoint's U-Net predicts, and how that is known.

use std::path::Path;

use serde_json::Value;

use super::Family;
use crate::prediction::Prediction;
use crate::tensor_file::TensorFile;
use crate::{Error, Result};

/// What the U-Net predicts, and how that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionType {
    /// What it predicts.
    pub prediction: Prediction,
    /// Whether the checkpoint or the user says so; otherwise it is assumed.
    pub known: bool,
    /// Who says so, or why it is assumed.
    pub reason: String,
}

impl PredictionType {
    fn known(prediction: Prediction, reason: &str) -> Self {
        Self { prediction, known: true, reason: reason.into() }
    }

    fn assumed(prediction: Prediction, reason: &str) -> Self {
        Self { prediction, known: false, reason: reason.into() }
    }

    /// As the user states.
    pub(super) fn stated(prediction: Prediction) -> Self {
        Self::known(prediction, "stated by the user")
    }

    /// Where there is neither a scheduler nor a single file with a U-Net that could say it.
    pub(super) fn unsaid() -> Self {
        Self::assumed(Prediction::Epsilon, "nothing says otherwise")
    }

    /// As a `scheduler_config.json` at `path` says.
    pub(super) fn of_scheduler(config: &Value, path: &Path) -> Result<Self> {
        match config.get("prediction_type") {
            Some(Value::String(name)) => {
                let prediction = name.parse().map_err(|e: Error| e.in_config(path))?;
                Ok(Self::known(prediction, "scheduler_config.json says so"))
            }
            Some(other) => {
                let expected = "epsilon, v_prediction or sample";
                let error = Error::argument("prediction_type", expected, other);
                Err(error.in_config(path))
            }
            None => {
                let reason = "as diffusers does where scheduler_config.json does not say";
                Ok(Self::assumed(Prediction::Epsilon, reason))
            }
        }
    }

    /// As a single file says. Only SD 2.x leaves room for doubt: its two models have the same shapes.
    pub(super) fn of_file(file: &TensorFile, family: Family) -> Self {
        let metadata = |key: &str| file.metadata().get(key).map(|text| text.trim().to_lowercase());
        if file.shape("v_pred").is_some() {
            return Self::known(Prediction::V, "the file has a tensor v_pred");
        }
        match metadata("modelspec.prediction_type").as_deref() {
            Some("epsilon") => {
                return Self::known(Prediction::Epsilon, "the file's metadata says so");
            }
            Some("v" | "v_prediction") => {
                return Self::known(Prediction::V, "the file's metadata says so");
            }
            _ => {}
        }
        if metadata("modelspec.architecture").is_some_and(|name| name.contains("768-v")) {
            return Self::known(Prediction::V, "the file's metadata names the 768-v model");
        }
        match (family, metadata("global_step").as_deref()) {
            // The steps that the published base models were trained for.
            (Family::Sd2Base, Some("875000" | "220000")) => Self::assumed(
                Prediction::Epsilon,
                "as its global_step is the published base model's",
            ),
            (Family::Sd2Base, _) => Self::assumed(Prediction::V, "as diffusers does for SD 2.x"),
            (Family::X4Upscaler, _) => Self::assumed(Prediction::V, "as the published model"),
            _ => Self::assumed(Prediction::Epsilon, "as all published models of this family"),
        }
    }
}
