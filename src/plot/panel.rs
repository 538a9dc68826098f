//! One chart: its axes, and the lines, points, bands, histograms and heat maps on them.

use std::fmt;

use super::axis::{Axis, Extent};
use super::theme::{self, Color};
use crate::short::Start;
use crate::{Error, Result};

/// One chart. Panels side by side make a [`figure`](super::figure()).
///
/// ```
/// use diffuscope::plot;
/// let schedule = diffuscope::schedule::Schedule::stable_diffusion();
/// let snr: Vec<(f64, f64)> = schedule.snr().into_iter().enumerate().map(|(t, y)| (t as f64, y)).collect();
/// let figure = plot::panel("Signal to noise").x("timestep t").y("SNR(t)").log_y().line("", snr).draw()?;
/// assert_eq!(figure.width(), 1100);
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Clone)]
pub struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) layers: Vec<PanelLayer>,
}

impl fmt::Debug for Panel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panel {{ {:?}, {} layers }}", Start(&self.title), self.layers.len())
    }
}

/// One thing that is drawn on a panel.
#[derive(Clone, Debug)]
pub(super) struct PanelLayer {
    pub label: String,
    pub mark: Mark,
    pub points: Vec<(f64, f64)>,
    pub color: Option<usize>,
}

/// How a layer is drawn.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    Line {
        dots: bool,
        thin: bool,
    },
    Dots,
    /// The lower edge; `points` is the upper one.
    Band(Vec<f64>),
    /// Bars of this width, centred on their points.
    Bars(f64),
    Rule,
    /// Values row by row from the top, with the number of columns.
    Heat {
        values: Vec<f64>,
        columns: usize,
    },
}

/// A chart with nothing on it yet.
pub fn panel(title: impl Into<String>) -> Panel {
    Panel { title: title.into(), x: Axis::default(), y: Axis::default(), layers: Vec::new() }
}

impl Panel {
    /// Names the horizontal axis, with its unit.
    pub fn x(mut self, label: impl Into<String>) -> Self {
        self.x.label = label.into();
        self
    }

    /// Names the vertical axis, with its unit.
    pub fn y(mut self, label: impl Into<String>) -> Self {
        self.y.label = label.into();
        self
    }

    /// Makes the horizontal axis logarithmic.
    pub fn log_x(mut self) -> Self {
        self.x.log = true;
        self
    }

    /// Makes the vertical axis logarithmic.
    pub fn log_y(mut self) -> Self {
        self.y.log = true;
        self
    }

    /// Sets the ends of the horizontal axis; the first may be the larger one.
    pub fn x_range(mut self, from: f64, to: f64) -> Self {
        self.x.range = Some((from, to));
        self
    }

    /// Sets the ends of the vertical axis.
    pub fn y_range(mut self, from: f64, to: f64) -> Self {
        self.y.range = Some((from, to));
        self
    }

    /// Sets the ticks of the horizontal axis and what is written there.
    pub fn x_ticks<L: Into<String>>(mut self, ticks: impl IntoIterator<Item = (f64, L)>) -> Self {
        self.x.ticks = Some(ticks.into_iter().map(|(at, l)| (at, l.into())).collect());
        self
    }

    /// Sets the ticks of the vertical axis and what is written there.
    pub fn y_ticks<L: Into<String>>(mut self, ticks: impl IntoIterator<Item = (f64, L)>) -> Self {
        self.y.ticks = Some(ticks.into_iter().map(|(at, l)| (at, l.into())).collect());
        self
    }

    fn layer(mut self, label: impl Into<String>, mark: Mark, points: Vec<(f64, f64)>) -> Self {
        self.layers.push(PanelLayer { label: label.into(), mark, points, color: None });
        self
    }

    /// Adds a line. An empty label draws it without a name.
    pub fn line(self, label: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        self.layer(label, Mark::Line { dots: false, thin: false }, points)
    }

    /// Adds a line with a dot at every point: what was measured at single places.
    pub fn dotted_line(self, label: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        self.layer(label, Mark::Line { dots: true, thin: false }, points)
    }

    /// Adds a thin, pale line: raw values behind a smoothed line.
    pub fn thin_line(self, points: Vec<(f64, f64)>) -> Self {
        self.layer("", Mark::Line { dots: false, thin: true }, points)
    }

