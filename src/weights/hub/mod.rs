//! Checkpoints of the Hugging Face hub, in the cache that Python's huggingface_hub keeps them in.
//!
//! A path that does not exist and reads as a [`HubId`], such as `stable-diffusion-v1-5/stable-diffusion-v1-5`, is
//! fetched by [`locate`] and so by [`Checkpoint::open`](super::Checkpoint::open): of a repository the files that are
//! opened (configurations, tokenizers, and one set of weights of each network, as
//! [`weight_files`](super::weight_files) chooses it), or the one file that the id names.
//!
//! | Variable | Says |
//! |---|---|
//! | `HF_HOME` | where cache and token lie: `~/.cache/huggingface` without it |
//! | `HF_HUB_CACHE` | where the cache lies: `$HF_HOME/hub` without it |
//! | `HF_TOKEN`, `HF_TOKEN_PATH` | the token, or its file: `$HF_HOME/token` without them |
//! | `HF_ENDPOINT` | the hub's address: `https://huggingface.co` without it |
//! | `HF_HUB_OFFLINE` | `1`: the cache alone, no network |
//! | `HF_HUB_DISABLE_PROGRESS_BARS` | `1`: nothing on stderr |
//!
//! The feature `hub` compiles the network in; without it a hub id is told from a wrong path, and no more.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, Result};

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod settings;
#[cfg(feature = "hub")]
mod transfer;

#[cfg(feature = "hub")]
pub use fetch::{fetch, fetch_headers};
#[cfg(feature = "hub")]
pub use settings::Hub;

/// The revision that an id without one means.
const MAIN: &str = "main";
/// Ends of names that are files, and so no repositories.
const FILES: [&str; 6] = [".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".json"];

/// A repository of the hub, or one file of it: `OWNER/NAME[@REVISION][/FILE]`.
///
/// A revision is a branch, a tag or a commit. Its slashes are written `%2F`, but for the hub's own `refs/pr/1`.
///
/// ```
/// use diffuscope::weights::hub::HubId;
///
/// let id: HubId = "stabilityai/stable-diffusion-2-1@fp16/unet/config.json".parse()?;
/// assert_eq!((id.repository(), id.revision()), ("stabilityai/stable-diffusion-2-1", "fp16"));
/// assert_eq!(id.file(), Some("unet/config.json"));
/// assert!("./models/sd".parse::<HubId>().is_err());
/// # Ok::<_, diffuscope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    repository: String,
    revision: String,
    file: Option<String>,
}

impl HubId {
    /// `OWNER/NAME`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// A branch, a tag or a commit: `main` where the id does not say.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The one file that is meant; `None`: the checkpoint that the repository holds as a folder.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            let expected = "OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME/FILE.safetensors";
            Error::argument("hub id", expected, format!("{text:?}"), why)
        };
        let (owner, rest) = text.split_once('/').ok_or_else(|| refused(""))?;
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        if !is_name(owner) || !is_name(name) {
            let rules = "each of the two names has letters, digits, '-', '_' and '.', without '--' and '..', and \
                         neither '-' nor '.' at an end";
            return Err(refused(rules));
        }
        if FILES.iter().any(|end| name.ends_with(end)) {
            return Err(refused("that is a file's name"));
        }
        let (revision, file) = match rest.strip_prefix('@') {
            Some(rest) => {
                // The hub's own references: refs/pr/1, refs/convert/parquet.
                let slashes = if rest.starts_with("refs/") { 2 } else { 0 };
                match rest.match_indices('/').nth(slashes) {
                    Some((end, _)) => (&rest[..end], Some(&rest[end + 1..])),
                    None => (rest, None),
                }
            }
            None => (MAIN, rest.strip_prefix('/')),
        };
        let revision = revision.replace("%2F", "/");
        if !is_inside(&revision) {
            return Err(refused("that is no name of a revision"));
        }
        if let Some(file) = file
            && !(is_inside(file) && FILES.iter().any(|end| file.ends_with(end)))
        {
            return Err(refused("that is no file of weights or configuration"));
        }
        Ok(Self { repository: format!("{owner}/{name}"), revision, file: file.map(str::to_owned) })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        match self.revision.as_str() {
            MAIN => {}
            own if own.starts_with("refs/") => write!(f, "@{own}")?,
            other => write!(f, "@{}", other.replace('/', "%2F"))?,
        }
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// The hub's rules for the name of an owner or a repository.
fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&name.len())
        && name.chars().all(letter)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && !name.contains("--")
        && !name.contains("..")
        && !name.ends_with(".git")
}

