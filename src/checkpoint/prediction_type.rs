//! What a checkpoint's U-Net predicts, and how that is known.

use std::path::Path;

use serde_json::Value;

use super::Family;
use crate::device::in_f64_on_cpu;
use crate::prediction::Prediction;
use crate::tensor_file::{TensorFile, unwrapped};
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

    /// As a single file says: by a marker, by its metadata, or by its family. Of the published models only SD 2.x leaves
    /// room for doubt: its two have the same shapes.
    pub(super) fn of_file(file: &TensorFile, family: Family) -> Self {
        let metadata = |key: &str| file.metadata().get(key).map(|text| text.trim().to_lowercase());
        if has_marker(file, "v_pred") {
            return Self::known(Prediction::V, "the file has a marker v_pred");
        }
        for key in ["modelspec.prediction_type", "modelspec.predict_key", "prediction_type"] {
            let prediction = match metadata(key).as_deref() {
                Some("epsilon" | "eps") => Prediction::Epsilon,
                Some("v" | "v_pred" | "v_prediction" | "v-prediction") => Prediction::V,
                Some("sample" | "x0") => Prediction::Sample,
                _ => continue,
            };
            return Self::known(prediction, "the file's metadata says so");
        }
        if has_marker(file, "ss_v_parameterization") {
            return Self::known(Prediction::V, "the file's metadata says so");
        }
        if has_zero_terminal_snr(file) {
            let why = "as a model trained to zero terminal SNR, where predicted noise says nothing";
            return Self::assumed(Prediction::V, why);
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

/// Whether a single file has a marker: a tensor of this name, which may be empty, or an entry in its metadata that does
/// not deny it.
fn has_marker(file: &TensorFile, name: &str) -> bool {
    let entry = file.metadata().get(name).map(|text| text.trim().to_lowercase());
    let denied = |text: String| matches!(&*text, "" | "false" | "0" | "no" | "none" | "null");
    file.names().any(|key| unwrapped(key) == name) || entry.is_some_and(|text| !denied(text))
}

/// Whether a single file says that its model was trained to zero terminal SNR: by a marker, in the metadata of its
/// trainer, or by the schedule that it holds, which then ends on nothing (Lin et al. 2023, algorithm 1).
pub(super) fn has_zero_terminal_snr(file: &TensorFile) -> bool {
    let said =
        ["ztsnr", "zsnr", "ss_zero_terminal_snr", "modelspec.ztsnr", "rescale_betas_zero_snr"];
    said.into_iter().any(|name| has_marker(file, name)) || ends_on_nothing(file)
}

/// Whether the file holds the schedule's `alphas_cumprod` and its last number is none to speak of.
fn ends_on_nothing(file: &TensorFile) -> bool {
    let read = |name: &str| in_f64_on_cpu(&file.tensor(name).ok()?).ok();
    let Some(all) = read("alphas_cumprod").filter(|all| all.dim() == 1 && all.numel() > 1) else {
        return false;
    };
    // A file of which only the header is there holds zeros.
    let (first, last) = (all.double_value(&[0]), all.double_value(&[-1]));
    first > 0.5 && last < 1e-5
}