    /// Adds points: a scatter plot.
    pub fn points(self, label: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        self.layer(label, Mark::Dots, points)
    }

    /// Adds a shaded band between `low` and `high`: `(x, low, high)`.
    pub fn band(self, label: impl Into<String>, band: Vec<(f64, f64, f64)>) -> Self {
        let low = band.iter().map(|(_, low, _)| *low).collect();
        let high = band.into_iter().map(|(x, _, high)| (x, high)).collect();
        self.layer(label, Mark::Band(low), high)
    }

    /// Adds a histogram of `values` in `bins` bins of equal width, as a density (its area is 1), so
    /// that a density can be drawn over it as a line.
    pub fn histogram(self, label: impl Into<String>, values: &[f64], bins: usize) -> Self {
        let (points, width) = density(values, bins);
        self.layer(label, Mark::Bars(width), points)
    }

    /// Adds bars of this width, centred on their points.
    pub fn bars(self, label: impl Into<String>, points: Vec<(f64, f64)>, width: f64) -> Self {
        self.layer(label, Mark::Bars(width), points)
    }

    /// Adds a dashed horizontal line at a value that matters.
    pub fn rule(self, label: impl Into<String>, y: f64) -> Self {
        self.layer(label, Mark::Rule, vec![(0., y)])
    }

    /// Shows numbers as colours, row by row from the top, `columns` in a row; column i is at x = i,
    /// row j at y = j. With any number below 0 the colours diverge from white at 0, else they go
    /// from dark at the least to light at the greatest.
    pub fn heat_map(self, values: Vec<f64>, columns: usize) -> Self {
        self.layer("", Mark::Heat { values, columns }, Vec::new())
    }

    /// Draws the layer added last, and only it, in the colour of series `index`.
    pub fn color(mut self, index: usize) -> Self {
        if let Some(layer) = self.layers.last_mut() {
            layer.color = Some(index);
        }
        self
    }

    /// The layers' colours, in the order of the series; bands and thin lines take the colour of the layer after them.
    pub(super) fn colors(&self) -> Vec<Color> {
        let mut next = 0;
        self.layers
            .iter()
            .map(|layer| {
                if let Some(index) = layer.color {
                    return theme::series(index);
                }
                let color = theme::series(next);
                match layer.mark {
                    Mark::Rule => return theme::SOFT_INK,
                    Mark::Band(_) | Mark::Line { thin: true, .. } => {}
                    _ => next += 1,
                }
                color
            })
            .collect()
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = if self.title.is_empty() { "chart" } else { &self.title };
        let fail = |message: String| Err(Error::Figure(format!("{name}: {message}")));
        if self.layers.is_empty() {
            return fail("nothing to draw".into());
        }
        for (axis, range) in [("x", self.x.range), ("y", self.y.range)] {
            if range.is_some_and(|(a, b)| !a.is_finite() || !b.is_finite() || a == b) {
                return fail(format!("the {axis} axis needs two finite ends that differ"));
            }
        }
        for layer in &self.layers {
            if let Err(message) = self.check_layer(layer) {
                return fail(message);
            }
        }
        for (axis, on) in [("x", &self.x), ("y", &self.y)] {
            if on.log && on.range.is_some_and(|(a, b)| a <= 0. || b <= 0.) {
                return fail(format!("a logarithmic {axis} axis has only values above 0"));
            }
        }
        Ok(())
    }

    fn check_layer(&self, layer: &PanelLayer) -> std::result::Result<(), String> {
        let label = if layer.label.is_empty() { "a layer" } else { &layer.label };
        if let Mark::Heat { values, columns } = &layer.mark {
            if *columns == 0 || values.is_empty() || values.len() % columns != 0 {
                return Err(format!(
                    "a heat map of {} values cannot have rows of {columns}",
                    values.len()
                ));
            }
            if values.iter().any(|v| !v.is_finite()) {
                return Err("the heat map has values that are NaN or infinite".into());
            }
            return Ok(());
        }
        if layer.points.is_empty() {
            return Err(format!("{label} has no points"));
        }
        let low: &[f64] = if let Mark::Band(low) = &layer.mark { low } else { &[] };
        let pairs = layer.points.iter().copied();
        let lower = layer.points.iter().zip(low).map(|((x, _), y)| (*x, *y));
        for (i, (x, y)) in pairs.chain(lower).enumerate() {
            let i = i % layer.points.len();
            if !x.is_finite() || !y.is_finite() {
                return Err(format!("point {i} of {label} is ({x}, {y})"));
            }
            let rule = matches!(layer.mark, Mark::Rule);
            if (self.x.log && x <= 0. && !rule) || (self.y.log && y <= 0.) {
                return Err(format!(
                    "point {i} of {label} is ({x}, {y}), but a logarithmic axis has only \
                     values above 0"
                ));
            }
        }
        Ok(())
    }