/// Whether a name with slashes stays in its folder, on every system.
fn is_inside(name: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let odd = |c: char| c == '\\' || c.is_control() || (cfg!(windows) && c == ':');
    name.split('/').all(plain) && !name.contains(odd)
}

/// `path` where there is such a file or folder, else the place in the cache of what it names on the hub, fetched as
/// the environment says.
///
/// A path that does not exist and is no [`HubId`] comes back as it is.
///
/// # Errors
/// As [`fetch`]; a hub id where the program was built without the feature `hub`.
pub fn locate(path: impl AsRef<Path>) -> Result<PathBuf> {
    locate_as(path.as_ref(), None)
}

/// As [`locate`], with [`fetch_headers`] into the empty `folder` in place of [`fetch`].
///
/// # Errors
/// As [`fetch_headers`]; a hub id where the program was built without the feature `hub`.
pub fn locate_headers(path: impl AsRef<Path>, folder: impl AsRef<Path>) -> Result<PathBuf> {
    locate_as(path.as_ref(), Some(folder.as_ref()))
}

fn locate_as(path: &Path, folder: Option<&Path>) -> Result<PathBuf> {
    let id = path.to_str().and_then(|text| text.parse::<HubId>().ok());
    match id.filter(|_| !path.exists()) {
        Some(id) => fetched(&id, folder),
        None => Ok(path.to_owned()),
    }
}

#[cfg(feature = "hub")]
fn fetched(id: &HubId, folder: Option<&Path>) -> Result<PathBuf> {
    let hub = Hub::from_env()?;
    let found = match folder {
        Some(folder) => fetch_headers(&hub, id, folder),
        None => fetch(&hub, id),
    };
    found.map_err(|error| match error {
        Error::Hub { id, message } => Error::hub(id, format!("no such file or folder; {message}")),
        other => other,
    })
}

#[cfg(not(feature = "hub"))]
fn fetched(id: &HubId, _: Option<&Path>) -> Result<PathBuf> {
    let message = "no such file or folder; it reads as a repository of the Hugging Face hub, which this program was \
                   built without: build it with the feature `hub`";
    Err(Error::hub(id, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths_and_written_as_they_are_read() -> Result<()> {
        for (text, repository, revision, file) in [
            ("a/b", "a/b", "main", None),
            ("stable-diffusion-v1-5/sd_1.5@fp16", "stable-diffusion-v1-5/sd_1.5", "fp16", None),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1", None),
            ("a/b@refs/pr/1/v.ckpt", "a/b", "refs/pr/1", Some("v.ckpt")),
            ("a/b@x%2Fy/unet/c.json", "a/b", "x/y", Some("unet/c.json")),
            ("a/b/v1.safetensors", "a/b", "main", Some("v1.safetensors")),
        ] {
            let id: HubId = text.parse()?;
            let got = (id.repository(), id.revision(), id.file());
            assert_eq!(got, (repository, revision, file), "{text}");
            assert_eq!(id.to_string(), text);
        }
        assert_eq!("a/b@main".parse::<HubId>()?.to_string(), "a/b");
        for text in [
            "",
            "a",
            "a/",
            "/a",
            "./a/b",
            "../b",
            "/a/b",
            "a/b/c",
            "a/b/",
            "a//b.ckpt",
            "a/b@",
            "a/b@x/",
            "a/b@../x",
            "a/b@..%2Fx",
            "a/b/../c.ckpt",
            "a/b/c\\..\\d.ckpt",
            "a/.b",
            "a-/b",
            "a--b/c",
            "a..b/c",
            "a/b.git",
            "models/v1.safetensors",
            "a b/c",
            "ä/b",
            "~/a",
        ] {
            assert!(text.parse::<HubId>().is_err(), "{text}");
        }
        Ok(())
    }
}
