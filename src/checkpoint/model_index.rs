//! `model_index.json`: which parts a diffusers folder has.

use serde_json::{Map, Value};

/// The folders that hold a network.
pub(super) const NETWORKS: [&str; 4] = ["unet", "vae", "text_encoder", "text_encoder_2"];

/// The parts that a `model_index.json` names and does not leave empty.
pub(super) fn parts(index: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let present =
        |what: &Value| what.as_array().is_some_and(|what| !what.iter().all(Value::is_null));
    index.iter().filter(move |(_, what)| present(what)).map(|(name, _)| name.as_str())
}
