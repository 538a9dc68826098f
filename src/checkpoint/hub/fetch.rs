//! Fetching a repository's files into the cache.

use std::path::{Path, PathBuf};

use super::cache::{RepositoryCache, link, names_below};
use super::client::{HubClient, RequestError};
use super::download::download_files;
use super::header::fetch_header;
use super::needed_files::needed_files;
use super::{Hub, HubId};
use crate::{Error, Result};

/// Fetches what `id` names, unless the cache has it, and returns where it is: a folder that
/// [`Checkpoint::open`](crate::checkpoint::Checkpoint::open) opens, or the one file.
///
/// Nothing in the cache is fetched again, and an interrupted download resumes where it stopped, in a later call too. A
/// file whose length or SHA-256 differs from what the hub says is refused and removed. If the hub cannot be reached,
/// the revision's files in the cache are used.
///
/// # Errors
/// A repository, revision or file that does not exist or that the token gives no access to; a network failure while
/// the cache lacks a needed file; a full disk; malformed answers.
pub fn fetch(hub: &Hub, id: &HubId) -> Result<PathBuf> {
    let listing = match find(hub, id)? {
        FileSource::Cache(path) => return Ok(path),
        FileSource::Hub(listing) => listing,
    };
    let RepositoryListing { client, cache, commit, needed } = *listing;
    download_files(&client, &cache, &commit, &needed, hub.progress)?;
    cache.write_commit(&commit)?;
    Ok(path_in(id, cache.snapshot(&commit)))
}

/// As [`fetch`], but fetches only the headers of `.safetensors` files that the cache lacks, into the empty `folder`.
///
/// The files there have their full length, with zeros in place of the numbers. They are meant for
/// [`examine`](crate::checkpoint::examine), which reads only headers.
///
/// # Errors
/// As [`fetch`]; a `.safetensors` file without a header.
pub fn fetch_headers(hub: &Hub, id: &HubId, folder: &Path) -> Result<PathBuf> {
    let listing = match find(hub, id)? {
        FileSource::Cache(path) => return Ok(path),
        FileSource::Hub(listing) => listing,
    };
    let RepositoryListing { client, cache, commit, needed } = *listing;
    let snapshot = cache.snapshot(&commit);
    let is_whole = |name: &String| !name.ends_with(".safetensors") || snapshot.join(name).exists();
    let (whole, headers): (Vec<String>, Vec<String>) = needed.into_iter().partition(is_whole);
    download_files(&client, &cache, &commit, &whole, hub.progress)?;
    for name in &whole {
        let content = snapshot.join(name);
        let content = content.canonicalize().map_err(|e| Error::io(&content, e))?;
        link(&content, &folder.join(name))?;
    }
    for name in &headers {
        fetch_header(&client, &commit, name, &folder.join(name))?;
    }
    Ok(path_in(id, folder.to_owned()))
}

/// The file in `folder` that an id names, or `folder` itself.
fn path_in(id: &HubId, folder: PathBuf) -> PathBuf {
    match id.file() {
        Some(file) => folder.join(file),
        None => folder,
    }
}

/// Where the files come from.
enum FileSource<'a> {
    /// The cache has all of them.
    Cache(PathBuf),
    /// The hub has listed them.
    Hub(Box<RepositoryListing<'a>>),
}

struct RepositoryListing<'a> {
    client: HubClient<'a>,
    cache: RepositoryCache,
    commit: String,
    needed: Vec<String>,
}

fn find<'a>(hub: &'a Hub, id: &'a HubId) -> Result<FileSource<'a>> {
    let cache = RepositoryCache::new(hub, id);
    if hub.offline {
        return cached(id, &cache).map(FileSource::Cache).map_err(|error| match error {
            Error::Hub { id, message } => Error::hub(id, format!("offline, and {message}")),
            other => other,
        });
    }
    // The files of a commit never change, so the cache is enough.
    let revision = id.revision();
    let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit && let Ok(path) = cached(id, &cache) {
        return Ok(FileSource::Cache(path));
    }
    let client = HubClient::new(hub, id)?;
    let (commit, names) = match client.list_files() {
        Ok(listed) => listed,
        Err(RequestError::Refused(error)) => return Err(error),
        Err(RequestError::Network(why)) => {
            let path = cached(id, &cache).map_err(|_| {
                let (endpoint, folder) = (&hub.endpoint, cache.folder.display());
                let message = format!(
                    "{endpoint} cannot be reached: {why}; {folder} does not have all the files"
                );
                Error::hub(id, message)
            })?;
            if hub.progress {
                eprintln!(
                    "{id}: {} cannot be reached: {why}; using the files in the cache",
                    hub.endpoint
                );
            }
            return Ok(FileSource::Cache(path));
        }
    };
    let fetch = |name: &str| download_files(&client, &cache, &commit, &[name.to_owned()], false);
    let needed = needed_files(id, &names, &cache.snapshot(&commit), "the repository", fetch)?;
    Ok(FileSource::Hub(Box::new(RepositoryListing { client, cache, commit, needed })))
}

/// Where the cache has what `id` names, if no needed file is missing.
fn cached(id: &HubId, cache: &RepositoryCache) -> Result<PathBuf> {
    let commit = cache.commit().ok_or_else(|| {
        let folder = cache.folder.display();
        Error::hub(id, format!("the cache, {folder}, has no revision {}", id.revision()))
    })?;
    let snapshot = cache.snapshot(&commit);
    let place = format!("the cache, {},", snapshot.display());
    needed_files(id, &names_below(&snapshot)?, &snapshot, &place, |_| Ok(()))?;
    Ok(path_in(id, snapshot))
}
