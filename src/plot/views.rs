//! Tensors as pictures: one picture, a sheet of pictures, latents.

use std::fmt;

use image::imageops::FilterType;
use plotters_backend::text_anchor::{HPos, VPos};
use tch::{Kind, Tensor};

use super::axis::power_of_ten;
use super::canvas::{Canvas, Style, text_width, wrap};
use super::show::shows_itself;
use super::theme;
use crate::picture::{self, Rgb8};
use crate::{Error, Result};

shows_itself!(Picture, Sheet, LatentsView);

/// The longest side at which one picture is shown.
const PICTURE_SIDE: u32 = 384;
/// The width for which sheets and latents are laid out.
const WIDTH: u32 = 1100;
const MARGIN: u32 = 20;
const GAP: u32 = 10;

fn label() -> Style {
    Style::new(16., theme::INK)
}

fn caption() -> Style {
    Style::new(15., theme::SOFT_INK)
}

fn title() -> Style {
    Style::new(20., theme::INK).bold()
}

/// One picture, enlarged to 384 pixels; a picture that is larger keeps its size up to 1024.
///
/// It is enlarged with a Catmull-Rom filter. For the pixels as they are, write the tensor with
/// [`picture::write_png`].
#[derive(Clone)]
pub struct Picture {
    image: Rgb8,
    caption: String,
}

/// Shows one picture.
///
/// # Shapes
/// `image` `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`; see [`picture::to_rgb8`] for values outside.
///
/// # Errors
/// Another shape; NaN or infinity.
pub fn picture(image: &Tensor) -> Result<Picture> {
    Ok(Picture { image: picture::one(image)?, caption: String::new() })
}

impl Picture {
    /// Writes a caption below the picture.
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    /// The picture as it is shown.
    ///
    /// # Errors
    /// A picture too large to draw.
    pub fn rgb8(&self) -> Result<Rgb8> {
        let longest = self.image.width.max(self.image.height);
        let shown = fit(&self.image, longest.clamp(PICTURE_SIDE, 1024), FilterType::CatmullRom)?;
        if self.caption.is_empty() {
            return Ok(shown);
        }
        let margin = 12;
        let lines = wrap(&self.caption, caption(), shown.width as f32, 6)?;
        let text = caption().line_height() * lines.len() as u32;
        let mut canvas =
            Canvas::card(shown.width + 2 * margin, shown.height + text + 2 * margin + 6)?;
        canvas.lay(margin, margin, &shown);
        let top = (margin + shown.height + 8) as f32;
        canvas.lines(margin as f32, top, &lines, caption())?;
        Ok(canvas.into_rgb8())
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture {}×{}", self.image.width, self.image.height)?;
        if self.caption.is_empty() { Ok(()) } else { write!(f, ": {}", self.caption) }
    }
}

/// Resizes so that the longest side is `side`.
fn fit(image: &Rgb8, side: u32, filter: FilterType) -> Result<Rgb8> {
    let longest = image.width.max(image.height);
    let scaled = |length: u32| {
        ((f64::from(length) * f64::from(side) / f64::from(longest)).round() as u32).max(1)
    };
    image.resized(scaled(image.width), scaled(image.height), filter)
}

/// Enlarges by a whole number, so that every value stays a sharp square.
fn enlarge(image: &Rgb8, factor: u32) -> Result<Rgb8> {
    image.resized(image.width * factor, image.height * factor, FilterType::Nearest)
}

/// One place on a [`Sheet`].
#[derive(Clone)]
pub struct Tile {
    image: Rgb8,
    sharp: bool,
}

impl Tile {
    /// A picture `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`.
    ///
    /// # Errors
    /// Another shape; NaN or infinity.
    pub fn picture(image: &Tensor) -> Result<Self> {
        Ok(Self { image: picture::one(image)?, sharp: false })
    }

    fn longest(&self) -> u32 {
        self.image.width.max(self.image.height)
    }

