//! The one way a result file is written: to a temporary file, which is then renamed.

use std::io::{Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Writes the whole file or nothing: to a temporary file in the folder of `path`, which is on the disk before it is
/// renamed. The temporary name cannot be guessed, and a link that has `path` as its name is replaced, not followed. The
/// file's permissions are those of any other file of this user (the umask).
///
/// # Errors
/// A folder that is not there or cannot be written to; a full disk.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let written = written(path, bytes)?;
    written.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// Writes a new file under the first of these names that is free, and returns it. Nothing is ever replaced: two programs
/// that do this at the same time get two names.
///
/// # Errors
/// As [`write_file`]; no name that is free.
pub fn write_new_file(paths: impl IntoIterator<Item = PathBuf>, bytes: &[u8]) -> Result<PathBuf> {
    for path in paths {
        // A name that is taken needs no file to find that out; the race is decided by the renaming.
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match written(&path, bytes)?.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            Err(taken) if taken.error.kind() == ErrorKind::AlreadyExists => (),
            Err(failed) => return Err(Error::io(&path, failed.error)),
        }
    }
    Err(Error::argument("names of a new file", "one that is free", "none"))
}

/// Whether a file can be written under this name: permissions do not tell, only trying does. Leaves nothing behind.
///
/// # Errors
/// As [`write_file`].
pub fn can_be_written(path: impl AsRef<Path>) -> Result<()> {
    temporary(path.as_ref()).map(|_| ())
}

/// A temporary file with these bytes beside `path`, on the disk.
fn written(path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let mut file = temporary(path)?;
    let done = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    done.map_err(|e| Error::io(path, e))?;
    Ok(file)
}

/// A temporary file beside `path`.
fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A temporary file is private; a result has the permissions of any other file, which the umask decides.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".").suffix(".part").tempfile_in(folder).map_err(|error| {
        let said = match error.kind() {
            ErrorKind::NotFound if !folder.exists() => {
                format!("there is no folder {}; make it first", folder.display())
            }
            ErrorKind::NotADirectory => format!("{} is not a folder", folder.display()),
            // Without the temporary file's name, which tells nobody anything.
            kind => format!("no file can be written into {}: {kind}", folder.display()),
        };
        Error::io(path, IoError::new(error.kind(), said))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_named_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let said = write_file(folder.path().join("missing/x.png"), b"x").unwrap_err().to_string();
        assert!(said.contains("there is no folder") && said.ends_with("make it first"), "{said}");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let said = write_file(folder.path().join("file/x.png"), b"x").unwrap_err().to_string();
        assert!(said.ends_with("file is not a folder"), "{said}");
        can_be_written(folder.path().join("x.png")).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn runs_at_the_same_time_get_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let names = || (1..).map(|i| folder.path().join(format!("{i}.png")));
        let write = |i: u8| write_new_file(names(), &[i; 100_000]).unwrap();
        let paths = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..16).map(|i| scope.spawn(move || write(i))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
        });
        for (i, path) in (0..16).zip(&paths) {
            assert_eq!(std::fs::read(path).unwrap(), [i; 100_000], "{}", path.display());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 16);
        assert!(write_new_file(paths, b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_replaced_and_permissions_are_those_of_any_other_file() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode();
        std::fs::write(at("other"), "other").unwrap();
        symlink(at("other"), at("link")).unwrap();
        write_file(at("link"), b"new").unwrap();
        assert_eq!(std::fs::read(at("other")).unwrap(), b"other");
        assert_eq!(std::fs::read(at("link")).unwrap(), b"new");
        assert_eq!(mode("link"), mode("other"), "as the umask has it");
        // A link that leads nowhere is a name that is taken.
        symlink(at("nowhere"), at("1")).unwrap();
        let new = write_new_file([at("1"), at("2")], b"new").unwrap();
        assert_eq!((new, at("nowhere").exists()), (at("2"), false));
        assert_eq!(mode("2"), mode("other"));
    }
}
