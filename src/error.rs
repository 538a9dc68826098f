//! What can go wrong, said so that a person knows what to do next.

use std::path::{Path, PathBuf};

/// The result of every stage.
pub type Result<T> = std::result::Result<T, Error>;

/// What was wrong, what was expected, what was got, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value outside what the stage is defined for.
    #[error("{what}: expected {expected}, got {got}{}", after_semicolon(.hint))]
    Argument {
        /// The argument's name.
        what: String,
        /// The values that it can have.
        expected: String,
        /// The value that it had.
        got: String,
        /// What to do about it, or empty.
        hint: String,
    },
    /// A tensor whose shape does not fit.
    #[error("{what}: expected the shape {expected}, got {got:?}")]
    Shape {
        /// The tensor's name.
        what: String,
        /// The shape that it should have.
        expected: String,
        /// The shape that it had.
        got: Vec<i64>,
    },
    /// A configuration that cannot be read or cannot be built.
    #[error("{}: {message}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        message: String,
    },
    /// A file of weights that cannot be read or does not fit its configuration.
    #[error("{}: {message}", .path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        message: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// What the Hugging Face hub, or its cache, did not give.
    #[error("{id}: {message}")]
    Hub {
        /// The repository, and the file of it where there is one.
        id: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A picture that cannot be read, written or shown.
    #[error("{what}: {message}")]
    Image {
        /// The picture.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// A tokenizer that cannot be built or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A chart that could not be drawn.
    #[error("figure: {0}")]
    Figure(String),
    /// A device that was asked for and is not there.
    #[error("device {asked}: {reason}")]
    Device {
        /// The device's name.
        asked: String,
        /// Why it cannot be used, and what to do.
        reason: String,
    },
    /// A run that was interrupted before it had anything to give.
    #[error("interrupted {0}")]
    Interrupted(String),
    /// A computation that libtorch refused.
    #[error("libtorch: {}", first_line(.0))]
    Tensor(#[from] tch::TchError),
}

fn after_semicolon(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("; {hint}") }
}

/// libtorch appends its C++ stack to every message.
fn first_line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl Error {
    /// A value outside what the stage is defined for.
    ///
    /// ```
    /// let error = diffuscope::Error::argument("steps", "1 to 1000", 0).hint("ask for one step or more");
    /// assert_eq!(error.to_string(), "steps: expected 1 to 1000, got 0; ask for one step or more");
    /// ```
    pub fn argument(what: impl ToString, expected: impl ToString, got: impl ToString) -> Self {
        Self::Argument {
            what: what.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
            hint: String::new(),
        }
    }

    /// The same error, and what to do about it: the end of the sentence of an [`Error::Argument`]; other errors say
    /// it in their message.
    pub fn hint(mut self, advice: impl ToString) -> Self {
        if let Self::Argument { hint, .. } = &mut self {
            *hint = advice.to_string();
        }
        self
    }

    /// A tensor whose shape does not fit.
    pub fn shape(what: impl ToString, expected: impl ToString, got: &[i64]) -> Self {
        Self::Shape { what: what.to_string(), expected: expected.to_string(), got: got.to_vec() }
    }

    /// A configuration that cannot be read or built.
    pub fn config(path: impl AsRef<Path>, message: impl ToString) -> Self {
        Self::Config { path: path.as_ref().to_owned(), message: message.to_string() }
    }

    /// A file of weights that cannot be used.
    pub fn weights(path: impl AsRef<Path>, message: impl ToString) -> Self {
        Self::Weights { path: path.as_ref().to_owned(), message: message.to_string() }
    }

    /// A file that cannot be read or written.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }

    /// What the hub did not give.
    pub fn hub(id: impl ToString, message: impl ToString) -> Self {
        Self::Hub { id: id.to_string(), message: message.to_string() }
    }

    /// A picture that cannot be read, written or shown.
    pub fn image(what: impl ToString, message: impl ToString) -> Self {
        Self::Image { what: what.to_string(), message: message.to_string() }
    }

    /// The same error, told of the configuration file that it came from.
    pub(crate) fn in_config(self, path: &Path) -> Self {
        match self {
            Self::Argument { .. } | Self::Shape { .. } => Self::config(path, self),
            other => other,
        }
    }
}
