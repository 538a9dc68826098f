//! Where the series are named: at their right ends, or in a key above several panels.

use plotters_backend::text_anchor::{HPos, VPos};

use super::canvas::{Canvas, Style, text_width, wrap};
use super::panel::{Mark, Panel, PanelLayer};
use super::plot_frame::{FINE, PlotFrame};
use super::theme::Color;
use crate::Result;

impl Panel {
    /// Names every series at its right end, in its colour; names that would overlap are moved apart.
    pub(super) fn name_ends(
        &self,
        canvas: &mut Canvas,
        frame: &PlotFrame,
        named: &[(&PanelLayer, Color)],
        style: Style,
    ) -> Result<()> {
        let fine = FINE as f32;
        let mut ends = Vec::new();
        for (layer, color) in named {
            let point = match &layer.mark {
                Mark::Rule => (self.x_right(), layer.points[0].1),
                Mark::Band(low) => {
                    let last = layer.points.len() - 1;
                    let (x, high) = layer.points[last];
                    (x, (high + low[last]) / 2.)
                }
                // A histogram is named at its height, scattered points at their last one.
                Mark::Bars(_) => layer
                    .points
                    .iter()
                    .copied()
                    .max_by(|a, b| a.1.total_cmp(&b.1))
                    .unwrap_or_default(),
                _ => layer.points[layer.points.len() - 1],
            };
            let wrapped = wrap(&layer.label, style, 230. * fine, 3)?;
            let y = frame.y_of(self.y.place(point.1)).clamp(frame.y, frame.y + frame.height);
            ends.push((y, wrapped, *color));
        }
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let height = |lines: &[String]| (style.line_height() * lines.len() as u32) as f32;
        let mut places: Vec<f32> =
            ends.iter().map(|(y, lines, _)| y - height(lines) / 2.).collect();
        // Push down what overlaps, then push up what has left the frame.
        for i in 1..places.len() {
            places[i] = places[i].max(places[i - 1] + height(&ends[i - 1].1));
        }
        let mut floor = frame.y + frame.height + style.size;
        for i in (0..places.len()).rev() {
            places[i] = places[i].min(floor - height(&ends[i].1));
            floor = places[i];
        }
        let x = frame.x + frame.width;
        for ((y, lines, color), top) in ends.iter().zip(places) {
            let middle = top + height(lines) / 2.;
            canvas.stroke(&[(x + 3. * fine, *y), (x + 12. * fine, middle)], 2. * fine, *color, 1.);
            let ink = Style { color: deeper(*color), ..style };
            canvas.lines(x + 17. * fine, top, lines, ink)?;
        }
        Ok(())
    }

    /// Names every rule above its right end: the key of a figure has only what has a colour.
    pub(super) fn name_rules(
        &self,
        canvas: &mut Canvas,
        frame: &PlotFrame,
        style: Style,
    ) -> Result<()> {
        for layer in self.layers.iter().filter(|l| matches!(l.mark, Mark::Rule)) {
            let y = frame.y_of(self.y.place(layer.points[0].1)) - 2. * FINE as f32;
            let style = style.at(HPos::Right, VPos::Bottom);
            canvas.text(frame.x + frame.width, y, &layer.label, style)?;
        }
        Ok(())
    }

    fn x_right(&self) -> f64 {
        self.ranges().0.1
    }
}

/// The named series of all panels, each once.
pub(super) fn shared_key(panels: &[Panel]) -> Vec<(String, Color)> {
    let mut key: Vec<(String, Color)> = Vec::new();
    for panel in panels {
        for (layer, color) in panel.layers.iter().zip(panel.colors()) {
            let entry = (layer.label.clone(), color);
            let rule = matches!(layer.mark, Mark::Rule);
            if !rule && !layer.label.is_empty() && !key.contains(&entry) {
                key.push(entry);
            }
        }
    }
    key
}

/// The key in rows that are at most `width` wide.
pub(super) fn key_rows(
    key: &[(String, Color)],
    style: Style,
    width: f32,
) -> Result<Vec<Vec<(String, Color)>>> {
    let mut rows: Vec<Vec<(String, Color)>> = Vec::new();
    let mut left = 0.;
    for (label, color) in key {
        let label = wrap(label, style, width - 60., 1)?.concat();
        let needed = text_width(&label, style)? + 53.;
        if rows.is_empty() || left + needed > width {
            rows.push(Vec::new());
            left = 0.;
        }
        left += needed;
        if let Some(row) = rows.last_mut() {
            row.push((label, *color));
        }
    }
    Ok(rows)
}

/// The colour, dark enough to read as letters.
fn deeper(color: Color) -> Color {
    color.map(|c| (f64::from(c) * 0.72) as u8)
}
