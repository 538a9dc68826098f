//! The checkpoint doctor: everything that can be said of a checkpoint before its tensors are read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::Kind;

use super::{Checkpoint, Network, Params, Problem};
use crate::models::clip::TextEncoder;
use crate::models::unet::UNet;
use crate::models::vae::Vae;
use crate::{Error, Result};

/// One network, compared with its configuration.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkReport {
    /// Its name in a diffusers folder.
    pub name: String,
    /// The files that its tensors are in.
    pub files: Vec<PathBuf>,
    /// How many tensors.
    pub tensors: usize,
    /// How many numbers.
    pub parameters: u64,
    /// How many of the numbers are of which dtype in the files.
    pub dtypes: BTreeMap<String, u64>,
    /// Bytes of memory that it needs in each dtype.
    pub memory: BTreeMap<String, u64>,
    /// Tensors that the network needs and the files lack.
    pub missing: Vec<String>,
    /// Tensors that the files have and the network does not.
    pub unused: Vec<String>,
    /// Tensors of another shape.
    pub misshaped: Vec<String>,
    /// Why the network cannot be built at all.
    pub refused: Option<String>,
}

/// What a checkpoint is, and whether it can be opened.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The folder or file.
    pub path: PathBuf,
    /// What it is.
    pub family: String,
    /// What says so.
    pub evidence: Vec<String>,
    /// Whose names the tensors have.
    pub dialect: String,
    /// What the U-Net predicts; `None` where there is no U-Net.
    pub prediction: Option<String>,
    /// Whether the checkpoint says so; else it was assumed.
    pub prediction_said: bool,
    /// Who says so, or why it was assumed.
    pub prediction_why: String,
    /// Its networks.
    pub networks: Vec<NetworkReport>,
    /// Bytes of memory of all networks in each dtype.
    pub memory: BTreeMap<String, u64>,
    /// What is known and not needed, by the reason.
    pub leftovers: BTreeMap<String, Vec<String>>,
    /// Tensors of which nothing is known.
    pub unknown: Vec<String>,
}

impl Report {
    /// Whether every network has what it needs, and nothing is left over that is not known.
    pub fn is_whole(&self) -> bool {
        self.unknown.is_empty() && self.networks.iter().all(NetworkReport::is_whole)
    }
}

impl NetworkReport {
    /// Whether the tensors are those of the configured network.
    pub fn is_whole(&self) -> bool {
        let problems = [&self.missing, &self.unused, &self.misshaped];
        self.refused.is_none() && problems.iter().all(|list| list.is_empty())
    }
}

/// Compares every network with its configuration, by the code that loads it, from the headers alone.
pub fn examine(checkpoint: &Checkpoint) -> Report {
    let networks: Vec<_> = checkpoint.networks.iter().map(|(name, n)| network(name, n)).collect();
    let mut memory = BTreeMap::new();
    for (dtype, bytes) in networks.iter().flat_map(|network| &network.memory) {
        *memory.entry(dtype.clone()).or_insert(0) += bytes;
    }
    let prediction = &checkpoint.prediction;
    let name = serde_json::to_value(prediction.prediction).ok();
    let name = name.and_then(|name| name.as_str().map(str::to_owned));
    Report {
        path: checkpoint.path.clone(),
        family: checkpoint.family.to_string(),
        evidence: checkpoint.evidence.clone(),
        dialect: checkpoint.dialect.to_string(),
        prediction: name.filter(|_| checkpoint.networks.contains_key("unet")),
        prediction_said: prediction.said,
        prediction_why: prediction.why.clone(),
        networks,
        memory,
        leftovers: checkpoint.leftovers.clone(),
        unknown: checkpoint.unknown.clone(),
    }
}

fn network(name: &str, network: &Network) -> NetworkReport {
    let weights = &network.weights;
    let (mut parameters, mut dtypes) = (0, BTreeMap::new());
    for name in weights.names() {
        let numel = weights.shape(name).unwrap_or_default().iter().product::<i64>() as u64;
        let kind = weights.kind(name).map_or("?".into(), dtype_name);
        *dtypes.entry(kind).or_insert(0) += numel;
        parameters += numel;
    }
    let memory = [("f32", 4), ("bf16", 2), ("f16", 2)];
    let mut report = NetworkReport {
        name: name.to_owned(),
        files: weights.files().map(|file| file.path().to_owned()).collect(),
        tensors: weights.names().count(),
        parameters,
        dtypes,
        memory: memory.map(|(dtype, bytes)| (dtype.to_owned(), bytes * parameters)).into(),
        missing: Vec::new(),
        unused: Vec::new(),
        misshaped: Vec::new(),
        refused: None,
    };
    let params = Params::headers(weights.clone());
    let built = match name {
        "unet" => build(network, |config| UNet::new(&params, config).map(drop)),
        "vae" => build(network, |config| Vae::new(&params, config).map(drop)),
        _ => build(network, |config| TextEncoder::new(&params, config).map(drop)),
    };
    for problem in params.problems() {
        let list = match problem {
            Problem::Missing(..) => &mut report.missing,
            Problem::Unused(_) => &mut report.unused,
            Problem::Shape(..) | Problem::Values(_) => &mut report.misshaped,
        };
        list.push(match problem {
            Problem::Unused(name) => name,
            other => other.to_string(),
        });
    }
    // A network that was built says by its tensors what does not fit; a refused configuration asked for none.
    if let Err(error) = built
        && params.variables().is_empty()
    {
        report.refused = Some(error.to_string());
        report.unused.clear();
    }
    report
}

fn build<C: DeserializeOwned>(network: &Network, new: impl FnOnce(&C) -> Result<()>) -> Result<()> {
    let config = serde_json::from_value(network.config.clone())
        .map_err(|e| Error::config(&network.config_path, e))?;
    new(&config).map_err(|e| e.in_config(&network.config_path))
}

fn dtype_name(kind: Kind) -> String {
    match kind {
        Kind::Float => "f32".into(),
        Kind::Half => "f16".into(),
        Kind::BFloat16 => "bf16".into(),
        Kind::Double => "f64".into(),
        Kind::Int64 => "i64".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}
