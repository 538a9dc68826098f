//! A picture to draw on: text, lines and pictures, and plotters' backend.

use std::convert::Infallible;

use ab_glyph::{Font, PxScale, ScaleFont, point};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    FontStyle, FontTransform,
};

use super::theme::{self, Color, Weight};
use crate::picture::Rgb8;
use crate::{Error, Result};

/// Height of a capital letter, and depth of a descender, in parts of the font size.
const CAPITAL: f32 = 0.727;
const DESCENDER: f32 = 0.21;

/// How a text looks and where its anchor is.
#[derive(Clone, Copy)]
pub struct Style {
    pub size: f32,
    pub weight: Weight,
    pub color: Color,
    pub h: HPos,
    pub v: VPos,
}

impl Style {
    pub fn new(size: f32, color: Color) -> Self {
        Self { size, weight: Weight::Regular, color, h: HPos::Left, v: VPos::Top }
    }

    pub fn bold(self) -> Self {
        Self { weight: Weight::SemiBold, ..self }
    }

    pub fn at(self, h: HPos, v: VPos) -> Self {
        Self { h, v, ..self }
    }

    /// From one baseline to the next.
    pub fn line_height(&self) -> u32 {
        (self.size * 1.32).round() as u32
    }
}

/// Pixels, in RGB.
#[derive(Clone)]
pub struct Canvas {
    pub width: u32,
    pub height: u32,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A card with its edge.
    pub fn card(width: u32, height: u32) -> Result<Self> {
        let mut canvas = Self::blank(width, height)?;
        canvas.frame();
        Ok(canvas)
    }

    /// A card without its edge.
    pub fn blank(width: u32, height: u32) -> Result<Self> {
        const MOST: u64 = 120_000_000;
        if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MOST {
            return Err(Error::Figure(format!(
                "a picture of {width}×{height} pixels cannot be drawn: show fewer or smaller parts"
            )));
        }
        let pixels = theme::CARD.repeat(width as usize * height as usize);
        Ok(Self { width, height, pixels })
    }

    /// The card's edge, one pixel wide.
    pub fn frame(&mut self) {
        let (w, h) = (self.width, self.height);
        for (x, y, width, height) in
            [(0, 0, w, 1), (0, h - 1, w, 1), (0, 0, 1, h), (w - 1, 0, 1, h)]
        {
            self.fill(x as i32, y as i32, width, height, theme::EDGE);
        }
    }

    /// Fills a rectangle.
    pub fn fill(&mut self, x: i32, y: i32, width: u32, height: u32, color: Color) {
        for row in y..y + height as i32 {
            for column in x..x + width as i32 {
                self.blend(column, row, color, 1.);
            }
        }
    }

    /// Lays a picture on the canvas.
    pub fn lay(&mut self, x: u32, y: u32, picture: &Rgb8) {
        let width = picture.width.min(self.width.saturating_sub(x)) as usize * 3;
        for row in 0..picture.height.min(self.height.saturating_sub(y)) {
            let from = row as usize * picture.width as usize * 3;
            let to = ((y + row) as usize * self.width as usize + x as usize) * 3;
            self.pixels[to..to + width].copy_from_slice(&picture.pixels[from..from + width]);
        }
    }

