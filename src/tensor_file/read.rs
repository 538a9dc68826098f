//! Reading a file of tensors, safetensors or torch's: mapped into memory, one tensor at a time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use super::checksum::{CRC32, checksum};
use super::tensor_location::{TensorLocation, checked_numel};
use super::torch_archive;
use crate::{Error, Result};

/// A `.safetensors` file, or a `.ckpt`, `.pt` or `.bin` that `torch.save` wrote, mapped into memory: each tensor is
/// read when it is asked for.
///
/// The pickle of a `.ckpt` is read as data and nothing in it is executed. Tensors and plain containers (dict,
/// OrderedDict, list, tuple, set, strings, numbers) are accepted, and so are numpy's numbers and the bare name of
/// lightning's ModelCheckpoint, which the published checkpoints hold beside their weights. Any other name is
/// refused. The tensors are those of the outermost dict, or of its `state_dict` if it has one.
pub struct TensorFile {
    path: PathBuf,
    map: memmap2::Mmap,
    index: BTreeMap<String, TensorLocation>,
    metadata: HashMap<String, String>,
    others: Vec<String>,
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorFile {{ {} tensors in {} }}", self.index.len(), self.path.display())
    }
}

impl TensorFile {
    /// Opens `path`, and checks its header and its checksum if it has one.
    ///
    /// # Errors
    /// A file that is missing, truncated, of another format, or whose bytes do not match its checksum; a pickle
    /// that names anything but tensors and plain containers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = Self::open_header(path)?;
        file.verify()?;
        Ok(file)
    }

    /// Opens `path` and checks only its header; the caller decides whether to [`TensorFile::verify`] it.
    ///
    /// # Errors
    /// As [`TensorFile::open`], except for the checksum.
    pub fn open_header(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let file = std::fs::File::open(&path).map_err(|e| Error::io(&path, e))?;
        let about = file.metadata().map_err(|e| Error::io(&path, e))?;
        if !about.is_file() {
            return Err(Error::weights(&path, "is not a file"));
        }
        if about.len() < 8 {
            return Err(Error::weights(&path, "is too short for a weight file"));
        }
        // SAFETY: the map is read-only; the file is not changed while it is in use.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(&path, e))?;
        let refused = |reason: String| Error::weights(&path, reason);
        if torch_archive::is_torch(&map).map_err(refused)? {
            let torch_archive::TorchArchive { index, metadata, others } =
                torch_archive::read(&map).map_err(refused)?;
            return Ok(Self { path, map, index, metadata, others });
        }
        let damaged = |reason: String| Error::weights(&path, damaged_file(&reason));
        // Checks that the tensors fill the file without gap or overlap.
        SafeTensors::deserialize(&map).map_err(|e| damaged(e.to_string()))?;
        let (header_len, header) =
            SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let mut index = BTreeMap::new();
        for (name, info) in header.tensors() {
            let kind = kind_of(info.dtype)
                .ok_or_else(|| refused(format!("{name}: unknown dtype {:?}", info.dtype)))?;
            let sides = info.shape.iter().map(|&n| i64::try_from(n).ok());
            let shape: Option<Vec<i64>> = sides.collect();
            let shape = shape.filter(|shape| checked_numel(shape).is_some()).ok_or_else(|| {
                let few: Vec<_> = info.shape.iter().take(17).collect();
                refused(format!("{name}: no tensor has the shape {few:?}"))
            })?;
            let (start, end) = info.data_offsets;
            let range = 8 + header_len + start..8 + header_len + end;
            index.insert(name, TensorLocation { kind, shape, strides: None, range });
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { path, map, index, metadata, others: Vec::new() })
    }

    /// Compares the file's bytes with its checksum, if it has one.
    ///
    /// # Errors
    /// Bytes that do not match.
    pub fn verify(&self) -> Result<()> {
        let Some(expected) = self.metadata.get(CRC32).filter(|_| self.others.is_empty()) else {
            return Ok(());
        };
        let tensors = self.index.iter();
        let got = checksum(tensors.map(|(name, location)| {
            let sum = crc32fast::hash(self.bytes(&location.range));
            self.release(&location.range);
            (name, sum)
        }));
        if &got != expected {
            let reason = format!("its checksum is {got} and should be {expected}");
            return Err(Error::weights(&self.path, damaged_file(&reason)));
        }
        Ok(())
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.map.get(range.clone()).unwrap_or_default()
    }

    /// Tells the system that these bytes have been read, so that a loaded model does not also keep its file in memory.
    fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        // SAFETY: the map is read-only; a page that is touched again is read from the file again.
        // Failure costs memory, not correctness.
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map.unchecked_advise_range(advice, range.start, range.len())
        };
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The strings stored with the tensors; for a torch file, the strings and numbers of its outermost dict.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The names of what a torch file holds beside its tensors, such as the optimizer's state.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.index.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.index.get(name).map(|location| location.shape.clone())
    }

    /// The dtype of the tensor `name`, if there is one.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.index.get(name).map(|location| location.kind)
    }

    /// Copies the tensor `name` out of the file, in the dtype it has there.
    ///
    /// # Errors
    /// A name that is not in the file.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.with(name, |view| {
            let mut tensor = Tensor::f_empty(view.size(), (view.kind(), Device::Cpu))?;
            tensor.f_copy_(view)?;
            Ok(tensor)
        })
    }

    /// Calls `read` with the tensor `name` in the mapped file, without copying it: `read` must not keep it.
    pub(crate) fn with<T>(&self, name: &str, read: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let location = self
            .index
            .get(name)
            .ok_or_else(|| Error::weights(&self.path, format!("holds no tensor {name:?}")))?;
        let bytes = self.bytes(&location.range);
        let size = location.kind.elt_size_in_bytes();
        // libtorch reads as much as the shape says.
        if location.strides.is_none() && bytes.len() != location.numel() * size {
            let message = format!("{name}: its shape does not fit its bytes");
            return Err(Error::weights(&self.path, message));
        }
        let strides = location.strides.as_deref().unwrap_or_default();
        let tensor = if bytes.as_ptr().align_offset(size) == 0 && !bytes.is_empty() {
            // SAFETY: the shape and the strides stay within the bytes, which the map keeps during the call.
            unsafe {
                Tensor::f_from_blob(
                    bytes.as_ptr(),
                    &location.shape,
                    strides,
                    location.kind,
                    Device::Cpu,
                )?
            }
        } else {
            let held = [(bytes.len() / size) as i64];
            let copy = Tensor::f_from_data_size(bytes, &held, location.kind)?;
            match &location.strides {
                Some(strides) => copy.f_as_strided(&location.shape, strides, 0)?,
                None => copy.f_view(&location.shape[..])?,
            }
        };
        let done = read(&tensor);
        drop(tensor);
        self.release(&location.range);
        done
    }
}

fn damaged_file(reason: &str) -> String {
    format!("not an intact safetensors file ({reason}); download or write it again")
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        Dtype::F8_E5M2 => Kind::Float8e5m2,
        _ => return None,
    })
}
