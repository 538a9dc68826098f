//! How a sheet is laid out and drawn: labels, cells, captions.

use image::imageops::FilterType;
use plotters_backend::text_anchor::{HPos, VPos};

use super::canvas::{Canvas, Style, text_width, wrap};
use super::card_style::{GAP, MARGIN, WIDTH, caption, enlarge, fit, label, title};
use super::tile::Tile;
use crate::Result;
use crate::picture::Rgb8;

/// What is written on a sheet; empty for nothing.
#[derive(Clone, Default)]
pub(super) struct SheetTexts {
    pub title: String,
    pub note: String,
    pub row_labels: Vec<String>,
    pub column_labels: Vec<String>,
    pub captions: Vec<String>,
}

/// Texts in lines, pictures in their size, and the room that they take, in pixels.
struct SheetLayout {
    title: Vec<String>,
    note: Vec<String>,
    row_labels: Vec<Vec<String>>,
    column_labels: Vec<Vec<String>>,
    captions: Vec<Vec<String>>,
    rows: Vec<Vec<Rgb8>>,
    /// The width of a column.
    cell: u32,
    /// The room for row labels.
    left: u32,
    /// The height of each row's pictures, and of the captions below them.
    heights: Vec<u32>,
    below: Vec<u32>,
    /// The whole width between the margins, and the heights of heading and column labels.
    width: u32,
    head: u32,
    labels: u32,
}

/// Draws rows of tiles with their texts.
pub(super) fn draw_sheet(rows: &[Vec<Tile>], texts: &SheetTexts) -> Result<Rgb8> {
    SheetLayout::of(rows, texts)?.draw()
}

fn tallest(texts: &[Vec<String>], style: Style) -> u32 {
    let lines = texts.iter().map(Vec::len).max().unwrap_or(0) as u32;
    if lines == 0 { 0 } else { lines * style.line_height() + 6 }
}

fn widest<'a>(lines: impl IntoIterator<Item = &'a String>, style: Style) -> Result<u32> {
    let mut width = 0f32;
    for line in lines {
        width = width.max(text_width(line, style)?);
    }
    Ok(width.ceil() as u32)
}

impl SheetLayout {
    fn of(tiles: &[Vec<Tile>], texts: &SheetTexts) -> Result<Self> {
        let columns = tiles.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let row_labels: Vec<Vec<String>> =
            texts.row_labels.iter().map(|l| wrap(l, label(), 190., 8)).collect::<Result<_>>()?;
        let left = match row_labels.iter().flatten().next() {
            Some(_) => widest(row_labels.iter().flatten(), label())? + GAP + 4,
            None => 0,
        };
        let room = (WIDTH - 2 * MARGIN - left).saturating_sub((columns - 1) * GAP);
        let native = tiles.iter().flatten().map(Tile::longest);
        let most = native.max().unwrap_or(0).clamp(256, 512);
        let cell = (room / columns).clamp(96, most);

        let scaled = |tile: &Tile| match tile.sharp {
            true if tile.longest() <= cell => enlarge(&tile.image, cell / tile.longest()),
            _ => fit(&tile.image, cell, FilterType::CatmullRom),
        };
        let rows: Vec<Vec<Rgb8>> =
            tiles.iter().map(|row| row.iter().map(scaled).collect()).collect::<Result<_>>()?;
        let heights =
            rows.iter().map(|row| row.iter().map(|p| p.height).max().unwrap_or(cell)).collect();
        let wrapped = |texts: &[String], style| {
            texts.iter().map(|t| wrap(t, style, cell as f32, 5)).collect::<Result<Vec<_>>>()
        };
        let column_labels = wrapped(&texts.column_labels, label())?;
        let captions = wrapped(&texts.captions, caption())?;
        let mut rest = &captions[..];
        let caption_room = |row: &Vec<Tile>| {
            let (these, others) = rest.split_at(row.len().min(rest.len()));
            rest = others;
            tallest(these, caption()) + if these.is_empty() { 0 } else { 4 }
        };
        let below = tiles.iter().map(caption_room).collect();

        let grid = left + columns * cell + (columns - 1) * GAP;
        let title_lines = wrap(&texts.title, title(), grid.max(420) as f32, 4)?;
        let note = wrap(&texts.note, caption(), grid.max(420) as f32, 4)?;
        let width = grid.max(widest(&title_lines, title())?).max(widest(&note, caption())?);
        let head = tallest(std::slice::from_ref(&title_lines), title())
            + tallest(std::slice::from_ref(&note), caption());
        Ok(Self {
            head: if head == 0 { 0 } else { head + 6 },
            labels: tallest(&column_labels, label()),
            title: title_lines,
            note,
            row_labels,
            column_labels,
            captions,
            rows,
            cell,
            left,
            heights,
            below,
            width,
        })
    }

    fn column_x(&self, column: usize) -> u32 {
        MARGIN + self.left + column as u32 * (self.cell + GAP)
    }

    fn draw(&self) -> Result<Rgb8> {
        let body = self.heights.iter().sum::<u32>()
            + self.below.iter().sum::<u32>()
            + (self.rows.len() as u32 - 1) * GAP;
        let height = self.head + self.labels + body + 2 * MARGIN;
        let mut canvas = Canvas::card(self.width + 2 * MARGIN, height)?;

        let mut y = MARGIN;
        y += canvas.lines(MARGIN as f32, y as f32, &self.title, title())?;
        if !self.title.is_empty() && !self.note.is_empty() {
            y += 4;
        }
        canvas.lines(MARGIN as f32, y as f32, &self.note, caption())?;

        let top = MARGIN + self.head + self.labels;
        for (i, lines) in self.column_labels.iter().enumerate() {
            let style = label().at(HPos::Center, VPos::Bottom);
            let x = self.column_x(i) as f32 + self.cell as f32 / 2.;
            canvas.lines(x, top as f32 - 5., lines, style)?;
        }
        self.draw_rows(&mut canvas, top)?;
        Ok(canvas.into_rgb8())
    }

    fn draw_rows(&self, canvas: &mut Canvas, top: u32) -> Result<()> {
        let mut y = top;
        let mut captions = self.captions.iter();
        for (i, row) in self.rows.iter().enumerate() {
            let height = self.heights[i];
            if let Some(lines) = self.row_labels.get(i) {
                let style = label().at(HPos::Right, VPos::Center);
                let x = (MARGIN + self.left - GAP - 2) as f32;
                canvas.lines(x, y as f32 + height as f32 / 2., lines, style)?;
            }
            for (j, image) in row.iter().enumerate() {
                let x = self.column_x(j) + (self.cell - image.width.min(self.cell)) / 2;
                canvas.lay(x, y + (height - image.height) / 2, image);
                if let Some(lines) = captions.next() {
                    let at = self.column_x(j) as f32 + self.cell as f32 / 2.;
                    let style = caption().at(HPos::Center, VPos::Top);
                    canvas.lines(at, (y + height + 5) as f32, lines, style)?;
                }
            }
            y += height + self.below[i] + GAP;
        }
        Ok(())
    }
}
