//! A checkpoint, looked at: which networks it has, what each is, and which family they make.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::{Device, Kind};

use super::family::{judge, of_keys};
use super::ldm::{self, Meaning};
use super::{Family, Params, TensorFile, Weights, configs, hub, read_config, weight_files};
use crate::models::clip::Tokenizer;
use crate::prediction::Prediction;
use crate::{Error, Result};

/// What a person says of a checkpoint that does not say it itself.
#[derive(Debug, Clone, Default)]
pub struct Stated {
    /// What the U-Net predicts.
    pub prediction: Option<Prediction>,
    /// A diffusers folder whose configurations and tokenizer a single file has; without it they are read from the
    /// shapes of the tensors, with the published constants.
    pub configs: Option<PathBuf>,
}

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// diffusers' and transformers'.
    Diffusers,
    /// CompVis's latent-diffusion and Stability's.
    Ldm,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Ldm => "CompVis/LDM",
        })
    }
}

/// What the U-Net predicts, and how that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionType {
    /// What it predicts.
    pub prediction: Prediction,
    /// Whether the checkpoint, or the user, says so; else it was assumed.
    pub said: bool,
    /// Who says so, or why it was assumed.
    pub why: String,
}

/// One network of a checkpoint.
#[derive(Clone)]
pub struct Network {
    /// Its `config.json`, read or made.
    pub config: Value,
    /// Where its configuration comes from: its file, or the file whose shapes gave it.
    pub config_path: PathBuf,
    /// Its tensors.
    pub weights: Weights,
}

/// A checkpoint of which only the headers and configurations were read: a diffusers folder, one component of it, or
/// a single file.
pub struct Checkpoint {
    /// The folder or file.
    pub path: PathBuf,
    /// What it is.
    pub family: Family,
    /// What says so.
    pub evidence: Vec<String>,
    /// Whose names its tensors have.
    pub dialect: Dialect,
    /// What its U-Net predicts.
    pub prediction: PredictionType,
    /// `unet`, `vae`, `text_encoder`, `text_encoder_2`.
    pub networks: BTreeMap<String, Network>,
    /// `scheduler`, and the upscaler's `low_res_scheduler`, with their files.
    pub schedulers: BTreeMap<String, (Value, PathBuf)>,
    /// What is known and not needed, by the reason.
    pub leftovers: BTreeMap<String, Vec<String>>,
    /// Tensors of which nothing is known.
    pub unknown: Vec<String>,
    /// `model_index.json`; of a single file what the published folder of its family says.
    index: Value,
    /// Where tokenizers lie; `None`: the embedded one.
    tokenizers: Option<PathBuf>,
    /// What is said of it before its networks are looked at.
    said: Option<String>,
}

pub(super) const NETWORKS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];

