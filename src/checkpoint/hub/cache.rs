//! The layout of Python's cache: each file's content is stored once, named by its ETag, and snapshots link to it.
//!
//! ```text
//! models--OWNER--NAME/refs/main                       the commit of a branch or tag
//! models--OWNER--NAME/snapshots/COMMIT/unet/...       links to contents
//! models--OWNER--NAME/blobs/ETAG, ETAG.incomplete     contents, whole and in part
//! .locks/models--OWNER--NAME/ETAG.lock                held by the program that fetches it
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{Hub, HubId};
use crate::write_file::write_file;
use crate::{Error, Result};

/// One repository's folder in the cache.
pub(super) struct RepositoryCache {
    pub folder: PathBuf,
    locks: PathBuf,
    revision: String,
}

impl RepositoryCache {
    pub fn new(hub: &Hub, id: &HubId) -> Self {
        let name = format!("models--{}", id.repository().replace('/', "--"));
        let locks = hub.cache.join(".locks").join(&name);
        Self { folder: hub.cache.join(name), locks, revision: id.revision().to_owned() }
    }

    fn reference(&self) -> PathBuf {
        self.folder.join("refs").join(&self.revision)
    }

    /// The commit of the revision when it was last fetched.
    pub fn commit(&self) -> Option<String> {
        let read = fs::read_to_string(self.reference());
        let commit = read.map_or_else(|_| self.revision.clone(), |text| text.trim().to_owned());
        Some(commit).filter(|commit| is_file_name(commit) && self.snapshot(commit).is_dir())
    }

    /// Records the commit of the revision.
    pub fn write_commit(&self, commit: &str) -> Result<()> {
        // A complete cache may be read-only, so nothing is written that is there already.
        if commit == self.revision || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference();
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        write_file(&path, commit.as_bytes())
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Links `name` in a commit's snapshot to a content.
    pub fn link(&self, etag: &str, commit: &str, name: &str) -> Result<()> {
        let to = self.snapshot(commit).join(name);
        if cfg!(unix) {
            // Relative, so that the cache can be moved.
            let up = "../".repeat(name.split('/').count() + 1);
            link(Path::new(&format!("{up}blobs/{etag}")), &to)
        } else {
            link(&self.blob(etag), &to)
        }
    }

    /// Locks a content against other programs; calls `wait` first if another one holds the lock.
    pub fn lock(&self, etag: &str, wait: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || {
            fs::create_dir_all(&self.locks)?;
            File::options().create(true).append(true).open(&path)
        };
        let file = open().map_err(|e| Error::io(&path, e))?;
        // On a disk without locks, the checks after the download must suffice.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            wait();
            file.lock().map_err(|e| Error::io(&path, e))?;
        }
        Ok(file)
    }
}

/// Links `to` to `from`.
pub(super) fn link(from: &Path, to: &Path) -> Result<()> {
    let made = || {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        // A link whose content was removed.
        if to.is_symlink() {
            fs::remove_file(to)?;
        }
        #[cfg(unix)]
        return std::os::unix::fs::symlink(from, to);
        #[cfg(not(unix))]
        return fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()));
    };
    made().or_else(|e| if to.exists() { Ok(()) } else { Err(Error::io(to, e)) })
}

/// Whether a commit or an ETag is safe as a file name.
pub(super) fn is_file_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=200).contains(&text.len()) && text.chars().all(letter) && !text.starts_with('.')
}

/// The files in a folder and its subfolders, as paths with slashes.
pub(super) fn names_below(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, before)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let entry = entry.map_err(|e| Error::io(&folder, e))?;
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            // `is_file` follows links, so a link without its content is left out.
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push((entry.path(), format!("{name}/"))),
                false if entry.path().is_file() => drop(names.insert(name)),
                false => {}
            }
        }
    }
    Ok(names)
}
