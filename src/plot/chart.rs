//! Charts: lines, points, bands, histograms and heat maps on labelled axes.

use std::convert::Infallible;

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle};
use plotters::style::{Color as _, IntoFont, RGBColor, ShapeStyle, TRANSPARENT, TextStyle};
use plotters_backend::text_anchor::{HPos, VPos};

use super::axis::{Axis, Extent, Ruler, linear_ticks};
use super::canvas::{Canvas, Style, text_width, wrap};
use super::show::Figure;
use super::theme::{self, Color};
use super::views::signed;
use crate::{Error, Result};

/// Charts are drawn this many times larger and then reduced, for smooth lines.
const FINE: u32 = 3;
const WIDTH: u32 = 1100;
const LINE: f64 = 2.2;

type Area<'a> = DrawingArea<&'a mut Canvas, Shift>;
type Chart<'a, 'b> = plotters::chart::ChartContext<
    'a,
    &'b mut Canvas,
    plotters::coord::cartesian::Cartesian2d<Ruler, Ruler>,
>;

/// One chart. Panels side by side make a [`figure()`].
///
/// ```
/// use diffuscope::plot;
/// let schedule = diffuscope::schedule::Schedule::stable_diffusion();
/// let snr: Vec<(f64, f64)> = schedule.snr().into_iter().enumerate().map(|(t, y)| (t as f64, y)).collect();
/// let figure = plot::panel("Signal to noise").x("timestep t").y("SNR(t)").log_y().line("", snr).draw()?;
/// assert_eq!(figure.width(), 1100);
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Panel {
    title: String,
    x: Axis,
    y: Axis,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    label: String,
    mark: Mark,
    points: Vec<(f64, f64)>,
    color: Option<usize>,
}

