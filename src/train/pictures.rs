//! Training pictures: u8 tensors, and their values as the networks take them.

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Refuses tensors other than u8 [N, 3, H, W].
pub(super) fn check_pictures(pictures: &Tensor) -> Result<()> {
    if pictures.kind() != Kind::Uint8 || pictures.dim() != 4 || pictures.size()[1] != 3 {
        return Err(Error::shape("pictures", "u8 [N, 3, H, W]", &pictures.size()));
    }
    Ok(())
}

/// u8 pictures to f32 in [-1, 1].
pub(super) fn to_range(pictures: &Tensor) -> Tensor {
    pictures.to_kind(Kind::Float) / 127.5 - 1.
}

/// The most bytes of training data that are kept on the network's device.
const ON_DEVICE: usize = 4 << 30;

/// The training data where batches are gathered from it: on the network's device, unless it is so large that it could
/// leave too little for the network, or has no room there. All random numbers are drawn on the CPU all the same.
pub(super) fn near(data: &Tensor, device: Device) -> Result<Tensor> {
    let small = data.numel().saturating_mul(data.kind().elt_size_in_bytes()) <= ON_DEVICE;
    let there = small.then(|| data.f_to_device(device)).and_then(std::result::Result::ok);
    Ok(there.map_or_else(|| data.f_to_device(Device::Cpu), Ok)?)
}

/// The rows of these numbers, which are on the CPU.
pub(super) fn rows(data: &Tensor, index: &Tensor) -> Tensor {
    data.index_select(0, &index.to_device(data.device()))
}
