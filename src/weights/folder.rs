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

/// The weight files of a component: one file, or the shards of an index.
///
/// Of several, safetensors come before torch's pickles, and the plain file before its variants: `fp16`, `bf16`,
/// `non_ema`.
///
/// # Errors
/// A folder that holds none of them; an index that names a file outside the folder.
pub fn weight_files(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    let stems = [
        ("diffusion_pytorch_model", "safetensors"),
        ("model", "safetensors"),
        ("diffusion_pytorch_model", "bin"),
        ("pytorch_model", "bin"),
    ];
    for (stem, ext) in stems {
        for variant in ["", ".fp16", ".bf16", ".non_ema"] {
            let one = folder.join(format!("{stem}{variant}.{ext}"));
            if one.is_file() {
                return Ok(vec![one]);
            }
            // Where the variant stands in an index's name has changed over time.
            for name in [
                format!("{stem}.{ext}.index{variant}.json"),
                format!("{stem}.{ext}{variant}.index.json"),
                format!("{stem}{variant}.{ext}.index.json"),
            ] {
                let index = folder.join(name);
                if index.is_file() {
                    return shards(folder, &index);
                }
            }
        }
    }
    Err(Error::weights(
        folder,
        "holds no diffusion_pytorch_model.safetensors and no model.safetensors, nor a variant or a .bin of them",
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
