//! The header of a remote `.safetensors` file, without the tensors.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use super::client::{HubClient, RequestError};
use crate::{Error, Result};

/// The longest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Makes `path` a file of the remote file's length that holds its header, followed by zeros.
pub(super) fn fetch_header(
    client: &HubClient,
    commit: &str,
    name: &str,
    path: &Path,
) -> Result<()> {
    let size = client.metadata(commit, name)?.size;
    let response = client.get(commit, name, 0).map_err(|e| client.final_error(e))?;
    if !response.status().is_success() {
        return Err(client.error(format!("{name}: {}", client.explain(&response))));
    }
    client.refuse_page(name, &response)?;
    let no_header = || client.error(format!("{name}: no header"));
    let mut body = response.into_body().into_reader();
    let mut read = |count: u64| {
        let mut bytes = Vec::new();
        let all = (&mut body).take(count).read_to_end(&mut bytes);
        let all = all.map_err(|e| client.final_error(RequestError::Network(e.to_string())))?;
        if (all as u64) < count { Err(no_header()) } else { Ok(bytes) }
    };
    let mut bytes = read(8)?;
    // The header's length, least significant byte first.
    let count = bytes.iter().rev().fold(0, |count, &byte| count << 8 | u64::from(byte));
    if count > size.saturating_sub(8).min(MAX_HEADER) {
        return Err(no_header());
    }
    bytes.extend(read(count)?);
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(path)?;
        file.write_all(&bytes)?;
        file.set_len(size)
    };
    write().map_err(|e| Error::io(path, e))
}
