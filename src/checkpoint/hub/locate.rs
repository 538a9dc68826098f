//! From a path or a hub id to a path.

use std::path::{Path, PathBuf};

use super::HubId;
#[cfg(feature = "hub")]
use super::{Hub, fetch, fetch_headers};
use crate::{Error, Result};

/// `path` itself if it exists, else where the cache holds what the hub id names, fetched first if it is missing there.
///
/// A path that neither exists nor has the form of a [`HubId`] is returned unchanged.
///
/// # Errors
/// As `fetch`; a hub id in a program built without the feature `hub`.
pub fn locate(path: impl AsRef<Path>) -> Result<PathBuf> {
    locate_in(path.as_ref(), None)
}

/// As [`locate`], but fetches only the headers of `.safetensors` files, into the empty `folder`.
///
/// # Errors
/// As `fetch_headers`; a hub id in a program built without the feature `hub`.
pub fn locate_headers(path: impl AsRef<Path>, folder: impl AsRef<Path>) -> Result<PathBuf> {
    locate_in(path.as_ref(), Some(folder.as_ref()))
}

fn locate_in(path: &Path, headers: Option<&Path>) -> Result<PathBuf> {
    let id = path.to_str().and_then(|text| text.parse::<HubId>().ok());
    match id.filter(|_| !path.exists()) {
        Some(id) => fetched(&id, headers),
        None => Ok(path.to_owned()),
    }
}

#[cfg(feature = "hub")]
fn fetched(id: &HubId, headers: Option<&Path>) -> Result<PathBuf> {
    let hub = Hub::from_env()?;
    let found = match headers {
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
    let message = "no such file or folder; it could be a repository of the Hugging Face hub, but this program was \
                   built without access to it: rebuild it with the feature `hub`";
    Err(Error::hub(id, message))
}
