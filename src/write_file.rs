//! The one way a result file is written: to a temporary file, which is then renamed.

use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Writes the whole file or nothing: to a temporary file in the folder of `path`, which is then renamed.
///
/// # Errors
/// A folder that cannot be written to; a full disk.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let fail = |e: std::io::Error| Error::io(path, e);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A temporary file is private; a result has the permissions of any other file.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.prefix(".").suffix(".part").tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
