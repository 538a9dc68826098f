//! A component of a diffusers folder: `config.json` and its weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

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
    let chosen = weights_among(|name| folder.join(name).is_file())
        .ok_or_else(|| Error::weights(folder, format!("holds {NO_WEIGHTS}")))?;
    let names = match chosen.ends_with(".json") {
        true => shards(&folder.join(chosen))?,
        false => vec![chosen],
    };
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// What a component without weights lacks.
pub(super) const NO_WEIGHTS: &str = "no diffusion_pytorch_model.safetensors and no model.safetensors, nor a \
                                     variant or a .bin of them";

/// Which of a component's files has its weights, or is the index of their shards; see [`weight_files`].
pub(super) fn weights_among(has: impl Fn(&str) -> bool) -> Option<String> {
    let stems = [
        ("diffusion_pytorch_model", "safetensors"),
        ("model", "safetensors"),
        ("diffusion_pytorch_model", "bin"),
        ("pytorch_model", "bin"),
    ];
    let variants = ["", ".fp16", ".bf16", ".non_ema"];
    let names = stems.iter().flat_map(|(stem, ext)| {
        variants.iter().flat_map(move |variant| {
            [
                format!("{stem}{variant}.{ext}"),
                // Where the variant stands in an index's name has changed over time.
                format!("{stem}.{ext}.index{variant}.json"),
                format!("{stem}.{ext}{variant}.index.json"),
                format!("{stem}{variant}.{ext}.index.json"),
            ]
        })
    });
    names.into_iter().find(|name| has(name))
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of the folder that an index names.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    let Index { weight_map } = read_config(index)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    for name in &names {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::config(index, format!("{name:?} is not a file of this folder")));
        }
    }
    Ok(names.into_iter().collect())
}
