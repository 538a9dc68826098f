//! Training pictures: u8 tensors, and their values as the networks take them.

use tch::{Kind, Tensor};

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
