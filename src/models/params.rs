//! Where a network gets its tensors from: it asks for each by name and shape.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::device::check_present;
use crate::tensor_file::NamedTensors;
use crate::{Error, Result};

/// How a fresh tensor is initialised.
#[derive(Debug, Clone, Copy)]
pub enum Init {
    /// Uniform in ±1/sqrt(`fan_in`), as torch initialises its layers.
    FanIn(i64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// All ones.
    Ones,
    /// All zeros.
    Zeros,
}

/// What is wrong with a tensor, whether a network asked for it or not.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorProblem {
    /// Asked for with this shape, but in no file.
    Missing(String, Vec<i64>),
    /// In a file, but not asked for.
    Unused(String),
    /// Of another shape: the name, the shape it should have, and the shape it has.
    Shape(String, Vec<i64>, Vec<i64>),
    /// Not readable, or not finite in the dtype.
    Values(String),
    /// Larger than the memory that the device has left: the name, and how much was asked for.
    Memory(String, String),
}

impl TensorProblem {
    /// What went wrong with the tensor of this name.
    fn of(name: &str, error: Error) -> Self {
        match error {
            Error::Memory { asked, .. } => Self::Memory(name.to_owned(), asked),
            other => Self::Values(format!("{name}: {other}")),
        }
    }
}

impl std::fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(name, shape) => write!(f, "{name} {shape:?} is missing"),
            Self::Unused(name) => write!(f, "{name} is not part of the configured network"),
            Self::Shape(name, shape, got) => write!(f, "{name} should be {shape:?} and is {got:?}"),
            Self::Values(what) => f.write_str(what),
            Self::Memory(name, _) => write!(f, "there is not enough memory for {name}"),
        }
    }
}

/// A source of named tensors for a network: weight files, or fresh tensors to train.
///
/// A network asks for every tensor it has; then [`Params::finish`] reports at once everything that is missing, of
/// another shape or left over.
#[derive(Clone)]
pub struct Params {
    store: Rc<RefCell<TensorStore>>,
    prefix: String,
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Params {{ {} tensors, prefix: {:?} }}", self.variables().len(), self.prefix)
    }
}

/// A network's use of copies of its tensors on another device, which ends when this is dropped.
pub(crate) struct Loan {
    params: Params,
    /// The tensors that are copied, in order.
    home: Vec<Tensor>,
    device: Device,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut store = self.params.store.borrow_mut();
        for ((_, tensor), home) in store.variables.iter_mut().zip(&self.home) {
            // It had this storage before, so it can have it again.
            let _ = tensor.f_set_data(home);
        }
        store.device = self.device;
    }
}

/// Where the tensors come from.
enum TensorOrigin {
    Files(NamedTensors),
    /// Files of which only names and shapes are compared: the network's tensors are empty.
    Headers(NamedTensors),
    Fresh,
}

struct TensorStore {
    origin: TensorOrigin,
    kind: Kind,
    device: Device,
    used: HashSet<String>,
    problems: Vec<TensorProblem>,
    variables: Vec<(String, Tensor)>,
}

impl Params {
    /// Tensors from weight files, of which there are several if the weights are sharded, converted to `kind` and moved to
    /// `device`.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; a GPU that is not there.
    pub fn open(paths: &[PathBuf], kind: Kind, device: Device) -> Result<Self> {
        Self::of(NamedTensors::open(paths)?, kind, device)
    }

    /// These tensors, each converted to `kind` and moved to `device` when it is asked for.
    ///
    /// # Errors
    /// A file whose bytes do not match its checksum; a GPU that is not there.
    pub fn of(weights: NamedTensors, kind: Kind, device: Device) -> Result<Self> {
        check_present(device)?;
        weights.verify()?;
        Ok(Self::new(TensorOrigin::Files(weights), kind, device))
    }

    /// Only names and shapes, to compare weights with a network: the tensors of a network that is built from this are
    /// empty, and [`Params::problems`] says what does not fit.
    pub fn headers(weights: NamedTensors) -> Self {
        Self::new(TensorOrigin::Headers(weights), Kind::Float, Device::Cpu)
    }

    /// Fresh tensors that require gradients, drawn from torch's global generator: call it inside
    /// [`crate::noise::with_seed`].
    pub fn fresh(kind: Kind, device: Device) -> Self {
        Self::new(TensorOrigin::Fresh, kind, device)
    }

    fn new(origin: TensorOrigin, kind: Kind, device: Device) -> Self {
        let store = TensorStore {
            origin,
            kind,
            device,
            used: HashSet::new(),
            problems: Vec::new(),
            variables: Vec::new(),
        };
        Self { store: Rc::new(RefCell::new(store)), prefix: String::new() }
    }

    /// The same source, one scope further in: `params / "mid_block" / 0`.
    fn inside(&self, name: &str) -> Self {
        Self { store: Rc::clone(&self.store), prefix: format!("{}{name}.", self.prefix) }
    }

    /// Whether the name of any tensor in the files begins with this scope and `name`.
    pub fn has(&self, name: &str) -> bool {
        let start = format!("{}{name}", self.prefix);
        self.store.borrow().weights().is_some_and(|weights| weights.has(&start))
    }

