//! How large a network is.

use std::path::Path;

use crate::Result;
use crate::tensor_file::{TensorFile, weight_files};

/// The parameters of one network of a diffusers folder, `unet/` say: all numbers in its weight
/// files but the positions 0, 1, 2, ... that older text encoders store beside them.
///
/// # Errors
/// A folder without weights; a file that cannot be read.
pub fn parameters(folder: impl AsRef<Path>) -> Result<usize> {
    let count = |file: TensorFile| -> usize {
        file.names()
            .filter(|name| !name.ends_with("position_ids"))
            .filter_map(|name| file.shape(name))
            .map(|shape| shape.iter().product::<i64>() as usize)
            .sum()
    };
    weight_files(folder)?.into_iter().map(|path| Ok(count(TensorFile::open(path)?))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::write_tensors;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn numbers_are_counted_and_positions_are_not() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        assert!(parameters(folder.path()).is_err());
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        let tensors = [
            ("a.weight".to_owned(), ones(&[3, 4])),
            ("a.bias".to_owned(), ones(&[3])),
            ("embeddings.position_ids".to_owned(), ones(&[1, 77])),
        ];
        write_tensors(folder.path().join("model.safetensors"), &tensors, &[])?;
        assert_eq!(parameters(folder.path())?, 15);
        Ok(())
    }
}
