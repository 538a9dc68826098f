//! A scoped view of a network's tensors: the networks ask for each by name and shape.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::TensorFile;
use crate::{Error, Result};

/// How a fresh tensor starts.
#[derive(Debug, Clone, Copy)]
pub enum Init {
    /// Uniform in ±1/sqrt(`fan_in`), as torch's layers start.
    FanIn(i64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// All ones.
    Ones,
    /// All zeros.
    Zeros,
}

/// A source of named tensors: weight files, or fresh ones to train.
///
/// A network asks for everything that it has and then [`Params::finish`] says at once all that is
/// missing, mis-shaped or left over.
#[derive(Clone)]
pub struct Params {
    store: Rc<RefCell<Store>>,
    prefix: String,
}

struct Store {
    files: Vec<TensorFile>,
    from: PathBuf,
    kind: Kind,
    device: Device,
    used: HashSet<String>,
    problems: Vec<String>,
    variables: Vec<(String, Tensor)>,
}

impl Params {
    /// Tensors from weight files (several where the weights are sharded), brought to `kind` and `device`.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn open(paths: &[PathBuf], kind: Kind, device: Device) -> Result<Self> {
        let files = paths.iter().map(TensorFile::open).collect::<Result<Vec<_>>>()?;
        let from = match paths {
            [one] => one.clone(),
            _ => paths
                .first()
                .and_then(|p| p.parent())
                .unwrap_or_else(|| Path::new("weights"))
                .to_owned(),
        };
        Ok(Self::new(files, from, kind, device))
    }

    /// Fresh tensors that require gradients, drawn from torch's global generator: call it inside
    /// [`crate::noise::with_seed`].
    pub fn fresh(kind: Kind, device: Device) -> Self {
        Self::new(Vec::new(), PathBuf::from("fresh weights"), kind, device)
    }

    fn new(files: Vec<TensorFile>, from: PathBuf, kind: Kind, device: Device) -> Self {
        let store = Store {
            files,
            from,
            kind,
            device,
            used: HashSet::new(),
            problems: Vec::new(),
            variables: Vec::new(),
        };
        Self { store: Rc::new(RefCell::new(store)), prefix: String::new() }
    }

    /// The same source, one name further in: `params / "mid_block" / 0`.
    fn inside(&self, name: &str) -> Self {
        Self { store: Rc::clone(&self.store), prefix: format!("{}{name}.", self.prefix) }
    }

    /// Whether a tensor of a file begins with this scope and `name`.
    pub fn has(&self, name: &str) -> bool {
        let start = format!("{}{name}", self.prefix);
        self.store.borrow().files.iter().any(|f| f.names().any(|n| n.starts_with(&start)))
    }

    /// The scope of the first name that the file has: older checkpoints have other dialects.
    pub fn first_of(&self, names: &[&str]) -> Self {
        let found = names.iter().find(|name| self.has(&format!("{name}.")));
        self.inside(found.or(names.first()).unwrap_or(&""))
    }

    /// The tensor `name` of this scope, with this shape.
    ///
    /// A linear layer's weight may be a 1x1 convolution's in the file, as in older checkpoints.
    /// What is wrong is collected for [`Params::finish`].
    pub fn tensor(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let name = format!("{}{name}", self.prefix);
        let mut store = self.store.borrow_mut();
        let made = if store.files.is_empty() {
            fresh(shape, init, store.kind, store.device)
        } else {
            store.load(&name, shape)
        };
        let tensor = match made {
            Ok(tensor) => tensor,
            Err(problem) => {
                store.problems.push(problem);
                Tensor::new()
            }
        };
        store.variables.push((name, tensor.shallow_clone()));
        tensor
    }

    /// Marks tensors of a file as known although no stage uses them.
    pub fn ignore(&self, name: &str) {
        let name = format!("{}{name}", self.prefix);
        self.store.borrow_mut().used.insert(name);
    }

    /// The name of this scope in the weights.
    pub fn name(&self) -> &str {
        self.prefix.trim_end_matches('.')
    }