    /// The scope of the first of these names that the files have: older checkpoints have other names.
    pub fn first_of(&self, names: &[&str]) -> Self {
        let found = names.iter().find(|name| self.has(&format!("{name}.")));
        self.inside(found.or(names.first()).unwrap_or(&""))
    }

    /// The tensor `name` of this scope, with this shape.
    ///
    /// In the file, a linear layer's weight may be a 1x1 convolution's, as in older checkpoints. What is wrong is
    /// collected for [`Params::finish`].
    pub fn tensor(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let name = format!("{}{name}", self.prefix);
        let mut store = self.store.borrow_mut();
        let made = match store.origin {
            TensorOrigin::Fresh => fresh(shape, init, store.kind, store.device)
                .map_err(|e| TensorProblem::of(&name, e.into())),
            TensorOrigin::Files(_) | TensorOrigin::Headers(_) => store.load(&name, shape),
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

    /// Marks a tensor of a file as known although the network does not use it.
    pub fn ignore(&self, name: &str) {
        let name = format!("{}{name}", self.prefix);
        self.store.borrow_mut().used.insert(name);
    }

    /// The full name of this scope.
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

    /// Lends the network copies of its tensors on `device`. The tensors stay where they are, and the network has them
    /// again when the loan ends, in whatever way; nothing is copied back.
    pub(crate) fn lend(&self, device: Device) -> Result<Loan> {
        check_present(device)?;
        // Declared first, it ends last: after the store is free again.
        let mut loan = Loan { params: self.clone(), home: Vec::new(), device: self.device() };
        let mut store = self.store.borrow_mut();
        for (_, tensor) in &mut store.variables {
            let copy = tensor.f_to_dtype_layout((tensor.kind(), device), false, true)?;
            loan.home.push(tensor.f_detach()?);
            tensor.f_set_data(&copy)?;
        }
        store.device = device;
        Ok(loan)
    }

    /// Every tensor that was asked for, in order; they share memory with the network's.
    pub fn variables(&self) -> Vec<(String, Tensor)> {
        let store = self.store.borrow();
        store.variables.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
    }

    /// The shape of a tensor that was asked for; empty for any other.
    pub(crate) fn shape(&self, name: &str) -> Vec<i64> {
        let store = self.store.borrow();
        store.variables.iter().find(|(n, _)| n == name).map(|(_, t)| t.size()).unwrap_or_default()
    }

    /// Reads a tensor of the network from its file again, and adds `change` in f32.
    pub(crate) fn rewrite(&self, name: &str, change: Option<&Tensor>) -> Result<()> {
        let store = self.store.borrow();
        let variable = store.variables.iter().find(|(n, _)| n == name);
        let (Some((_, variable)), Some(weights)) = (variable, store.weights()) else {
            return Err(Error::argument("tensor", "one that was read from a file", name));
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
            let what = format!("{name} is not finite in {:?} with the change added", store.kind);
            return Err(Error::weights(weights.path(), what));
        }
        Ok(())
    }

    /// Every tensor that is missing, has another shape or is not finite, then every one that nothing asked for.
    pub fn problems(&self) -> Vec<TensorProblem> {
        let store = self.store.borrow();
        let names = store.weights().into_iter().flat_map(NamedTensors::names);
        let unused = names.filter(|name| !store.used.contains(*name));
        let unused = unused.map(|name| TensorProblem::Unused(name.to_owned()));
        store.problems.iter().cloned().chain(unused).collect()
    }

    /// Checks that the weights are exactly those of the network that was built.
    ///
    /// # Errors
    /// Every tensor that is missing, has another shape, is not finite, or that nothing asked for.
    pub fn finish(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        let too_large = problems.iter().find_map(|problem| match problem {
            TensorProblem::Memory(name, asked) => Some((name, asked.clone())),
            _ => None,
        });
        if let Some((name, asked)) = too_large {
            let device = crate::device::name(self.device());
            return Err(Error::Memory {
                doing: format!("loading {name} in {:?} on {device}", self.kind()),
                asked,
                advice:
                    "use f16 or bf16 (--dtype), or let the networks wait on the CPU (offloaded, \
                         --offload)"
                        .to_owned(),
            });
        }
        // Both sides: what the network lacks, and what the file has in its place.
        let (unused, others): (Vec<_>, Vec<_>) =
            problems.iter().partition(|problem| matches!(problem, TensorProblem::Unused(_)));
        let some = |problems: &[&TensorProblem], count: usize| {
            let first = problems.iter().take(count).map(|p| format!("\n  {p}")).collect::<String>();
            let more = problems.len().saturating_sub(count);
            if more > 0 { format!("{first}\n  and {more} more") } else { first }
        };
        let shown =
            some(&others, 8 - unused.len().min(4)) + &some(&unused, 8 - others.len().min(4));
        let path = self.store.borrow().weights().map_or("fresh weights".into(), NamedTensors::path);
        Err(Error::weights(
            path,
            format!("does not fit its configuration; check that both come from one model:{shown}"),
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

impl TensorStore {
    fn weights(&self) -> Option<&NamedTensors> {
        match &self.origin {
            TensorOrigin::Files(weights) | TensorOrigin::Headers(weights) => Some(weights),
            TensorOrigin::Fresh => None,
        }
    }

    fn load(&mut self, name: &str, shape: &[i64]) -> std::result::Result<Tensor, TensorProblem> {
        let missing = || TensorProblem::Missing(name.to_owned(), shape.to_vec());
        let weights = self.weights().ok_or_else(missing)?;
        let got = weights.shape(name).ok_or_else(missing)?;
        let as_convolution = [shape, &[1, 1]].concat();
        let fits = got == shape || got == as_convolution;
        let tensor = match &self.origin {
            TensorOrigin::Files(weights) if fits => self.read(weights, name, shape),
            _ => Ok(Tensor::new()),
        };
        self.used.insert(name.to_owned());
        if !fits {
            return Err(TensorProblem::Shape(name.to_owned(), shape.to_vec(), got));
        }
        tensor
    }

    fn read(
        &self,
        weights: &NamedTensors,
        name: &str,
        shape: &[i64],
    ) -> std::result::Result<Tensor, TensorProblem> {
        let said = |e: Error| TensorProblem::of(name, e);
        // Copied from the file's pages to its final place, with nothing in between.
        let tensor = weights
            .with(name, |view| {
                let mut tensor = empty(shape, self.kind, self.device)?;
                tensor.f_copy_(&view.f_reshape(shape)?)?;
                Ok(tensor)
            })
            .map_err(said)?;
        if !is_finite(&tensor).map_err(|e| said(e.into()))? {
            let what = format!("{name} holds values that are not finite in {:?}", self.kind);
            return Err(TensorProblem::Values(what));
        }
        Ok(tensor)
    }
}

/// An uninitialised tensor, in the memory order of [`channels_last`].
fn empty(shape: &[i64], kind: Kind, device: Device) -> std::result::Result<Tensor, tch::TchError> {
    match *shape {
        [outputs, inputs, height, width] => {
            Tensor::f_empty([outputs, height, width, inputs], (kind, device))?
                .f_permute([0, 3, 1, 2])
        }
        _ => Tensor::f_empty(shape, (kind, device)),
    }
}

/// Without the copy that `isfinite` makes: the minimum and the maximum are NaN if any number is.
fn is_finite(tensor: &Tensor) -> std::result::Result<bool, tch::TchError> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    // In its memory order, or libtorch would copy it first.
    let in_order =
        if tensor.dim() == 4 { tensor.f_permute([0, 2, 3, 1])? } else { tensor.shallow_clone() };
    let (low, high) = in_order.f_aminmax(None::<i64>, false)?;
    Ok(low.double_value(&[]).is_finite() && high.double_value(&[]).is_finite())
}

/// A new tensor, initialised in f32 on the CPU.
fn fresh(
    shape: &[i64],
    init: Init,
    kind: Kind,
    device: Device,
) -> std::result::Result<Tensor, tch::TchError> {
    let mut tensor = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?;
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
}

/// Pictures and convolution weights with their channels side by side in memory: the order that
/// libtorch's convolutions on CPUs and on tensor cores want. Shapes and values stay as they are.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    if x.dim() != 4 {
        return x.shallow_clone();
    }
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::with_seed;

    #[test]
    fn weights_that_do_not_fit_into_memory_are_not_called_wrong() {
        let params = Params::fresh(Kind::Float, Device::Cpu);
        let _ = with_seed(1, || (&params / "conv_in").tensor("weight", &[1 << 46], Init::Zeros));
        let said = params.finish().unwrap_err().to_string();
        assert_eq!(
            said,
            "out of memory: loading conv_in.weight in Float on cpu asked for 281474.98 GB more than it had; use f16 or \
             bf16 (--dtype), or let the networks wait on the CPU (offloaded, --offload)"
        );
    }

    #[test]
    fn a_loan_ends_with_the_tensors_that_were_there_and_copies_nothing_back() -> Result<()> {
        let params = Params::fresh(Kind::Float, Device::Cpu);
        let of_network = with_seed(1, || params.tensor("weight", &[2, 3, 3, 3], Init::FanIn(27)));
        let of_network = of_network.set_requires_grad(false);
        let storage = || of_network.data_ptr();
        let (home, numbers) = (storage(), of_network.copy());
        for panics in [false, true] {
            let use_it = || {
                let _loan = params.lend(Device::Cpu).unwrap();
                assert_ne!(storage(), home, "the network has a copy");
                assert!(of_network.equal(&numbers));
                assert_eq!(of_network.stride(), numbers.stride());
                let _ = of_network.detach().fill_(7.);
                assert!(!panics, "on purpose");
            };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(use_it));
            assert_eq!(done.is_err(), panics);
            assert_eq!(storage(), home);
            assert!(of_network.equal(&numbers), "what was written to the copy is gone");
        }
        assert_eq!(params.variables()[0].1.data_ptr(), home);
        Ok(())
    }
}