    /// Latents `[1, C, h, w]` or `[C, h, w]`: their channels side by side in rows of two, blue for
    /// `-limit`, white for 0, orange for `limit`.
    ///
    /// Values beyond `limit` have the colour of the limit.
    ///
    /// # Errors
    /// Another shape; NaN or infinity; a limit that is not above 0.
    pub fn latents(latents: &Tensor, limit: f64) -> Result<Self> {
        if !(limit.is_finite() && limit > 0.) {
            return Err(Error::argument("limit", "a number above 0", limit, ""));
        }
        let latents = Channels::new(latents)?;
        let columns = latents.channels.len().min(2);
        let rows = latents.channels.len().div_ceil(columns);
        let (w, h) = (latents.width as usize, latents.height as usize);
        let mut pixels = theme::CARD.repeat(w * columns * h * rows);
        for (i, channel) in latents.channels.iter().enumerate() {
            for (at, value) in channel.iter().enumerate() {
                let (x, y) = (i % columns * w + at % w, i / columns * h + at / w);
                let to = (y * w * columns + x) * 3;
                pixels[to..to + 3].copy_from_slice(&theme::diverging(f64::from(*value) / limit));
            }
        }
        let (width, height) = ((w * columns) as u32, (h * rows) as u32);
        Ok(Self { image: Rgb8 { width, height, pixels }, sharp: true })
    }
}

impl TryFrom<&Tensor> for Tile {
    type Error = Error;

    fn try_from(image: &Tensor) -> Result<Self> {
        Self::picture(image)
    }
}

/// A grid of pictures with labels: comparisons, strips over the timesteps, batches.
///
/// ```no_run
/// # let rows: Vec<Vec<tch::Tensor>> = vec![];
/// use diffuscope::plot;
/// plot::sheet(&rows)?
///     .title("One seed, five guidance scales")
///     .column_labels(["0", "1", "3", "7", "15"])?
///     .row_labels(["a cat", "a red apple on the grass"])?
///     .save("guidance.png")?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Clone)]
pub struct Sheet {
    rows: Vec<Vec<Tile>>,
    title: String,
    note: String,
    row_labels: Vec<String>,
    column_labels: Vec<String>,
    captions: Vec<String>,
}

/// Shows rows of pictures; rows may have different lengths.
///
/// # Shapes
/// Every tensor `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`.
///
/// # Errors
/// Another shape; NaN or infinity; no pictures.
pub fn sheet(rows: &[Vec<Tensor>]) -> Result<Sheet> {
    Sheet::new(
        rows.iter().map(|row| row.iter().map(Tile::picture).collect()).collect::<Result<_>>()?,
    )
}

/// Shows a batch of pictures, in rows of at most six.
///
/// # Shapes
/// `images` `[B, 3, H, W]` in `[-1, 1]`.
///
/// # Errors
/// Another shape; NaN or infinity; no pictures.
pub fn pictures(images: &Tensor) -> Result<Sheet> {
    let tiles: Vec<Tile> =
        picture::to_rgb8(images)?.into_iter().map(|image| Tile { image, sharp: false }).collect();
    let rows = tiles.len().div_ceil(6).max(1);
    let columns = tiles.len().div_ceil(rows).max(1);
    Sheet::new(tiles.chunks(columns).map(<[Tile]>::to_vec).collect())
}

/// Shows pictures in one row, each with its label above: a strip over the timesteps.
///
/// # Shapes
/// Every tensor `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`.
///
/// # Errors
/// Another shape; NaN or infinity; no pictures; another number of labels.
pub fn strip(images: &[Tensor], labels: impl IntoIterator<Item = impl ToString>) -> Result<Sheet> {
    Sheet::new(vec![images.iter().map(Tile::picture).collect::<Result<_>>()?])?
        .column_labels(labels)
}

impl Sheet {
    /// A sheet of tiles: pictures, latents or both.
    ///
    /// # Errors
    /// No tiles.
    pub fn new(rows: Vec<Vec<Tile>>) -> Result<Self> {
        if rows.iter().all(Vec::is_empty) {
            return Err(Error::argument("rows", "at least one picture", "none", ""));
        }
        Ok(Self {
            rows,
            title: String::new(),
            note: String::new(),
            row_labels: Vec::new(),
            column_labels: Vec::new(),
            captions: Vec::new(),
        })
    }

    /// Writes a title above.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Writes a note below the title: what is held fixed.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Labels the rows, on their left.
    ///
    /// # Errors
    /// Another number of labels than of rows.
    pub fn row_labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Result<Self> {
        self.row_labels = counted("row labels", labels, self.rows.len())?;
        Ok(self)
    }

    /// Labels the columns, above them.
    ///
    /// # Errors
    /// Another number of labels than of columns.
    pub fn column_labels(
        mut self,
        labels: impl IntoIterator<Item = impl ToString>,
    ) -> Result<Self> {
        self.column_labels = counted("column labels", labels, self.columns())?;
        Ok(self)
    }

