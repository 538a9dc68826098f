//! Which files of a repository are opened, and from where they come.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::checkpoint::{NETWORKS, parts};
use super::super::folder::{NO_WEIGHTS, shards, weights_among};
use super::super::read_config;
use super::cache::{Cache, link, names_below};
use super::transfer::{Client, Failed};
use super::{Hub, HubId};
use crate::{Error, Result};

/// The place in the cache of what `id` names, after what is missing there was fetched: a folder that
/// [`Checkpoint::open`](crate::weights::Checkpoint::open) opens, or the one file.
///
/// Nothing that is there is fetched again, and a broken download goes on where it stopped, also in a later call. A
/// content whose length or SHA-256 is not what the hub says is refused and removed. Where the hub cannot be reached,
/// what the cache has of the revision is taken.
///
/// # Errors
/// A repository, revision or file that is not there or not for the token; a network that fails and a cache that has
/// not all that is needed; a disk that is full; answers that are none of the hub's.
pub fn fetch(hub: &Hub, id: &HubId) -> Result<PathBuf> {
    let listed = match find(hub, id)? {
        Found::Kept(path) => return Ok(path),
        Found::Listed(listed) => listed,
    };
    let Listed { client, cache, commit, needed } = *listed;
    client.bring(&cache, &commit, &needed, hub.progress)?;
    cache.keep_commit(&commit)?;
    Ok(place(id, cache.snapshot(&commit)))
}

/// As [`fetch`], but of the `.safetensors` that the cache does not have no more than their headers is fetched, into
/// the empty `folder`: files that look whole there, and are empty where the numbers should be.
///
/// This is for [`examine`](crate::weights::examine), which reads headers alone.
///
/// # Errors
/// As [`fetch`]; a `.safetensors` without a header.
pub fn fetch_headers(hub: &Hub, id: &HubId, folder: &Path) -> Result<PathBuf> {
    let listed = match find(hub, id)? {
        Found::Kept(path) => return Ok(path),
        Found::Listed(listed) => listed,
    };
    let Listed { client, cache, commit, needed } = *listed;
    let snapshot = cache.snapshot(&commit);
    let there = |name: &String| !name.ends_with(".safetensors") || snapshot.join(name).exists();
    let (whole, headers): (Vec<String>, Vec<String>) = needed.into_iter().partition(there);
    client.bring(&cache, &commit, &whole, hub.progress)?;
    for name in &whole {
        let content = snapshot.join(name);
        let content = content.canonicalize().map_err(|e| Error::io(&content, e))?;
        link(&content, &folder.join(name))?;
    }
    for name in &headers {
        client.header(&commit, name, &folder.join(name))?;
    }
    Ok(place(id, folder.to_owned()))
}

/// The file of a folder that an id names, or the folder.
fn place(id: &HubId, folder: PathBuf) -> PathBuf {
    match id.file() {
        Some(file) => folder.join(file),
        None => folder,
    }
}

/// Where a repository's files are.
enum Found<'a> {
    /// In the cache, and nobody has to be asked.
    Kept(PathBuf),
    /// Listed by the hub.
    Listed(Box<Listed<'a>>),
}

struct Listed<'a> {
    client: Client<'a>,
    cache: Cache,
    commit: String,
    needed: Vec<String>,
}

fn find<'a>(hub: &'a Hub, id: &'a HubId) -> Result<Found<'a>> {
    let cache = Cache::new(hub, id);
    if hub.offline {
        return kept(id, &cache).map(Found::Kept).map_err(|error| match error {
            Error::Hub { id, message } => Error::hub(id, format!("offline, and {message}")),
            other => other,
        });
    }
    // What a commit holds does not change.
    let revision = id.revision();
    let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit && let Ok(path) = kept(id, &cache) {
        return Ok(Found::Kept(path));
    }
    let client = Client::new(hub, id)?;
    let (commit, names) = match client.names() {
        Ok(found) => found,
        Err(Failed::Said(error)) => return Err(error),
        Err(Failed::Network(why)) => {
            let path = kept(id, &cache).map_err(|_| {
                let (endpoint, folder) = (&hub.endpoint, cache.folder.display());
                let message =
                    format!("{endpoint} cannot be reached: {why}; {folder} has not all of it");
                Error::hub(id, message)
            })?;
            if hub.progress {
                eprintln!("{id}: {} cannot be reached: {why}; from the cache", hub.endpoint);
            }
            return Ok(Found::Kept(path));
        }
    };
    let bring = |name: &str| client.bring(&cache, &commit, &[name.to_owned()], false);
    let needed = needed(id, &names, &cache.snapshot(&commit), "the repository", bring)?;
    Ok(Found::Listed(Box::new(Listed { client, cache, commit, needed })))
}

