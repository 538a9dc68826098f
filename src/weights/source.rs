//! The tensors of one network, by the names that it asks for, wherever they lie.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::TensorFile;
use crate::{Error, Result};

/// Which part of a file's tensor a network's tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// Of queries, keys and values, one above the other.
    Third(i64),
    Transposed,
}

#[derive(Clone)]
struct Source {
    file: usize,
    key: String,
    part: Part,
}

/// The tensors of one network by diffusers' names, in one file or several, whatever the files call them.
#[derive(Clone, Default)]
pub struct Weights {
    files: Vec<Rc<TensorFile>>,
    index: BTreeMap<String, Source>,
}

impl Weights {
    /// All tensors of these files, under the names that they have there.
    ///
    /// # Errors
    /// A file that cannot be read; a name that is in two files.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut weights = Self::default();
        for path in paths {
            let file = Rc::new(TensorFile::open_header(path)?);
            for key in file.names() {
                if weights.index.contains_key(key) {
                    return Err(Error::weights(path, format!("{key} is in another file too")));
                }
                weights.put(&file, key.to_owned(), key, Part::Whole);
            }
        }
        Ok(weights)
    }

    /// Adds a part of a file's tensor under a name; `false` where the name is taken.
    pub(super) fn put(
        &mut self,
        file: &Rc<TensorFile>,
        name: String,
        key: &str,
        part: Part,
    ) -> bool {
        let known = self.files.iter().position(|f| Rc::ptr_eq(f, file));
        let at = known.unwrap_or_else(|| {
            self.files.push(Rc::clone(file));
            self.files.len() - 1
        });
        let source = Source { file: at, key: key.to_owned(), part };
        self.index.insert(name, source).is_none()
    }

    /// Compares the files' bytes with their checksums, where they have one.
    ///
    /// # Errors
    /// Bytes that do not match.
    pub fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.verify())
    }

    /// The file, or the folder of several.
    pub fn path(&self) -> PathBuf {
        match self.files.as_slice() {
            [one] => one.path().to_owned(),
            files => {
                let folder = files.first().and_then(|file| file.path().parent());
                folder.unwrap_or_else(|| Path::new("weights")).to_owned()
            }
        }
    }

    /// The files, in the order in which they were opened.
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

    /// How many numbers follow `scope.` in names: the blocks of a list.
    pub(super) fn count(&self, scope: &str) -> usize {
        let start = format!("{scope}.");
        let names = self.index.range(start.clone()..).map(|(name, _)| name);
        let below = names.map_while(|name| name.strip_prefix(&start));
        let numbers = below.filter_map(|rest| rest.split('.').next()?.parse::<u32>().ok());
        numbers.collect::<BTreeSet<u32>>().len()
    }

    fn get(&self, name: &str) -> Option<(&TensorFile, &Source)> {
        let source = self.index.get(name)?;
        Some((self.files.get(source.file)?, source))
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        let (file, source) = self.get(name)?;
        let mut shape = file.shape(&source.key)?;
        match (source.part, shape.as_mut_slice()) {
            (Part::Third(_), [rows, ..]) if *rows % 3 == 0 => *rows /= 3,
            (Part::Transposed, [rows, columns]) => std::mem::swap(rows, columns),
            _ => {}
        }
        Some(shape)
    }

    /// The dtype of a tensor in its file, if there is one of this name.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        let (file, source) = self.get(name)?;
        file.kind(&source.key)
    }

    /// Calls `read` with a tensor as it lies in its file, not copied: `read` must not keep it.
    pub(super) fn with<T>(&self, name: &str, read: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let (file, source) = self
            .get(name)
            .ok_or_else(|| Error::weights(self.path(), format!("holds no tensor {name:?}")))?;
        let rows = self.shape(name).and_then(|shape| shape.first().copied());
        file.with(&source.key, |tensor| {
            let size = tensor.size();
            match (source.part, rows) {
                (Part::Third(i), Some(rows)) if size.first() == Some(&(3 * rows)) => {
                    read(&tensor.f_narrow(0, i * rows, rows)?)
                }
                (Part::Transposed, _) if size.len() == 2 => read(&tensor.f_transpose(0, 1)?),
                _ => read(tensor),
            }
        })
    }

    /// Copies a tensor out of its file, in the dtype that it has there.
    ///
    /// # Errors
    /// A name that no tensor has.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.with(name, |view| {
            let mut tensor = Tensor::f_empty(view.size(), (view.kind(), Device::Cpu))?;
            tensor.f_copy_(view)?;
            Ok(tensor)
        })
    }
}
