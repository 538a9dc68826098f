//! PEFT's configuration of a LoRA: the scales that the tensors of its file do not give.

use serde_json::{Map, Value};

use crate::tensor_file::{TensorFile, json};
use crate::{Error, Result};

/// PEFT's configuration of an adapter, or of one adapter for each network.
pub(super) struct AdapterConfig {
    values: Map<String, Value>,
    /// Whether keys begin with the network: `unet.lora_alpha`.
    prefixed: bool,
}

impl AdapterConfig {
    /// From PEFT's `adapter_config.json`.
    pub fn of_one_adapter(values: Map<String, Value>) -> Self {
        Self { values, prefixed: false }
    }

    /// From what diffusers writes about the adapters into a file's metadata.
    pub fn of_metadata(file: &TensorFile) -> Result<Option<Self>> {
        let Some(text) = file.metadata().get("lora_adapter_metadata") else { return Ok(None) };
        let wrong = |e: &dyn std::fmt::Display| {
            Error::weights(file.path(), format!("lora_adapter_metadata in its metadata: {e}"))
        };
        let values = match json::parse(text).map_err(|e| wrong(&e))? {
            Value::Object(values) => values,
            other => return Err(wrong(&format!("expected an object, got {other}"))),
        };
        Ok(Some(Self { values, prefixed: true }))
    }

    /// `alpha / r`, or `alpha / sqrt(r)` where it was trained so (rsLoRA, Kalajdzievski 2023).
    pub fn scale(&self, network: &str, layer: &str, rank: i64) -> std::result::Result<f64, String> {
        let get = |key: &str| match self.prefixed {
            true => self.values.get(&format!("{network}.{key}")),
            false => self.values.get(key),
        };
        let alpha = match pattern(get("alpha_pattern"), layer)?.or_else(|| get("lora_alpha")) {
            Some(alpha) => {
                alpha.as_f64().ok_or(format!("lora_alpha: expected a number, got {alpha}"))?
            }
            None => rank as f64,
        };
        let stabilised = get("use_rslora").and_then(Value::as_bool) == Some(true);
        Ok(alpha / if stabilised { (rank as f64).sqrt() } else { rank as f64 })
    }
}

/// The value of the first pattern that matches the end of the layer's name.
fn pattern<'a>(
    patterns: Option<&'a Value>,
    layer: &str,
) -> std::result::Result<Option<&'a Value>, String> {
    for (pattern, value) in patterns.and_then(Value::as_object).into_iter().flatten() {
        if pattern.contains(['*', '+', '?', '[', '(', '|', '^', '$', '\\']) {
            return Err(format!(
                "its alpha_pattern {pattern:?} is a regular expression, which is not supported"
            ));
        }
        let pattern = pattern.strip_prefix("text_model.").unwrap_or(pattern);
        if layer == pattern || layer.ends_with(&format!(".{pattern}")) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
