//! LoRA: low-rank changes to a checkpoint's weights.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use super::{LoraKeys, Params, TensorFile, hub, ldm, read_config};
use crate::{Error, Result};

/// Low-rank changes to the weights of some layers.
///
/// ```text
/// W' = W + strength * (alpha / r) * up down,   down [r, inputs], up [outputs, r]
/// ```
/// Hu et al. 2021, eq. 3. Of a convolution, `down` has its kernel and `up` is 1x1; with a `mid` both are 1x1 and
/// `mid` [r, r, kh, kw] has the kernel.
pub struct Lora {
    file: TensorFile,
    keys: LoraKeys,
    layers: Vec<Layer>,
}

/// The change of one layer: where its factors are.
struct Layer {
    network: &'static str,
    /// Its name as the file spells it, without the network.
    name: String,
    down: String,
    up: String,
    mid: Option<String>,
    /// `alpha / r`
    scale: f64,
}

#[derive(Clone, Copy)]
enum Role {
    Down,
    Up,
    Mid,
    Alpha,
}

/// How a key ends, and what its tensor is.
const ENDS: [(&str, Role); 12] = [
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// How a layer begins, and which network it is of.
const NETWORKS: [(&str, &str); 7] = [
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
];

impl Lora {
    /// Opens a file of low-rank changes in kohya's keys (`lora_unet_..._to_q.lora_down.weight`) or in PEFT's and
    /// diffusers' (`unet....to_q.lora_A.weight`, and the older ones), or the folder that PEFT or diffusers saved
    /// it in; of the Hugging Face hub `OWNER/NAME/FILE.safetensors`.
    ///
    /// # Errors
    /// A file that is none of low-rank changes; one that holds anything else too (DoRA, LoHa, biases), or half of
    /// a pair: nothing is left out in silence.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let (path, config) = find(&hub::locate(path)?)?;
        let file = TensorFile::open(&path)?;
        let refused = |what: String| Error::weights(&path, what);
        let mut found: BTreeMap<String, [Option<String>; 4]> = BTreeMap::new();
        let mut strange = Vec::new();
        for key in file.names() {
            let Some((layer, role)) = role(key) else {
                strange.push(key.to_owned());
                continue;
            };
            let keys = found.entry(layer).or_default();
            if keys[role as usize].replace(key.to_owned()).is_some() {
                return Err(refused(format!("{key} is there in two spellings")));
            }
        }
        if !found.values().any(|[down, up, ..]| down.is_some() || up.is_some()) {
            return Err(refused("holds no low-rank changes: no lora_down and no lora_A".into()));
        }
        if let Some(first) = strange.first() {
            let what = match strange.iter().find_map(|key| other_method(key)) {
                Some(method) => format!("{method} are not read here"),
                None => "a file of low-rank changes holds nothing else".into(),
            };
            let count = strange.len();
            return Err(refused(format!(
                "{count} tensors such as {first} are no part of one: {what}"
            )));
        }
        let config = match config {
            Some(config) => Some(config),
            None => metadata(&file, &path)?,
        };
        let mut layers = Vec::new();
        for (layer, [down, up, mid, alpha]) in found {
            let (Some(down), Some(up)) = (down, up) else {
                return Err(refused(format!(
                    "{layer} has one factor of its change and not the other"
                )));
            };
            let (network, name) = split(&layer);
            let rank = file.shape(&down).and_then(|shape| shape.first().copied()).unwrap_or(0);
            let scale = match (&alpha, &config) {
                (Some(alpha), _) => number(&file, alpha)? / rank as f64,
                (None, Some(config)) => config.scale(network, name, rank).map_err(refused)?,
                (None, None) => 1.,
            };
            if rank < 1 || !scale.is_finite() {
                let what =
                    format!("{layer}: rank {rank}, alpha / rank {scale}: expected numbers above 0");
                return Err(refused(what));
            }
            layers.push(Layer { network, name: name.to_owned(), down, up, mid, scale });
        }
        let kohya = layers.iter().any(|layer| layer.down.starts_with("lora_"));
        let keys = if kohya { LoraKeys::Kohya } else { LoraKeys::Peft };
        Ok(Self { file, keys, layers })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// How its keys are written.
    pub fn keys(&self) -> LoraKeys {
        self.keys
    }

    /// How many layers of each network it changes.
    pub fn networks(&self) -> BTreeMap<&'static str, usize> {
        let mut networks = BTreeMap::new();
        for layer in &self.layers {
            *networks.entry(layer.network).or_insert(0) += 1;
        }
        networks
    }

    /// Where each layer's change goes: the tensor's name in its network.
    fn targets(&self, spellings: &Spellings) -> Result<BTreeMap<Target, &Layer>> {
        let refused = |what: String| Error::weights(self.path(), what);
        let mut targets = BTreeMap::new();
        let mut lost = Vec::new();
        for layer in &self.layers {
            let Some(names) = spellings.get(layer.network) else {
                let what = format!("changes a {}, which the model does not have", layer.network);
                return Err(refused(what));
            };
            match names.get(&layer.name) {
                Some((name, shape)) => {
                    self.fits(layer, shape).map_err(|what| {
                        refused(format!(
                            "{what}: it was made for another model, or for another size of it"
                        ))
                    })?;
                    let target = (layer.network, name.clone());
                    if targets.insert(target, layer).is_some() {
                        return Err(refused(format!("changes {name} twice, in two spellings")));
                    }
                }
                None => lost.push(format!("{} of {}", layer.name, layer.network)),
            }
        }
        if let Some(first) = lost.first() {
            let (count, all) = (lost.len(), self.layers.len());
            let what = format!(
                "{count} of its {all} layers are not in the model, such as {first}: it was made \
                                for another one"
            );
            return Err(refused(what));
        }
        Ok(targets)
    }

    fn fits(&self, layer: &Layer, weight: &[i64]) -> std::result::Result<(), String> {
        let shape = |key: &str| self.file.shape(key).unwrap_or_default();
        let (down, up) = (shape(&layer.down), shape(&layer.up));
        let (rank, outputs) = (down.first(), weight.first());
        let [inner, inputs] = [&down, weight].map(|shape| shape.iter().skip(1).product::<i64>());
        let mid = layer.mid.as_ref().map(|key| shape(key));
        let middle = match (mid.as_deref(), rank, weight) {
            (None, ..) => inner == inputs,
            (Some([a, b, h, w]), Some(rank), [_, inputs, kh, kw]) => {
                (a, b, h, w) == (rank, rank, kh, kw) && inner == *inputs
            }
            _ => false,
        };
        let outer = up.iter().product::<i64>() == up.iter().take(2).product::<i64>()
            && up.first() == outputs
            && up.get(1) == rank;
        let what = || {
            format!(
                "{}: factors {up:?} and {down:?} do not make a change of {weight:?}",
                layer.name
            )
        };
        if middle && outer { Ok(()) } else { Err(what()) }
    }

    /// `(alpha / r) * up down`, in f32.
    fn change(&self, layer: &Layer, shape: &[i64]) -> Result<Tensor> {
        let matrix = |key: &str| -> Result<Tensor> {
            let tensor = self.file.tensor(key)?.f_to_kind(Kind::Float)?;
            Ok(tensor.f_flatten(1, -1)?)
        };
        let (down, up) = (matrix(&layer.down)?, matrix(&layer.up)?);
        let product = match &layer.mid {
            None => up.f_matmul(&down)?,
            Some(mid) => {
                let mid = self.file.tensor(mid)?.f_to_kind(Kind::Float)?;
                Tensor::f_einsum("oa,abhw,bi->oihw", &[up, mid, down], None::<i64>)?
            }
        };
        Ok((product * layer.scale).f_reshape(shape)?)
    }
}

