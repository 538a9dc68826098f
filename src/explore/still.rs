//! The picture that stands for the page where nothing moves.

use image::imageops::FilterType;
use tch::Tensor;

use super::recording::{Recording, scale_label};
use crate::Result;
use crate::figures::trace_strip;
use crate::picture::to_rgb8;
use crate::plot::Sheet;

/// The longest side of a picture on it.
const SIDE: u32 = 192;
/// Most rows.
const ROWS: usize = 6;

/// Of one trace its steps; of several their pictures, a column a guidance scale.
pub(super) fn still(recording: &Recording) -> Result<Vec<u8>> {
    if let [only] = recording.traces.as_slice() {
        return trace_strip(only)?.png();
    }
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let made = recording.traces[0].making.as_ref();
    let pictures = made.iter().flat_map(|made| made.prompts.iter().zip(&made.seeds));
    for (b, (prompt, seed)) in pictures.enumerate().take(ROWS) {
        let small = |image: &Tensor| -> Result<Tensor> {
            let picture = to_rgb8(&image.f_get(b as i64)?)?.remove(0);
            let share =
                f64::from(SIDE) / f64::from(picture.width.max(picture.height)).max(SIDE.into());
            let side = |pixels: u32| ((f64::from(pixels) * share).round() as u32).max(1);
            let (width, height) = (side(picture.width), side(picture.height));
            picture.resized(width, height, FilterType::Triangle)?.to_tensor()
        };
        rows.push(recording.traces.iter().map(|t| small(&t.image)).collect::<Result<Vec<_>>>()?);
        labels.push(format!("{prompt}, seed {seed}"));
    }
    let columns = recording.traces.iter().map(|trace| format!("guidance {}", scale_label(trace)));
    crate::plot::sheet(&rows)
        .and_then(|s: Sheet| s.row_labels(labels)?.column_labels(columns))?
        .png()
}
