//! A report on a checkpoint: everything that can be said about it before its tensors are read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tch::Kind;

use super::{Checkpoint, StoredNetwork};
use crate::models::clip::TextEncoder;
use crate::models::params::{Params, TensorProblem};
use crate::models::unet::UNet;
use crate::models::vae::Vae;

/// One network, compared with its configuration.
#[derive(Clone, Serialize)]
pub struct NetworkReport {
    /// Its name in a diffusers folder.
    pub name: String,
    /// The files that hold its tensors.
    #[serde(serialize_with = "all_shown")]
    pub files: Vec<PathBuf>,
    /// How many tensors the files hold for it.
    pub tensors: usize,
    /// How many numbers these tensors hold.
    pub parameters: u64,
    /// How many of the numbers the files have in each dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// How many bytes of memory it needs in each dtype.
    pub memory: BTreeMap<String, u64>,
    /// Tensors that the network needs and the files lack.
    pub missing: Vec<String>,
    /// Tensors that the files have and the network does not.
    pub unused: Vec<String>,
    /// Tensors whose shape is not the network's.
    pub misshaped: Vec<String>,
    /// Why the network cannot be built at all.
    pub refused: Option<String>,
}

impl fmt::Debug for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.is_whole() { "whole" } else { "not whole" };
        let Self { name, tensors, parameters, .. } = self;
        write!(
            f,
            "NetworkReport {{ {name}, {parameters} parameters in {tensors} tensors, {whole} }}"
        )
    }
}

/// What a checkpoint is, and whether it can be opened.
#[derive(Clone, Serialize)]
pub struct Report {
    /// The folder or file.
    #[serde(serialize_with = "shown")]
    pub path: PathBuf,
    /// What it is.
    pub family: String,
    /// The evidence for it.
    pub evidence: Vec<String>,
    /// Whose names the tensors have.
    #[serde(rename = "dialect")]
    pub key_style: String,
    /// What the U-Net predicts; `None` where there is no U-Net.
    pub prediction: Option<String>,
    /// Whether the checkpoint or the user says so; otherwise it is assumed.
    #[serde(rename = "prediction_said")]
    pub prediction_known: bool,
    /// Who says so, or why it is assumed.
    #[serde(rename = "prediction_why")]
    pub prediction_reason: String,
    /// What was corrected in its configurations, and what of them is not followed, as sentences.
    pub notes: Vec<String>,
    /// Its networks.
    pub networks: Vec<NetworkReport>,
    /// How many bytes of memory all networks need together in each dtype.
    pub memory: BTreeMap<String, u64>,
    /// What is known but not needed, by the reason.
    pub leftovers: BTreeMap<String, Vec<String>>,
    /// The keys of tensors that belong to no known network.
    pub unknown: Vec<String>,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.is_whole() { "whole" } else { "not whole" };
        let networks: Vec<&str> = self.networks.iter().map(|n| n.name.as_str()).collect();
        write!(f, "Report {{ {}, {whole}, networks: {networks:?} }}", self.family)
    }
}

impl Report {
    /// Whether every network has exactly the tensors it needs, and no tensor is unknown.
    pub fn is_whole(&self) -> bool {
        self.unknown.is_empty() && self.networks.iter().all(NetworkReport::is_whole)
    }
}

impl NetworkReport {
    /// Whether its tensors are exactly those of the configured network.
    pub fn is_whole(&self) -> bool {
        let problems = [&self.missing, &self.unused, &self.misshaped];
        self.refused.is_none() && problems.iter().all(|list| list.is_empty())
    }
}

/// Compares every network with its configuration, with the code that loads it and the headers alone.
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
        key_style: checkpoint.key_style.to_string(),
        prediction: name.filter(|_| checkpoint.networks.contains_key("unet")),
        prediction_known: prediction.known,
        prediction_reason: prediction.reason.clone(),
        notes: checkpoint.notes_of_configs(),
        networks,
        memory,
        leftovers: checkpoint.leftovers.clone(),
        unknown: checkpoint.unknown.clone(),
    }
}

fn network(name: &str, network: &StoredNetwork) -> NetworkReport {
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
        "unet" => network.build(&params, UNet::new).map(drop),
        "vae" => network.build(&params, Vae::new).map(drop),
        _ => network.build(&params, TextEncoder::new).map(drop),
    };
    for problem in params.problems() {
        let list = match problem {
            TensorProblem::Missing(..) => &mut report.missing,
            TensorProblem::Unused(_) => &mut report.unused,
            TensorProblem::Shape(..) | TensorProblem::Values(_) | TensorProblem::Memory(..) => {
                &mut report.misshaped
            }
        };
        list.push(match problem {
            TensorProblem::Unused(name) => name,
            other => other.to_string(),
        });
    }
    // A network whose construction got as far as its tensors reports by them what does not fit.
    if let Err(error) = built
        && params.variables().is_empty()
    {
        report.refused = Some(error.to_string());
        report.unused.clear();
    }
    report
}

/// A path as it is shown: JSON has no bytes that are not UTF-8.
fn shown<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

fn all_shown<S: serde::Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| path.display().to_string()))
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
