//! The colours of a heat map, and the bar that explains them.

use plotters_backend::text_anchor::{HPos, VPos};

use super::axis::{Extent, signed};
use super::canvas::{Canvas, Style};
use super::plot_frame::{FINE, PlotFrame};
use super::theme::{self, Color};
use crate::Result;

/// Which colours a heat map has.
pub(super) struct HeatScale {
    low: f64,
    high: f64,
    diverging: bool,
}

impl HeatScale {
    pub fn new(values: &[f64]) -> Self {
        let mut extent = Extent::new();
        for value in values {
            extent.add(*value);
        }
        let diverging = extent.low < 0.;
        let size = extent.low.abs().max(extent.high.abs()).max(f64::MIN_POSITIVE);
        if diverging {
            return Self { low: -size, high: size, diverging };
        }
        let high = if extent.high > extent.low { extent.high } else { extent.low + 1. };
        Self { low: extent.low, high, diverging }
    }

    pub fn color(&self, value: f64) -> Color {
        let part = (value - self.low) / (self.high - self.low);
        if self.diverging { theme::diverging(2. * part - 1.) } else { theme::sequential(part) }
    }
}

/// A bar of the colours on the right of the plotting area, with numbers.
pub(super) fn heat_bar(
    canvas: &mut Canvas,
    frame: &PlotFrame,
    values: &[f64],
    style: Style,
) -> Result<()> {
    let fine = FINE as f32;
    let scale = HeatScale::new(values);
    let (x, y) = ((frame.x + frame.width + 18. * fine) as i32, frame.y as i32);
    let (width, height) = (14 * FINE, frame.height as u32);
    for row in 0..height {
        let part = 1. - (f64::from(row) + 0.5) / f64::from(height);
        let value = scale.low + (scale.high - scale.low) * part;
        canvas.fill(x, y + row as i32, width, 1, scale.color(value));
    }
    let style = Style { size: style.size * fine, ..style }.at(HPos::Left, VPos::Center);
    for part in [0., 0.25, 0.5, 0.75, 1.] {
        let at = y as f32 + (1. - part as f32) * frame.height;
        let value = scale.low + (scale.high - scale.low) * part;
        let end = (x + width as i32) as f32;
        canvas.stroke(&[(end, at), (end + 4. * fine, at)], fine, theme::SOFT_INK, 1.);
        canvas.text(end + 8. * fine, at, &signed(value), style)?;
    }
    Ok(())
}
