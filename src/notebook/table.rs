//! A small table, as HTML and as plain text.

use super::escaped::escaped;

/// Most rows that are shown; of more, the first and the last ones.
const ROWS: usize = 40;

/// A caption, names of columns, and rows.
pub(crate) struct Table {
    caption: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    marked: Option<usize>,
}

impl Table {
    pub fn new<const N: usize>(caption: impl Into<String>, head: [&str; N]) -> Self {
        let head = head.map(str::to_owned).into();
        Self { caption: caption.into(), head, rows: Vec::new(), marked: None }
    }

    /// Settings: a name and a value a row.
    pub fn settings(caption: impl Into<String>, settings: Vec<(String, String)>) -> Self {
        let rows = settings.into_iter().map(|(name, value)| vec![name, value]).collect();
        Self { rows, ..Self::new(caption, []) }
    }

    pub fn rows(mut self, rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        self.rows.extend(rows);
        self
    }

    /// Makes a row stand out.
    pub fn mark(mut self, row: usize) -> Self {
        self.marked = Some(row);
        self
    }

    /// The rows that are shown, by their index; `None` for those that are left out.
    fn shown(&self) -> Vec<Option<usize>> {
        let count = self.rows.len();
        if count <= ROWS {
            return (0..count).map(Some).collect();
        }
        let (first, last) = (ROWS * 3 / 4, ROWS / 4);
        (0..first).map(Some).chain([None]).chain((count - last..count).map(Some)).collect()
    }

    fn left_out(&self) -> String {
        format!("... {} more", self.rows.len() - ROWS)
    }

    pub fn html(&self) -> String {
        let cells = |tag: &str, cells: &[String]| -> String {
            let left = "style=\"text-align:left\"";
            cells.iter().map(|c| format!("<{tag} {left}>{}</{tag}>", escaped(c))).collect()
        };
        let mut html = format!("<p>{}</p><table>", escaped(&self.caption));
        if !self.head.is_empty() {
            html += &format!("<thead><tr>{}</tr></thead>", cells("th", &self.head));
        }
        html += "<tbody>";
        for row in self.shown() {
            let tag = if row.is_some() && row == self.marked { "th" } else { "td" };
            let row = row
                .map_or_else(|| cells("td", &[self.left_out()]), |row| cells(tag, &self.rows[row]));
            html += &format!("<tr>{row}</tr>");
        }
        html + "</tbody></table>"
    }

    pub fn text(&self) -> String {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| {
            let cells = all().filter_map(|row| row.get(i));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |mark: &str, row: &[String]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            format!("{mark}{}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
        };
        let mark = if self.marked.is_some() { "  " } else { "" };
        let mut lines = vec![self.caption.clone()];
        if !self.head.is_empty() {
            lines.push(line(mark, &self.head));
        }
        for row in self.shown() {
            lines.push(match row {
                None => self.left_out(),
                Some(row) if self.marked == Some(row) => line("> ", &self.rows[row]),
                Some(row) => line(mark, &self.rows[row]),
            });
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_html_is_escaped() {
        let rows = [["a<b".to_owned(), "1".into()], ["c".into(), "22".into()]];
        let table = Table::new("Some", ["name", "n"]).rows(rows.map(Vec::from)).mark(1);
        assert_eq!(table.text(), "Some\n  name  n\n  a<b   1\n> c     22");
        let html = table.html();
        assert!(html.starts_with("<p>Some</p><table><thead>"), "{html}");
        assert!(html.contains(">a&lt;b</td>") && html.contains(">22</th>"), "{html}");
    }

    #[test]
    fn of_many_rows_the_middle_is_left_out() {
        let rows = (0..1000).map(|i| vec![i.to_string()]);
        let text = Table::new("Many", ["i"]).rows(rows).text();
        assert_eq!(text.lines().count(), 2 + ROWS + 1);
        assert!(text.contains("\n29\n... 960 more\n990\n"), "{text}");
    }
}
