//! Where pictures go: one file, or a folder.

use std::path::{Path, PathBuf};

use diffuscope::write_file::{can_be_written, write_file, write_new_file};
use diffuscope::{Error, Result};

/// The destination of one call's pictures.
pub enum Out {
    /// This file, whether it is there or not.
    File(PathBuf),
    /// A new file of this name in the current folder.
    New(String),
    Folder(PathBuf),
}

impl Out {
    /// The meaning of `--out`; without it, a new file in the current folder. Nothing is written yet, but a
    /// destination that cannot be written to is refused now, and not after minutes of drawing.
    pub fn new(out: Option<&Path>, prompt: &str) -> Result<Self> {
        let Some(path) = out else {
            let stem = format!("diffuscope-{}", slug(prompt));
            check_place(&numbered(&stem, 1))?;
            return Ok(Self::New(stem));
        };
        if path.as_os_str().is_empty() {
            return Err(Error::argument("--out", "FILE.png or a folder", "nothing"));
        }
        let shut = path.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            _ if shut || path.is_dir() => {}
            Some("png") => {
                check_place(path)?;
                return Ok(Self::File(path.to_owned()));
            }
            Some("jpg" | "jpeg" | "gif" | "webp" | "bmp" | "tif" | "tiff") => {
                let todo = "pictures are written as PNG";
                return Err(
                    Error::argument("--out", "FILE.png or a folder", path.display()).hint(todo)
                );
            }
            _ => {}
        }
        // The folder itself, or its nearest existing ancestor.
        let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
        can_be_written(there.join(numbered("sheet", 1))).map_err(|error| match error {
            Error::Io { source, .. } => Error::io(path, source),
            other => other,
        })?;
        Ok(Self::Folder(path.to_owned()))
    }

    pub fn is_folder(&self) -> bool {
        matches!(self, Self::Folder(_))
    }

    /// The files that are there and would be replaced by pictures of these names.
    pub fn replaced(&self, names: impl IntoIterator<Item = String>) -> Vec<PathBuf> {
        let all: Vec<PathBuf> = match self {
            Self::New(_) => Vec::new(),
            Self::File(path) => vec![path.clone()],
            Self::Folder(folder) => {
                names.into_iter().map(|name| folder.join(format!("{name}.png"))).collect()
            }
        };
        all.into_iter().filter(|path| path.exists()).collect()
    }

    /// Writes a picture, in a folder under this name; returns its path. Creates the folder. A new file takes the first
    /// name that is free at this moment: another run may have taken some since this one began.
    pub fn write(&self, name: &str, png: &[u8]) -> Result<PathBuf> {
        let path = match self {
            Self::New(stem) => return write_new_file((1..).map(|i| numbered(stem, i)), png),
            Self::File(path) => path.clone(),
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
                folder.join(format!("{name}.png"))
            }
        };
        write_file(&path, png)?;
        Ok(path)
    }
}

/// The name of a PNG in the current folder: the first one has no number.
fn numbered(stem: &str, i: u32) -> PathBuf {
    match i {
        1 => PathBuf::from(format!("{stem}.png")),
        i => PathBuf::from(format!("{stem}-{i}.png")),
    }
}

/// Refuses a path that no file can be written to.
pub fn check_place(path: &Path) -> Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(Error::argument("output", "a file", path.display()).hint("it is a folder"));
    }
    can_be_written(path)
}

/// Refuses what would be written over something that the same call reads: a file, or a part of a folder. Outputs come
/// with their options, inputs with what they are. A folder among the outputs is written as a whole.
pub fn check_apart(outputs: &[(&str, &Path)], inputs: &[(&str, &Path)]) -> Result<()> {
    for (option, output) in outputs {
        if let Some((read, input)) = inputs.iter().find(|(_, input)| overlap(output, input)) {
            let todo = format!("{} is read by the same call ({read})", input.display());
            let expected = "a file of its own";
            return Err(Error::argument(*option, expected, output.display()).hint(todo));
        }
    }
    Ok(())
}

/// Whether writing to `output` changes `input`.
fn overlap(output: &Path, input: &Path) -> bool {
    let within = |inner: &Path, outer: &Path| {
        let both = inner.canonicalize().ok().zip(outer.canonicalize().ok());
        outer.is_dir() && both.is_some_and(|(inner, outer)| inner.starts_with(outer))
    };
    // Of a folder, no PNG is read.
    same_file(output, input) || within(input, output) || within(output, input) && !is_png(output)
}

/// Whether two paths name one file, which need not be there. Links are followed.
pub fn same_file(a: &Path, b: &Path) -> bool {
    let one = |a: Option<PathBuf>, b: Option<PathBuf>| a.is_some() && a == b;
    a == b || one(place(a), place(b)) || one(a.canonicalize().ok(), b.canonicalize().ok())
}

/// Where a name stands, which may be taken or free: its folder without links.
fn place(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
    Some(folder.join(path.file_name()?))
}

pub fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
}

/// A text as part of a file name.
pub fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words {
        let word: String = word.chars().take(24).flat_map(char::to_lowercase).collect();
        if slug.len() + word.len() > 60 {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug += &word;
    }
    if slug.is_empty() { "picture".to_owned() } else { slug }
}