    /// Writes a caption below every picture, in reading order.
    ///
    /// # Errors
    /// Another number of captions than of pictures.
    pub fn captions(mut self, captions: impl IntoIterator<Item = impl ToString>) -> Result<Self> {
        let pictures = self.rows.iter().map(Vec::len).sum();
        self.captions = counted("captions", captions, pictures)?;
        Ok(self)
    }

    fn columns(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The sheet as it is shown.
    ///
    /// # Errors
    /// A sheet too large to draw.
    pub fn rgb8(&self) -> Result<Rgb8> {
        let columns = self.columns() as u32;
        let row_labels: Vec<Vec<String>> =
            self.row_labels.iter().map(|l| wrap(l, label(), 190., 8)).collect::<Result<_>>()?;
        let mut left = 0;
        for line in row_labels.iter().flatten() {
            left = left.max(text_width(line, label())?.ceil() as u32 + GAP + 4);
        }
        let room = (WIDTH - 2 * MARGIN - left).saturating_sub((columns - 1) * GAP);
        let native = self.rows.iter().flatten().map(Tile::longest);
        let most = native.max().unwrap_or(0).clamp(256, 512);
        let cell = (room / columns).clamp(96, most);

        let scaled = |tile: &Tile| match tile.sharp {
            true if tile.longest() <= cell => enlarge(&tile.image, cell / tile.longest()),
            _ => fit(&tile.image, cell, FilterType::CatmullRom),
        };
        let rows: Vec<Vec<Rgb8>> =
            self.rows.iter().map(|row| row.iter().map(scaled).collect()).collect::<Result<_>>()?;
        let heights: Vec<u32> =
            rows.iter().map(|row| row.iter().map(|p| p.height).max().unwrap_or(cell)).collect();
        let wrapped = |texts: &[String], style| {
            texts.iter().map(|t| wrap(t, style, cell as f32, 5)).collect::<Result<Vec<_>>>()
        };
        let column_labels = wrapped(&self.column_labels, label())?;
        let captions = wrapped(&self.captions, caption())?;
        let tallest = |texts: &[Vec<String>], style: Style| {
            let lines = texts.iter().map(Vec::len).max().unwrap_or(0) as u32;
            if lines == 0 { 0 } else { lines * style.line_height() + 6 }
        };
        let below: Vec<u32> = {
            let mut rest = &captions[..];
            self.rows
                .iter()
                .map(|row| {
                    let (these, others) = rest.split_at(row.len().min(rest.len()));
                    rest = others;
                    tallest(these, caption()) + if these.is_empty() { 0 } else { 4 }
                })
                .collect()
        };

        let width = left + columns * cell + (columns - 1) * GAP;
        let title_lines = wrap(&self.title, title(), width.max(420) as f32, 4)?;
        let note_lines = wrap(&self.note, caption(), width.max(420) as f32, 4)?;
        let mut text = 0f32;
        for (lines, style) in [(&title_lines, title()), (&note_lines, caption())] {
            for line in lines {
                text = text.max(text_width(line, style)?);
            }
        }
        let width = width.max(text.ceil() as u32);
        let head = [(&title_lines, title()), (&note_lines, caption())]
            .iter()
            .filter(|(lines, _)| !lines.is_empty())
            .map(|(lines, style)| lines.len() as u32 * style.line_height() + 6)
            .sum::<u32>();
        let head = if head == 0 { 0 } else { head + 6 };
        let labels = tallest(&column_labels, label());
        let body =
            heights.iter().sum::<u32>() + below.iter().sum::<u32>() + (rows.len() as u32 - 1) * GAP;
        let mut canvas = Canvas::card(width + 2 * MARGIN, head + labels + body + 2 * MARGIN)?;

        let x0 = MARGIN as f32;
        let mut y = MARGIN;
        y += canvas.lines(x0, y as f32, &title_lines, title())?;
        if !title_lines.is_empty() && !note_lines.is_empty() {
            y += 4;
        }
        canvas.lines(x0, y as f32, &note_lines, caption())?;
        y = MARGIN + head + labels;

        let column_x = |i: usize| MARGIN + left + i as u32 * (cell + GAP);
        for (i, lines) in column_labels.iter().enumerate() {
            let style = label().at(HPos::Center, VPos::Bottom);
            let x = column_x(i) as f32 + cell as f32 / 2.;
            canvas.lines(x, y as f32 - 5., lines, style)?;
        }
        let mut captions = captions.iter();
        for (i, row) in rows.iter().enumerate() {
            let middle = y as f32 + heights[i] as f32 / 2.;
            if let Some(lines) = row_labels.get(i) {
                let style = label().at(HPos::Right, VPos::Center);
                canvas.lines((MARGIN + left - GAP - 2) as f32, middle, lines, style)?;
            }
            for (j, image) in row.iter().enumerate() {
                let x = column_x(j) + (cell - image.width.min(cell)) / 2;
                canvas.lay(x, y + (heights[i] - image.height) / 2, image);
                if let Some(lines) = captions.next() {
                    let at = column_x(j) as f32 + cell as f32 / 2.;
                    let style = caption().at(HPos::Center, VPos::Top);
                    canvas.lines(at, (y + heights[i] + 5) as f32, lines, style)?;
                }
            }
            y += heights[i] + below[i] + GAP;
        }
        Ok(canvas.into_rgb8())
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sheet of {} rows × {} columns", self.rows.len(), self.columns())?;
        if self.title.is_empty() { Ok(()) } else { write!(f, ": {}", self.title) }
    }
}

fn counted(
    what: &str,
    labels: impl IntoIterator<Item = impl ToString>,
    wanted: usize,
) -> Result<Vec<String>> {
    let labels: Vec<String> = labels.into_iter().map(|l| l.to_string()).collect();
    if labels.len() == wanted {
        Ok(labels)
    } else {
        Err(Error::argument(what, wanted, labels.len(), "give one label for each"))
    }
}

/// The channels of latents, as numbers.
#[derive(Clone)]
struct Channels {
    width: u32,
    height: u32,
    channels: Vec<Vec<f32>>,
}

impl Channels {
    fn new(latents: &Tensor) -> Result<Self> {
        let shape = latents.size();
        let latents = match shape[..] {
            [c, h, w] if c > 0 && h > 0 && w > 0 => latents.shallow_clone(),
            [1, c, h, w] if c > 0 && h > 0 && w > 0 => latents.squeeze_dim(0),
            _ => return Err(Error::shape("latents", "[1, C, h, w] or [C, h, w]", &shape)),
        };
        if latents.numel() > 16_000_000 {
            return Err(Error::shape("latents", "at most 16 million values", &shape));
        }
        let latents = latents.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
        let (height, width) = (latents.size()[1], latents.size()[2]);
        let values = Vec::<f32>::try_from(latents.contiguous().flatten(0, -1))?;
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            let message = format!("{bad} of its {} values are NaN or infinite", values.len());
            return Err(Error::image("latents", message));
        }
        let plane = (width * height) as usize;
        Ok(Self {
            width: width as u32,
            height: height as u32,
            channels: values.chunks(plane).map(<[f32]>::to_vec).collect(),
        })
    }
}

