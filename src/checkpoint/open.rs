//! Opening a checkpoint: what it holds is read, then its family and prediction type are recognised, once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::diffusers::{self, Pipeline};
use super::inferred_configs::Sampled;
use super::latent_diffusion_keys::{KeyTranslator, Translation, foreign_prefix};
use super::model_index::{NETWORKS, parts};
use super::opened::TAKEN_OFF;
use super::prediction_type::has_zero_terminal_snr;
use super::{
    Checkpoint, Family, KeyStyle, PredictionType, StoredNetwork, family, hub, inferred_configs,
};
use crate::prediction::Prediction;
use crate::tensor_file::{NamedTensors, TensorFile, read_config, unwrapped, wrappers};
use crate::{Error, Result};

/// What the user states about a checkpoint that does not say it itself.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// What the U-Net predicts.
    pub prediction: Option<Prediction>,
    /// A diffusers folder whose configurations and tokenizer are used for a single file; without it the configurations
    /// are inferred from the shapes of the tensors, with the published constants.
    pub configs: Option<PathBuf>,
}

impl Checkpoint {
    /// Opens a diffusers folder, a component of one, a single file, or what [`hub::locate`] fetches from the Hugging
    /// Face hub.
    ///
    /// # Errors
    /// A path that is none of these; weights or configurations that cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// As [`Checkpoint::open`], with what the user states about the checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let path = hub::locate(path)?;
        let mut read = match path.is_dir() {
            true if path.join("model_index.json").is_file() => Contents::of_folder(&path)?,
            true => Contents::of_component(&path)?,
            false => Contents::of_file(&path, options.configs.as_deref())?,
        };
        let (family, evidence) = match read.foreign.take() {
            Some(recognised) => recognised,
            None => family::of_networks(&read.networks),
        };
        let said = read.prediction(family)?;
        let prediction = options.prediction.map_or(said, PredictionType::stated);
        let family = family.that_predicts(prediction.prediction);
        if read.file.is_some() {
            read.infer_settings(&path, family, prediction.prediction);
        } else {
            read.complete_settings(family);
        }
        if options.prediction.is_some() {
            read.write_prediction(prediction.prediction);
        }
        Ok(Self {
            path,
            family,
            evidence: [read.evidence, evidence].concat(),
            key_style: read.key_style,
            prediction,
            networks: read.networks,
            schedulers: read.schedulers,
            leftovers: read.leftovers,
            unknown: read.unknown,
            model_index: read.model_index,
            corrections: read.corrections,
            tokenizers: read.tokenizers,
        })
    }
}

/// What headers and configurations hold, before it is known which family they make up.
struct Contents {
    key_style: KeyStyle,
    networks: BTreeMap<String, StoredNetwork>,
    schedulers: BTreeMap<String, (Value, PathBuf)>,
    leftovers: BTreeMap<String, Vec<String>>,
    unknown: Vec<String>,
    model_index: Map<String, Value>,
    /// What was corrected, as sentences for the user.
    corrections: Vec<String>,
    tokenizers: Option<PathBuf>,
    /// Evidence for the family beside its networks.
    evidence: Vec<String>,
    /// The family, with the evidence, of a file that holds no network.
    foreign: Option<(Family, Vec<String>)>,
    /// A single file of networks whose settings no configuration says.
    file: Option<Rc<TensorFile>>,
}

impl Contents {
    fn new(key_style: KeyStyle) -> Self {
        Self {
            key_style,
            networks: BTreeMap::new(),
            schedulers: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            unknown: Vec::new(),
            model_index: Map::new(),
            corrections: Vec::new(),
            tokenizers: None,
            evidence: Vec::new(),
            foreign: None,
            file: None,
        }
    }