#[derive(Clone, Debug)]
enum Mark {
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

/// A chart of lines: each is its label and its points.
///
/// # Errors
/// No line; fewer than one point in a line; NaN or infinity.
pub fn lines<L: Into<String>>(
    title: impl Into<String>,
    x: impl Into<String>,
    y: impl Into<String>,
    lines: impl IntoIterator<Item = (L, Vec<(f64, f64)>)>,
) -> Result<Figure> {
    lines.into_iter().fold(panel(title).x(x).y(y), |p, (l, points)| p.line(l, points)).draw()
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
        self.layers.push(Layer { label: label.into(), mark, points, color: None });
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

    /// Draws the chart alone.
    ///
    /// # Errors
    /// Nothing to draw; NaN or infinity; a value that is not above 0 on a logarithmic axis; a heat
    /// map whose rows are not whole.
    pub fn draw(self) -> Result<Figure> {
        figure("", vec![self])
    }

    /// The layers' colours: named series first come, first served; bands and thin lines take the
    /// colour of the layer after them.
    fn colors(&self) -> Vec<Color> {
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

    fn check(&self) -> Result<()> {
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
            let label = if layer.label.is_empty() { "a layer" } else { &layer.label };
            if let Mark::Heat { values, columns } = &layer.mark {
                if *columns == 0 || values.is_empty() || values.len() % columns != 0 {
                    return fail(format!(
                        "a heat map of {} values cannot have rows of {columns}",
                        values.len()
                    ));
                }
                if values.iter().any(|v| !v.is_finite()) {
                    return fail("the heat map has values that are NaN or infinite".into());
                }
                continue;
            }
            if layer.points.is_empty() {
                return fail(format!("{label} has no points"));
            }
            let low: &[f64] = if let Mark::Band(low) = &layer.mark { low } else { &[] };
            let pairs = layer.points.iter().copied();
            let lower = layer.points.iter().zip(low).map(|((x, _), y)| (*x, *y));
            for (i, (x, y)) in pairs.chain(lower).enumerate() {
                let i = i % layer.points.len();
                if !x.is_finite() || !y.is_finite() {
                    return fail(format!("point {i} of {label} is ({x}, {y})"));
                }
                let rule = matches!(layer.mark, Mark::Rule);
                if (self.x.log && x <= 0. && !rule) || (self.y.log && y <= 0.) {
                    return fail(format!(
                        "point {i} of {label} is ({x}, {y}), but a logarithmic axis has only \
                         values above 0"
                    ));
                }
            }
        }
        for (axis, on) in [("x", &self.x), ("y", &self.y)] {
            if on.log && on.range.is_some_and(|(a, b)| a <= 0. || b <= 0.) {
                return fail(format!("a logarithmic {axis} axis has only values above 0"));
            }
        }
        Ok(())
    }

    /// The ends of both axes, as they are drawn.
    fn ranges(&self) -> ((f64, f64), (f64, f64)) {
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

/// Panels side by side under one title; more than three go into rows.
///
/// # Errors
/// No panel, or one that cannot be drawn (see [`Panel::draw`]).
pub fn figure(title: impl Into<String>, panels: Vec<Panel>) -> Result<Figure> {
    let title = title.into();
    if panels.is_empty() {
        return Err(Error::argument("panels", "at least one", "none", ""));
    }
    panels.iter().try_for_each(Panel::check)?;
    let columns = if panels.len() == 4 { 2 } else { panels.len().min(3) };
    let rows = panels.len().div_ceil(columns);
    let margin = 16;
    let heading = Style::new(21., theme::INK).bold();
    let key_style = Style::new(16., theme::INK);

    let head_lines = wrap(&title, heading, (WIDTH - 2 * margin) as f32, 3)?;
    let key = if panels.len() > 1 { shared_key(&panels) } else { Vec::new() };
    let key_rows = key_rows(&key, key_style, (WIDTH - 2 * margin) as f32)?;
    let head = heading.line_height() * head_lines.len() as u32
        + key_style.line_height() * key_rows.len() as u32
        + if head_lines.is_empty() && key_rows.is_empty() { 0 } else { 10 };
    let height = match columns {
        1 => 440,
        2 => 400,
        _ => 350,
    };
    let total = head + rows as u32 * height + 2 * margin;
    let mut canvas = Canvas::blank(WIDTH * FINE, total * FINE)?;

    let fine = FINE as f32;
    let large = |style: Style| Style { size: style.size * fine, ..style };
    let x0 = margin as f32 * fine;
    let mut y = margin as f32 * fine;
    y += canvas.lines(x0, y, &head_lines, large(heading))? as f32;
    for row in &key_rows {
        let mut x = x0;
        let middle = y + key_style.line_height() as f32 * fine / 2.;
        for (label, color) in row {
            canvas.stroke(&[(x + 4., middle), (x + 22. * fine, middle)], 3. * fine, *color, 1.);
            let style = large(key_style).at(HPos::Left, VPos::Center);
            canvas.text(x + 29. * fine, middle, label, style)?;
            x += 29. * fine + text_width(label, style)? + 24. * fine;
        }
        y += key_style.line_height() as f32 * fine;
    }

    let gap = 14;
    let width = (WIDTH - 2 * margin - gap * (columns as u32 - 1)) / columns as u32;
    let mut used = 0;
    for (i, panel) in panels.iter().enumerate() {
        let (column, row) = (i as u32 % columns as u32, i as u32 / columns as u32);
        let at = Place {
            x: (margin + column * (width + gap)) as i32,
            y: (margin + head + row * height) as i32,
            width,
            height: height - if rows > 1 { 12 } else { 0 },
        };
        used = used.max(panel.draw_on(&mut canvas, at, panels.len() == 1)?);
    }
    // A heat map alone may need less than the whole width.
    let card_width = if title.is_empty() { used + margin } else { WIDTH };
    let mut image = Canvas::card(card_width, total)?;
    image.lay(0, 0, &canvas.reduced(FINE));
    image.frame();
    let name = match (&title[..], &panels[..]) {
        ("", [panel]) => panel.title.clone(),
        _ => title,
    };
    Ok(Figure::new(image.into_rgb8(), if name.is_empty() { "Chart".to_owned() } else { name }))
}

/// The named series of all panels, each once.
fn shared_key(panels: &[Panel]) -> Vec<(String, Color)> {
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

fn key_rows(
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

/// Where a panel lies, in pixels of the finished figure.
#[derive(Clone, Copy)]
struct Place {
    x: i32,
    y: i32,
    width: u32,
    height: u32,
}

fn rgb(color: Color) -> RGBColor {
    RGBColor(color[0], color[1], color[2])
}

fn failed<E: std::fmt::Display>(error: E) -> Error {
    Error::Figure(error.to_string())
}

fn pen(color: Color, width: f64) -> ShapeStyle {
    rgb(color).stroke_width((width * f64::from(FINE)).round() as u32)
}

impl Panel {
    /// Draws the panel; returns where it ends on the right.
    fn draw_on(&self, canvas: &mut Canvas, place: Place, alone: bool) -> Result<u32> {
        let fine = FINE as i32;
        let px = |pixels: u32| pixels * FINE;
        let tick_size = 15.;
        let tick_style = Style::new(tick_size, theme::SOFT_INK);
        let title_style = Style::new(if alone { 21. } else { 18. }, theme::INK).bold();
        let (x_range, y_range) = self.ranges();
        let heat = self.layers.iter().find_map(|l| match &l.mark {
            Mark::Heat { values, columns } => Some((values, *columns)),
            _ => None,
        });
        let mut x_ticks = self.x.ticks(x_range, (place.width / 85).max(3) as usize);
        let mut y_ticks = self.y.ticks(y_range, (place.height / 62).max(3) as usize);
        if heat.is_some() {
            // The cells of a heat map are numbered.
            for (axis, ticks, range) in
                [(&self.x, &mut x_ticks, x_range), (&self.y, &mut y_ticks, y_range)]
            {
                let (low, high) = (range.0.min(range.1).ceil(), range.0.max(range.1).floor());
                if axis.ticks.is_none() && high > low {
                    *ticks = linear_ticks(low, high, ((high - low) as usize).min(8));
                    ticks.retain(|(at, _)| at.fract() == 0.);
                }
            }
        }

        let title = wrap(&self.title, title_style, place.width as f32 - 8., 2)?;
        let head = title_style.line_height() * title.len() as u32;
        let mut tick_room: f32 = 0.;
        for (_, label) in &y_ticks {
            tick_room = tick_room.max(text_width(label, tick_style)?);
        }
        let y_label = if self.y.label.is_empty() { 0 } else { 26 };
        let left = tick_room.ceil() as u32 + 12 + y_label;
        let bottom = 30 + if self.x.label.is_empty() { 0 } else { 24 };

        let named: Vec<(&Layer, Color)> = self
            .layers
            .iter()
            .zip(self.colors())
            .filter(|(layer, _)| alone && !layer.label.is_empty())
            .collect();
        let end_style = Style::new(16., theme::INK);
        let mut right = 10f32;
        for (layer, _) in &named {
            for line in wrap(&layer.label, end_style, 230., 3)? {
                right = right.max(text_width(&line, end_style)? + 22.);
            }
        }
        if heat.is_some() {
            right = 92.;
        }
        // The last tick's number may be wider than its place.
        let plot_width = place.width.saturating_sub(left + right as u32).max(40);
        let plot_height = place.height.saturating_sub(head + bottom + 14).max(40);
        let (plot_x, plot_y) = (place.x + left as i32, place.y + head as i32 + 8);
        // A heat map has square cells where there is room.
        let (plot_width, plot_height) = match heat {
            Some((values, columns)) => {
                let rows = (values.len() / columns) as f64;
                let ratio = columns as f64 / rows;
                if (0.25..=4.).contains(&ratio) {
                    let cell =
                        (f64::from(plot_width) / columns as f64).min(f64::from(plot_height) / rows);
                    ((cell * columns as f64) as u32, (cell * rows) as u32)
                } else {
                    (plot_width, plot_height)
                }
            }
            None => (plot_width, plot_height),
        };

        let large = |style: Style| Style { size: style.size * FINE as f32, ..style };
        canvas.lines(
            (place.x * fine) as f32,
            (place.y * fine) as f32,
            &title,
            large(title_style),
        )?;

        {
            let area: Area = (&mut *canvas).into_drawing_area();
            let area = area.shrink(
                (((plot_x - left as i32) * fine), plot_y * fine),
                (px(left + plot_width), px(plot_height + bottom)),
            );
            let rulers = (
                Ruler { range: x_range, ticks: x_ticks },
                Ruler { range: y_range, ticks: y_ticks },
            );
            self.draw_axes(&area, rulers, (left, bottom))?;
        }

        let frame = Frame {
            x: (plot_x * fine) as f32,
            y: (plot_y * fine) as f32,
            width: (plot_width * FINE) as f32,
            height: (plot_height * FINE) as f32,
            y_range,
        };
        if let Some((values, _)) = heat {
            heat_bar(canvas, &frame, values, tick_style)?;
            let mut end = plot_x as u32 + plot_width + right as u32;
            for line in &title {
                end = end.max(place.x as u32 + text_width(line, title_style)?.ceil() as u32);
            }
            return Ok(end);
        }
        if !alone {
            self.name_rules(canvas, &frame, large(tick_style))?;
        }
        self.name_ends(canvas, &frame, &named, large(end_style))?;
        Ok(place.x as u32 + place.width)
    }

    fn draw_axes(
        &self,
        area: &Area,
        (x, y): (Ruler, Ruler),
        (left, bottom): (u32, u32),
    ) -> Result<()> {
        let mut chart = ChartBuilder::on(area)
            .set_label_area_size(LabelAreaPosition::Left, left * FINE)
            .set_label_area_size(LabelAreaPosition::Bottom, bottom * FINE)
            .build_cartesian_2d(x, y)
            .map_err(failed)?;
        let heat = self.layers.iter().any(|l| matches!(l.mark, Mark::Heat { .. }));
        let text = |size: f64, color: Color| -> TextStyle<'static> {
            ("sans-serif", size * f64::from(FINE)).into_font().color(&rgb(color))
        };
        // The axes lie on the cells of a heat map, but under the lines of a chart.
        if heat {
            self.draw_layers(&mut chart)?;
        }
        let mut mesh = chart.configure_mesh();
        mesh.label_style(text(15., theme::SOFT_INK))
            .axis_desc_style(text(16., theme::INK))
            .axis_style(pen(theme::SOFT_INK, 1.))
            .bold_line_style(pen(theme::GRID, 1.))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(4 * FINE);
        if heat {
            mesh.disable_mesh();
        }
        if !self.x.label.is_empty() {
            mesh.x_desc(self.x.label.clone());
        }
        if !self.y.label.is_empty() {
            mesh.y_desc(self.y.label.clone());
        }
        mesh.draw().map_err(failed)?;
        if !heat {
            self.draw_layers(&mut chart)?;
        }
        Ok(())
    }

    fn draw_layers(&self, chart: &mut Chart) -> Result<()> {
        let behind = |layer: &Layer| {
            !matches!(layer.mark, Mark::Line { thin: false, .. } | Mark::Dots | Mark::Rule)
        };
        let layers: Vec<_> = self.layers.iter().zip(self.colors()).collect();
        let (first, then): (Vec<_>, Vec<_>) = layers.into_iter().partition(|(l, _)| behind(l));
        for (layer, color) in first.into_iter().chain(then) {
            self.draw_layer(chart, layer, color).map_err(failed)?;
        }
        Ok(())
    }

    fn draw_layer(
        &self,
        chart: &mut Chart,
        layer: &Layer,
        color: Color,
    ) -> std::result::Result<(), plotters::drawing::DrawingAreaErrorKind<Infallible>> {
        let points: Vec<(f64, f64)> =
            layer.points.iter().map(|(x, y)| (self.x.place(*x), self.y.place(*y))).collect();
        let area = chart.plotting_area();
        match &layer.mark {
            Mark::Line { dots, thin } => {
                let (shade, width) =
                    if *thin { (theme::tint(color, 0.35), 1.2) } else { (color, LINE) };
                area.draw(&PathElement::new(points.clone(), pen(shade, width)))?;
                if *dots || points.len() == 1 {
                    for point in points {
                        area.draw(&Circle::new(point, (4 * FINE) as i32, rgb(color).filled()))?;
                    }
                }
            }
            Mark::Dots => {
                // Many points are drawn smaller and paler, so that their density is seen.
                let many = points.len() > 400;
                let (size, alpha) = if many { (2 * FINE, 0.45) } else { (4 * FINE, 0.85) };
                for point in points {
                    let style = rgb(color).mix(alpha).filled();
                    area.draw(&Circle::new(point, size as i32, style))?;
                }
            }
            Mark::Band(low) => {
                let below = points.iter().zip(low).rev().map(|((x, _), y)| (*x, self.y.place(*y)));
                let outline: Vec<_> = points.iter().copied().chain(below).collect();
                area.draw(&Polygon::new(outline, rgb(color).mix(0.20)))?;
            }
            Mark::Bars(width) => {
                for (x, y) in points {
                    let corners = [(x - width / 2., 0.), (x + width / 2., y)];
                    area.draw(&Rectangle::new(corners, rgb(color).mix(0.40).filled()))?;
                    let top = vec![(x - width / 2., y), (x + width / 2., y)];
                    area.draw(&PathElement::new(top, pen(color, 1.6)))?;
                }
            }
            Mark::Rule => {
                let (from, to) = {
                    let (range, _) = self.ranges();
                    range
                };
                let dash = (to - from) / 90.;
                for i in (0..90).step_by(2) {
                    let start = from + f64::from(i) * dash;
                    let ends = vec![(start, points[0].1), (start + dash, points[0].1)];
                    area.draw(&PathElement::new(ends, pen(theme::SOFT_INK, 1.4)))?;
                }
            }
            Mark::Heat { values, columns } => {
                let scale = HeatScale::new(values);
                for (i, value) in values.iter().enumerate() {
                    let (x, y) = ((i % columns) as f64, (i / columns) as f64);
                    let corners = [(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)];
                    area.draw(&Rectangle::new(corners, rgb(scale.color(*value)).filled()))?;
                }
            }
        }
        Ok(())
    }

    /// Names every series at its right end, in its colour; names that would overlap are moved apart.
    fn name_ends(
        &self,
        canvas: &mut Canvas,
        frame: &Frame,
        named: &[(&Layer, Color)],
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
    fn name_rules(&self, canvas: &mut Canvas, frame: &Frame, style: Style) -> Result<()> {
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

/// The colour, dark enough to read as letters.
fn deeper(color: Color) -> Color {
    color.map(|c| (f64::from(c) * 0.72) as u8)
}

/// The plotting area, in pixels of the canvas.
struct Frame {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
    y_range: (f64, f64),
}

impl Frame {
    fn y_of(&self, value: f64) -> f32 {
        let part = (value - self.y_range.0) / (self.y_range.1 - self.y_range.0);
        self.y + (1. - part as f32) * self.height
    }
}

/// Which colours a heat map has.
struct HeatScale {
    low: f64,
    high: f64,
    diverging: bool,
}

impl HeatScale {
    fn new(values: &[f64]) -> Self {
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

    fn color(&self, value: f64) -> Color {
        let part = (value - self.low) / (self.high - self.low);
        if self.diverging { theme::diverging(2. * part - 1.) } else { theme::sequential(part) }
    }
}

fn heat_bar(canvas: &mut Canvas, frame: &Frame, values: &[f64], style: Style) -> Result<()> {
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

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let message = |p: Panel| p.draw().unwrap_err().to_string();
        assert!(message(panel("empty")).contains("empty: nothing to draw"));
        assert!(message(panel("").line("loss", vec![])).contains("loss has no points"));
        let nan = message(panel("").line("loss", vec![(0., 1.), (1., f64::NAN)]));
        assert!(nan.contains("point 1 of loss is (1, NaN)"), "{nan}");
        let zero = message(panel("").log_y().line("snr", vec![(0., 1.), (1., 0.)]));
        assert!(zero.contains("point 1 of snr is (1, 0)"), "{zero}");
        assert!(message(panel("").heat_map(vec![1.; 7], 3)).contains("rows of 3"));
        assert!(message(panel("").histogram("h", &[1., f64::NAN], 3)).contains("NaN"));
        assert!(message(panel("").band("b", vec![(0., f64::NAN, 1.)])).contains("NaN"));
        assert!(figure("none", vec![]).is_err());
    }

    #[test]
    fn every_mark_can_be_drawn() {
        let points = |n: i32| (0..n).map(|i| (f64::from(i), f64::from(i * i))).collect::<Vec<_>>();
        let panels = vec![
            panel("one point").line("", vec![(1., 1.)]),
            panel("constant").line("constant", vec![(0., 2.), (1., 2.)]).rule("rule", 2.),
            panel("marks").x("x").dotted_line("a", points(5)).points("b", points(900)),
            panel("heat").heat_map(vec![0.; 6], 3),
            panel("band").band("b", vec![(0., 0., 1.), (1., 1., 3.)]).x_range(1., 0.),
        ];
        let drawn = figure("All", panels.clone()).unwrap();
        assert_eq!(drawn.width(), WIDTH);
        for one in panels {
            one.draw().unwrap();
        }
        let long = "a very long label that has to be wrapped somewhere ".repeat(9);
        panel(long.clone()).x(long.clone()).y(long.clone()).line(long, points(3)).draw().unwrap();
    }
}
