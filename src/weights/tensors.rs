//! Files of tensors: safetensors and torch's, mapped for reading; safetensors written beside and renamed.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};
use tch::{Device, Kind, Tensor};

use super::archive;
use crate::{Error, Result};

/// The checksum's name in a file's metadata. Files from elsewhere do not have one.
const CRC32: &str = "crc32";

/// Where the numbers of a tensor are in a file.
pub(super) struct Entry {
    pub kind: Kind,
    pub shape: Vec<i64>,
    /// `None`: row by row without gaps.
    pub strides: Option<Vec<i64>>,
    /// From the first number to the last.
    pub range: Range<usize>,
}

impl Entry {
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}

/// A `.safetensors` file, or a `.ckpt`, `.pt` or `.bin` that `torch.save` wrote, mapped into memory: a tensor is
/// read when it is asked for.
///
/// The pickle of a `.ckpt` is read as data and nothing in it is executed: tensors and plain containers (dict,
/// OrderedDict, list, tuple, set, texts, numbers) are accepted, and so are numpy's numbers and the bare name of
/// lightning's ModelCheckpoint, which the published checkpoints hold beside their weights. Any other name is
/// refused. Of the outermost dict, or of its `state_dict` where it has one, the tensors are read.
pub struct TensorFile {
    path: PathBuf,
    map: memmap2::Mmap,
    index: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
    others: Vec<String>,
}

impl TensorFile {
    /// Opens `path` and checks its header, and its checksum where it has one.
    ///
    /// # Errors
    /// A file that is missing, truncated, of another format, or whose bytes do not match its checksum; a pickle
    /// that names what is neither a tensor nor a plain container.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = Self::open_header(path)?;
        file.verify()?;
        Ok(file)
    }

    /// Opens `path` and checks its header alone: what [`TensorFile::verify`] does is left to the caller.
    ///
    /// # Errors
    /// As [`TensorFile::open`], but for the checksum.
    pub fn open_header(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let file = std::fs::File::open(&path).map_err(|e| Error::io(&path, e))?;
        let about = file.metadata().map_err(|e| Error::io(&path, e))?;
        if !about.is_file() {
            return Err(Error::weights(&path, "is no file"));
        }
        if about.len() < 8 {
            return Err(Error::weights(&path, "too short for a file of weights"));
        }
        // SAFETY: the map is read-only; the file is not changed while it is in use.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(&path, e))?;
        let refused = |reason: String| Error::weights(&path, reason);
        if archive::is_torch(&map).map_err(refused)? {
            let archive::Archive { index, metadata, others } =
                archive::read(&map).map_err(refused)?;
            return Ok(Self { path, map, index, metadata, others });
        }
        let damaged = |reason: String| Error::weights(&path, not_whole(&reason));
        // Checks that the tensors fill the file without gap or overlap.
        SafeTensors::deserialize(&map).map_err(|e| damaged(e.to_string()))?;
        let (header_len, header) =
            SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let mut index = BTreeMap::new();
        for (name, info) in header.tensors() {
            let kind = kind_of(info.dtype)
                .ok_or_else(|| refused(format!("{name}: unknown dtype {:?}", info.dtype)))?;
            let shape = info.shape.iter().map(|&n| n as i64).collect();
            let (start, end) = info.data_offsets;
            let range = 8 + header_len + start..8 + header_len + end;
            index.insert(name, Entry { kind, shape, strides: None, range });
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { path, map, index, metadata, others: Vec::new() })
    }

    /// Compares the file's bytes with its checksum, where it has one.
    ///
    /// # Errors
    /// Bytes that do not match.
    pub fn verify(&self) -> Result<()> {
        let Some(expected) = self.metadata.get(CRC32).filter(|_| self.others.is_empty()) else {
            return Ok(());
        };
        let tensors = self.index.iter();
        let got = checksum(tensors.map(|(name, entry)| {
            let sum = crc32fast::hash(self.bytes(&entry.range));
            self.release(&entry.range);
            (name, sum)
        }));
        if &got != expected {
            let reason = format!("its checksum is {got} and should be {expected}");
            return Err(Error::weights(&self.path, not_whole(&reason)));
        }
        Ok(())
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.map.get(range.clone()).unwrap_or_default()
    }

    /// Tells the system that these bytes have been read: a loaded model does not keep its file in memory too.
    fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        // SAFETY: a read-only map of a file; pages that are touched again come from the file again.
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

    /// The texts that came with the tensors; of a torch file the texts and numbers of its outermost dict.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The names of what a torch file holds beside its tensors, such as a training's state.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.index.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.index.get(name).map(|entry| entry.shape.clone())
    }

    /// The dtype of the tensor `name`, if there is one.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.index.get(name).map(|entry| entry.kind)
    }

    /// Copies the tensor `name` out of the file, in the dtype that it has there.
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

    /// Calls `read` with the tensor `name` as it lies in the file, not copied: `read` must not keep it.
    pub(super) fn with<T>(&self, name: &str, read: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let entry = self
            .index
            .get(name)
            .ok_or_else(|| Error::weights(&self.path, format!("holds no tensor {name:?}")))?;
        let bytes = self.bytes(&entry.range);
        let size = entry.kind.elt_size_in_bytes();
        // libtorch reads as much as the shape says.
        if entry.strides.is_none() && bytes.len() != entry.numel() * size {
            let message = format!("{name}: its shape does not fit its bytes");
            return Err(Error::weights(&self.path, message));
        }
        let strides = entry.strides.as_deref().unwrap_or_default();
        let tensor = if bytes.as_ptr().align_offset(size) == 0 && !bytes.is_empty() {
            // SAFETY: the shape and the strides stay within the bytes, which the map keeps during the call.
            unsafe {
                Tensor::f_from_blob(bytes.as_ptr(), &entry.shape, strides, entry.kind, Device::Cpu)?
            }
        } else {
            let held = [(bytes.len() / size) as i64];
            let copy = Tensor::f_from_data_size(bytes, &held, entry.kind)?;
            match &entry.strides {
                Some(strides) => copy.f_as_strided(&entry.shape, strides, 0)?,
                None => copy.f_view(&entry.shape[..])?,
            }
        };
        let done = read(&tensor);
        drop(tensor);
        self.release(&entry.range);
        done
    }
}

