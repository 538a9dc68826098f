//! An opened checkpoint: what it is and holds, and how its networks are built.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tch::{Device, Kind};

use super::{Family, PredictionType, SchedulerConfig, StoredNetwork, diffusers};
use crate::models::clip::Tokenizer;
use crate::models::params::Params;
use crate::prediction::Prediction;
use crate::tensor_file::json;
use crate::{Error, Result};

/// Whose names a checkpoint's tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStyle {
    /// diffusers' and transformers'.
    Diffusers,
    /// CompVis's latent-diffusion's, which Stability's files have too.
    Ldm,
}

impl fmt::Display for KeyStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Ldm => "CompVis/LDM",
        })
    }
}

/// Why a part of names is among the leftovers: wrappers of networks added it (`_orig_mod.`), or all names begin with it.
pub(super) const TAKEN_OFF: &str = "taken off the names of its tensors";

/// A diffusers folder, one component of it, or a single file, of which only headers and configurations have been read.
pub struct Checkpoint {
    /// The folder or file.
    pub path: PathBuf,
    /// What it is.
    pub family: Family,
    /// The evidence for its family.
    pub evidence: Vec<String>,
    /// Whose names its tensors have.
    pub key_style: KeyStyle,
    /// What its U-Net predicts.
    pub prediction: PredictionType,
    /// Its networks, by their names in a diffusers folder: `unet`, `vae`, `text_encoder`, `text_encoder_2`.
    pub networks: BTreeMap<String, StoredNetwork>,
    /// The configurations of `scheduler` and of the upscaler's `low_res_scheduler`, with the files they come from.
    pub schedulers: BTreeMap<String, (Value, PathBuf)>,
    /// What is known but not needed, by the reason.
    pub leftovers: BTreeMap<String, Vec<String>>,
    /// The keys of tensors that belong to no known network.
    pub unknown: Vec<String>,
    /// `model_index.json`; for a single file, what the published folder of its family says.
    pub(super) model_index: Map<String, Value>,
    /// What was corrected in old configurations, as sentences.
    pub(super) corrections: Vec<String>,
    /// The folder that has the tokenizers; `None`: the embedded one.
    pub(super) tokenizers: Option<PathBuf>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<&String> = self.networks.keys().collect();
        write!(f, "Checkpoint {{ {}, {}, networks: {networks:?} }}", self.family, self.key_style)
    }
}

/// Where a tokenizer is: in a folder, or CLIP's own with the token that fills up a text.
#[derive(Debug)]
pub(crate) enum TokenizerPlace {
    Folder(PathBuf),
    Clip { padding: &'static str },
}

impl TokenizerPlace {
    pub fn open(&self) -> Result<Tokenizer> {
        match self {
            Self::Folder(folder) => Tokenizer::open(folder),
            Self::Clip { padding } => Tokenizer::clip(padding),
        }
    }
}

impl Checkpoint {
    /// What was corrected, assumed, replaced or left out, as sentences for the user.
    pub fn notes(&self) -> Vec<String> {
        [self.notes_of_configs(), self.notes_of_file()].concat()
    }

    /// What was corrected in the configurations and what of them is not followed.
    pub(super) fn notes_of_configs(&self) -> Vec<String> {
        let said = match self.scheduler("scheduler") {
            Some(Ok(config)) => config.notes(None),
            Some(Err(refused)) => vec![refused.to_string()],
            None => Vec::new(),
        };
        [self.corrections.clone(), said].concat()
    }

    /// All notes but those that depend on the sampler that draws.
    pub(crate) fn notes_of_parts(&self) -> Vec<String> {
        [self.corrections.clone(), self.notes_of_file()].concat()
    }

    /// What was assumed or left out.
    fn notes_of_file(&self) -> Vec<String> {
        let mut notes = Vec::new();
        // Of the other families every published model predicts the same.
        let usual = match self.family {
            Family::Sd2Base | Family::Sd2V => None,
            Family::X4Upscaler => Some(Prediction::V),
            _ => Some(Prediction::Epsilon),
        };
        let open = usual != Some(self.prediction.prediction);
        let samples = self.schedulers.contains_key("scheduler");
        if samples && !self.prediction.known && self.key_style == KeyStyle::Ldm && open {
            let name = serde_json::to_value(self.prediction.prediction).unwrap_or_default();
            notes.push(format!(
                "the file does not say what its U-Net predicts: {} was assumed, {}; if the pictures are noise, state \
                 the other type",
                name.as_str().unwrap_or("?"),
                self.prediction.reason
            ));
        }
        if let Some(parts) = self.leftovers.get(TAKEN_OFF) {
            notes.push(format!("{TAKEN_OFF}: {}", parts.join(", ")));
        }
        if !self.unknown.is_empty() {
            let first: Vec<&str> = self.unknown.iter().take(3).map(String::as_str).collect();
            let count = self.unknown.len();
            notes.push(format!("{count} tensors belong to no network: {} ...", first.join(", ")));
        }
        notes
    }

