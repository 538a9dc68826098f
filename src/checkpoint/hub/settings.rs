//! The hub's settings: address, cache, token.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The hub's address, the cache, and the token.
#[derive(Clone)]
pub struct Hub {
    /// The hub's address, without a trailing slash.
    pub endpoint: String,
    /// The cache's folder.
    pub cache: PathBuf,
    /// The user's access token. It is sent to the endpoint only, never to the servers it redirects to.
    pub token: Option<String>,
    /// Use the cache only, never the network.
    pub offline: bool,
    /// Report downloads on stderr: with a progress bar on a terminal, otherwise in one line.
    pub progress: bool,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { "with a token" } else { "without a token" };
        write!(f, "Hub {{ {}, {token}, offline: {} }}", self.endpoint, self.offline)
    }
}

impl Hub {
    /// Reads the settings from the process's environment, as Python's huggingface_hub does.
    ///
    /// # Errors
    /// As [`Hub::from_vars`].
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Reads the settings from the variables that `var` looks up.
    ///
    /// # Errors
    /// Neither `HOME` nor `HF_HOME` is set; the token's file exists and cannot be read; the token is malformed.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let user = var("HOME").or_else(|| var("USERPROFILE"));
        let path = |text: String| match (text.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => Path::new(user).join(rest),
            _ => PathBuf::from(text),
        };
        let home = match (var("HF_HOME"), var("XDG_CACHE_HOME"), &user) {
            (Some(home), ..) => path(home),
            (None, Some(caches), _) => path(caches).join("huggingface"),
            (None, None, Some(user)) => Path::new(user).join(".cache").join("huggingface"),
            (None, None, None) => {
                let todo = "the hub's files are stored there";
                return Err(
                    Error::argument("HF_HOME", "a folder", "neither HF_HOME nor HOME").hint(todo)
                );
            }
        };
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let token = match var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some(token),
            None => {
                let file = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path);
                match std::fs::read_to_string(&file) {
                    Ok(token) => Some(token),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(Error::io(file, error)),
                }
            }
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let got = "a text with spaces or characters outside ASCII";
            return Err(Error::argument("HF_TOKEN", "an access token of the hub", got));
        }
        let yes = |name: &str| {
            let value = var(name).map(|value| value.to_ascii_lowercase());
            matches!(value.as_deref(), Some("1" | "true" | "yes" | "on"))
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.map_or_else(|| home.join("hub"), path),
            token,
            offline: yes("HF_HUB_OFFLINE"),
            progress: !yes("HF_HUB_DISABLE_PROGRESS_BARS"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(vars: &[(&str, &str)]) -> Result<Hub> {
        let find =
            |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, v)| v.to_string());
        Hub::from_vars(find)
    }

    #[test]
    fn the_environment_is_read_as_pythons_hub_reads_it() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let plain = hub(&[("HOME", home)])?;
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, folder.path().join(".cache/huggingface/hub"));
        assert!(plain.token.is_none() && !plain.offline && plain.progress);
        assert_eq!(hub(&[("XDG_CACHE_HOME", "/c")])?.cache, Path::new("/c/huggingface/hub"));
        assert_eq!(hub(&[("HOME", "/u"), ("HF_HOME", "~/h")])?.cache, Path::new("/u/h/hub"));
        let both = [("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")];
        assert_eq!(hub(&both)?.cache, Path::new("/new"));
        assert_eq!(hub(&both[..2])?.cache, Path::new("/old"));
        assert!(hub(&[]).is_err());

        let mirror = hub(&[("HF_HOME", home), ("HF_ENDPOINT", "http://mirror:8080/")])?;
        assert_eq!(mirror.endpoint, "http://mirror:8080");
        for (value, offline) in
            [("1", true), ("ON", true), ("True", true), ("yes", true), ("0", false)]
        {
            assert_eq!(hub(&[("HF_HOME", home), ("HF_HUB_OFFLINE", value)])?.offline, offline);
        }
        assert!(!hub(&[("HF_HOME", home), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")])?.progress);

        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = folder.path().join("other");
        let path = ("HF_TOKEN_PATH", other.to_str().unwrap());
        for (vars, token) in [
            (vec![], "hf_file"),
            (vec![path], "hf_other"),
            (vec![path, ("HUGGING_FACE_HUB_TOKEN", "hf_old")], "hf_old"),
            (vec![("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", " hf_new\n")], "hf_new"),
        ] {
            let vars = [vec![("HF_HOME", home)], vars].concat();
            assert_eq!(hub(&vars)?.token.as_deref(), Some(token));
        }
        assert!(hub(&[("HF_HOME", home), ("HF_TOKEN", "hf_a\nInjected: x")]).is_err());
        assert!(hub(&[("HF_HOME", home), ("HF_TOKEN_PATH", home)]).is_err(), "a folder");
        Ok(())
    }
}