    /// The ends of both axes, as they are drawn.
    pub(super) fn ranges(&self) -> ((f64, f64), (f64, f64)) {
        let (mut x, mut y) = (Extent::new(), Extent::new());
        for layer in &self.layers {
            match &layer.mark {
                Mark::Heat { values, columns } => {
                    let rows = values.len() / columns;
                    x.add(-0.5).add(*columns as f64 - 0.5);
                    y.add(rows as f64 - 0.5).add(-0.5);
                    // Rows are counted from the top.
                    return (
                        self.x.range.unwrap_or((-0.5, *columns as f64 - 0.5)),
                        self.y.range.unwrap_or((rows as f64 - 0.5, -0.5)),
                    );
                }
                Mark::Rule => {
                    y.add(self.y.place(layer.points[0].1));
                    continue;
                }
                Mark::Band(low) => low.iter().for_each(|v| {
                    y.add(self.y.place(*v));
                }),
                Mark::Bars(width) => {
                    y.add(0.);
                    for (at, _) in &layer.points {
                        x.add(at - width / 2.).add(at + width / 2.);
                    }
                }
                _ => {}
            }
            for (px, py) in &layer.points {
                x.add(self.x.place(*px));
                y.add(self.y.place(*py));
            }
        }
        let bars = self.layers.iter().any(|l| matches!(l.mark, Mark::Bars(_)));
        let lined = self
            .layers
            .iter()
            .all(|l| matches!(l.mark, Mark::Line { .. } | Mark::Band(_) | Mark::Rule));
        let placed = |axis: &Axis, range: (f64, f64)| (axis.place(range.0), axis.place(range.1));
        let mut y_ends = y.padded(0.06);
        if bars && y.low >= 0. {
            y_ends.0 = 0.;
        }
        (
            self.x.range.map_or(x.padded(if lined { 0. } else { 0.03 }), |r| placed(&self.x, r)),
            self.y.range.map_or(y_ends, |r| placed(&self.y, r)),
        )
    }
}

/// The middle and the density of every bin, and the bins' width.
fn density(values: &[f64], bins: usize) -> (Vec<(f64, f64)>, f64) {
    let bins = bins.clamp(1, 10_000);
    let mut extent = Extent::new();
    for value in values {
        // What is not finite is named when the chart is checked.
        if !value.is_finite() {
            return (vec![(*value, 0.)], 1.);
        }
        extent.add(*value);
    }
    if values.is_empty() {
        return (Vec::new(), 1.);
    }
    let (low, high) =
        if extent.low < extent.high { (extent.low, extent.high) } else { extent.padded(0.) };
    let width = (high - low) / bins as f64;
    let mut counts = vec![0usize; bins];
    for value in values {
        // The greatest value belongs to the last bin.
        let bin = (((value - low) / width) as usize).min(bins - 1);
        counts[bin] += 1;
    }
    let area = values.len() as f64 * width;
    let points = counts
        .iter()
        .enumerate()
        .map(|(i, count)| (low + (i as f64 + 0.5) * width, *count as f64 / area))
        .collect();
    (points, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_area_one() {
        let values: Vec<f64> = (0..1000).map(|i| (f64::from(i) * 0.37).sin()).collect();
        let (points, width) = density(&values, 20);
        let area: f64 = points.iter().map(|(_, y)| y * width).sum();
        assert_eq!(points.len(), 20);
        assert!((area - 1.).abs() < 1e-12, "{area}");
        let (points, width) = density(&[3.; 5], 4);
        assert!((points.iter().map(|(_, y)| y * width).sum::<f64>() - 1.).abs() < 1e-12);
    }
}
