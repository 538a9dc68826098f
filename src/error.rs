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
    /// More memory was asked for than there is.
    #[error("out of memory: {}; {}", asked_for(.doing, .asked), or_else(.advice, LESS))]
    Memory {
        /// What was being done, or empty.
        doing: String,
        /// How much was asked for at once, or empty where libtorch does not say it.
        asked: String,
        /// What to try, or empty.
        advice: String,
    },
    /// A computation that libtorch refused.
    #[error("libtorch: {}", first_line(.0))]
    Tensor(#[source] tch::TchError),
}

/// What to try where nothing else is known.
const LESS: &str = "compute with fewer numbers at once, or in a smaller dtype";

/// libtorch's and its libraries' words for it.
const OUT_OF_MEMORY: [&str; 8] = [
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "ALLOC_FAILED",
    "Invalid buffer size",
    "Storage size calculation overflowed",
    "numel: integer multiplication overflow",
];

fn or_else<'a>(said: &'a str, otherwise: &'a str) -> &'a str {
    if said.is_empty() { otherwise } else { said }
}

fn asked_for(doing: &str, asked: &str) -> String {
    let doing = or_else(doing, "libtorch");
    match asked {
        "" => format!("{doing} asked for more than it had"),
        asked => format!("{doing} asked for {asked} more than it had"),
    }
}

/// The size in a message of libtorch's, such as "tried to allocate 4096 bytes" or "Tried to allocate 2.00 GiB".
fn size_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("ried to allocate ")?;
    let mut words = rest.split_whitespace();
    let (number, unit) = (words.next()?, words.next()?.trim_end_matches(['.', ',']));
    if !unit.starts_with("byte") {
        return Some(format!("{number} {unit}"));
    }
    Some(format!("{:.2} GB", number.parse::<f64>().ok()? / 1e9))
}

fn after_semicolon(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("; {hint}") }
}

/// libtorch appends its C++ stack to every message.
fn first_line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::out_of_memory(&error.to_string()).unwrap_or(Self::Tensor(error))
    }
}

impl Error {
    /// The error of a message of libtorch's, if it says that there was not enough memory.
    pub(crate) fn out_of_memory(message: &str) -> Option<Self> {
        // Its C++ stack follows, where names could mislead.
        let first = message.split("\\n").next().unwrap_or(message).lines().next()?;
        OUT_OF_MEMORY.iter().any(|words| first.contains(words)).then(|| Self::Memory {
            doing: String::new(),
            asked: size_in(first).unwrap_or_default(),
            advice: String::new(),
        })
    }

    /// The same error; where memory was lacking, with what was being done, unless that is known, and with what to try.
    pub(crate) fn while_doing(mut self, what: impl FnOnce() -> String, try_this: &str) -> Self {
        if let Self::Memory { doing, advice, .. } = &mut self {
            if doing.is_empty() {
                *doing = what();
            }
            if !try_this.is_empty() {
                *advice = try_this.to_owned();
            }
        }
        self
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_s_words_for_a_lack_of_memory_are_understood() {
        for (message, asked) in [
            (
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried \
                 to allocate 4096000000 bytes. Error code 12 (Cannot allocate memory)\nframe #0",
                "4.10 GB",
            ),
            (
                "DefaultCPUAllocator: not enough memory: you tried to allocate 1000000000 bytes.",
                "1.00 GB",
            ),
            (
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which",
                "2.00 GiB",
            ),
            (
                "MPS backend out of memory (MPS allocated: 8.83 GB, max allowed: 9.07 GB). Tried to allocate 1.00 GB \
                 on private pool. Use",
                "1.00 GB",
            ),
            ("CUDA error: out of memory", ""),
            ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", ""),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", ""),
            ("Storage size calculation overflowed with sizes=[4611686018427387904]", ""),
            ("std::bad_alloc", ""),
        ] {
            // As an error says it, and as a panic does.
            for said in [message.to_owned(), format!("{:?}", message.to_owned())] {
                match Error::out_of_memory(&said) {
                    Some(Error::Memory { asked: got, .. }) => assert_eq!(got, asked, "{said}"),
                    other => panic!("{said}: {other:?}"),
                }
            }
        }
        let other = "Expected all tensors to be on the same device\nframe #1: out of memory";
        assert!(Error::out_of_memory(other).is_none());
        assert!(Error::out_of_memory(&format!("{other:?}")).is_none());
    }

    #[test]
    fn a_lack_of_memory_says_what_to_try() {
        let error = Error::from(tch::TchError::Torch(
            "CUDA out of memory. Tried to allocate 2 GiB.".into(),
        ));
        assert_eq!(
            error.to_string(),
            "out of memory: libtorch asked for 2 GiB more than it had; compute with fewer numbers at once, or in a \
             smaller dtype"
        );
    }
}
