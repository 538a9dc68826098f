//! Python's layout of the cache: what a commit's names point to lies once, under the name of its content.
//!
//! ```text
//! models--OWNER--NAME/refs/main                       the commit of a branch or tag
//! models--OWNER--NAME/snapshots/COMMIT/unet/...       links
//! models--OWNER--NAME/blobs/ETAG, ETAG.incomplete     contents, and what has arrived of one
//! .locks/models--OWNER--NAME/ETAG.lock                held by who fetches it
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::{Hub, HubId};
use crate::{Error, Result};

/// The part of the cache that belongs to one repository.
pub(super) struct Cache {
    pub folder: PathBuf,
    locks: PathBuf,
    layout: CacheRepo,
    revision: String,
}

impl Cache {
    pub fn new(hub: &Hub, id: &HubId) -> Self {
        let (repository, revision) = (id.repository().to_owned(), id.revision().to_owned());
        let repo = Repo::with_revision(repository, RepoType::Model, revision.clone());
        let (folder, locks) = (repo.folder_name(), hub.cache.join(".locks"));
        Self {
            folder: hub.cache.join(&folder),
            locks: locks.join(&folder),
            layout: hf_hub::Cache::new(hub.cache.clone()).repo(repo),
            revision,
        }
    }

    /// The commit that the revision was when it was fetched last.
    pub fn commit(&self) -> Option<String> {
        let said = fs::read_to_string(self.folder.join("refs").join(&self.revision));
        let commit = said.map_or_else(|_| self.revision.clone(), |said| said.trim().to_owned());
        Some(commit).filter(|commit| is_word(commit) && self.snapshot(commit).is_dir())
    }

    /// Keeps which commit the revision is.
    pub fn keep_commit(&self, commit: &str) -> Result<()> {
        // A cache that has all of it may be read-only.
        if commit == self.revision || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        self.layout.create_ref(commit).map_err(|e| Error::io(self.folder.join("refs"), e))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(etag)
    }

    /// Makes `name` of a commit's snapshot a link to a content.
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

    /// Waits until no other program fetches this content; `wait` is called if there is one.
    pub fn lock(&self, etag: &str, wait: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || {
            fs::create_dir_all(&self.locks)?;
            File::options().create(true).append(true).open(&path)
        };
        let file = open().map_err(|e| Error::io(&path, e))?;
        // Where the disk knows no locks, the checks at the end have to do.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            wait();
            file.lock().map_err(|e| Error::io(&path, e))?;
        }
        Ok(file)
    }
}

/// Makes `to` a link to what `from` is.
pub(super) fn link(from: &Path, to: &Path) -> Result<()> {
    let made = || {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        // One whose content was removed.
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

/// Whether a commit or an ETag can be the name of a file.
pub(super) fn is_word(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=200).contains(&text.len()) && text.chars().all(letter) && !text.starts_with('.')
}

/// The files below a snapshot, by their names with slashes.
pub(super) fn names_below(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, before)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let entry = entry.map_err(|e| Error::io(&folder, e))?;
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            // Of a link it is the content that counts.
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push((entry.path(), format!("{name}/"))),
                false if entry.path().is_file() => drop(names.insert(name)),
                false => {}
            }
        }
    }
    Ok(names)
}