impl Checkpoint {
    /// Looks at a folder, a file, or what [`hub::locate`] fetches from the Hugging Face hub.
    ///
    /// # Errors
    /// A path that is none of them; files that cannot be read, or are none of weights.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(path, &Stated::default())
    }

    /// Looks at a folder or a file of which something is known.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_as(path: impl AsRef<Path>, stated: &Stated) -> Result<Self> {
        let path = &hub::locate(path)?;
        let mut checkpoint = match path.is_dir() {
            true => Self::folder(path)?,
            false => Self::file(path, stated)?,
        };
        if let Some(prediction) = stated.prediction {
            let why = "stated by the user".into();
            checkpoint.prediction = PredictionType { prediction, said: true, why };
            checkpoint.write_prediction();
            checkpoint.judge();
        }
        Ok(checkpoint)
    }

    fn new(path: &Path, dialect: Dialect) -> Self {
        Self {
            path: path.to_owned(),
            family: Family::Other("unknown"),
            evidence: Vec::new(),
            dialect,
            prediction: PredictionType {
                prediction: Prediction::Epsilon,
                said: false,
                why: "nothing says otherwise".into(),
            },
            networks: BTreeMap::new(),
            schedulers: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            unknown: Vec::new(),
            index: Value::Object(serde_json::Map::new()),
            tokenizers: None,
            said: (dialect == Dialect::Ldm).then(|| "its keys are latent-diffusion's".into()),
        }
    }

    fn judge(&mut self) {
        let (family, evidence) = judge(&self.networks, self.prediction.prediction);
        self.family = family;
        self.evidence = self.said.iter().cloned().chain(evidence).collect();
    }

    fn write_prediction(&mut self) {
        if let (Some((config, _)), Ok(prediction)) =
            (self.schedulers.get_mut("scheduler"), serde_json::to_value(self.prediction.prediction))
            && let Some(config) = config.as_object_mut()
        {
            config.insert("prediction_type".into(), prediction);
        }
    }

    fn folder(path: &Path) -> Result<Self> {
        let index = path.join("model_index.json");
        if !index.is_file() {
            return Self::component(path);
        }
        let mut checkpoint = Self::new(path, Dialect::Diffusers);
        checkpoint.tokenizers = Some(path.to_owned());
        let index: serde_json::Map<String, Value> = read_config(&index)?;
        for name in parts(&index).filter(|name| !name.starts_with("tokenizer")) {
            let folder = path.join(name);
            if NETWORKS.contains(&name) {
                checkpoint.networks.insert(name.to_owned(), network(&folder)?);
            } else if name.ends_with("scheduler") {
                let file = folder.join("scheduler_config.json");
                checkpoint.schedulers.insert(name.to_owned(), (read_config(&file)?, file));
            } else {
                let why = "parts of the folder that draw no picture".to_owned();
                checkpoint.leftovers.entry(why).or_default().push(name.to_owned());
            }
        }
        checkpoint.prediction_of_folder()?;
        let class = index.get("_class_name").and_then(Value::as_str).unwrap_or("?");
        checkpoint.said = Some(format!("model_index.json names {class}"));
        checkpoint.index = index.clone().into();
        checkpoint.judge();
        Ok(checkpoint)
    }

    fn prediction_of_folder(&mut self) -> Result<()> {
        let Some((config, file)) = self.schedulers.get("scheduler") else { return Ok(()) };
        self.prediction = match config.get("prediction_type") {
            Some(Value::String(name)) => PredictionType {
                prediction: name.parse().map_err(|e: Error| e.in_config(file))?,
                said: true,
                why: "scheduler_config.json says so".into(),
            },
            _ => PredictionType {
                prediction: Prediction::Epsilon,
                said: false,
                why: "as diffusers does where scheduler_config.json does not say".into(),
            },
        };
        Ok(())
    }

    /// A folder of one network.
    fn component(path: &Path) -> Result<Self> {
        if !path.join("config.json").is_file() {
            let message = "no such file; give a diffusers folder, one with model_index.json in it, or a single \
                           .safetensors or .ckpt file";
            return Err(Error::config(path.join("model_index.json"), message));
        }
        let network = network(path)?;
        let class = network.config.get("_class_name").and_then(Value::as_str);
        let name = match class {
            Some("UNet2DConditionModel") => "unet",
            Some("AutoencoderKL") => "vae",
            _ if network.config.get("hidden_act").is_some() => "text_encoder",
            _ => {
                let message = format!("a network that is not known here: {}", class.unwrap_or("?"));
                return Err(Error::config(path.join("config.json"), message));
            }
        };
        let mut checkpoint = Self::new(path, Dialect::Diffusers);
        checkpoint.networks.insert(name.into(), network);
        checkpoint.judge();
        Ok(checkpoint)
    }

    fn file(path: &Path, stated: &Stated) -> Result<Self> {
        let file = Rc::new(TensorFile::open_header(path)?);
        let context = file.names().find(|name| name.ends_with(".attn2.to_k.weight"));
        let context = context.and_then(|name| file.shape(name)?.get(1).copied());
        let dialect = ldm::Dialect::of(file.names(), context);
        let names = if dialect.is_ldm() { Dialect::Ldm } else { Dialect::Diffusers };
        let mut checkpoint = Self::new(path, names);
        checkpoint.tokenizers = stated.configs.clone();
        if let Some((family, evidence)) = of_keys(&file) {
            (checkpoint.family, checkpoint.evidence) = (family, evidence);
            return Ok(checkpoint);
        }

        let mut weights: BTreeMap<&str, Weights> = BTreeMap::new();
        let mut open_clip = false;
        for key in file.names() {
            match dialect.read(key) {
                Meaning::Leftover(why) => {
                    checkpoint.leftovers.entry(why.into()).or_default().push(key.to_owned());
                }
                Meaning::Unknown => checkpoint.unknown.push(key.to_owned()),
                Meaning::Tensors(network, tensors) => {
                    open_clip |= key.starts_with("cond_stage_model.model.");
                    for (name, part) in tensors {
                        if !weights.entry(network).or_default().put(&file, name, key, part) {
                            let message = format!("{key} is there in two dialects");
                            return Err(Error::weights(path, message));
                        }
                    }
                }
            }
        }
        if !file.others().is_empty() {
            let others = file.others().to_vec();
            checkpoint.leftovers.insert("what the file holds beside its tensors".into(), others);
        }
        for (name, weights) in weights {
            let made = match name {
                "unet" => configs::unet(&weights),
                "vae" => configs::vae(&weights),
                "text_encoder" => configs::text_encoder(&weights, open_clip),
                _ => configs::text_encoder(&weights, true),
            };
            let (config, config_path) = match &stated.configs {
                Some(folder) => {
                    let file = folder.join(name).join("config.json");
                    (read_config(&file)?, file)
                }
                None => (
                    made.ok_or_else(|| {
                        let few = format!("its {name} lacks the tensors that tell its size");
                        Error::weights(path, few)
                    })?,
                    path.to_owned(),
                ),
            };
            checkpoint.networks.insert(name.into(), Network { config, config_path, weights });
        }
        checkpoint.judge();
        checkpoint.settle(&file, stated)?;
        Ok(checkpoint)
    }

    /// What a single file does not say in its shapes: prediction type, schedules, sizes, factors.
    fn settle(&mut self, file: &TensorFile, stated: &Stated) -> Result<()> {
        if let Some(folder) = &stated.configs {
            for name in ["scheduler", "low_res_scheduler"] {
                let path = folder.join(name).join("scheduler_config.json");
                if name == "scheduler" || path.is_file() {
                    self.schedulers.insert(name.into(), (read_config(&path)?, path));
                }
            }
            let index = folder.join("model_index.json");
            if index.is_file() {
                self.index = read_config(&index)?;
            }
            self.prediction_of_folder()?;
            self.judge();
            return Ok(());
        }
        self.prediction = prediction_of_file(self.family, file);
        self.judge();
        let prediction = serde_json::to_value(self.prediction.prediction)
            .map_err(|e| Error::config(&self.path, e))?;
        let scheduler = match self.family {
            Family::Sd1 | Family::Sd1Inpainting => configs::scheduler("PNDMScheduler", &prediction),
            Family::Sd1Lcm => configs::scheduler("LCMScheduler", &prediction),
            Family::Sd2Base | Family::Sd2V | Family::Sd2Inpainting | Family::Sd2Depth => {
                configs::scheduler("DDIMScheduler", &prediction)
            }
            Family::Sdxl | Family::SdxlInpainting | Family::SdxlRefiner => {
                configs::scheduler("EulerDiscreteScheduler", &prediction)
            }
            Family::X4Upscaler => {
                let noise = configs::upscaler_scheduler("DDPMScheduler", &"epsilon".into());
                self.schedulers.insert("low_res_scheduler".into(), (noise, self.path.clone()));
                configs::upscaler_scheduler("DDIMScheduler", &prediction)
            }
            _ => return Ok(()),
        };
        self.schedulers.insert("scheduler".into(), (scheduler, self.path.clone()));
        let mut set = |network: &str, key: &str, value: Value| {
            if let Some(network) = self.networks.get_mut(network) {
                network.config[key] = value;
            }
        };
        match self.family {
            Family::Sd2V => set("unet", "sample_size", 96.into()),
            Family::X4Upscaler => set("vae", "scaling_factor", 0.08333.into()),
            Family::Sdxl | Family::SdxlInpainting | Family::SdxlRefiner => {
                set("vae", "scaling_factor", 0.13025.into());
                set("vae", "sample_size", 1024.into());
                self.index["force_zeros_for_empty_prompt"] = true.into();
            }
            _ => {}
        }
        Ok(())
    }

    /// What was assumed or left aside, in words for a person.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let open = self.schedulers.contains_key("scheduler");
        if open && !self.prediction.said && self.dialect == Dialect::Ldm && self.is_sd2() {
            let name = serde_json::to_value(self.prediction.prediction).unwrap_or_default();
            notes.push(format!(
                "the file does not say what its U-Net predicts: {} was assumed, {}; state another one if the \
                 pictures are noise",
                name.as_str().unwrap_or("?"),
                self.prediction.why
            ));
        }
        if !self.unknown.is_empty() {
            let first: Vec<&str> = self.unknown.iter().take(3).map(String::as_str).collect();
            let count = self.unknown.len();
            notes.push(format!("{count} tensors belong to no network: {} ...", first.join(", ")));
        }
        notes
    }

    fn is_sd2(&self) -> bool {
        matches!(self.family, Family::Sd2Base | Family::Sd2V)
    }

    /// What `model_index.json` says.
    ///
    /// # Errors
    /// A value of another type.
    pub(crate) fn index<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.index.clone())
            .map_err(|e| Error::config(self.path.join("model_index.json"), e))
    }

    /// One network.
    ///
    /// # Errors
    /// A checkpoint that does not have it.
    pub fn network(&self, name: &str) -> Result<&Network> {
        self.networks.get(name).ok_or_else(|| {
            let message = format!("holds no {name}; it is {}", self.family);
            Error::weights(&self.path, message)
        })
    }

    /// The configuration of a network, and where it comes from.
    ///
    /// # Errors
    /// A checkpoint that does not have the network; a key that is missing.
    pub fn config<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let network = self.network(name)?;
        serde_json::from_value(network.config.clone())
            .map_err(|e| Error::config(&network.config_path, e))
    }

    /// The tensors of a network, brought to `kind` and `device` as it asks for them.
    ///
    /// # Errors
    /// A checkpoint that does not have the network; a file whose bytes do not match its checksum.
    pub fn params(&self, name: &str, kind: Kind, device: Device) -> Result<Params> {
        Params::of(self.network(name)?.weights.clone(), kind, device)
    }

    /// A network, built by `new` from its tensors and its configuration.
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
        let config = self.config(name)?;
        let path = &self.network(name)?.config_path;
        new(&self.params(name, kind, device)?, &config).map_err(|e| e.in_config(path))
    }

    /// Whether there is a tokenizer of this name: in a folder, or embedded for a single file.
    pub(crate) fn has_tokenizer(&self, name: &str) -> bool {
        let folder = self.tokenizers.iter().map(|folder| folder.join(name)).find(|f| f.is_dir());
        folder.is_some() || !self.path.is_dir()
    }

    /// The tokenizer of the folder, or the embedded one with the family's padding.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn tokenizer(&self, name: &str) -> Result<Tokenizer> {
        let folder = self.tokenizers.iter().map(|folder| folder.join(name)).find(|f| f.is_dir());
        if let Some(folder) = folder {
            return Tokenizer::open(folder);
        }
        if let Some(folder) = self.tokenizers.as_ref().filter(|_| self.path.is_dir()) {
            return Tokenizer::open(folder.join(name));
        }
        let text = name.replace("tokenizer", "text_encoder");
        let act = self.network(&text)?.config.get("hidden_act").and_then(Value::as_str);
        Tokenizer::clip(if act == Some("quick_gelu") { "<|endoftext|>" } else { "!" })
    }
}

