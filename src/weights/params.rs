//! A scoped view of a network's tensors: the networks ask for each by name and shape.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::Weights;
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

/// What is wrong with a tensor that a network asked for, or that it did not ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// Asked for with this shape, and in no file.
    Missing(String, Vec<i64>),
    /// In a file, and not asked for.
    Unused(String),
    /// Of another shape: the name, the shape that it should have, and the one that it has.
    Shape(String, Vec<i64>, Vec<i64>),
    /// Not readable, or not finite in the dtype.
    Values(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(name, shape) => write!(f, "{name} {shape:?} is missing"),
            Self::Unused(name) => write!(f, "{name} is not part of the configured network"),
            Self::Shape(name, shape, got) => write!(f, "{name} should be {shape:?} and is {got:?}"),
            Self::Values(what) => f.write_str(what),
        }
    }
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

enum From {
    Weights(Weights),
    /// Weights of which only names and shapes are looked at: their tensors are empty.
    Headers(Weights),
    Nothing,
}

struct Store {
    from: From,
    kind: Kind,
    device: Device,
    used: HashSet<String>,
    problems: Vec<Problem>,
    variables: Vec<(String, Tensor)>,
}

impl Params {
    /// Tensors from weight files (several where the weights are sharded), brought to `kind` and `device`.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn open(paths: &[PathBuf], kind: Kind, device: Device) -> Result<Self> {
        Self::of(Weights::open(paths)?, kind, device)
    }

    /// Tensors of these weights, brought to `kind` and `device` one at a time.
    ///
    /// # Errors
    /// A file whose bytes do not match its checksum.
    pub fn of(weights: Weights, kind: Kind, device: Device) -> Result<Self> {
        weights.verify()?;
        Ok(Self::new(From::Weights(weights), kind, device))
    }

    /// Compares these weights with the network that is built from this: its tensors are empty, and
    /// [`Params::problems`] says what does not fit.
    pub fn headers(weights: Weights) -> Self {
        Self::new(From::Headers(weights), Kind::Float, Device::Cpu)
    }

    /// Fresh tensors that require gradients, drawn from torch's global generator: call it inside
    /// [`crate::noise::with_seed`].
    pub fn fresh(kind: Kind, device: Device) -> Self {
        Self::new(From::Nothing, kind, device)
    }

    fn new(from: From, kind: Kind, device: Device) -> Self {
        let store = Store {
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
        self.store.borrow().weights().is_some_and(|weights| weights.has(&start))
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
        let made = match store.from {
            From::Nothing => fresh(shape, init, store.kind, store.device).map_err(Problem::Values),
            From::Weights(_) | From::Headers(_) => store.load(&name, shape),
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

    /// Moves every tensor to `device`, and with them the network that was built from them.
    pub(crate) fn move_to(&self, device: Device) -> Result<()> {
        let mut store = self.store.borrow_mut();
        for (_, tensor) in &mut store.variables {
            let moved = tensor.f_to_device(device)?;
            tensor.f_set_data(&moved)?;
        }
        store.device = device;
        Ok(())
    }

    /// Every tensor that was asked for, in order, sharing memory with the network's.
    pub fn variables(&self) -> Vec<(String, Tensor)> {
        let store = self.store.borrow();
        store.variables.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
    }

    /// The shape of a tensor that was asked for; empty for any other.
    pub(super) fn shape(&self, name: &str) -> Vec<i64> {
        let store = self.store.borrow();
        store.variables.iter().find(|(n, _)| n == name).map(|(_, t)| t.size()).unwrap_or_default()
    }

    /// Reads a tensor of the network from its file again, with `change` added in f32.
    pub(super) fn rewrite(&self, name: &str, change: Option<&Tensor>) -> Result<()> {
        let store = self.store.borrow();
        let variable = store.variables.iter().find(|(n, _)| n == name);
        let (Some((_, variable)), Some(weights)) = (variable, store.weights()) else {
            return Err(Error::argument("tensor", "one that was read from a file", name, ""));
        };
        let mut variable = variable.shallow_clone();
        weights.with(name, |view| {
            let view = view.f_reshape(variable.size())?;
            match change {
                None => variable.f_copy_(&view)?,
                Some(change) => variable.f_copy_(&(view.f_to_kind(Kind::Float)? + change))?,
            };
            Ok(())
        })?;
        if !is_finite(&variable)? {
            let what = format!("{name} is not finite in {:?} after its change", store.kind);
            return Err(Error::weights(weights.path(), what));
        }
        Ok(())
    }

    /// Every tensor that is missing, has another shape or is not finite, and then every one that nothing asked
    /// for.
    pub fn problems(&self) -> Vec<Problem> {
        let store = self.store.borrow();
        let names = store.weights().into_iter().flat_map(Weights::names);
        let unused = names.filter(|name| !store.used.contains(*name));
        let unused = unused.map(|name| Problem::Unused(name.to_owned()));
        store.problems.iter().cloned().chain(unused).collect()
    }

    /// Says whether the weights are those of the network that was built.
    ///
    /// # Errors
    /// Every tensor that is missing, has another shape, is not finite, or that nothing asked for.
    pub fn finish(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        let shown = problems.iter().take(8).map(|p| format!("\n  {p}")).collect::<String>();
        let more = problems.len().saturating_sub(8);
        let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        let path = self.store.borrow().weights().map_or("fresh weights".into(), Weights::path);
        Err(Error::weights(
            path,
            format!(
                "does not fit its configuration; check that both come from one model:{shown}{rest}"
            ),
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
    fn weights(&self) -> Option<&Weights> {
        match &self.from {
            From::Weights(weights) | From::Headers(weights) => Some(weights),
            From::Nothing => None,
        }
    }

    fn load(&mut self, name: &str, shape: &[i64]) -> std::result::Result<Tensor, Problem> {
        let missing = || Problem::Missing(name.to_owned(), shape.to_vec());
        let weights = self.weights().ok_or_else(missing)?;
        let got = weights.shape(name).ok_or_else(missing)?;
        let as_convolution = [shape, &[1, 1]].concat();
        let fits = got == shape || got == as_convolution;
        let tensor = match &self.from {
            From::Weights(weights) if fits => self.read(weights, name, shape),
            _ => Ok(Tensor::new()),
        };
        self.used.insert(name.to_owned());
        if !fits {
            return Err(Problem::Shape(name.to_owned(), shape.to_vec(), got));
        }
        tensor.map_err(Problem::Values)
    }

    fn read(
        &self,
        weights: &Weights,
        name: &str,
        shape: &[i64],
    ) -> std::result::Result<Tensor, String> {
        let said = |e: Error| format!("{name}: {e}");
        // From the file's pages to where it stays, with nothing in between.
        let tensor = weights
            .with(name, |view| {
                let mut tensor = empty(shape, self.kind, self.device)?;
                tensor.f_copy_(&view.f_reshape(shape)?)?;
                Ok(tensor)
            })
            .map_err(said)?;
        if !is_finite(&tensor).map_err(|e| said(e.into()))? {
            return Err(format!("{name} holds values that are not finite in {:?}", self.kind));
        }
        Ok(tensor)
    }
}

/// A tensor with nothing in it, in the order of [`channels_last`].
fn empty(shape: &[i64], kind: Kind, device: Device) -> std::result::Result<Tensor, tch::TchError> {
    match *shape {
        [outputs, inputs, height, width] => {
            Tensor::f_empty([outputs, height, width, inputs], (kind, device))?
                .f_permute([0, 3, 1, 2])
        }
        _ => Tensor::f_empty(shape, (kind, device)),
    }
}

/// Without the copy that `isfinite` makes: the smallest and the largest are NaN where any number is.
fn is_finite(tensor: &Tensor) -> std::result::Result<bool, tch::TchError> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    // In the order in which it lies in memory: libtorch would copy it into that.
    let in_order =
        if tensor.dim() == 4 { tensor.f_permute([0, 2, 3, 1])? } else { tensor.shallow_clone() };
    let (low, high) = in_order.f_aminmax(None::<i64>, false)?;
    Ok(low.double_value(&[]).is_finite() && high.double_value(&[]).is_finite())
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