    /// Reads a diffusers folder.
    fn of_folder(path: &Path) -> Result<Self> {
        let mut read = Self::new(KeyStyle::Diffusers);
        read.tokenizers = Some(path.to_owned());
        read.model_index = read_config(path.join("model_index.json"))?;
        for name in parts(&read.model_index).filter(|name| !name.starts_with("tokenizer")) {
            let folder = path.join(name);
            if NETWORKS.contains(&name) {
                let network = StoredNetwork::open(&folder)?;
                take_off(&mut read.leftovers, network.weights.taken_off());
                read.networks.insert(name.to_owned(), network);
            } else if name.ends_with("scheduler") {
                read.schedulers.insert(name.to_owned(), scheduler(&folder)?);
            } else {
                let why = "parts of the folder that drawing a picture does not need".to_owned();
                read.leftovers.entry(why).or_default().push(name.to_owned());
            }
        }
        let class = read.model_index.get("_class_name").and_then(Value::as_str).unwrap_or("?");
        read.evidence.push(format!("model_index.json names {class}"));
        read.as_the_pipeline_opens_it();
        Ok(read)
    }

    /// Reads a folder of one network.
    fn of_component(path: &Path) -> Result<Self> {
        if !path.join("config.json").is_file() {
            let message = "no such file; give a diffusers folder, which has a model_index.json, or a single \
                           .safetensors or .ckpt file";
            return Err(Error::config(path.join("model_index.json"), message));
        }
        let network = StoredNetwork::open(path)?;
        let class = network.config.get("_class_name").and_then(Value::as_str);
        let name = match class {
            Some("UNet2DConditionModel") => "unet",
            Some("AutoencoderKL") => "vae",
            _ if network.config.get("hidden_act").is_some() => "text_encoder",
            _ => {
                let message = format!("an unknown kind of network: {}", class.unwrap_or("?"));
                return Err(Error::config(path.join("config.json"), message));
            }
        };
        let mut read = Self::new(KeyStyle::Diffusers);
        take_off(&mut read.leftovers, network.weights.taken_off());
        read.networks.insert(name.into(), network);
        read.as_the_pipeline_opens_it();
        Ok(read)
    }

    /// Reads a single file; `configs` is a diffusers folder that has its configurations.
    fn of_file(path: &Path, configs: Option<&Path>) -> Result<Self> {
        let file = Rc::new(TensorFile::open_header(path)?);
        let context = file.names().find(|name| name.ends_with(".attn2.to_k.weight"));
        let context = context.and_then(|name| file.shape(name)?.get(1).copied());
        let names = PlainNames::of(&file);
        let keys = KeyTranslator::of(names.of_key.values().map(String::as_str), context);
        let mut read = Self::new(if keys.is_ldm() { KeyStyle::Ldm } else { KeyStyle::Diffusers });
        read.tokenizers = configs.map(Path::to_owned);
        take_off(&mut read.leftovers, names.taken_off.iter().map(String::as_str));
        read.foreign = family::of_keys(&file);
        if read.foreign.is_some() {
            return Ok(read);
        }
        if keys.is_ldm() {
            read.evidence.push("its keys are latent-diffusion's".into());
        }
        for (name, weights) in read.translate(&file, &names, &keys)? {
            let (config, config_path) = match configs {
                Some(folder) => {
                    let file = folder.join(name).join("config.json");
                    (read_config(&file)?, file)
                }
                None => {
                    let inferred = match name {
                        "unet" => inferred_configs::unet(&weights),
                        "vae" => inferred_configs::vae(&weights),
                        _ => inferred_configs::text_encoder(&weights, keys.is_open_clip(name)),
                    };
                    let lacks = || {
                        let first: Vec<&str> = weights.names().take(3).collect();
                        let what = format!(
                            "its {name} lacks the tensors that tell its size; it has such as {}",
                            first.join(", ")
                        );
                        Error::weights(path, what)
                    };
                    (inferred.ok_or_else(lacks)?, path.to_owned())
                }
            };
            read.networks.insert(
                name.into(),
                StoredNetwork { config, config_path, weights, left_out: Vec::new() },
            );
        }
        match configs {
            Some(folder) => read.configure(folder)?,
            None => read.file = Some(file),
        }
        Ok(read)
    }