fn not_whole(reason: &str) -> String {
    format!("not a whole safetensors file ({reason}); fetch or make it again")
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

/// A checksum that does not depend on the order of the tensors in the file.
fn checksum<'a>(sums: impl Iterator<Item = (&'a String, u32)>) -> String {
    let mut sums: Vec<(&String, u32)> = sums.collect();
    sums.sort();
    let mut all = crc32fast::Hasher::new();
    for (name, sum) in sums {
        all.update(name.as_bytes());
        all.update(&sum.to_le_bytes());
    }
    format!("{:08x}", all.finalize())
}

struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.data[..]).into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

fn bytes_of(name: &str, tensor: &Tensor) -> Result<Bytes> {
    let dtype = match tensor.kind() {
        Kind::Bool => Dtype::BOOL,
        Kind::Uint8 => Dtype::U8,
        Kind::Int8 => Dtype::I8,
        Kind::Int16 => Dtype::I16,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        kind => return Err(Error::argument(name, "a real dtype", format!("{kind:?}"), "")),
    };
    let tensor = tensor.detach().f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut data = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut data, tensor.numel())?;
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    Ok(Bytes { dtype, shape, data })
}

/// Writes tensors, with a checksum in the metadata, to a file beside `path` that is then renamed.
///
/// # Errors
/// A folder that cannot be written to; a full disk.
pub fn write_tensors(
    path: impl AsRef<Path>,
    tensors: &[(String, Tensor)],
    metadata: &[(String, String)],
) -> Result<()> {
    let path = path.as_ref();
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), bytes_of(name, tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut texts: HashMap<String, String> = metadata.iter().cloned().collect();
    // transformers and diffusers refuse a file that does not say so.
    texts.insert("format".into(), "pt".into());
    texts
        .insert(CRC32.into(), checksum(tensors.iter().map(|(n, t)| (n, crc32fast::hash(&t.data)))));
    let mut bytes =
        safetensors::serialize(tensors.iter().map(|(n, t)| (n.as_str(), t)), Some(texts))
            .map_err(|e| Error::weights(path, e))?;
    sort_header(&mut bytes).ok_or_else(|| Error::weights(path, "its header cannot be sorted"))?;
    write_file(path, &bytes)
}

/// The same tensors and texts are the same bytes: the header's keys in order, at the same length.
fn sort_header(bytes: &mut [u8]) -> Option<()> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?) as usize;
    let header = bytes.get_mut(8..8 + length)?;
    let keys: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut sorted = serde_json::to_vec(&keys).ok()?;
    sorted.resize(length.max(sorted.len()), b' ');
    (sorted.len() == length).then(|| header.copy_from_slice(&sorted))
}

/// Writes a whole file or nothing: beside `path` first, then renamed.
///
/// # Errors
/// A folder that cannot be written to; a full disk.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io(path, e))?;
    // A temporary file is private; what a person asked for is an ordinary file.
    #[cfg(unix)]
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .map_err(|e| Error::io(path, e))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| Error::io(path, e))?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_damage_is_noticed() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let a = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        let b = Tensor::from_slice(&[1i64, -2]);
        let tensors = [("a".to_owned(), a.shallow_clone()), ("b".to_owned(), b.shallow_clone())];
        write_tensors(&path, &tensors, &[("k".into(), "v".into())])?;
        let file = TensorFile::open(&path)?;
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert!(file.tensor("a")?.equal(&a) && file.tensor("b")?.equal(&b));
        assert_eq!(file.metadata().get("k").map(String::as_str), Some("v"));
        assert!(file.tensor("c").is_err());

        let whole = std::fs::read(&path).unwrap();
        for _ in 0..8 {
            write_tensors(&path, &tensors, &[("k".into(), "v".into())])?;
            assert!(std::fs::read(&path).unwrap() == whole, "the same tensors, other bytes");
        }
        for flip in [3, whole.len() - 1, whole.len() - 30] {
            let mut bytes = whole.clone();
            bytes[flip] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(TensorFile::open(&path).is_err(), "byte {flip}");
        }
        for length in [0, 7, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(TensorFile::open(&path).is_err(), "length {length}");
        }
        Ok(())
    }
}
