//! One network of a checkpoint: its configuration and its tensors, not yet read.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::latent_diffusion_keys::foreign_prefix;
use crate::models::clip::TextConfig;
use crate::models::params::Params;
use crate::models::unet::UNetConfig;
use crate::models::vae::VaeConfig;
use crate::tensor_file::{NamedTensors, json, read_config, weight_files};
use crate::{Error, Result};

/// One network as a checkpoint stores it.
#[derive(Clone)]
pub struct StoredNetwork {
    /// Its `config.json`, read from a folder or inferred from the shapes of a single file.
    pub config: Value,
    /// The file that the configuration was read or inferred from.
    pub config_path: PathBuf,
    /// Its tensors.
    pub weights: NamedTensors,
    /// What the file leaves out of the configuration.
    pub(super) left_out: Vec<String>,
}

impl fmt::Debug for StoredNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredNetwork {{ {:?} }}", self.weights)
    }
}

impl StoredNetwork {
    /// The network of a diffusers component folder.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let config_path = folder.join("config.json");
        let config = read_config(&config_path)?;
        let weights = NamedTensors::open(&weight_files(folder)?)?;
        let prefix = foreign_prefix(&weights.names().collect::<Vec<_>>()).to_owned();
        let weights = if prefix.is_empty() { weights } else { weights.without_prefix(&prefix) };
        Ok(Self { config, config_path, weights, left_out: Vec::new() })
    }

    /// Adds to the configuration of a network of this name what its file leaves out.
    pub(super) fn fill_in(&mut self, name: &str) {
        let usual = match name {
            "unet" => serde_json::to_value(UNetConfig::default()),
            "vae" => serde_json::to_value(VaeConfig::default()),
            _ => serde_json::to_value(TextConfig::default()),
        };
        if let (Ok(Value::Object(usual)), Some(config)) = (usual, self.config.as_object_mut()) {
            for (key, value) in usual.into_iter().filter(|(_, value)| !value.is_null()) {
                if !config.contains_key(&key) {
                    self.left_out.push(key.clone());
                    config.insert(key, value);
                }
            }
        }
    }

    /// Its configuration as the type that the network is built from.
    ///
    /// # Errors
    /// A key that is missing or has a value of another type.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C> {
        json::typed(&self.config, &self.config_path)
    }

    /// The network that `new` builds from `params` and the configuration.
    pub(super) fn build<C: DeserializeOwned, N>(
        &self,
        params: &Params,
        new: impl FnOnce(&Params, &C) -> Result<N>,
    ) -> Result<N> {
        let built = new(params, &self.config()?);
        built.map_err(|e| match e.in_config(&self.config_path) {
            Error::Weights { path, message } if !self.left_out.is_empty() => {
                let (file, keys) = (self.config_path.display(), self.left_out.join(", "));
                let why = format!("{file} leaves out {keys}: diffusers' defaults were taken");
                Error::Weights { path, message: format!("{message}\n  {why}") }
            }
            other => other,
        })
    }
}
