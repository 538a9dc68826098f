//! What diffusers assumes where a file says nothing, and what its pipelines correct in what old files say.
//!
//! `diffusers.json` is written by `tests/golden/make.py` from diffusers' own signatures and pipelines.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::tensor_file::json;

#[derive(Deserialize, Default)]
struct Diffusers {
    /// By the class of a scheduler: the keys that it reads, with its defaults.
    schedulers: BTreeMap<String, Map<String, Value>>,
    pipelines: BTreeMap<String, Pipeline>,
}

/// A pipeline that opens a folder.
#[derive(Deserialize, Default)]
pub(super) struct Pipeline {
    /// What it assumes where `model_index.json` says nothing.
    pub settings: Map<String, Value>,
    /// Whether it reads `force_upcast` of its autoencoder, which is true where the file says nothing.
    upcasts: bool,
    corrections: BTreeMap<String, Map<String, Value>>,
}

static DIFFUSERS: LazyLock<Diffusers> = LazyLock::new(|| {
    let read = json::parse(include_str!("diffusers.json"));
    read.and_then(serde_json::from_value).unwrap_or_default()
});

/// The keys that a scheduler's class reads, with its defaults.
pub(super) fn scheduler(class: &str) -> Option<&'static Map<String, Value>> {
    DIFFUSERS.schedulers.get(class)
}

/// The defaults of every class that reads a key of `scheduler_config.json`.
pub(super) fn defaults_of(key: &str) -> impl Iterator<Item = &'static Value> {
    DIFFUSERS.schedulers.values().filter_map(move |known| known.get(key))
}

/// The pipeline that a `model_index.json` names.
pub(super) fn pipeline(index: &Map<String, Value>) -> Option<&'static Pipeline> {
    DIFFUSERS.pipelines.get(index.get("_class_name")?.as_str()?)
}

impl Pipeline {
    /// Whether it reads `force_upcast` of its autoencoder.
    pub fn upcasts(&self) -> bool {
        self.upcasts
    }

    /// Corrects the configuration of a part as the pipeline does when it is made. Returns what changed of what the file
    /// says or the part `reads`, as sentences.
    pub fn correct(
        &self,
        part: &str,
        config: &mut Map<String, Value>,
        reads: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut changed = Vec::new();
        for (key, right) in self.corrections.get(part).into_iter().flatten() {
            let said = config.get(key);
            let is_old = match (part, key.as_str()) {
                // True where the file says nothing; null and numbers stay as they are.
                (_, "clip_sample" | "skip_prk_steps") => {
                    said.is_none_or(|said| said.is_boolean() && said != right)
                }
                ("unet", "sample_size") => {
                    is_before_0_9(config) && said.and_then(Value::as_i64).is_some_and(|n| n < 64)
                }
                _ => said.is_none_or(|said| said.as_f64() != right.as_f64()),
            };
            if is_old {
                if said.is_some() || reads(key) {
                    let said = said.map_or("nothing".into(), ToString::to_string);
                    changed.push(format!("{key} is {right}, where the file says {said}"));
                }
                config.insert(key.clone(), right.clone());
            }
        }
        changed
    }
}

/// Whether a network was saved by a diffusers older than 0.9.
fn is_before_0_9(config: &Map<String, Value>) -> bool {
    let version = config.get("_diffusers_version").and_then(Value::as_str).unwrap_or("1");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX));
    (parts.next(), parts.next().unwrap_or(0)) < (Some(0), 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn corrected(pipeline: &str, part: &str, config: Value) -> Value {
        let mut config = config.as_object().unwrap().clone();
        let index = json!({"_class_name": pipeline});
        super::pipeline(index.as_object().unwrap()).unwrap().correct(part, &mut config, |_| true);
        config.into()
    }

    #[test]
    fn pipelines_correct_what_old_files_say() {
        let sd = |config| corrected("StableDiffusionPipeline", "scheduler", config);
        let right = json!({"clip_sample": false, "steps_offset": 1});
        assert_eq!(sd(json!({})), right);
        assert_eq!(sd(json!({"clip_sample": true, "steps_offset": 0})), right);
        assert_eq!(
            sd(json!({"clip_sample": null, "steps_offset": null}))["clip_sample"],
            json!(null)
        );
        let inpaint = |config| corrected("StableDiffusionInpaintPipeline", "scheduler", config);
        let prk = json!({"clip_sample": true, "skip_prk_steps": true, "steps_offset": 1});
        assert_eq!(inpaint(json!({"clip_sample": true})), prk);
        let kept = json!({"clip_sample": true, "steps_offset": 0});
        assert_eq!(corrected("StableDiffusionXLPipeline", "scheduler", kept.clone()), kept);
        for (version, size, right) in [
            ("0.8.0", 32, 64),
            ("0.9.0", 32, 32),
            ("0.10.2", 32, 32),
            ("0.6.0", 96, 96),
            ("0.9.0.dev0", 32, 32),
        ] {
            let config = json!({"_diffusers_version": version, "sample_size": size});
            let got = corrected("StableDiffusionPipeline", "unet", config);
            assert_eq!(got["sample_size"], json!(right), "{version}");
        }
        let vae =
            corrected("StableDiffusionUpscalePipeline", "vae", json!({"scaling_factor": 0.18215}));
        assert_eq!(vae, json!({"scaling_factor": 0.08333}));
    }
}
