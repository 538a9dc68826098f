//! Pictures in a grid, with labels.

use std::fmt;

use tch::Tensor;

use super::display::shows_itself;
use super::sheet_layout::{SheetTexts, draw_sheet};
use super::tile::Tile;
use crate::picture::{self, Rgb8};
use crate::{Error, Result};

shows_itself!(Sheet);

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
    texts: SheetTexts,
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
#[doc(alias = "images")]
#[doc(alias = "grid")]
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
            return Err(Error::argument("rows", "at least one picture", "none"));
        }
        Ok(Self { rows, texts: SheetTexts::default() })
    }

    /// Writes a title above.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.texts.title = title.into();
        self
    }

    /// Writes a note below the title: what is held fixed.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.texts.note = note.into();
        self
    }

    /// Labels the rows, on their left.
    ///
    /// # Errors
    /// Another number of labels than of rows.
    pub fn row_labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Result<Self> {
        self.texts.row_labels = counted("row labels", labels, self.rows.len())?;
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
        self.texts.column_labels = counted("column labels", labels, self.columns())?;
        Ok(self)
    }

    /// Writes a caption below every picture, in reading order.
    ///
    /// # Errors
    /// Another number of captions than of pictures.
    pub fn captions(mut self, captions: impl IntoIterator<Item = impl ToString>) -> Result<Self> {
        let pictures = self.rows.iter().map(Vec::len).sum();
        self.texts.captions = counted("captions", captions, pictures)?;
        Ok(self)
    }

    /// What stands below the title.
    #[cfg(test)]
    pub(crate) fn note_text(&self) -> &str {
        &self.texts.note
    }

    fn columns(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The sheet as it is shown.
    ///
    /// # Errors
    /// A sheet too large to draw.
    pub fn rgb8(&self) -> Result<Rgb8> {
        draw_sheet(&self.rows, &self.texts)
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sheet of {} rows × {} columns", self.rows.len(), self.columns())?;
        if self.texts.title.is_empty() { Ok(()) } else { write!(f, ": {}", self.texts.title) }
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
        Err(Error::argument(what, wanted, labels.len()).hint("give one label for each"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn noise(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).clamp(-1., 1.)
    }

    #[test]
    fn no_pictures_are_refused() {
        assert!(pictures(&noise(&[0, 3, 8, 8])).is_err());
        assert!(sheet(&[]).is_err());
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
}