    /// `model_index.json` as a value of type `T`, with the pipeline's defaults.
    ///
    /// # Errors
    /// A value of another type.
    pub(crate) fn model_index<T: DeserializeOwned>(&self) -> Result<T> {
        let mut index = diffusers::pipeline(&self.model_index)
            .map(|pipeline| pipeline.settings.clone())
            .unwrap_or_default();
        index.extend(self.model_index.clone());
        json::typed(&index.into(), &self.path.join("model_index.json"))
    }

    /// `scheduler` or `low_res_scheduler`, where there is one.
    pub(crate) fn scheduler(&self, name: &str) -> Option<Result<SchedulerConfig>> {
        let (json, path) = self.schedulers.get(name)?;
        Some(SchedulerConfig::from_json(json.clone(), path))
    }

    /// The family; of a file whose keys are unknown, some of them beside those that are looked for.
    pub(crate) fn described(&self) -> String {
        if self.unknown.is_empty() {
            return self.family.to_string();
        }
        let first: Vec<&str> = self.unknown.iter().take(3).map(String::as_str).collect();
        format!(
            "{}: its {} tensors of no known network have names such as {}, and not such as \
             model.diffusion_model.input_blocks.0.0.weight or down_blocks.0.resnets.0.conv1.weight",
            self.family,
            self.unknown.len(),
            first.join(", ")
        )
    }

    /// One network.
    ///
    /// # Errors
    /// A checkpoint without it.
    pub fn network(&self, name: &str) -> Result<&StoredNetwork> {
        self.networks.get(name).ok_or_else(|| {
            let message = format!("holds no {name}; it is {}", self.described());
            Error::weights(&self.path, message)
        })
    }

    /// The configuration of a network.
    ///
    /// # Errors
    /// A checkpoint without the network; a key that is missing or has a value of another type.
    pub fn config<C: DeserializeOwned>(&self, name: &str) -> Result<C> {
        self.network(name)?.config()
    }

    /// The tensors of a network, each converted to `kind` and moved to `device` when it is asked for.
    ///
    /// # Errors
    /// A checkpoint without the network; a file whose bytes do not match its checksum.
    pub fn params(&self, name: &str, kind: Kind, device: Device) -> Result<Params> {
        Params::of(self.network(name)?.weights.clone(), kind, device)
    }

    /// The network that `new` builds from its tensors and its configuration.
    ///
    /// # Errors
    /// As [`Checkpoint::params`] and [`Checkpoint::config`], and what `new` refuses.
    pub fn build<C: DeserializeOwned, N>(
        &self,
        name: &str,
        kind: Kind,
        device: Device,
        new: impl FnOnce(&Params, &C) -> Result<N>,
    ) -> Result<N> {
        self.network(name)?.build(&self.params(name, kind, device)?, new)
    }

    fn tokenizer_folder(&self, name: &str) -> Option<PathBuf> {
        self.tokenizers.as_ref().map(|folder| folder.join(name)).filter(|folder| folder.is_dir())
    }

    /// Whether there is a tokenizer of this name: in a folder, or the embedded one for a single file.
    pub(crate) fn has_tokenizer(&self, name: &str) -> bool {
        self.tokenizer_folder(name).is_some() || !self.path.is_dir()
    }

    /// The tokenizer in the folder, or the embedded one with the padding of the text encoder that it is for.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn tokenizer(&self, name: &str) -> Result<Tokenizer> {
        self.tokenizer_place(name)?.open()
    }

    /// Where a tokenizer is.
    pub(crate) fn tokenizer_place(&self, name: &str) -> Result<TokenizerPlace> {
        if let Some(folder) = self.tokenizer_folder(name) {
            return Ok(TokenizerPlace::Folder(folder));
        }
        if let Some(folder) = self.tokenizers.as_ref().filter(|_| self.path.is_dir()) {
            return Ok(TokenizerPlace::Folder(folder.join(name)));
        }
        let encoder = name.replace("tokenizer", "text_encoder");
        let act = self.network(&encoder)?.config.get("hidden_act").and_then(Value::as_str);
        let padding = if act == Some("quick_gelu") { "<|endoftext|>" } else { "!" };
        Ok(TokenizerPlace::Clip { padding })
    }
}