    fn blend(&mut self, x: i32, y: i32, color: Color, cover: f32) {
        if x < 0 || y < 0 || x >= self.width as i32 || y >= self.height as i32 {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        for (pixel, ink) in self.pixels[at..at + 3].iter_mut().zip(color) {
            let (old, new) = (f32::from(*pixel), f32::from(ink));
            *pixel = (old + (new - old) * cover.clamp(0., 1.)).round() as u8;
        }
    }

    /// Writes one line.
    pub fn text(&mut self, x: f32, y: f32, text: &str, style: Style) -> Result<()> {
        self.write(x, y, text, style, &FontTransform::None)
    }

    /// Writes lines below each other; returns the height that they take.
    pub fn lines(&mut self, x: f32, y: f32, lines: &[String], style: Style) -> Result<u32> {
        let step = style.line_height();
        let height = step * lines.len() as u32;
        let top = match style.v {
            VPos::Top => y,
            VPos::Center => y - height as f32 / 2.,
            VPos::Bottom => y - height as f32,
        };
        for (i, line) in lines.iter().enumerate() {
            let middle = top + (i as f32 + 0.5) * step as f32;
            self.text(x, middle, line, Style { v: VPos::Center, ..style })?;
        }
        Ok(height)
    }

    fn write(
        &mut self,
        x: f32,
        y: f32,
        text: &str,
        style: Style,
        turn: &FontTransform,
    ) -> Result<()> {
        let font = theme::font(style.weight)?;
        let scaled = font.as_scaled(scale(&font, style.size));
        let width = text_width(text, style)?;
        let mut pen = match style.h {
            HPos::Left => 0.,
            HPos::Center => -width / 2.,
            HPos::Right => -width,
        };
        let base = match style.v {
            VPos::Top => style.size * 0.95,
            VPos::Center => style.size * CAPITAL / 2.,
            VPos::Bottom => -style.size * DESCENDER,
        };
        // Letters are placed at fractions of a pixel; a turned text is placed at whole ones.
        let upright = matches!(turn, FontTransform::None);
        let (at_x, at_y) = if upright { (x, y) } else { (0., 0.) };
        for letter in text.chars() {
            let id = scaled.glyph_id(letter);
            let glyph = id
                .with_scale_and_position(scaled.scale(), point(at_x + pen, (at_y + base).round()));
            pen += scaled.h_advance(id);
            let Some(outline) = font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, cover| {
                let (px, py) = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
                if upright {
                    self.blend(px, py, style.color, cover);
                } else {
                    let (tx, ty) = turn.transform(px, py);
                    self.blend(x as i32 + tx, y as i32 + ty, style.color, cover);
                }
            });
        }
        Ok(())
    }

    /// Draws a line of round-ended segments.
    pub fn stroke(&mut self, points: &[(f32, f32)], width: f32, color: Color, alpha: f32) {
        let radius = width.max(1.) / 2.;
        for ends in points.windows(2) {
            let ((ax, ay), (bx, by)) = (ends[0], ends[1]);
            let (dx, dy) = (bx - ax, by - ay);
            let length = dx.hypot(dy).max(1e-6);
            let reach = radius + 1.;
            for y in (ay.min(by) - reach).floor() as i32..=(ay.max(by) + reach).ceil() as i32 {
                // Only the part of the row that is near the segment.
                let (mut from, mut to) = (ax.min(bx) - reach, ax.max(bx) + reach);
                if dy.abs() > 1e-3 {
                    let centre = ax + (y as f32 - ay) / dy * dx;
                    let half = reach * length / dy.abs();
                    (from, to) = (from.max(centre - half), to.min(centre + half));
                }
                for x in from.floor() as i32..=to.ceil() as i32 {
                    let (px, py) = (x as f32 - ax, y as f32 - ay);
                    let along = ((px * dx + py * dy) / (length * length)).clamp(0., 1.);
                    let distance = (px - along * dx).hypot(py - along * dy);
                    let cover = radius - distance + 0.5;
                    if cover > 0. {
                        self.blend(x, y, color, cover.min(1.) * alpha);
                    }
                }
            }
        }
    }

    /// The picture, `factor` times smaller: each pixel is the mean of a square.
    pub fn reduced(&self, factor: u32) -> Rgb8 {
        let (width, height) = (self.width / factor, self.height / factor);
        let (f, stride) = (factor as usize, self.width as usize * 3);
        let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
        let (area, half) = (factor * factor, factor * factor / 2);
        for y in 0..height as usize {
            for x in 0..width as usize {
                for c in 0..3 {
                    let sum: u32 = (0..f)
                        .flat_map(|dy| (0..f).map(move |dx| (dy, dx)))
                        .map(|(dy, dx)| {
                            u32::from(self.pixels[(y * f + dy) * stride + (x * f + dx) * 3 + c])
                        })
                        .sum();
                    pixels.push(((sum + half) / area) as u8);
                }
            }
        }
        Rgb8 { width, height, pixels }
    }

    /// The picture as it is.
    pub fn into_rgb8(self) -> Rgb8 {
        Rgb8 { width: self.width, height: self.height, pixels: self.pixels }
    }
}

fn scale(font: &impl Font, size: f32) -> PxScale {
    let em = font.units_per_em().unwrap_or(1000.);
    PxScale::from(size * font.height_unscaled() / em)
}

/// The width of one line, in pixels.
pub fn text_width(text: &str, style: Style) -> Result<f32> {
    let font = theme::font(style.weight)?;
    let scaled = font.as_scaled(scale(&font, style.size));
    Ok(text.chars().map(|c| scaled.h_advance(scaled.glyph_id(c))).sum())
}

