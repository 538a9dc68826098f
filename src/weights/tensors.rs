//! Safetensors files: mapped for reading, written beside and renamed.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorInfo, View};
use tch::{Kind, Tensor};

use crate::{Error, Result};

/// The checksum's name in a file's metadata. Files from elsewhere do not have one.
const CRC32: &str = "crc32";

/// A safetensors file, mapped into memory: a tensor is read when it is asked for.
pub struct TensorFile {
    path: PathBuf,
    map: memmap2::Mmap,
    /// Where the header ends.
    data_start: usize,
    index: BTreeMap<String, TensorInfo>,
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Opens `path` and checks its header, and its checksum where it has one.
    ///
    /// # Errors
    /// A file that is missing, truncated, not safetensors, or whose bytes do not match its checksum.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let file = std::fs::File::open(&path).map_err(|e| Error::io(&path, e))?;
        if file.metadata().map_err(|e| Error::io(&path, e))?.len() < 8 {
            return Err(Error::weights(&path, "too short for a safetensors file"));
        }
        // SAFETY: the map is read-only; the file is not changed while it is in use.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(&path, e))?;
        let damaged = |reason: String| {
            Error::weights(
                &path,
                format!("not a whole safetensors file ({reason}); fetch or make it again"),
            )
        };
        // Checks that the tensors fill the file without gap or overlap.
        SafeTensors::deserialize(&map).map_err(|e| damaged(e.to_string()))?;
        let (header_len, header) =
            SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let index = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = Self { path: path.clone(), map, data_start: 8 + header_len, index, metadata };
        if let Some(expected) = file.metadata.get(CRC32) {
            let got = checksum(file.index.iter().map(|(name, info)| (name, file.bytes(info))));
            if &got != expected {
                return Err(damaged(format!("its checksum is {got} and should be {expected}")));
            }
        }
        Ok(file)
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (start, end) = info.data_offsets;
        self.map.get(self.data_start + start..self.data_start + end).unwrap_or_default()
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The texts that came with the tensors.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.index.get(name).map(|info| info.shape.iter().map(|&n| n as i64).collect())
    }

    /// Copies the tensor `name` out of the file, in the dtype that it has there.
    ///
    /// # Errors
    /// A name that is not in the file; a dtype that torch does not have.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self
            .index
            .get(name)
            .ok_or_else(|| Error::weights(&self.path, format!("holds no tensor {name:?}")))?;
        let kind = kind_of(info.dtype).ok_or_else(|| {
            Error::weights(&self.path, format!("{name}: unknown dtype {:?}", info.dtype))
        })?;
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        Ok(Tensor::f_from_data_size(self.bytes(info), &shape, kind)?)
    }
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
        _ => return None,
    })
}

/// A checksum that does not depend on the order of the tensors in the file.
fn checksum<'a>(tensors: impl Iterator<Item = (&'a String, &'a [u8])>) -> String {
    let mut sums: Vec<(&String, u32)> =
        tensors.map(|(name, data)| (name, crc32fast::hash(data))).collect();
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
    let tensor = tensor.detach().f_to_device(tch::Device::Cpu)?.f_contiguous()?;
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
    texts.insert(CRC32.into(), checksum(tensors.iter().map(|(n, t)| (n, &t.data[..]))));
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
        let a = Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([2, 3]);
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
