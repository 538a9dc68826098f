//! A file as far as it has arrived, with its running SHA-256.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

pub(super) struct PartialFile {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
}

impl PartialFile {
    /// Opens what an earlier download left of a file of `size` bytes, or an empty file.
    pub fn open(path: PathBuf, size: u64) -> Result<Self> {
        let open = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            // Its name is known to everybody, since a later run resumes it; what it may link to is not ours.
            if path.is_symlink() {
                fs::remove_file(&path)?;
            }
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(|e| Error::io(&path, e))?;
        let mut partial = Self { path, file, len: 0, hash: Sha256::new() };
        let mut read = || {
            if partial.file.metadata()?.len() > size {
                partial.file.set_len(0)?;
            }
            std::io::copy(&mut partial.file, &mut partial.hash)
        };
        partial.len = read().map_err(|e| Error::io(&partial.path, e))?;
        Ok(partial)
    }

    /// The bytes that have arrived.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The first bytes.
    pub fn start(&self) -> Result<Vec<u8>> {
        let mut start = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(256).read_to_end(&mut start));
        read.map_err(|e| Error::io(&self.path, e))?;
        Ok(start)
    }

    /// Drops what has arrived.
    pub fn restart(&mut self) -> Result<()> {
        let cut = self.file.set_len(0).and_then(|()| self.file.rewind());
        cut.map_err(|e| Error::io(&self.path, e))?;
        (self.len, self.hash) = (0, Sha256::new());
        Ok(())
    }

    /// Appends `bytes` to a file that will have `size` bytes.
    pub fn append(&mut self, bytes: &[u8], size: u64) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    let rest = DecimalBytes(size - self.len);
                    let todo = format!(
                        "{error}; {rest} of this file are missing: free some space and run again to resume, or \
                         set HF_HOME to a folder on another disk"
                    );
                    std::io::Error::new(error.kind(), todo)
                }
                _ => error,
            };
            Error::io(&self.path, error)
        })?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes everything to the disk and returns the content's SHA-256.
    pub fn sha256(&mut self) -> Result<String> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))?;
        let hash = self.hash.clone().finalize();
        Ok(hash.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// Moves the whole file to its final place.
    pub fn rename(self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).map_err(|e| Error::io(to, e))
    }

    /// Removes the file.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| Error::io(&self.path, e))
    }
}
