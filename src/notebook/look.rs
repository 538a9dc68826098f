//! One look at a value: a picture, HTML and plain text, of which a notebook shows the best that it can.

use std::fmt::Debug;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::escaped::escaped;
use super::table::Table;
use crate::Result;
use crate::plot::{content, print};

/// What a value shows.
pub(crate) struct Look {
    png: Option<Vec<u8>>,
    html: String,
    text: String,
}

impl Look {
    /// A picture and what it shows, in words.
    pub fn picture(png: Vec<u8>, text: impl Into<String>) -> Self {
        Self { png: Some(png), html: String::new(), text: text.into() }
    }

    /// A table.
    pub fn table(table: &Table) -> Self {
        Self::html(table.html(), table.text())
    }

    /// HTML that is safe as it stands, and the same in plain text.
    pub fn html(html: String, text: String) -> Self {
        Self { png: None, html, text }
    }

    /// Notes below.
    pub fn notes(mut self, notes: &[String]) -> Self {
        for note in notes {
            self.html += &format!("<p>Note: {}</p>", escaped(note));
            self.text += &format!("\nNote: {note}");
        }
        self
    }

    /// The kernel's blocks. A picture with notes is HTML that begins with the picture.
    pub fn block(&self) -> String {
        let png = self.png.as_ref().map(|png| STANDARD.encode(png));
        let shown = match (&png, self.html.as_str()) {
            (Some(png), "") => content("image/png", png),
            (Some(png), html) => {
                let alt = escaped(self.text.lines().next().unwrap_or_default());
                let img = format!("<img src=\"data:image/png;base64,{png}\" alt=\"{alt}\">");
                content("text/html", &format!("{img}{html}"))
            }
            (None, html) => content("text/html", html),
        };
        shown + &content("text/plain", &self.text)
    }
}

/// A value with a look.
pub(crate) trait Looks: Debug {
    /// What it shows.
    fn look(&self) -> Result<Look>;
}

/// Shows a value; one that cannot be drawn says so below its short form.
pub(crate) fn show(value: &impl Looks) {
    print(&match value.look() {
        Ok(look) => look.block(),
        Err(error) => content("text/plain", &format!("{value:?}\nIt cannot be drawn: {error}")),
    });
}

/// Gives types with a look their `evcxr_display`.
macro_rules! shows {
    ($($name:ty),* $(,)?) => {$(
        impl $name {
            /// Shows the value; the notebook kernel calls this when it ends a cell.
            pub fn evcxr_display(&self) {
                $crate::notebook::look::show(self);
            }
        }
    )*};
}
pub(crate) use shows;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_with_notes_is_html_that_begins_with_it() {
        let look = Look::picture(vec![1, 2, 3], "Two <cats>");
        assert!(look.block().starts_with("EVCXR_BEGIN_CONTENT image/png\nAQID\n"));
        let block = look.notes(&["a < b".into()]).block();
        let lines: Vec<&str> = block.lines().collect();
        assert_eq!(lines[0], "EVCXR_BEGIN_CONTENT text/html");
        let img = "<img src=\"data:image/png;base64,AQID\" alt=\"Two &lt;cats&gt;\">";
        assert_eq!(lines[1], format!("{img}<p>Note: a &lt; b</p>"));
        assert_eq!(lines[3..6], ["EVCXR_BEGIN_CONTENT text/plain", "Two <cats>", "Note: a < b"]);
        assert!(block.ends_with("EVCXR_END_CONTENT\n") && !block.contains("image/png\n"));
    }
}
