//! Many pictures through an autoencoder.

use diffuscope::Result;
use diffuscope::models::vae::Vae;
use tch::{Device, Kind, Tensor, no_grad};

/// Pictures per call of the autoencoder.
const BATCH: i64 = 256;

pub fn encode(vae: &Vae, images: &Tensor) -> Result<Tensor> {
    let all: Result<Vec<Tensor>> =
        images.split(BATCH, 0).iter().map(|some| no_grad(|| vae.encode(some))).collect();
    Ok(Tensor::cat(&all?, 0))
}

/// Encodes pictures and decodes their latents.
pub fn reconstruct(vae: &Vae, images: &Tensor) -> Result<Tensor> {
    let all: Result<Vec<Tensor>> = encode(vae, images)?
        .split(BATCH, 0)
        .iter()
        .map(|some| Ok(no_grad(|| vae.decode(some))?.clamp(-1., 1.).to_device(Device::Cpu)))
        .collect();
    Ok(Tensor::cat(&all?, 0))
}

/// Latents as vectors on the CPU, [N, d].
pub fn flatten(latents: &Tensor) -> Tensor {
    latents.to_device(Device::Cpu).to_kind(Kind::Float).flatten(1, -1)
}