/// What the cache has of it, if that is all that is needed.
fn kept(id: &HubId, cache: &Cache) -> Result<PathBuf> {
    let commit = cache.commit().ok_or_else(|| {
        let folder = cache.folder.display();
        Error::hub(id, format!("the cache, {folder}, has no revision {}", id.revision()))
    })?;
    let snapshot = cache.snapshot(&commit);
    let whose = format!("the cache, {},", snapshot.display());
    needed(id, &names_below(&snapshot)?, &snapshot, &whose, |_| Ok(()))?;
    Ok(place(id, snapshot))
}

/// The files among `names` that are opened. `bring` puts those into the snapshot that say which others are.
fn needed(
    id: &HubId,
    names: &BTreeSet<String>,
    snapshot: &Path,
    whose: &str,
    bring: impl Fn(&str) -> Result<()>,
) -> Result<Vec<String>> {
    let has = |name: &str| names.contains(name);
    let lacks = |what: &str| Error::hub(id, format!("{whose} has no {what}"));
    let there = |name: String| if has(&name) { Ok(name) } else { Err(lacks(&name)) };
    if let Some(file) = id.file() {
        return match has(file) {
            true => Ok(vec![file.to_owned()]),
            false => Err(lacks(&format!("such file{}", single_files(id, names)))),
        };
    }
    let mut needed = Vec::new();
    let mut networks = Vec::new();
    if has("model_index.json") {
        bring("model_index.json")?;
        needed.push("model_index.json".to_owned());
        let index: serde_json::Map<_, _> = read_config(snapshot.join("model_index.json"))?;
        for part in parts(&index) {
            if part.starts_with("tokenizer") {
                needed.extend(
                    tokenizer(part, has).ok_or_else(|| lacks(&format!("{part}/vocab.json")))?,
                );
            } else if NETWORKS.contains(&part) {
                networks.push(format!("{part}/"));
            } else if part.ends_with("scheduler") {
                needed.push(there(format!("{part}/scheduler_config.json"))?);
            }
        }
    } else if has("config.json") {
        networks.push(String::new());
    } else {
        return Err(lacks(&format!("model_index.json{}", single_files(id, names))));
    }
    for network in networks {
        needed.push(there(format!("{network}config.json"))?);
        let chosen = weights_among(|name| has(&format!("{network}{name}")))
            .ok_or_else(|| Error::hub(id, format!("{whose} has {NO_WEIGHTS} in /{network}")))?;
        let chosen = format!("{network}{chosen}");
        if chosen.ends_with(".json") {
            bring(&chosen)?;
            for shard in shards(&snapshot.join(&chosen))? {
                needed.push(there(format!("{network}{shard}"))?);
            }
        }
        needed.push(chosen);
    }
    Ok(needed)
}

/// The files of a tokenizer that [`Tokenizer::open`](crate::models::clip::Tokenizer::open) reads.
fn tokenizer(part: &str, has: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let named =
        |names: &[&str]| names.iter().map(|name| format!("{part}/{name}")).collect::<Vec<_>>();
    let mut files = [named(&["vocab.json", "merges.txt"]), named(&["tokenizer.json"])]
        .into_iter()
        .find(|files| files.iter().all(|name| has(name)))?;
    let special = named(&["special_tokens_map.json", "tokenizer_config.json"]);
    files.extend(special.into_iter().filter(|name| has(name)));
    Some(files)
}

/// The files that can be asked for by their names, in words.
fn single_files(id: &HubId, names: &BTreeSet<String>) -> String {
    let whole = |name: &&String| !name.contains('/') && !name.ends_with(".json");
    let ids = names.iter().filter(whole).filter_map(|name| {
        format!("{}/{name}", id.repository()).parse::<HubId>().ok().map(|id| id.to_string())
    });
    let ids: Vec<String> = ids.take(12).collect();
    if ids.is_empty() {
        String::new()
    } else {
        format!("; of it can be asked for {}", ids.join(", "))
    }
}