/// The parts that a `model_index.json` says are there.
pub(super) fn parts(index: &serde_json::Map<String, Value>) -> impl Iterator<Item = &str> {
    let there = |what: &Value| what.as_array().is_some_and(|what| !what.iter().all(Value::is_null));
    index.iter().filter(move |(_, what)| there(what)).map(|(name, _)| name.as_str())
}

fn network(folder: &Path) -> Result<Network> {
    let config_path = folder.join("config.json");
    let config = read_config(&config_path)?;
    let weights = Weights::open(&weight_files(folder)?)?;
    Ok(Network { config, config_path, weights })
}

/// What a single file predicts. Only SD 2.x leaves room for doubt: its two models have the same shapes.
fn prediction_of_file(family: Family, file: &TensorFile) -> PredictionType {
    let known = |prediction, why: &str| PredictionType { prediction, said: true, why: why.into() };
    let assumed =
        |prediction, why: &str| PredictionType { prediction, said: false, why: why.into() };
    let metadata = |key: &str| file.metadata().get(key).map(|text| text.trim().to_lowercase());
    if file.shape("v_pred").is_some() {
        return known(Prediction::V, "the file has a tensor v_pred");
    }
    match metadata("modelspec.prediction_type").as_deref() {
        Some("epsilon") => return known(Prediction::Epsilon, "the file's metadata says so"),
        Some("v" | "v_prediction") => return known(Prediction::V, "the file's metadata says so"),
        _ => {}
    }
    if metadata("modelspec.architecture").is_some_and(|name| name.contains("768-v")) {
        return known(Prediction::V, "the file's metadata names the 768-v model");
    }
    match family {
        Family::Sd2Base | Family::Sd2V => match metadata("global_step").as_deref() {
            // The steps that the published base models were trained for.
            Some("875000" | "220000") => {
                assumed(Prediction::Epsilon, "as its global_step is the published base model's")
            }
            _ => assumed(Prediction::V, "as diffusers does for SD 2.x"),
        },
        Family::X4Upscaler => assumed(Prediction::V, "as the published model"),
        _ => assumed(Prediction::Epsilon, "as all published models of this family"),
    }
}