/// Mean and standard deviation (of a sample: divided by N - 1), in f64.
fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(|v| f64::from(*v)).sum::<f64>() / count;
    let square = values.map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
    (mean, (square / (count - 1.).max(1.)).sqrt())
}

/// The channels of latents as tiles with one colour bar: blue below 0, white at 0, orange above.
#[derive(Clone)]
pub struct LatentsView {
    latents: Channels,
    title: String,
    limit: Option<f64>,
}

/// Shows latents, one tile a channel.
///
/// # Shapes
/// `latents` `[1, C, h, w]` or `[C, h, w]`; Stable Diffusion has 4 channels.
///
/// # Errors
/// Another shape; NaN or infinity.
pub fn latents(latents: &Tensor) -> Result<LatentsView> {
    Ok(LatentsView { latents: Channels::new(latents)?, title: String::new(), limit: None })
}

impl LatentsView {
    /// Writes a title above.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets the value at the ends of the colour bar, so that several views can be compared.
    ///
    /// Without it, the largest magnitude of the latents is taken. Values beyond have the colour of
    /// the end.
    ///
    /// # Errors
    /// A limit that is not above 0.
    pub fn limit(mut self, limit: f64) -> Result<Self> {
        if !(limit.is_finite() && limit > 0.) {
            return Err(Error::argument("limit", "a number above 0", limit, ""));
        }
        self.limit = Some(limit);
        Ok(self)
    }