    /// The dtype of the tensors.
    pub fn kind(&self) -> Kind {
        self.store.borrow().kind
    }

    /// The device of the tensors.
    pub fn device(&self) -> Device {
        self.store.borrow().device
    }

    /// Every tensor that was asked for, in order, sharing memory with the network's.
    pub fn variables(&self) -> Vec<(String, Tensor)> {
        let store = self.store.borrow();
        store.variables.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
    }

    /// Says whether the weights are those of the network that was built.
    ///
    /// # Errors
    /// Every tensor that is missing, has another shape, is not finite, or that nothing asked for.
    pub fn finish(&self) -> Result<()> {
        let store = self.store.borrow();
        let mut problems = store.problems.clone();
        let names = store.files.iter().flat_map(TensorFile::names);
        problems.extend(
            names
                .filter(|name| !store.used.contains(*name))
                .map(|name| format!("{name} is not part of the configured network")),
        );
        if problems.is_empty() {
            return Ok(());
        }
        let shown = problems.iter().take(8).map(|p| format!("\n  {p}")).collect::<String>();
        let more = problems.len().saturating_sub(8);
        let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        Err(Error::weights(
            &store.from,
            format!("does not fit config.json; check that both come from one model:{shown}{rest}"),
        ))
    }
}

impl<T: std::fmt::Display> std::ops::Div<T> for &Params {
    type Output = Params;
    fn div(self, name: T) -> Params {
        self.inside(&name.to_string())
    }
}

impl<T: std::fmt::Display> std::ops::Div<T> for Params {
    type Output = Params;
    fn div(self, name: T) -> Params {
        self.inside(&name.to_string())
    }
}

impl Store {
    fn load(&mut self, name: &str, shape: &[i64]) -> std::result::Result<Tensor, String> {
        let file = self
            .files
            .iter()
            .find(|f| f.shape(name).is_some())
            .ok_or_else(|| format!("{name} {shape:?} is missing"))?;
        self.used.insert(name.to_owned());
        let got = file.shape(name).unwrap_or_default();
        let as_convolution = [shape, &[1, 1]].concat();
        if got != shape && got != as_convolution {
            return Err(format!("{name} should be {shape:?} and is {got:?}"));
        }
        let said = |e: Error| e.to_string();
        let tensor = file.tensor(name).map_err(said)?;
        let tensor = tensor
            .f_to_kind(self.kind)
            .and_then(|t| t.f_to_device(self.device))
            .and_then(|t| t.f_view(shape))
            .map(|t| channels_last(&t))
            .map_err(|e| said(e.into()))?;
        let finite = tensor.f_isfinite().and_then(|t| t.f_all()).map_err(|e| said(e.into()))?;
        if finite.int64_value(&[]) == 0 {
            return Err(format!("{name} holds values that are not finite in {:?}", self.kind));
        }
        Ok(tensor)
    }
}

fn fresh(
    shape: &[i64],
    init: Init,
    kind: Kind,
    device: Device,
) -> std::result::Result<Tensor, String> {
    let empty = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu)).map_err(|e| e.to_string())?;
    let mut tensor = empty;
    match init {
        Init::FanIn(fan_in) => {
            let bound = 1. / (fan_in as f64).sqrt();
            tensor.f_uniform_(-bound, bound)
        }
        Init::Normal(std) => tensor.f_normal_(0., std),
        Init::Ones => tensor.f_fill_(1.),
        Init::Zeros => tensor.f_zero_(),
    }
    .and_then(|t| t.f_to_kind(kind))
    .and_then(|t| t.f_to_device(device))
    .map(|t| channels_last(&t).set_requires_grad(true))
    .map_err(|e| e.to_string())
}

/// Pictures and convolution weights with their channels side by side in memory: the order that
/// libtorch's convolutions on CPUs and on tensor cores want. Shapes and values stay as they are.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    if x.dim() != 4 {
        return x.shallow_clone();
    }
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
