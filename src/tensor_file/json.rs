//! JSON as Python reads and writes it.

use std::path::Path;

use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::{Error, Result};

/// Numbers that JSON lacks and Python's reader knows, as they are written and as they are read here.
const WORDS: [(&str, &str, f64); 3] = [
    ("-Infinity", "\"-Infinity\"", f64::NEG_INFINITY),
    ("Infinity", "\"Infinity\"", f64::INFINITY),
    ("NaN", "\"NaN\"", f64::NAN),
];

/// Reads a JSON file into a value of type `T`.
///
/// Python's own numbers `NaN`, `Infinity` and `-Infinity` are texts of the same letters in a [`Value`]; of a key that
/// occurs twice, the last value counts, as in Python.
///
/// # Errors
/// A file that is missing or is not JSON; a key that `T` needs and the file lacks, or whose value `T` cannot take: the
/// error names it.
pub fn read_config<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    typed(&parse(&text).map_err(|e| Error::config(path, e))?, path)
}

/// JSON text, as Python's reader takes it.
pub(crate) fn parse(text: &str) -> serde_json::Result<Value> {
    if !WORDS.iter().any(|(word, ..)| text.contains(word)) {
        return serde_json::from_str(text);
    }
    let (mut all, mut rest, mut quoted) = (String::with_capacity(text.len() + 64), text, false);
    while let Some(first) = rest.chars().next() {
        let word = WORDS.iter().find(|(word, ..)| !quoted && rest.starts_with(word));
        let taken = match (word, first) {
            (Some((word, as_text, _)), _) => {
                all += as_text;
                rest = &rest[word.len()..];
                continue;
            }
            // What follows a backslash does not end a text.
            (None, '\\') if quoted => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, first) => {
                quoted ^= first == '"';
                first.len_utf8()
            }
        };
        all += &rest[..taken];
        rest = &rest[taken..];
    }
    serde_json::from_str(&all)
}

/// JSON that was read from `path` as a value of type `T`.
///
/// # Errors
/// A key that is missing or has a value that `T` cannot take.
pub(crate) fn typed<T: DeserializeOwned>(json: &Value, path: &Path) -> Result<T> {
    serde_path_to_error::deserialize(json).map_err(|e| {
        let key = e.path().to_string();
        match key.as_str() {
            "." => Error::config(path, e.inner()),
            key => Error::config(path, format!("{key}: {}", e.inner())),
        }
    })
}

/// Python's truth of a value: `null` and 0 are false.
pub(crate) fn truth<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<bool, D::Error> {
    match Value::deserialize(from)? {
        Value::Bool(on) => Ok(on),
        Value::Null => Ok(false),
        Value::Number(number) => Ok(number.as_f64() != Some(0.)),
        other => Err(D::Error::custom(format!("expected true or false, got {other}"))),
    }
}

/// A number, which may be one of Python's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let own = |text: &str| WORDS.iter().find(|(word, ..)| *word == text).map(|word| word.2);
        value
            .as_f64()
            .or_else(|| value.as_str().and_then(own))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("expected a number, got {value}")))
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes_is_read() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "c": "NaN \" -Infinity \\", "d": 1, "d": 2, "é\"": "ü"}"#;
        let read = parse(text).unwrap();
        let numbers = json!({"a": "-Infinity", "b": ["NaN", "Infinity"], "c": "NaN \" -Infinity \\", "d": 2, "é\"": "ü"});
        assert_eq!(read, numbers);
        let number = |value: &Value| serde_json::from_value::<Number>(value.clone()).unwrap().0;
        assert_eq!(number(&read["a"]), f64::NEG_INFINITY);
        assert!(number(&read["b"][0]).is_nan() && number(&json!(2)) == 2.);
        for wrong in
            ["{\"a\": Infinityx}", "{NaN: 1}x", "-Infinity-Infinity", "\"NaN", "\"NaN\\", "nan"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        #[derive(Debug, serde::Deserialize)]
        struct Config {
            #[serde(default, deserialize_with = "truth")]
            on: bool,
            widths: Vec<i64>,
        }
        let read = |text: &str| typed::<Config>(&parse(text).unwrap(), Path::new("a/config.json"));
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert!(said(r#"{"widths": [1, NaN]}"#).starts_with("a/config.json: widths[1]: "));
        assert_eq!(said("{}"), "a/config.json: missing field `widths`");
        assert!(said(r#"{"on": "no", "widths": []}"#).contains("on: expected true or false"));
        for (text, on) in [("null", false), ("0", false), ("1", true), ("true", true)] {
            let config = read(&format!(r#"{{"on": {text}, "widths": [1]}}"#)).unwrap();
            assert_eq!((config.on, config.widths.len()), (on, 1), "{text}");
        }
    }
}