/// Breaks a text into at most `most` lines that are no wider than `width`; what is cut ends in "…".
pub fn wrap(text: &str, style: Style, width: f32, most: usize) -> Result<Vec<String>> {
    let fits = |line: &str| Ok::<_, Error>(text_width(line, style)? <= width);
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(|c: char| c.is_whitespace() || c.is_control()) {
            if word.is_empty() {
                continue;
            }
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if fits(&longer)? {
                line = longer;
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for letter in word.chars() {
                line.push(letter);
                if line.chars().count() > 1 && !fits(&line)? {
                    line.pop();
                    lines.push(std::mem::replace(&mut line, letter.to_string()));
                }
            }
            // A prompt may have thousands of words; only the first lines are shown.
            if lines.len() > most {
                break;
            }
        }
        lines.push(line);
        if lines.len() > most {
            break;
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.push('…');
            while last.chars().count() > 1 && !fits(last)? {
                last.pop();
                last.pop();
                last.push('…');
            }
        }
    }
    Ok(lines)
}

type BackendResult = std::result::Result<(), DrawingErrorKind<Infallible>>;

fn text_style(style: &impl BackendTextStyle) -> Style {
    let color = style.color().rgb;
    let anchor = style.anchor();
    Style {
        size: style.size() as f32,
        weight: match style.style() {
            FontStyle::Bold => Weight::SemiBold,
            _ => Weight::Regular,
        },
        color: [color.0, color.1, color.2],
        h: anchor.h_pos,
        v: anchor.v_pos,
    }
}

fn float(point: BackendCoord) -> (f32, f32) {
    (point.0 as f32, point.1 as f32)
}

/// plotters places letters at whole pixels and loses the space before them, and its thick lines
/// have holes: this backend draws both itself.
impl DrawingBackend for &mut Canvas {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn ensure_prepared(&mut self) -> BackendResult {
        Ok(())
    }

    fn present(&mut self) -> BackendResult {
        Ok(())
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> BackendResult {
        let (r, g, b) = color.rgb;
        self.blend(point.0, point.1, [r, g, b], color.alpha as f32);
        Ok(())
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> BackendResult {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> BackendResult {
        let points: Vec<_> = path.into_iter().map(float).collect();
        let BackendColor { rgb: (r, g, b), alpha } = style.color();
        self.stroke(&points, style.stroke_width() as f32, [r, g, b], alpha as f32);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        centre: BackendCoord,
        radius: u32,
        style: &S,
        _fill: bool,
    ) -> BackendResult {
        let BackendColor { rgb: (r, g, b), alpha } = style.color();
        let dot = [float(centre), float(centre)];
        self.stroke(&dot, radius as f32 * 2., [r, g, b], alpha as f32);
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        at: BackendCoord,
    ) -> BackendResult {
        let (x, y) = float(at);
        self.write(x, y, text, text_style(style), &style.transform())
            .map_err(|e| DrawingErrorKind::FontError(Box::new(e)))
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> std::result::Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let style = text_style(style);
        let width =
            text_width(text, style).map_err(|e| DrawingErrorKind::FontError(Box::new(e)))?;
        Ok((width.ceil() as u32, style.size as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_never_wider_than_asked() {
        let style = Style::new(15., theme::INK);
        let text =
            "a small red star on the grass, flat, and-a-very-long-word-without-a-break 你好 🦀";
        for width in [40., 90., 200.] {
            let lines = wrap(text, style, width, 100).unwrap();
            for line in &lines {
                assert!(text_width(line, style).unwrap() <= width, "{width}: {line}");
            }
            let kept: String = lines.concat().split_whitespace().collect();
            assert_eq!(kept, text.split_whitespace().collect::<String>());
        }
        let cut = wrap(text, style, 90., 2).unwrap();
        assert_eq!(cut.len(), 2);
        assert!(cut[1].ends_with('…') && text_width(&cut[1], style).unwrap() <= 90.);
        assert!(wrap(" \n\t", style, 90., 2).unwrap().is_empty());
    }

    #[test]
    fn reduction_is_the_mean() {
        let mut canvas = Canvas::blank(4, 2).unwrap();
        canvas.fill(0, 0, 2, 1, [0, 0, 0]);
        canvas.fill(0, 1, 2, 1, [100, 200, 40]);
        let small = canvas.reduced(2);
        assert_eq!((small.width, small.height), (2, 1));
        assert_eq!(small.pixels[..3], [50, 100, 20]);
        assert_eq!(small.pixels[3..], theme::CARD);
    }

    #[test]
    fn too_large_a_picture_is_an_error() {
        assert!(Canvas::blank(0, 5).is_err());
        assert!(Canvas::blank(100_000, 100_000).is_err());
    }
}
