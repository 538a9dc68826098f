//! What a stage checks of its tensors on entry.

use tch::Tensor;

use crate::{Error, Result};

/// Refuses a tensor of another shape than `as_this`.
pub(crate) fn same_shape(what: &str, got: &Tensor, as_this: &Tensor) -> Result<()> {
    if got.size() == as_this.size() {
        return Ok(());
    }
    Err(Error::shape(what, format!("{:?}", as_this.size()), &got.size()))
}
