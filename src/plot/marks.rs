//! How lines, points, bands, bars, rules and cells are drawn.

use std::convert::Infallible;

use plotters::element::{Circle, PathElement, Polygon, Rectangle};
use plotters::style::{Color as _, RGBColor, ShapeStyle};

use super::axis::Ruler;
use super::canvas::Canvas;
use super::heat_map::HeatScale;
use super::panel::{Mark, Panel, PanelLayer};
use super::plot_frame::FINE;
use super::theme::{self, Color};
use crate::{Error, Result};

const LINE: f64 = 2.2;

/// The axes on which marks are drawn.
pub(super) type Chart<'a, 'b> = plotters::chart::ChartContext<
    'a,
    &'b mut Canvas,
    plotters::coord::cartesian::Cartesian2d<Ruler, Ruler>,
>;

impl Panel {
    /// Draws all layers: what covers an area first, so that lines and points lie on it.
    pub(super) fn draw_layers(&self, chart: &mut Chart) -> Result<()> {
        let behind = |layer: &PanelLayer| {
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
        layer: &PanelLayer,
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
}

pub(super) fn rgb(color: Color) -> RGBColor {
    RGBColor(color[0], color[1], color[2])
}

pub(super) fn failed<E: std::fmt::Display>(error: E) -> Error {
    Error::Figure(error.to_string())
}

pub(super) fn pen(color: Color, width: f64) -> ShapeStyle {
    rgb(color).stroke_width((width * f64::from(FINE)).round() as u32)
}
