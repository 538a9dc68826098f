//! Writing a safetensors file: with a checksum, whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, View};
use tch::{Device, Kind, Tensor};

use super::checksum::{CRC32, checksum};
use crate::write_file::write_file;
use crate::{Error, Result};

/// A tensor's bytes in row-major order, as safetensors writes them.
struct TensorBytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for &TensorBytes {
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

fn bytes_of(name: &str, tensor: &Tensor) -> Result<TensorBytes> {
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
        kind => return Err(Error::argument(name, "a real dtype", format!("{kind:?}"))),
    };
    let tensor = tensor.detach().f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut data = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut data, tensor.numel())?;
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    Ok(TensorBytes { dtype, shape, data })
}

/// Writes tensors to a safetensors file, with a checksum in its metadata: the whole file or nothing.
///
/// # Errors
/// A tensor of a complex or quantised dtype; a folder that cannot be written to; a full disk.
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
    let sums = tensors.iter().map(|(name, tensor)| (name, crc32fast::hash(&tensor.data)));
    texts.insert(CRC32.into(), checksum(sums));
    let mut bytes =
        safetensors::serialize(tensors.iter().map(|(n, t)| (n.as_str(), t)), Some(texts))
            .map_err(|e| Error::weights(path, e))?;
    sort_header(&mut bytes).ok_or_else(|| Error::weights(path, "its header cannot be sorted"))?;
    write_file(path, &bytes)
}

/// Puts the header's keys in order, so that the same tensors and texts always make the same bytes.
fn sort_header(bytes: &mut [u8]) -> Option<()> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?) as usize;
    let header = bytes.get_mut(8..8 + length)?;
    let keys: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut sorted = serde_json::to_vec(&keys).ok()?;
    sorted.resize(length.max(sorted.len()), b' ');
    (sorted.len() == length).then(|| header.copy_from_slice(&sorted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::TensorFile;

    #[test]
    fn what_was_written_is_read_back_and_damage_is_detected() -> Result<()> {
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
            assert!(std::fs::read(&path).unwrap() == whole, "the same tensors gave other bytes");
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
