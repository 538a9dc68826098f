//! `scheduler/scheduler_config.json`: a checkpoint's noise schedule and sampler settings.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::diffusers;
use super::scheduler_values::SchedulerValues;
use crate::prediction::Prediction;
use crate::sampler::{PlanSettings, Sampler};
use crate::schedule::Schedule;
use crate::tensor_file::{json, read_config};
use crate::{Error, Result};

/// The class that draws where a file names one that is not here, or none.
const USUAL: &str = "DDIMScheduler";
/// The class whose keys a sampler reads that only k-diffusion has.
const K_DIFFUSION: &str = "KDPM2AncestralDiscreteScheduler";

/// How the steps of one method are taken. Another one has no such choice, and nothing to follow.
const OF_A_METHOD: [&str; 11] = [
    "skip_prk_steps",
    "steps_offset",
    "set_alpha_to_one",
    "solver_order",
    "solver_type",
    "algorithm_type",
    "lower_order_final",
    "euler_at_final",
    "predict_x0",
    "original_inference_steps",
    "variance_type",
];

/// `scheduler/scheduler_config.json`, whichever diffusers class wrote it.
///
/// Of what the file says, a sampler follows what diffusers' class of it reads, and nothing else; what the file leaves out
/// has the default of that class, as with `from_config`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct SchedulerConfig {
    path: PathBuf,
    class_name: String,
    file: Map<String, Value>,
    /// What the class in the file makes of it.
    own: SchedulerValues,
    sampler: Sampler,
}

impl fmt::Debug for SchedulerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = &self.own;
        f.debug_struct("SchedulerConfig")
            .field("class", &self.class_name)
            .field("num_train_timesteps", &own.num_train_timesteps)
            .field("betas", &(own.beta_start.0, own.beta_end.0, own.beta_schedule))
            .field("prediction_type", &own.prediction_type)
            .field("timestep_spacing", &own.timestep_spacing)
            .finish_non_exhaustive()
    }
}

impl TryFrom<Map<String, Value>> for SchedulerConfig {
    type Error = Error;

    fn try_from(json: Map<String, Value>) -> Result<Self> {
        Self::from_json(json.into(), Path::new("scheduler_config.json"))
    }
}

