//! Sample sheets: what a network can do during its training.

use std::path::Path;

use tch::Tensor;

use crate::Result;
use crate::picture::write_png;

/// Writes one PNG with `columns` pictures of [N, 3, H, W] per row, each enlarged three times.
pub(super) fn write_sheet(path: &Path, pictures: &Tensor, columns: i64) -> Result<()> {
    let size = pictures.size();
    let rows = size[0] / columns;
    let (h, w) = (3 * size[2], 3 * size[3]);
    let large = pictures.upsample_nearest2d([h, w], None, None);
    let grid = large
        .narrow(0, 0, rows * columns)
        .view([rows, columns, 3, h, w])
        .permute([2, 0, 3, 1, 4])
        .reshape([1, 3, rows * h, columns * w]);
    write_png(path, &grid, &[])
}
