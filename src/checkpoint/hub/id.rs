//! The hub's names: a repository, or one file of it.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The revision of an id that names none.
const MAIN: &str = "main";
/// Endings that mark a name as a file's rather than a repository's.
const FILES: [&str; 6] = [".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".json"];

/// A repository of the hub, or one file of it: `OWNER/NAME[@REVISION][/FILE]`.
///
/// A revision is a branch, a tag or a commit. A slash in it is written `%2F`, except in the hub's own `refs/pr/1`.
///
/// ```
/// use diffuscope::checkpoint::hub::HubId;
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

    /// A branch, a tag or a commit; `main` if the id names none.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The file that is meant; `None` for the repository as a folder.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| {
            let expected = "OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME/FILE.safetensors";
            Error::argument("hub id", expected, format!("{text:?}")).hint(why)
        };
        let (owner, rest) = text.split_once('/').ok_or_else(|| refused(""))?;
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        if !is_name(owner) || !is_name(name) {
            let rules = "OWNER and NAME consist of letters, digits, '-', '_' and '.', contain neither '--' nor '..', and \
                         neither start nor end with '-' or '.'";
            return Err(refused(rules));
        }
        if FILES.iter().any(|end| name.ends_with(end)) {
            return Err(refused("NAME looks like the name of a file"));
        }
        let (revision, file) = match rest.strip_prefix('@') {
            Some(rest) => {
                // The hub's own references, such as refs/pr/1.
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
            return Err(refused("REVISION is not a valid name"));
        }
        if let Some(file) = file
            && !(is_inside(file) && FILES.iter().any(|end| file.ends_with(end)))
        {
            return Err(refused("FILE is neither weights nor a configuration"));
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

/// Whether the hub accepts `name` as an owner's or a repository's name.
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

/// Whether a path with slashes stays inside its folder, on every system.
pub(super) fn is_inside(name: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let odd = |c: char| c == '\\' || c.is_control() || (cfg!(windows) && c == ':');
    name.split('/').all(plain) && !name.contains(odd)
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
