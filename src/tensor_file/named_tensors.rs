//! The tensors of one network under diffusers' names, in whatever files and under whatever keys they are stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::{TensorFile, unwrapped, wrappers};
use crate::{Error, Result};

/// How a network's tensor is cut from a tensor in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorPart {
    /// All of it.
    Whole,
    /// One third of its rows: the first is the queries', the second the keys', the third the values'.
    Third(i64),
    /// All of it, transposed.
    Transposed,
}

/// Where a tensor comes from: a file, by its position among the files, and the key it has there.
#[derive(Clone)]
struct TensorSource {
    file: usize,
    key: String,
    part: TensorPart,
}

/// The tensors of one network under diffusers' names, from one file or several, whatever keys the files use.
#[derive(Clone, Default)]
pub struct NamedTensors {
    files: Vec<Rc<TensorFile>>,
    index: BTreeMap<String, TensorSource>,
    /// What was taken off the names that the files have.
    taken_off: BTreeSet<String>,
}

impl fmt::Debug for NamedTensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tensors, files) = (self.index.len(), self.files.len());
        write!(f, "NamedTensors {{ {tensors} tensors in {files} files }}")
    }
}

impl NamedTensors {
    /// All tensors of these files, under the names they have there, but for what torch's wrappers add (`_orig_mod.`,
    /// `module.`).
    ///
    /// # Errors
    /// A file that cannot be read; a name that is in two files.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut weights = Self::default();
        for path in paths {
            let file = Rc::new(TensorFile::open_header(path)?);
            for key in file.names() {
                let name = unwrapped(key);
                if weights.index.contains_key(&*name) {
                    return Err(Error::weights(path, format!("{name} occurs twice")));
                }
                weights.taken_off.extend(wrappers(key).map(|part| format!("{part}.")));
                weights.put(&file, name.into_owned(), key, TensorPart::Whole);
            }
        }
        Ok(weights)
    }

    /// Adds a file's tensor, or a part of it, under `name`; returns `false` if the name was taken.
    pub(crate) fn put(
        &mut self,
        file: &Rc<TensorFile>,
        name: String,
        key: &str,
        part: TensorPart,
    ) -> bool {
        let known = self.files.iter().position(|f| Rc::ptr_eq(f, file));
        let at = known.unwrap_or_else(|| {
            self.files.push(Rc::clone(file));
            self.files.len() - 1
        });
        let source = TensorSource { file: at, key: key.to_owned(), part };
        self.index.insert(name, source).is_none()
    }

    /// What was taken off the names that the files have.
    pub(crate) fn taken_off(&self) -> impl Iterator<Item = &str> {
        self.taken_off.iter().map(String::as_str)
    }

    /// The same tensors without `prefix`, which all their names begin with.
    pub(crate) fn without_prefix(mut self, prefix: &str) -> Self {
        let plain = |name: String| name.strip_prefix(prefix).unwrap_or(&name).to_owned();
        self.index = self.index.into_iter().map(|(name, source)| (plain(name), source)).collect();
        self.taken_off.insert(prefix.to_owned());
        self
    }

    /// Compares the files' bytes with their checksums, if they have any.
    ///
    /// # Errors
    /// Bytes that do not match.
    pub fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.verify())
    }

    /// The file's path; for several files, their folder.
    pub fn path(&self) -> PathBuf {
        match self.files.as_slice() {
            [one] => one.path().to_owned(),
            files => {
                let folder = files.first().and_then(|file| file.path().parent());
                folder.unwrap_or_else(|| Path::new("weights")).to_owned()
            }
        }
    }

    /// The files, in the order they were opened.
    pub fn files(&self) -> impl Iterator<Item = &TensorFile> {
        self.files.iter().map(|file| &**file)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Whether a tensor's name begins with `start`.
    pub fn has(&self, start: &str) -> bool {
        let first = self.index.range::<str, _>((Bound::Included(start), Bound::Unbounded)).next();
        first.is_some_and(|(name, _)| name.starts_with(start))
    }

    /// How many distinct numbers follow `scope.` in the names: the length of a list of blocks.
    pub(crate) fn count(&self, scope: &str) -> usize {
        let start = format!("{scope}.");
        let names = self.index.range(start.clone()..).map(|(name, _)| name);
        let below = names.map_while(|name| name.strip_prefix(&start));
        let numbers = below.filter_map(|rest| rest.split('.').next()?.parse::<u32>().ok());
        numbers.collect::<BTreeSet<u32>>().len()
    }

    fn get(&self, name: &str) -> Option<(&TensorFile, &TensorSource)> {
        let source = self.index.get(name)?;
        Some((self.files.get(source.file)?, source))
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        let (file, source) = self.get(name)?;
        let mut shape = file.shape(&source.key)?;
        match (source.part, shape.as_mut_slice()) {
            (TensorPart::Third(_), [rows, ..]) if *rows % 3 == 0 => *rows /= 3,
            (TensorPart::Transposed, [rows, columns]) => std::mem::swap(rows, columns),
            _ => {}
        }
        Some(shape)
    }

    /// The dtype of a tensor in its file, if there is one of this name.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        let (file, source) = self.get(name)?;
        file.kind(&source.key)
    }

    /// Calls `read` with a tensor in its mapped file, without copying it: `read` must not keep it.
    pub(crate) fn with<T>(&self, name: &str, read: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let (file, source) = self
            .get(name)
            .ok_or_else(|| Error::weights(self.path(), format!("holds no tensor {name:?}")))?;
        let rows = self.shape(name).and_then(|shape| shape.first().copied());
        file.with(&source.key, |tensor| {
            let size = tensor.size();
            match (source.part, rows) {
                (TensorPart::Third(i), Some(rows)) if size.first() == Some(&(3 * rows)) => {
                    read(&tensor.f_narrow(0, i * rows, rows)?)
                }
                (TensorPart::Transposed, _) if size.len() == 2 => read(&tensor.f_transpose(0, 1)?),
                _ => read(tensor),
            }
        })
    }

    /// Copies a tensor out of its file, in the dtype it has there.
    ///
    /// # Errors
    /// A name that is not in the files.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.with(name, |view| {
            let mut tensor = Tensor::f_empty(view.size(), (view.kind(), Device::Cpu))?;
            tensor.f_copy_(view)?;
            Ok(tensor)
        })
    }
}