    /// The tensors of each network of a file under diffusers' names; the other keys go to `leftovers` and `unknown`.
    fn translate(
        &mut self,
        file: &Rc<TensorFile>,
        names: &PlainNames,
        keys: &KeyTranslator,
    ) -> Result<BTreeMap<&'static str, NamedTensors>> {
        let mut networks: BTreeMap<&str, NamedTensors> = BTreeMap::new();
        for (key, plain) in &names.of_key {
            match keys.translate(plain) {
                Translation::NotNeeded(why) => {
                    self.leftovers.entry(why.into()).or_default().push(key.to_owned());
                }
                Translation::Unknown => self.unknown.push(key.to_owned()),
                Translation::Tensors(network, tensors) => {
                    for (name, part) in tensors {
                        if !networks.entry(network).or_default().put(file, name, key, part) {
                            let message = format!("{key} occurs twice, in two styles of keys");
                            return Err(Error::weights(file.path(), message));
                        }
                    }
                }
            }
        }
        if !file.others().is_empty() {
            let others = file.others().to_vec();
            self.leftovers.insert("what the file holds beside its tensors".into(), others);
        }
        Ok(networks)
    }

    /// Reads the schedulers and the index of the folder that has a single file's configurations.
    fn configure(&mut self, folder: &Path) -> Result<()> {
        for name in ["scheduler", "low_res_scheduler"] {
            let place = folder.join(name);
            if name == "scheduler" || place.join("scheduler_config.json").is_file() {
                self.schedulers.insert(name.into(), scheduler(&place)?);
            }
        }
        let index = folder.join("model_index.json");
        if index.is_file() {
            self.model_index = read_config(&index)?;
        }
        self.as_the_pipeline_opens_it();
        Ok(())
    }

    /// Makes of the configurations what the pipeline of diffusers does that `model_index.json` names: keys that are
    /// missing get their defaults, old settings are corrected, and the scheduler is of the class that the index names,
    /// whatever its own file says.
    fn as_the_pipeline_opens_it(&mut self) {
        let pipeline = diffusers::pipeline(&self.model_index);
        let upcasts = pipeline.is_some_and(Pipeline::upcasts);
        for (name, network) in &mut self.networks {
            if let (true, "vae", Some(config)) =
                (upcasts, &name[..], network.config.as_object_mut())
            {
                config.entry("force_upcast").or_insert(true.into());
            }
            network.fill_in(name);
        }
        for (name, (config, _)) in &mut self.schedulers {
            let class = self.model_index.get(name).and_then(|part| part.get(1));
            if let (Some(class @ Value::String(_)), Some(config)) = (class, config.as_object_mut())
            {
                let said = config.insert("_class_name".into(), class.clone());
                if let Some(said) = said.filter(|said| !said.is_null() && said != class) {
                    self.corrections.push(format!(
                        "model_index.json names the class {class} and {name}/scheduler_config.json {said}: the first \
                         one holds"
                    ));
                }
            }
        }
        let Some(pipeline) = pipeline else { return };
        if let Some((config, _)) = self.schedulers.get_mut("scheduler")
            && let Some(config) = config.as_object_mut()
        {
            let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
            let known = diffusers::scheduler(class);
            let reads = |key: &str| known.is_some_and(|known| known.contains_key(key));
            let changed = pipeline.correct("scheduler", config, reads);
            self.corrections.extend(as_notes("scheduler_config.json", changed));
        }
        for name in ["unet", "vae"] {
            let config = self.networks.get_mut(name).and_then(|n| n.config.as_object_mut());
            let changed = config.map(|config| pipeline.correct(name, config, |_| true));
            self.corrections
                .extend(as_notes(&format!("{name}/config.json"), changed.unwrap_or_default()));
        }
    }

    /// What the U-Net predicts, as far as the checkpoint says.
    fn prediction(&self, family: Family) -> Result<PredictionType> {
        match (self.schedulers.get("scheduler"), &self.file) {
            (Some((config, path)), _) => PredictionType::of_scheduler(config, path),
            (None, Some(file)) => Ok(PredictionType::of_file(file, family)),
            (None, None) => Ok(PredictionType::unsaid()),
        }
    }

    /// Adds what a single file's shapes do not say, as the published models of its family have it.
    fn infer_settings(&mut self, path: &Path, family: Family, prediction: Prediction) {
        let zero_terminal_snr = self.file.as_deref().is_some_and(has_zero_terminal_snr);
        if zero_terminal_snr {
            self.evidence.push("it was trained to zero terminal SNR: the file says so".into());
        }
        let told = |unet: &StoredNetwork| unet.config.get("time_cond_proj_dim").is_some();
        let distilled = self.networks.get("unet").is_some_and(told);
        let sampled = Sampled { prediction, zero_terminal_snr, distilled };
        for (name, config) in inferred_configs::schedulers(family, &sampled) {
            self.schedulers.insert(name.into(), (config, path.to_owned()));
        }
        for (network, key, value) in inferred_configs::constants(family) {
            if let Some(network) = self.networks.get_mut(network) {
                network.config[key] = value;
            }
        }
        self.model_index = inferred_configs::model_index(family);
    }

    /// Adds what the folder of a family leaves to diffusers' defaults, where they depend on the family.
    fn complete_settings(&mut self, family: Family) {
        let vae = self.networks.get_mut("vae").and_then(|vae| vae.config.as_object_mut());
        if let Some(config) = vae.filter(|_| inferred_configs::force_upcast(family)) {
            config.entry("force_upcast").or_insert(true.into());
        }
    }

    /// Puts what the user states into the scheduler's configuration.
    fn write_prediction(&mut self, prediction: Prediction) {
        let config =
            self.schedulers.get_mut("scheduler").and_then(|(config, _)| config.as_object_mut());
        if let (Some(config), Ok(prediction)) = (config, serde_json::to_value(prediction)) {
            config.insert("prediction_type".into(), prediction);
        }
    }
}

