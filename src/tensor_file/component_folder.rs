//! A component folder of diffusers: `config.json` and weight files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::read_config;
use crate::{Error, Result};

/// The weight files of a component: a single file, or the shards that an index lists.
///
/// Where there are several, safetensors are preferred to torch's pickles, and the plain file to its variants `fp16`,
/// `bf16` and `non_ema`.
///
/// # Errors
/// A folder without weights; an index that names a file outside the folder.
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

/// What a component without weights lacks, for error messages.
pub(crate) const NO_WEIGHTS: &str = "no diffusion_pytorch_model.safetensors, no model.safetensors, and no \
                                     variant or .bin of either";

/// Which of a component's files holds its weights, or is the index of their shards; see [`weight_files`].
pub(crate) fn weights_among(has: impl Fn(&str) -> bool) -> Option<String> {
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
                // Where an index's name has its variant changed over time.
                format!("{stem}.{ext}.index{variant}.json"),
                format!("{stem}.{ext}{variant}.index.json"),
                format!("{stem}{variant}.{ext}.index.json"),
            ]
        })
    });
    names.into_iter().find(|name| has(name))
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The shard files that an index names, all in its own folder.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>> {
    let ShardIndex { weight_map } = read_config(index)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    for name in &names {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::config(index, format!("{name:?} is not a file in this folder")));
        }
    }
    Ok(names.into_iter().collect())
}
