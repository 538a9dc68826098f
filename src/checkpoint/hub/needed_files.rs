//! Which files of a repository a checkpoint is opened from.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::model_index::{NETWORKS, parts};
use super::HubId;
use crate::tensor_file::{NO_WEIGHTS, read_config, shards, weights_among};
use crate::{Error, Result};

/// The files that are opened, of those in `names`. `fetch` brings the ones that name further files into the snapshot.
pub(super) fn needed_files(
    id: &HubId,
    names: &BTreeSet<String>,
    snapshot: &Path,
    place: &str,
    fetch: impl Fn(&str) -> Result<()>,
) -> Result<Vec<String>> {
    let has = |name: &str| names.contains(name);
    let lacks = |what: &str| Error::hub(id, format!("{place} has no {what}"));
    let present = |name: String| if has(&name) { Ok(name) } else { Err(lacks(&name)) };
    if let Some(file) = id.file() {
        return match has(file) {
            true => Ok(vec![file.to_owned()]),
            false => Err(lacks(&format!("such file{}", single_files(id, names)))),
        };
    }
    let mut needed = Vec::new();
    let mut networks = Vec::new();
    if has("model_index.json") {
        fetch("model_index.json")?;
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
                needed.push(present(format!("{part}/scheduler_config.json"))?);
            }
        }
    } else if has("config.json") {
        networks.push(String::new());
    } else {
        return Err(lacks(&format!("model_index.json{}", single_files(id, names))));
    }
    for network in networks {
        needed.push(present(format!("{network}config.json"))?);
        let chosen = weights_among(|name| has(&format!("{network}{name}")))
            .ok_or_else(|| Error::hub(id, format!("{place} has {NO_WEIGHTS} in /{network}")))?;
        let chosen = format!("{network}{chosen}");
        if chosen.ends_with(".json") {
            fetch(&chosen)?;
            for shard in shards(&snapshot.join(&chosen))? {
                needed.push(present(format!("{network}{shard}"))?);
            }
        }
        needed.push(chosen);
    }
    Ok(needed)
}

/// The tokenizer's files that [`Tokenizer::open`](crate::models::clip::Tokenizer::open) reads.
fn tokenizer(part: &str, has: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let named =
        |names: &[&str]| names.iter().map(|name| format!("{part}/{name}")).collect::<Vec<_>>();
    let mut files = [named(&["vocab.json", "merges.txt"]), named(&["tokenizer.json"])]
        .into_iter()
        .find(|files| files.iter().all(|name| has(name)))?;
    let special = named(&["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"]);
    files.extend(special.into_iter().filter(|name| has(name)));
    Some(files)
}

/// A hint that lists the files that an id can name.
fn single_files(id: &HubId, names: &BTreeSet<String>) -> String {
    let whole = |name: &&String| !name.contains('/') && !name.ends_with(".json");
    let ids = names.iter().filter(whole).filter_map(|name| {
        format!("{}/{name}", id.repository()).parse::<HubId>().ok().map(|id| id.to_string())
    });
    let ids: Vec<String> = ids.take(12).collect();
    if ids.is_empty() { String::new() } else { format!("; an id can name {}", ids.join(", ")) }
}
