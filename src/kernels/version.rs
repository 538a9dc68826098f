//! Which numbers a tensor holds.

use tch::{Kind, Tensor};

/// Which numbers a tensor holds, for as long as it lives: where they lie, and how often they were changed in place, which
/// libtorch counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    first: usize,
    changes: i64,
    size: Vec<i64>,
    stride: Vec<i64>,
    kind: Kind,
}

impl Version {
    pub fn of(x: &Tensor) -> Self {
        Self {
            first: x.data_ptr() as usize,
            changes: x.internal_version(),
            size: x.size(),
            stride: x.stride(),
            kind: x.kind(),
        }
    }
}