impl SchedulerConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing; a value that its class cannot take; a setting that would change the result and is not
    /// supported. Errors name the file and the key.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_json(read_config(&path)?, path.as_ref())
    }

    /// As [`SchedulerConfig::open`], from JSON that was read from `path` or inferred for it.
    pub(crate) fn from_json(json: Value, path: &Path) -> Result<Self> {
        let Value::Object(mut file) = json else {
            return Err(Error::config(path, "expected an object"));
        };
        // What diffusers filled in itself when it saved.
        if let Some(Value::Array(filled_in)) = file.remove("_use_default_values") {
            filled_in.iter().filter_map(Value::as_str).for_each(|key| drop(file.remove(key)));
        }
        let class_name = match file.get("_class_name") {
            Some(Value::String(name)) => name.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        };
        let class = known_class(&class_name);
        let own = values_of(class, &file, path)?;
        let named: Sampler = class.parse()?;
        let options = own.options(named).map_err(|e| e.in_config(path))?;
        let sampler = Sampler { options, ..named };
        Ok(Self { path: path.to_owned(), class_name, file, own, sampler })
    }

    /// The noise schedule.
    ///
    /// # Errors
    /// Betas outside (0, 1).
    pub fn schedule(&self) -> Result<Schedule> {
        let own = &self.own;
        let schedule = match &own.trained_betas {
            Some(betas) => Schedule::from_betas(betas.iter().map(|beta| beta.0).collect()),
            None => {
                let (start, end) = (own.beta_start.0, own.beta_end.0);
                Schedule::new(own.beta_schedule, start, end, own.num_train_timesteps)
            }
        }?;
        if own.rescale_betas_zero_snr { schedule.rescale_zero_snr() } else { Ok(schedule) }
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.own.prediction_type
    }

    /// diffusers' class that the file names, where no sampler here is that class: [`SchedulerConfig::sampler`] is DDIM.
    pub fn unsupported_class(&self) -> Option<&str> {
        let known = self.class_name.is_empty() || diffusers::scheduler(&self.class_name).is_some();
        (!known).then_some(self.class_name.as_str())
    }

    /// The sampler that the file names, with its options; DDIM if that sampler is not supported.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// The settings for a sampler, whether or not it is the one that the file names.
    ///
    /// # Errors
    /// A value that diffusers' class of the sampler reads and cannot take, or that is not supported.
    pub fn settings(&self, sampler: Sampler) -> Result<PlanSettings> {
        let class = class_of(sampler);
        let explicit = |key: &str| {
            diffusers::scheduler(class).is_some_and(|known| known.contains_key(key))
                && self.file.contains_key(key)
        };
        let values = values_of(class, &self.file, &self.path)?;
        let settings = values.settings(self.own.prediction_type, explicit("final_sigmas_type"));
        settings.map_err(|e| e.in_config(&self.path))
    }

    /// What a person should know of how the file is read for a sampler, or for the file's own one.
    pub(crate) fn notes(&self, chosen: Option<Sampler>) -> Vec<String> {
        let (sampler, mut notes) = (chosen.unwrap_or(self.sampler), Vec::new());
        if let (None, Some(class)) = (chosen, self.unsupported_class()) {
            notes.push(format!(
                "the checkpoint names {class}, which is not here: {sampler} draws; choose another sampler with --sampler, or \
                 the `sampler` of a request"
            ));
        }
        let ignored = self.not_followed(sampler);
        if !ignored.is_empty() {
            let ignored = ignored.join(", ");
            notes
                .push(format!("scheduler_config.json has what {sampler} does not read: {ignored}"));
        }
        notes
    }

    /// What the file switches on and the class of a sampler does not read, as `key: value`.
    fn not_followed(&self, sampler: Sampler) -> Vec<String> {
        let reads = |class: &str, key: &str| {
            diffusers::scheduler(class).is_some_and(|known| known.contains_key(key))
        };
        // The schedule is the one of the file's own class, whichever sampler draws.
        let own = |key: &str| {
            key == "rescale_betas_zero_snr" && reads(known_class(&self.class_name), key)
        };
        let is_read =
            |key: &str| OF_A_METHOD.contains(&key) || reads(class_of(sampler), key) || own(key);
        let is_on = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(all) => !all.is_empty(),
            Value::Number(number) => number.as_f64() != Some(0.),
            _ => true,
        };
        let is_usual =
            |key: &str, value: &Value| diffusers::defaults_of(key).any(|usual| same(usual, value));
        let said = |(key, value): (&String, &Value)| format!("{key}: {value}");
        self.file
            .iter()
            .filter(|(key, value)| !key.starts_with('_') && !is_read(key) && is_on(value))
            .filter(|(key, value)| !is_usual(key, value))
            .map(said)
            .collect()
    }
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}

/// The class that reads a file: the one that it names, or else the usual one.
fn known_class(name: &str) -> &str {
    if diffusers::scheduler(name).is_some() { name } else { USUAL }
}

/// The class of diffusers that takes a sampler's steps.
fn class_of(sampler: Sampler) -> &'static str {
    sampler.class_name().unwrap_or(K_DIFFUSION)
}

/// What a class makes of a file: its own defaults, under what the file says of the keys that it reads.
fn values_of(class: &str, file: &Map<String, Value>, path: &Path) -> Result<SchedulerValues> {
    let mut read = diffusers::scheduler(class).cloned().unwrap_or_default();
    for (key, value) in &mut read {
        if let Some(said) = file.get(key) {
            *value = said.clone();
        }
    }
    SchedulerValues::check(&read).map_err(|e| Error::config(path, e))?;
    json::typed(&Value::Object(read), path)
}
