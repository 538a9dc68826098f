//! Short forms of long values, for `Debug`.

use std::fmt;

/// At most this many of a list.
const ITEMS: usize = 3;
/// At most this many characters of a text.
const CHARACTERS: usize = 24;

/// A list: its first items, and how many there are.
pub(crate) struct Few<'a, T>(pub &'a [T]);

impl<T: fmt::Debug> fmt::Debug for Few<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= ITEMS {
            return write!(f, "{:?}", self.0);
        }
        f.write_str("[")?;
        self.0.iter().take(ITEMS).try_for_each(|item| write!(f, "{item:?}, "))?;
        write!(f, "... {} in all]", self.0.len())
    }
}

/// A text: its beginning, in quotes.
pub(crate) struct Start<'a>(pub &'a str);

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(CHARACTERS) {
            Some((end, _)) => write!(f, "{:?}", format!("{}...", &self.0[..end])),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// The beginnings of texts.
pub(crate) fn starts(texts: &[String]) -> Vec<Start<'_>> {
    texts.iter().map(|text| Start(text)).collect()
}

/// A number with at most four significant digits: 0.0738, 951, 1.2e-7.
pub(crate) struct Digits(pub f64);

impl fmt::Debug for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size == 0. || !size.is_finite() {
            return write!(f, "{}", self.0);
        }
        if !(1e-4..1e6).contains(&size) {
            return write!(f, "{:.3e}", self.0);
        }
        let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
        let text = format!("{:.decimals$}", self.0);
        let text = match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.'),
            false => &text,
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_and_texts_are_cut_and_numbers_rounded() {
        assert_eq!(format!("{:?}", Few(&[1, 2])), "[1, 2]");
        assert_eq!(format!("{:?}", Few(&[1, 2, 3, 4])), "[1, 2, 3, ... 4 in all]");
        assert_eq!(format!("{:?}", Start("é")), "\"é\"");
        assert_eq!(format!("{:?}", Start(&"é".repeat(99))).chars().count(), 29);
        let digits = [0., 1., 951., 0.073_812, -14.6142, 1.2e-7, 100., 123_456., f64::INFINITY]
            .map(|x| Digits(x).to_string());
        let expected = ["0", "1", "951", "0.07381", "-14.61", "1.200e-7", "100", "123456", "inf"];
        assert_eq!(digits, expected);
    }
}
