//! A component of a diffusers folder: `config.json` and its weights.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads one JSON file into its type.
///
/// # Errors
/// A file that is missing, is not JSON, or lacks a key.
pub fn read_config<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::config(path, e))
}

/// The weight files of a component: one file, a half-precision variant, or the shards of an index.
///
/// # Errors
/// A folder that holds none of them; an index that names a file outside the folder.
pub fn weight_files(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    for stem in ["diffusion_pytorch_model", "model"] {
        for variant in ["", ".fp16", ".bf16"] {
            let one = folder.join(format!("{stem}{variant}.safetensors"));
            if one.is_file() {
                return Ok(vec![one]);
            }
            let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
            if index.is_file() {
                return shards(folder, &index);
            }
        }
    }
    Err(Error::weights(
        folder,
        "holds no diffusion_pytorch_model.safetensors and no model.safetensors",
    ))
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let Index { weight_map } = read_config(index)?;
    let names: std::collections::BTreeSet<String> = weight_map.into_values().collect();
    names
        .into_iter()
        .map(|name| {
            if Path::new(&name).components().count() != 1 {
                return Err(Error::config(index, format!("{name:?} is not a file of this folder")));
            }
            Ok(folder.join(name))
        })
        .collect()
}