    fn summary(&self) -> String {
        let all = self.latents.channels.iter().flatten();
        let (mean, deviation) = moments(all.clone());
        let min = all.clone().copied().fold(f32::INFINITY, f32::min);
        let max = all.copied().fold(f32::NEG_INFINITY, f32::max);
        let [min, max, mean, deviation] =
            [f64::from(min), f64::from(max), mean, deviation].map(signed);
        format!(
            "{}×{}×{} · min {min} · max {max} · mean {mean} · std {deviation}",
            self.latents.channels.len(),
            self.latents.height,
            self.latents.width
        )
    }

    /// The view as it is shown.
    ///
    /// # Errors
    /// Latents too large to draw.
    pub fn rgb8(&self) -> Result<Rgb8> {
        let Channels { width: w, height: h, channels } = &self.latents;
        let magnitude = channels.iter().flatten().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        // Latents that are all 0 still need a bar with two ends.
        let limit = self.limit.unwrap_or(if magnitude > 0. { magnitude } else { 1. });
        let columns = channels.len().min(4) as u32;
        let rows = channels.len().div_ceil(4) as u32;

        let bar_room = 86;
        let side = (WIDTH - 2 * MARGIN - bar_room - 3 * GAP) / 4;
        let longest = *w.max(h);
        let factor = ((side + longest / 2) / longest).max(1);
        let tiles: Vec<Rgb8> = channels
            .iter()
            .map(|channel| {
                let pixels =
                    channel.iter().flat_map(|v| theme::diverging(f64::from(*v) / limit)).collect();
                enlarge(&Rgb8 { width: *w, height: *h, pixels }, factor)
            })
            .collect::<Result<_>>()?;
        let (tile_w, tile_h) = (tiles[0].width, tiles[0].height);
        let small = Style::new(14., theme::SOFT_INK);
        let (above, below) = (label().line_height() + 2, small.line_height() + 6);
        let row_height = above + tile_h + below;
        let grid = columns * tile_w + (columns - 1) * GAP;

        let summary = wrap(&self.summary(), caption(), (grid + bar_room).max(300) as f32, 3)?;
        let heading = wrap(&self.title, title(), (grid + bar_room).max(300) as f32, 3)?;
        let mut text = 0f32;
        for (lines, style) in [(&summary, caption()), (&heading, title())] {
            for line in lines {
                text = text.max(text_width(line, style)?);
            }
        }
        let head = title().line_height() * heading.len() as u32
            + caption().line_height() * summary.len() as u32
            + 10;
        let width = (grid + bar_room).max(text.ceil() as u32) + 2 * MARGIN;
        let mut canvas = Canvas::card(width, head + rows * row_height + 2 * MARGIN)?;
        let x0 = MARGIN as f32;
        let mut y = MARGIN;
        y += canvas.lines(x0, y as f32, &heading, title())?;
        canvas.lines(x0, y as f32, &summary, caption())?;
        let top = MARGIN + head;
        for (i, (tile, channel)) in tiles.iter().zip(channels).enumerate() {
            let x = MARGIN + i as u32 % 4 * (tile_w + GAP);
            let y = top + i as u32 / 4 * row_height;
            let centre = x as f32 + tile_w as f32 / 2.;
            let middle = |style: Style| style.at(HPos::Center, VPos::Top);
            canvas.text(centre, y as f32, &format!("channel {i}"), middle(label()))?;
            canvas.lay(x, y + above, tile);
            let (mean, deviation) = moments(channel.iter());
            let line = format!("{} ± {}", signed(mean), signed(deviation));
            canvas.text(centre, (y + above + tile_h + 4) as f32, &line, middle(small))?;
        }
        let bar_x = (MARGIN + grid + 18) as i32;
        let bar = (rows * row_height - above - below).max(60);
        colour_bar(&mut canvas, (bar_x, (top + above) as i32), bar, 16, (-limit, limit), small)?;
        Ok(canvas.into_rgb8())
    }
}

impl fmt::Display for LatentsView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.title.is_empty() {
            write!(f, "Latents {}", self.summary())
        } else {
            write!(f, "{}: latents {}", self.title, self.summary())
        }
    }
}

