//! How one panel is laid out and drawn: title, axes, plotting area, names.

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::style::{IntoFont, TRANSPARENT, TextStyle};

use super::axis::{Ruler, linear_ticks};
use super::canvas::{Canvas, Style, text_width, wrap};
use super::heat_map::heat_bar;
use super::marks::{failed, pen, rgb};
use super::panel::{Mark, Panel, PanelLayer};
use super::plot_frame::{FINE, PanelPlace, PlotFrame};
use super::theme::{self, Color};
use crate::Result;

type Area<'a> = DrawingArea<&'a mut Canvas, Shift>;

/// Where the parts of a panel lie, in pixels of the finished figure.
struct PanelLayout {
    title: Vec<String>,
    title_style: Style,
    x: Ruler,
    y: Ruler,
    /// The room for numbers and names on the left of the plotting area, below it, and on its right.
    left: u32,
    bottom: u32,
    right: u32,
    /// The plotting area.
    plot: PanelPlace,
}

fn tick_style() -> Style {
    Style::new(15., theme::SOFT_INK)
}

fn name_style() -> Style {
    Style::new(16., theme::INK)
}

fn fine(style: Style) -> Style {
    Style { size: style.size * FINE as f32, ..style }
}

impl PanelLayout {
    fn of(panel: &Panel, place: PanelPlace, alone: bool) -> Result<Self> {
        let (x, y) = panel.rulers(place);
        let title_style = Style::new(if alone { 21. } else { 18. }, theme::INK).bold();
        let title = wrap(&panel.title, title_style, place.width as f32 - 8., 2)?;
        let head = title_style.line_height() * title.len() as u32;
        let mut tick_room: f32 = 0.;
        for (_, label) in &y.ticks {
            tick_room = tick_room.max(text_width(label, tick_style())?);
        }
        let y_label = if panel.y.label.is_empty() { 0 } else { 26 };
        let left = tick_room.ceil() as u32 + 12 + y_label;
        let bottom = 30 + if panel.x.label.is_empty() { 0 } else { 24 };
        let mut right = 10f32;
        for (layer, _) in panel.named(alone) {
            for line in wrap(&layer.label, name_style(), 230., 3)? {
                right = right.max(text_width(&line, name_style())? + 22.);
            }
        }
        if panel.heat().is_some() {
            right = 92.;
        }
        let right = right as u32;
        let width = place.width.saturating_sub(left + right).max(40);
        let height = place.height.saturating_sub(head + bottom + 14).max(40);
        let (width, height) = panel.square_cells(width, height);
        let plot =
            PanelPlace { x: place.x + left as i32, y: place.y + head as i32 + 8, width, height };
        Ok(Self { title, title_style, x, y, left, bottom, right, plot })
    }

    /// The plotting area in pixels of the canvas.
    fn frame(&self) -> PlotFrame {
        let fine = FINE as i32;
        PlotFrame {
            x: (self.plot.x * fine) as f32,
            y: (self.plot.y * fine) as f32,
            width: (self.plot.width * FINE) as f32,
            height: (self.plot.height * FINE) as f32,
            y_range: self.y.range,
        }
    }
}

impl Panel {
    /// Draws the panel; returns where it ends on the right.
    pub(super) fn draw_on(
        &self,
        canvas: &mut Canvas,
        place: PanelPlace,
        alone: bool,
    ) -> Result<u32> {
        let layout = PanelLayout::of(self, place, alone)?;
        let corner = [place.x, place.y].map(|at| (at * FINE as i32) as f32);
        canvas.lines(corner[0], corner[1], &layout.title, fine(layout.title_style))?;
        self.draw_axes(canvas, &layout)?;
        let frame = layout.frame();
        if let Some((values, _)) = self.heat() {
            heat_bar(canvas, &frame, values, tick_style())?;
            let mut end = layout.plot.x as u32 + layout.plot.width + layout.right;
            for line in &layout.title {
                let width = text_width(line, layout.title_style)?.ceil() as u32;
                end = end.max(place.x as u32 + width);
            }
            return Ok(end);
        }
        if !alone {
            self.name_rules(canvas, &frame, fine(tick_style()))?;
        }
        self.name_ends(canvas, &frame, &self.named(alone), fine(name_style()))?;
        Ok(place.x as u32 + place.width)
    }

    /// The axes as they are drawn; the cells of a heat map are numbered.
    fn rulers(&self, place: PanelPlace) -> (Ruler, Ruler) {
        let (x, y) = self.ranges();
        let mut x_ticks = self.x.ticks(x, (place.width / 85).max(3) as usize);
        let mut y_ticks = self.y.ticks(y, (place.height / 62).max(3) as usize);
        if self.heat().is_some() {
            for (axis, ticks, range) in [(&self.x, &mut x_ticks, x), (&self.y, &mut y_ticks, y)] {
                let (low, high) = (range.0.min(range.1).ceil(), range.0.max(range.1).floor());
                if axis.ticks.is_none() && high > low {
                    *ticks = linear_ticks(low, high, ((high - low) as usize).min(8));
                    ticks.retain(|(at, _)| at.fract() == 0.);
                }
            }
        }
        (Ruler { range: x, ticks: x_ticks }, Ruler { range: y, ticks: y_ticks })
    }

    /// The values and the number of columns of a heat map.
    fn heat(&self) -> Option<(&[f64], usize)> {
        self.layers.iter().find_map(|layer| match &layer.mark {
            Mark::Heat { values, columns } => Some((values.as_slice(), *columns)),
            _ => None,
        })
    }

    /// The layers that are named at their ends: those of a chart that stands alone.
    fn named(&self, alone: bool) -> Vec<(&PanelLayer, Color)> {
        let layers = self.layers.iter().zip(self.colors());
        layers.filter(|(layer, _)| alone && !layer.label.is_empty()).collect()
    }

    /// The plotting area's width and height: a heat map has square cells where there is room.
    fn square_cells(&self, width: u32, height: u32) -> (u32, u32) {
        let Some((values, columns)) = self.heat() else { return (width, height) };
        let rows = (values.len() / columns) as f64;
        if !(0.25..=4.).contains(&(columns as f64 / rows)) {
            return (width, height);
        }
        let cell = (f64::from(width) / columns as f64).min(f64::from(height) / rows);
        ((cell * columns as f64) as u32, (cell * rows) as u32)
    }

    fn draw_axes(&self, canvas: &mut Canvas, layout: &PanelLayout) -> Result<()> {
        let PanelLayout { left, bottom, plot, .. } = *layout;
        let area: Area = canvas.into_drawing_area();
        let area = area.shrink(
            ((plot.x - left as i32) * FINE as i32, plot.y * FINE as i32),
            ((left + plot.width) * FINE, (plot.height + bottom) * FINE),
        );
        let mut chart = ChartBuilder::on(&area)
            .set_label_area_size(LabelAreaPosition::Left, left * FINE)
            .set_label_area_size(LabelAreaPosition::Bottom, bottom * FINE)
            .build_cartesian_2d(layout.x.clone(), layout.y.clone())
            .map_err(failed)?;
        let heat = self.heat().is_some();
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
}