/// A network, and one of its tensors.
type Target = (&'static str, String);
/// The tensors of each network, with their shapes, by every way to spell the layer that they are the weight of.
type Spellings = BTreeMap<String, HashMap<String, (String, Vec<i64>)>>;

/// Makes the networks' weights what their files say, plus these changes: every tensor that was `changed` before is
/// made anew. An error leaves the files' own weights.
///
/// # Errors
/// A strength that is not finite; changes that are not of these networks, or that leave what is not finite.
pub(crate) fn merge(
    networks: &BTreeMap<String, Params>,
    changed: &mut BTreeSet<Target>,
    loras: &[(Lora, f64)],
) -> Result<()> {
    let spellings: Spellings =
        networks.iter().map(|(name, params)| (name.clone(), spellings(params))).collect();
    let mut all: BTreeMap<Target, Vec<(&Lora, &Layer, f64)>> = BTreeMap::new();
    for (lora, strength) in loras {
        if !strength.is_finite() {
            return Err(Error::argument("a LoRA's strength", "a finite number", strength, ""));
        }
        for (target, layer) in lora.targets(&spellings)? {
            all.entry(target).or_default().push((lora, layer, *strength));
        }
    }
    let of = |target: &Target| {
        let missing = || Error::argument("network", "one of the model", target.0, "");
        networks.get(target.0).ok_or_else(missing)
    };
    for target in std::mem::take(changed) {
        of(&target)?.rewrite(&target.1, None)?;
    }
    for (target, layers) in &all {
        let params = of(target)?;
        changed.insert(target.clone());
        let write = || -> Result<()> {
            let shape = params.shape(&target.1);
            let mut sum: Option<Tensor> = None;
            for &(lora, layer, strength) in layers {
                let change = lora.change(layer, &shape)? * strength;
                sum = Some(match sum {
                    Some(sum) => sum + change,
                    None => change,
                });
            }
            params.rewrite(&target.1, sum.as_ref())
        };
        if let Err(error) = write() {
            for target in std::mem::take(changed) {
                of(&target)?.rewrite(&target.1, None)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The weights of a network's layers, by every way to spell the layer: `a.b.0.c`, kohya's `a_b_0_c`, and the same
/// in latent-diffusion's names, which kohya writes for SDXL.
fn spellings(params: &Params) -> HashMap<String, (String, Vec<i64>)> {
    let variables = params.variables();
    let layers: Vec<(&str, &str, Vec<i64>)> = variables
        .iter()
        .filter_map(|(name, tensor)| {
            Some((name.strip_suffix(".weight")?, name.as_str(), tensor.size()))
        })
        .filter(|(_, _, shape)| shape.len() > 1)
        .collect();
    let blocks = ldm::Places::of(layers.iter().map(|(layer, ..)| *layer));
    let mut all = HashMap::new();
    for (layer, name, shape) in &layers {
        let mut add = |spelling: String| all.insert(spelling, (name.to_string(), shape.clone()));
        let plain = layer.strip_prefix("text_model.").unwrap_or(layer);
        let ldm = blocks.unet(layer);
        for layer in [plain].into_iter().chain(ldm.as_deref()) {
            add(layer.to_owned());
            add(layer.replace('.', "_"));
        }
    }
    all
}

/// The layer of a key, spelled one way, and what the tensor is to it.
fn role(key: &str) -> Option<(String, Role)> {
    // PEFT may write the adapter's name between.
    let key = key.strip_prefix("base_model.model.").unwrap_or(key).replace(".default.", ".");
    let key = key.replace(".processor.", ".");
    let (layer, role) =
        ENDS.iter().find_map(|&(end, role)| Some((key.strip_suffix(end)?, role)))?;
    let mut layer = layer.to_owned();
    // diffusers' oldest: `attn1.processor.to_out_lora.down`, `self_attn.to_q_lora.down`.
    if let Some((scope, name)) = layer.rsplit_once('.') {
        let text = scope.ends_with("self_attn");
        let name = match name {
            "to_q" | "to_k" | "to_v" if text => name.replace("to_", "") + "_proj",
            "to_out" if text => "out_proj".to_owned(),
            "to_out" => "to_out.0".to_owned(),
            name => name.to_owned(),
        };
        layer = format!("{scope}.{name}");
    }
    Some((layer, role))
}

/// The network of a layer, and its name there; what names no network is of the U-Net.
fn split(layer: &str) -> (&'static str, &str) {
    let (network, name) = NETWORKS
        .iter()
        .find_map(|&(start, network)| Some((network, layer.strip_prefix(start)?)))
        .unwrap_or(("unet", layer));
    let plain = ["text_model.", "text_model_"].iter().find_map(|start| name.strip_prefix(start));
    (network, plain.unwrap_or(name))
}

/// What else can be done to a layer, by a part of its key.
fn other_method(key: &str) -> Option<&'static str> {
    [
        ("dora_scale", "DoRA's magnitudes"),
        ("lora_magnitude_vector", "DoRA's magnitudes"),
        ("hada_", "Hadamard products (LoHa)"),
        ("lokr_", "Kronecker products (LoKr)"),
        (".diff", "whole changes (LyCORIS full)"),
        ("bias", "changes of biases"),
        ("lora_embedding", "changes of embeddings"),
    ]
    .into_iter()
    .find_map(|(part, method)| key.contains(part).then_some(method))
}

fn number(file: &TensorFile, key: &str) -> Result<f64> {
    let tensor = file.tensor(key)?;
    if tensor.numel() != 1 {
        return Err(Error::weights(
            file.path(),
            format!("{key} is not one number: {:?}", tensor.size()),
        ));
    }
    Ok(tensor.f_to_kind(Kind::Double)?.f_reshape([1])?.f_double_value(&[0])?)
}

/// The file of a path, and PEFT's configuration beside it.
fn find(path: &Path) -> Result<(PathBuf, Option<Config>)> {
    if !path.is_dir() {
        return Ok((path.to_owned(), None));
    }
    let names = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];
    let file =
        names.iter().map(|name| path.join(name)).find(|file| file.is_file()).ok_or_else(|| {
            Error::weights(path, format!("holds no {}; name the file", names.join(" and no ")))
        })?;
    let config = path.join("adapter_config.json");
    let config = config.is_file().then(|| read_config(&config)).transpose()?;
    Ok((file, config.map(|all| Config { all, prefixed: false })))
}

/// What diffusers writes of the adapters into a file's metadata.
fn metadata(file: &TensorFile, path: &Path) -> Result<Option<Config>> {
    let Some(text) = file.metadata().get("lora_adapter_metadata") else { return Ok(None) };
    let all = serde_json::from_str(text)
        .map_err(|e| Error::weights(path, format!("its metadata: {e}")))?;
    Ok(Some(Config { all, prefixed: true }))
}

/// PEFT's configuration of an adapter, or of one for each network.
struct Config {
    all: Map<String, Value>,
    /// Keys begin with the network: `unet.lora_alpha`.
    prefixed: bool,
}

impl Config {
    /// `alpha / r`, or `alpha / sqrt(r)` where it was trained so (rsLoRA, Kalajdzievski 2023).
    fn scale(&self, network: &str, layer: &str, rank: i64) -> std::result::Result<f64, String> {
        let get = |key: &str| match self.prefixed {
            true => self.all.get(&format!("{network}.{key}")),
            false => self.all.get(key),
        };
        let alpha = match self.pattern(get("alpha_pattern"), layer)?.or_else(|| get("lora_alpha")) {
            Some(alpha) => {
                alpha.as_f64().ok_or(format!("lora_alpha is {alpha}: expected a number"))?
            }
            None => rank as f64,
        };
        let stabilised = get("use_rslora").and_then(Value::as_bool) == Some(true);
        Ok(alpha / if stabilised { (rank as f64).sqrt() } else { rank as f64 })
    }

    /// The value of the pattern that the layer ends with.
    fn pattern<'a>(
        &self,
        patterns: Option<&'a Value>,
        layer: &str,
    ) -> std::result::Result<Option<&'a Value>, String> {
        for (pattern, value) in patterns.and_then(Value::as_object).into_iter().flatten() {
            if pattern.contains(['*', '+', '?', '[', '(', '|', '^', '$', '\\']) {
                return Err(format!(
                    "its alpha_pattern {pattern:?} is a regular expression, which is not read here"
                ));
            }
            let pattern = pattern.strip_prefix("text_model.").unwrap_or(pattern);
            if layer == pattern || layer.ends_with(&format!(".{pattern}")) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
