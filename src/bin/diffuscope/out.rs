//! Where pictures go: one file, or a folder.

use std::path::{Path, PathBuf};

use diffuscope::{Error, Result};

/// The destination of one call's pictures.
pub enum Out {
    File(PathBuf),
    Folder(PathBuf),
}

impl Out {
    /// The meaning of `--out`; without it, a new file in the current folder. Nothing is written yet, but a
    /// destination that cannot be written to is refused now, and not after minutes of drawing.
    pub fn new(out: Option<&Path>, prompt: &str) -> Result<Self> {
        let Some(path) = out else {
            let path = unused(&format!("diffuscope-{}", slug(prompt)));
            check_place(&path)?;
            return Ok(Self::File(path));
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
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        check_folder(there, path)?;
        Ok(Self::Folder(path.to_owned()))
    }

    pub fn is_folder(&self) -> bool {
        matches!(self, Self::Folder(_))
    }

    /// The path of a picture. Creates the folder.
    pub fn place(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
                Ok(folder.join(format!("{name}.png")))
            }
        }
    }
}

/// Refuses a path that no file can be written to.
pub fn check_place(path: &Path) -> Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(Error::argument("output", "a file", path.display()).hint("it is a folder"));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    check_folder(folder, path)
}

fn check_folder(folder: &Path, path: &Path) -> Result<()> {
    // Permissions are not reliable: only writing shows what can be written.
    tempfile::tempfile_in(folder).map_err(|e| Error::io(path, e))?;
    Ok(())
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

/// The path of a PNG in the current folder that does not exist yet.
fn unused(stem: &str) -> PathBuf {
    let name = |i: u32| match i {
        1 => PathBuf::from(format!("{stem}.png")),
        i => PathBuf::from(format!("{stem}-{i}.png")),
    };
    let mut i = 1;
    while name(i).exists() {
        i += 1;
    }
    name(i)
}
