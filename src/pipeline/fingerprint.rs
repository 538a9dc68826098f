//! Which weights a model computes with, in a few letters.

use sha2::{Digest, Sha256};
use tch::{Device, Kind};

use super::StableDiffusion;
use crate::Result;

impl StableDiffusion {
    /// SHA-256 of all weights: of every network in the order of their names, every tensor's name, shape and numbers in f32.
    /// The same weights have the same one whatever their files are; another dtype rounds them and has another one.
    ///
    /// # Errors
    /// Weights that do not fit into the CPU's memory once more, a tensor at a time.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for network in self.params.keys() {
            let mut tensors = self.tensors(network);
            tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (name, tensor) in tensors {
                hash.update(format!("{network}.{name} {:?}\n", tensor.size()));
                let x = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
                let x = x.f_contiguous()?;
                let mut bytes = vec![0u8; x.numel() * 4];
                x.f_copy_data_u8(&mut bytes, x.numel())?;
                hash.update(&bytes);
            }
        }
        Ok(format!("sha256:{:x}", hash.finalize()))
    }
}
