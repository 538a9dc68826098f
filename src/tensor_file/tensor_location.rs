//! Where one tensor is in its file.

use std::ops::Range;

use tch::Kind;

/// Where a tensor's numbers are in its file.
pub(super) struct TensorLocation {
    pub kind: Kind,
    pub shape: Vec<i64>,
    /// `None`: contiguous, in row-major order.
    pub strides: Option<Vec<i64>>,
    /// The bytes from the first number to the last.
    pub range: Range<usize>,
}

impl TensorLocation {
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}
