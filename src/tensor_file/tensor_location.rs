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

/// No tensor has more numbers than this, an empty one not even without its sides of length 0: libtorch multiplies those
/// too.
const MOST_NUMBERS: i64 = 1 << 40;

/// How many numbers a shape that a file gives has; `None` for one that no tensor has.
pub(super) fn checked_numel(shape: &[i64]) -> Option<i64> {
    let sides = shape.iter().try_fold(1i64, |n, &side| n.checked_mul(side.max(1)));
    let possible = shape.len() <= 16 && shape.iter().all(|&side| side >= 0);
    sides.filter(|&n| possible && n < MOST_NUMBERS)?;
    Some(shape.iter().product())
}

impl TensorLocation {
    /// The numbers of a shape that [`checked_numel`] let in.
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}
