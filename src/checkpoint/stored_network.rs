//! One network of a checkpoint: its configuration and its tensors, not yet read.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::latent_diffusion_keys::foreign_prefix;
use crate::models::params::Params;
use crate::tensor_file::{NamedTensors, read_config, weight_files};
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
        Ok(Self { config, config_path, weights })
    }

    /// Its configuration as the type that the network is built from.
    ///
    /// # Errors
    /// A key that is missing or has a value of another type.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C> {
        serde_json::from_value(self.config.clone()).map_err(|e| Error::config(&self.config_path, e))
    }

    /// The network that `new` builds from `params` and the configuration.
    pub(super) fn build<C: DeserializeOwned, N>(
        &self,
        params: &Params,
        new: impl FnOnce(&Params, &C) -> Result<N>,
    ) -> Result<N> {
        new(params, &self.config()?).map_err(|e| e.in_config(&self.config_path))
    }
}
