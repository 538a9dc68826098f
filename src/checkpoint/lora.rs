//! LoRA: a file of low-rank changes to a checkpoint's weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::lora_adapter_config::AdapterConfig;
use super::lora_keys::{LoraKey, lora_key, network_and_layer, other_method};
use super::{LoraKeyStyle, hub};
use crate::device::in_f64_on_cpu;
use crate::tensor_file::{TensorFile, read_config};
use crate::{Error, Result};

/// Low-rank changes to the weights of some layers.
///
/// ```text
/// W' = W + strength * (alpha / r) * up down,   down [r, inputs], up [outputs, r]
/// ```
/// Hu et al. 2021, eq. 3. For a convolution, `down` has its kernel and `up` is 1x1; where there is a `mid`, both are
/// 1x1 and `mid` [r, r, kh, kw] has the kernel.
pub struct Lora {
    pub(super) file: TensorFile,
    key_style: LoraKeyStyle,
    pub(super) layers: Vec<LoraLayer>,
}

impl fmt::Debug for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lora {{ {:?}, layers: {:?} }}", self.key_style, self.networks())
    }
}

/// The change of one layer, by the keys of its factors.
pub(super) struct LoraLayer {
    pub network: &'static str,
    /// Its name as the file spells it, without the network.
    pub name: String,
    pub down: String,
    pub up: String,
    pub mid: Option<String>,
    /// `alpha / r`
    pub scale: f64,
}

impl Lora {
    /// Opens a file of low-rank changes in kohya's keys (`lora_unet_..._to_q.lora_down.weight`), PEFT's or diffusers'
    /// (`unet....to_q.lora_A.weight`, and the older ones), or the folder that PEFT or diffusers saved it in; from the
    /// Hugging Face hub, `OWNER/NAME/FILE.safetensors`.
    ///
    /// # Errors
    /// A file without low-rank changes; one that holds anything else as well (DoRA, LoHa, biases), or one factor of a
    /// pair: nothing is left out in silence.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let (path, config) = find(&hub::locate(path)?)?;
        let file = TensorFile::open(&path)?;
        let refused = |what: String| Error::weights(&path, what);
        let found = keys_by_layer(&file).map_err(refused)?;
        let config = match config {
            Some(config) => Some(config),
            None => AdapterConfig::of_metadata(&file)?,
        };
        let mut layers = Vec::new();
        for (layer, [down, up, mid, alpha]) in found {
            let (Some(down), Some(up)) = (down, up) else {
                let what = format!("{layer} has one factor of its change but not the other");
                return Err(refused(what));
            };
            let (network, name) = network_and_layer(&layer);
            let rank = file.shape(&down).and_then(|shape| shape.first().copied()).unwrap_or(0);
            let scale = match (&alpha, &config) {
                (Some(alpha), _) => number(&file, alpha)? / rank as f64,
                (None, Some(config)) => config.scale(network, name, rank).map_err(refused)?,
                (None, None) => 1.,
            };
            if rank < 1 || !scale.is_finite() {
                let what = format!(
                    "{layer}: expected a rank of 1 or more and a finite alpha / rank, got {rank} and {scale}"
                );
                return Err(refused(what));
            }
            layers.push(LoraLayer { network, name: name.to_owned(), down, up, mid, scale });
        }
        let kohya = layers.iter().any(|l| LoraKeyStyle::of(&l.down) == LoraKeyStyle::Kohya);
        let key_style = if kohya { LoraKeyStyle::Kohya } else { LoraKeyStyle::Peft };
        Ok(Self { file, key_style, layers })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// How its keys are written.
    pub fn key_style(&self) -> LoraKeyStyle {
        self.key_style
    }

    /// How many layers of each network it changes.
    pub fn networks(&self) -> BTreeMap<&'static str, usize> {
        let mut networks = BTreeMap::new();
        for layer in &self.layers {
            *networks.entry(layer.network).or_insert(0) += 1;
        }
        networks
    }
}

/// The file that a path means, and PEFT's configuration beside it.
fn find(path: &Path) -> Result<(PathBuf, Option<AdapterConfig>)> {
    if !path.is_dir() {
        return Ok((path.to_owned(), None));
    }
    let names = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];
    let file = names.iter().map(|name| path.join(name)).find(|file| file.is_file());
    let file = file.ok_or_else(|| {
        Error::weights(path, format!("holds no {}; name the file", names.join(" and no ")))
    })?;
    let config = path.join("adapter_config.json");
    let config = config.is_file().then(|| read_config(&config)).transpose()?;
    Ok((file, config.map(AdapterConfig::of_one_adapter)))
}

/// The keys of each layer, in the order of [`LoraFactor`](super::lora_keys::LoraFactor).
fn keys_by_layer(
    file: &TensorFile,
) -> std::result::Result<BTreeMap<String, [Option<String>; 4]>, String> {
    let mut found: BTreeMap<String, [Option<String>; 4]> = BTreeMap::new();
    let (mut others, mut adapters) = (Vec::new(), BTreeSet::new());
    for key in file.names() {
        let Some(LoraKey { layer, factor, adapter }) = lora_key(key) else {
            others.push(key);
            continue;
        };
        adapters.extend(adapter);
        if adapters.len() > 1 {
            let names: Vec<&str> = adapters.iter().map(String::as_str).collect();
            let names = names.join(", ");
            return Err(format!("holds several adapters, {names}: give each a file of its own"));
        }
        let keys = found.entry(layer).or_default();
        if keys[factor as usize].replace(key.to_owned()).is_some() {
            return Err(format!("{key} occurs twice, in two spellings"));
        }
    }
    let none = !found.values().any(|[down, up, ..]| down.is_some() || up.is_some());
    let Some(first) = others.first() else {
        let what = "holds no low-rank changes: no lora_down and no lora_A";
        return if none { Err(what.into()) } else { Ok(found) };
    };
    let method = others.iter().find_map(|key| Some((key, other_method(key)?)));
    Err(match (none, method) {
        (true, Some((key, method))) => format!(
            "holds {method}, which are not supported: its keys are such as {key}, with no lora_down and no lora_A"
        ),
        (true, None) => format!(
            "holds no low-rank changes: no lora_down and no lora_A; its keys are such as {first}"
        ),
        (false, method) => {
            let what = match method {
                Some((_, method)) => format!("{method} are not supported"),
                None => "a file of low-rank changes holds nothing else".into(),
            };
            let count = others.len();
            format!(
                "{count} of its tensors, such as {first}, are not factors of low-rank changes: {what}"
            )
        }
    })
}

/// The value of a tensor that is one number.
fn number(file: &TensorFile, key: &str) -> Result<f64> {
    let tensor = file.tensor(key)?;
    if tensor.numel() != 1 {
        let what = format!("{key} is not one number: it has the shape {:?}", tensor.size());
        return Err(Error::weights(file.path(), what));
    }
    Ok(in_f64_on_cpu(&tensor)?.f_reshape([1])?.f_double_value(&[0])?)
}