/// A vertical bar of the diverging colours, with numbers on its right.
fn colour_bar(
    canvas: &mut Canvas,
    (x, y): (i32, i32),
    height: u32,
    width: u32,
    (low, high): (f64, f64),
    style: Style,
) -> Result<()> {
    for row in 0..height {
        let part = 1. - (f64::from(row) + 0.5) / f64::from(height);
        canvas.fill(x, y + row as i32, width, 1, theme::diverging(2. * part - 1.));
    }
    for part in [0., 0.25, 0.5, 0.75, 1.] {
        let at = y as f32 + (1. - part as f32) * (height - 1) as f32;
        canvas.fill(x + width as i32, at.round() as i32, 4, 1, theme::SOFT_INK);
        let value = signed(low + (high - low) * part);
        let style = style.at(HPos::Left, VPos::Center);
        canvas.text((x + width as i32 + 8) as f32, at, &value, style)?;
    }
    Ok(())
}

/// A number with as many decimals as help, and a true minus sign.
pub(super) fn signed(value: f64) -> String {
    let size = value.abs();
    let text = if value == 0. {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        let power = size.log10().floor() as i32;
        format!("{:.1}×{}", value / 10f64.powi(power), power_of_ten(power))
    } else if size < 0.1 {
        format!("{value:.3}")
    } else if size < 100. {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn noise(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).clamp(-1., 1.)
    }

    #[test]
    fn a_small_picture_is_shown_large() {
        let shown = picture(&noise(&[1, 3, 64, 64])).unwrap().rgb8().unwrap();
        assert_eq!((shown.width, shown.height), (384, 384));
        let wide = picture(&noise(&[3, 32, 64])).unwrap().rgb8().unwrap();
        assert_eq!((wide.width, wide.height), (384, 192));
        let large = picture(&noise(&[3, 512, 512])).unwrap();
        assert_eq!(large.rgb8().unwrap(), picture::one(&noise_of(&large)).unwrap());
    }

    fn noise_of(picture: &Picture) -> Tensor {
        picture.image.to_tensor().unwrap()
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(picture(&noise(&[2, 3, 8, 8])).is_err());
        assert!(picture(&noise(&[1, 4, 8, 8])).is_err());
        assert!(picture(&noise(&[8, 8])).is_err());
        assert!(pictures(&noise(&[0, 3, 8, 8])).is_err());
        assert!(sheet(&[]).is_err());
        assert!(latents(&noise(&[2, 4, 8, 8])).is_err());
        assert!(latents(&noise(&[4, 0, 8])).is_err());
        let nan = noise(&[3, 8, 8]);
        let _ = nan.get(1).get(2).get(3).fill_(f64::NAN);
        let message = picture(&nan).unwrap_err().to_string();
        assert!(message.contains("1 of its 192 values are NaN"), "{message}");
        assert!(latents(&nan).is_err());
    }

    #[test]
    fn labels_must_be_as_many_as_what_they_label() {
        let rows = vec![vec![noise(&[3, 8, 8]), noise(&[3, 8, 8])], vec![noise(&[3, 8, 8])]];
        assert!(sheet(&rows).unwrap().column_labels(["a"]).is_err());
        assert!(sheet(&rows).unwrap().row_labels(["a", "b", "c"]).is_err());
        assert!(sheet(&rows).unwrap().captions([1, 2]).is_err());
        let labelled = sheet(&rows)
            .and_then(|s| s.column_labels(["a", "b"]))
            .and_then(|s| s.row_labels(["a", "b"]))
            .and_then(|s| s.captions([1, 2, 3]));
        labelled.unwrap().png().unwrap();
    }

    #[test]
    fn tiles_of_latents_are_sharp_and_signed() {
        let values = Tensor::from_slice(&[-2f32, 0., 1., 2.]).view([4, 1, 1]);
        let tile = Tile::latents(&values, 2.).unwrap().image;
        assert_eq!((tile.width, tile.height), (2, 2));
        let expected: Vec<u8> =
            [-1., 0., 0.5, 1.].iter().flat_map(|v| theme::diverging(*v)).collect();
        assert_eq!(tile.pixels, expected);
        assert!(Tile::latents(&values, 0.).is_err());
    }

    #[test]
    fn latents_of_any_size_can_be_shown() {
        for shape in [[4, 16, 16], [4, 64, 96], [1, 1, 1], [16, 8, 8], [4, 300, 20]] {
            let view = latents(&noise(&shape)).unwrap();
            assert!(view.to_string().contains("std"), "{view}");
            view.rgb8().unwrap();
        }
        let zeros = Tensor::zeros([4, 2, 2], (Kind::Float, Device::Cpu));
        latents(&zeros).unwrap().png().unwrap();
    }
}
