//! Panels on one figure: side by side, under one title and one key.

use plotters_backend::text_anchor::{HPos, VPos};

use super::canvas::{Canvas, Style, text_width, wrap};
use super::display::Figure;
use super::panel::{Panel, panel};
use super::plot_frame::{FINE, PanelPlace};
use super::series_names::{key_rows, shared_key};
use super::theme;
use crate::{Error, Result};

const WIDTH: u32 = 1100;

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
    /// Draws the chart alone.
    ///
    /// # Errors
    /// Nothing to draw; NaN or infinity; a value that is not above 0 on a logarithmic axis; a heat
    /// map whose rows are not whole.
    pub fn draw(self) -> Result<Figure> {
        figure("", vec![self])
    }
}

/// Panels side by side under one title; more than three go into rows.
///
/// # Errors
/// No panel, or one that cannot be drawn (see [`Panel::draw`]).
pub fn figure(title: impl Into<String>, panels: Vec<Panel>) -> Result<Figure> {
    let title = title.into();
    if panels.is_empty() {
        return Err(Error::argument("panels", "at least one", "none"));
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
        let at = PanelPlace {
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

#[cfg(test)]
mod tests {
    use super::*;

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
