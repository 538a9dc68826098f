//! How a value shows itself when it ends a notebook cell, and how it becomes a file.

use std::fmt;
use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Result;
use crate::picture::Rgb8;
use crate::write_file::write_file;

/// A finished figure: pixels and what they show, in words.
#[derive(Clone)]
pub struct Figure {
    image: Rgb8,
    text: String,
}

impl Figure {
    pub(super) fn new(image: Rgb8, text: impl Into<String>) -> Self {
        Self { image, text: text.into() }
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.image.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.image.height
    }

    /// The pixels.
    ///
    /// # Errors
    /// Never fails; returns `Result` as the other figures do.
    pub fn rgb8(&self) -> Result<Rgb8> {
        Ok(self.image.clone())
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}×{})", self.text, self.width(), self.height())
    }
}

/// Gives a type with `rgb8` and `Display` its `png`, `save`, `evcxr_display` and `Debug`.
macro_rules! shows_itself {
    ($($name:ident),*) => {$(
        impl $name {
            /// The figure as a PNG file in memory.
            ///
            /// # Errors
            /// A figure too large to draw.
            pub fn png(&self) -> $crate::Result<Vec<u8>> {
                self.rgb8()?.to_png(&[])
            }

            /// Writes the figure as it is shown to a PNG file, whole or not at all.
            ///
            /// # Errors
            /// A figure too large to draw; a folder that is missing or cannot be written.
            pub fn save(&self, path: impl AsRef<std::path::Path>) -> $crate::Result<()> {
                $crate::plot::display::save(path.as_ref(), &self.png()?)
            }

            /// Shows the figure; the notebook kernel calls this when it ends a cell.
            pub fn evcxr_display(&self) {
                $crate::plot::display::print(&$crate::plot::display::block(self.png(), &self.to_string()));
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    )*};
}
pub(super) use shows_itself;

shows_itself!(Figure);

pub(super) fn save(path: &Path, png: &[u8]) -> Result<()> {
    write_file(path, png)
}

/// The kernel's protocol: one block a MIME type, binary data in base64.
pub(crate) fn content(mime: &str, body: &str) -> String {
    format!("EVCXR_BEGIN_CONTENT {mime}\n{body}\nEVCXR_END_CONTENT\n")
}

/// A picture and what it shows, in words.
pub(super) fn block(png: Result<Vec<u8>>, text: &str) -> String {
    match png {
        Ok(png) => content("image/png", &STANDARD.encode(png)) + &content("text/plain", text),
        Err(error) => content("text/plain", &format!("{text}: {error}")),
    }
}

/// One write, so that nothing comes between the lines of a block.
pub(crate) fn print(block: &str) {
    let mut out = std::io::stdout().lock();
    // There is no one to tell when the output is closed.
    let _ = out.write_all(block.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_the_png_and_the_text() {
        let image = Rgb8 { width: 2, height: 1, pixels: vec![0, 1, 2, 253, 254, 255] };
        let figure = Figure::new(image.clone(), "two pixels");
        let block = block(figure.png(), &figure.to_string());
        let lines: Vec<&str> = block.lines().collect();
        assert_eq!(lines[0], "EVCXR_BEGIN_CONTENT image/png");
        assert_eq!(lines[2], "EVCXR_END_CONTENT");
        assert_eq!(lines[3], "EVCXR_BEGIN_CONTENT text/plain");
        assert_eq!(lines[4], "two pixels (2×1)");
        assert_eq!(lines[5], "EVCXR_END_CONTENT");
        assert_eq!(lines.len(), 6);
        assert!(block.ends_with('\n'));
        let png = STANDARD.decode(lines[1]).unwrap();
        let back = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(back.into_raw(), image.pixels);
    }

    #[test]
    fn a_figure_is_saved_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let figure = Figure::new(Rgb8 { width: 1, height: 1, pixels: vec![7; 3] }, "one pixel");
        figure.save(folder.path().join("a.png")).unwrap();
        assert!(figure.save(folder.path().join("missing/a.png")).is_err());
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(names, ["a.png"]);
    }
}