/// What was corrected in an old file, as sentences for the user.
fn as_notes(file: &str, changed: Vec<String>) -> impl Iterator<Item = String> {
    changed
        .into_iter()
        .map(move |what| format!("{file} is outdated: {what}, as diffusers corrects it"))
}

/// Says among the leftovers what was taken off names.
fn take_off<'a>(
    leftovers: &mut BTreeMap<String, Vec<String>>,
    parts: impl Iterator<Item = &'a str>,
) {
    for part in parts.map(str::to_owned) {
        let said: &mut Vec<String> = leftovers.entry(TAKEN_OFF.into()).or_default();
        if !said.contains(&part) {
            said.push(part);
        }
    }
}

/// The keys of a file without what wrappers of networks add and all keys begin with.
struct PlainNames {
    of_key: BTreeMap<String, String>,
    taken_off: BTreeSet<String>,
}

impl PlainNames {
    fn of(file: &TensorFile) -> Self {
        let parts = file.names().flat_map(wrappers);
        let mut taken_off: BTreeSet<String> = parts.map(|part| format!("{part}.")).collect();
        let mut of_key: BTreeMap<String, String> =
            file.names().map(|key| (key.to_owned(), unwrapped(key).into_owned())).collect();
        let names: Vec<&str> = of_key.values().map(String::as_str).collect();
        let prefix = foreign_prefix(&names).to_owned();
        if !prefix.is_empty() {
            for name in of_key.values_mut() {
                *name = name.strip_prefix(&prefix).unwrap_or(name).to_owned();
            }
            taken_off.insert(prefix);
        }
        Self { of_key, taken_off }
    }
}

/// A scheduler's configuration, and its file.
fn scheduler(folder: &Path) -> Result<(Value, PathBuf)> {
    let path = folder.join("scheduler_config.json");
    Ok((read_config(&path)?, path))
}
