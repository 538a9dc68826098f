//! Downloads into the cache, resumed and checked.

use std::io::Read;
use std::time::Duration;

use indicatif::{DecimalBytes, ProgressBar, ProgressFinish, ProgressStyle};

use super::cache::RepositoryCache;
use super::client::{HubClient, RemoteFile, RequestError, RequestResult, text_header};
use super::partial_file::PartialFile;
use crate::{Result, interrupt};

/// Attempts in a row that may bring nothing of a file.
const MAX_ATTEMPTS: u32 = 5;

/// Downloads the files of a commit that its snapshot lacks; `report` shows the progress on stderr.
pub(super) fn download_files(
    client: &HubClient,
    cache: &RepositoryCache,
    commit: &str,
    names: &[String],
    report: bool,
) -> Result<()> {
    let snapshot = cache.snapshot(commit);
    let missing = names.iter().filter(|name| !snapshot.join(name).exists());
    let files =
        missing.map(|name| client.metadata(commit, name)).collect::<Result<Vec<RemoteFile>>>()?;
    let report = report && !files.is_empty();
    let total = files.iter().map(|file| file.size).sum();
    let bar = if report { progress_bar(total) } else { ProgressBar::hidden() };
    if report && bar.is_hidden() {
        let (id, endpoint) = client.source();
        eprintln!("{id}: {} files, {}, from {endpoint}", files.len(), DecimalBytes(total));
    }
    let mut done = 0;
    for file in &files {
        bar.set_message(file.name.clone());
        download(client, cache, commit, file, done, &bar)?;
        cache.link(&file.etag, commit, &file.name)?;
        done += file.size;
    }
    Ok(())
}

/// Downloads one file's content; the files before it had `done` bytes.
fn download(
    client: &HubClient,
    cache: &RepositoryCache,
    commit: &str,
    file: &RemoteFile,
    done: u64,
    bar: &ProgressBar,
) -> Result<()> {
    let RemoteFile { name, etag, size } = file;
    let wait = || bar.suspend(|| eprintln!("{name}: waiting for another program that fetches it"));
    let _lock = cache.lock(etag, wait)?;
    let blob = cache.blob(etag);
    if blob.is_file() {
        return Ok(());
    }
    let mut partial = PartialFile::open(blob.with_file_name(format!("{etag}.incomplete")), *size)?;
    bar.set_position(done + partial.len());
    bar.reset_eta();
    let mut attempts = 0;
    while partial.len() < *size {
        let before = partial.len();
        let progress = |len| bar.set_position(done + len);
        let why = match receive(client, commit, file, &mut partial, progress) {
            Ok(()) => continue,
            Err(RequestError::Refused(error)) => return Err(error),
            Err(RequestError::Network(why)) => why,
        };
        attempts = if partial.len() > before { 1 } else { attempts + 1 };
        if attempts == MAX_ATTEMPTS {
            let (arrived, size) = (DecimalBytes(partial.len()), DecimalBytes(*size));
            let message = format!(
                "{name}: the network failed after {arrived} of {size} had arrived: {why}; run again to resume"
            );
            return Err(client.error(message));
        }
        std::thread::sleep(Duration::from_millis(250 << attempts));
    }
    if is_page(name, &partial.start()?) {
        partial.remove()?;
        return Err(client.page_error(name));
    }
    let sha256 = partial.sha256()?;
    // The ETag of a large file is its SHA-256; that of a small one is git's, which is shorter.
    if etag.len() == sha256.len() && *etag != sha256 {
        partial.remove()?;
        let message = format!(
            "{name}: what arrived has the SHA-256 {sha256}, but the hub says {etag}; it was removed, run again"
        );
        return Err(client.error(message));
    }
    partial.rename(&blob)
}

/// Receives the rest of a file, or as much of it as arrives.
fn receive(
    client: &HubClient,
    commit: &str,
    file: &RemoteFile,
    partial: &mut PartialFile,
    progress: impl Fn(u64),
) -> RequestResult<()> {
    let RemoteFile { name, size, .. } = file;
    let response = client.get(commit, name, partial.len())?;
    let status = response.status().as_u16();
    let range = text_header(&response, "content-range").unwrap_or_default();
    let total = match status {
        206 => range.rsplit('/').next().and_then(|total| total.parse().ok()),
        200 => text_header(&response, "content-length").and_then(|length| length.parse().ok()),
        // The server has no such range: start again.
        416 => {
            partial.restart()?;
            return Err(RequestError::Network("no such range".into()));
        }
        429 | 500.. => return Err(RequestError::Network(client.explain(&response))),
        _ => return Err(client.error(format!("{name}: {}", client.explain(&response))).into()),
    };
    client.refuse_page(name, &response)?;
    if let Some(total) = total.filter(|total: &u64| total != size) {
        let message = format!("{name}: the hub says {size} bytes, but sends {total}");
        return Err(client.error(message).into());
    }
    // A server may ignore the range and send the whole file.
    if !range.starts_with(&format!("bytes {}-", partial.len())) && partial.len() > 0 {
        partial.restart()?;
        if status == 206 {
            let message = format!("a range that was not asked for: {range:?}");
            return Err(RequestError::Network(message));
        }
    }
    let mut body = response.into_body().into_reader();
    let mut bytes = vec![0; 1 << 18];
    loop {
        let count = match body.read(&mut bytes) {
            Ok(0) if partial.len() < *size => {
                return Err(RequestError::Network("the connection was closed early".into()));
            }
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => return Err(RequestError::Network(error.to_string())),
        };
        if partial.len() + count as u64 > *size {
            partial.restart()?;
            let message = format!("{name}: the hub says {size} bytes, but sends more");
            return Err(client.error(message).into());
        }
        partial.append(&bytes[..count], *size)?;
        progress(partial.len());
        let so_far = || {
            format!(
                "after {} of {size} bytes of {name}; the next call goes on from there",
                partial.len()
            )
        };
        interrupt::check(so_far)?;
    }
}

/// Whether the first bytes of a file are those of a web page.
fn is_page(name: &str, start: &[u8]) -> bool {
    let text = start.trim_ascii_start().to_ascii_lowercase();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let pages: [&[u8]; 6] = [b"<!doctype", b"<html", b"<head", b"<?xml", b"<script", b"<!--"];
    // JSON has nothing that begins so.
    let page = pages.iter().any(|page| text.starts_with(page));
    page || name.ends_with(".json") && text.starts_with(b"<")
}

fn progress_bar(total: u64) -> ProgressBar {
    let template = "{bar:30} {decimal_bytes} of {decimal_total_bytes} {wide_msg} {eta} left";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_finish(ProgressFinish::AndClear)
}
