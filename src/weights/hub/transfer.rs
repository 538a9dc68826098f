//! Requests: what a repository holds, and its files, resumed and checked.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::RepoInfo;
use indicatif::{DecimalBytes, ProgressBar, ProgressFinish, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

use super::cache::{Cache, is_word};
use super::{Hub, HubId, is_inside};
use crate::{Error, Result};

/// Requests for a file in a row that bring nothing of it.
const TRIES: u32 = 5;
/// Redirects of one request.
const REDIRECTS: usize = 10;
/// The longest list of a repository's files, in bytes.
const LIST: u64 = 64 << 20;

/// Why a request has no answer.
pub(super) enum Failed {
    /// The network; it may do another time.
    Network(String),
    /// The hub, or this machine.
    Said(Error),
}

type Answer<T> = std::result::Result<T, Failed>;

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

/// Asks the hub for one repository.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    origin: Origin,
    agent: Agent,
}

/// Who answers at an address: scheme, host, port.
type Origin = (String, String, u16);

fn origin(url: &str) -> Option<Origin> {
    let url: Uri = url.parse().ok()?;
    let scheme = url.scheme_str()?;
    let port = match (url.port_u16(), scheme) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, _) => 80,
    };
    let known = matches!(scheme, "http" | "https");
    known.then_some((scheme.to_owned(), url.host()?.to_ascii_lowercase(), port))
}

/// What the hub says of a file.
struct Remote {
    name: String,
    etag: String,
    size: u64,
}

/// What has arrived of a file.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
}

impl<'a> Client<'a> {
    pub fn new(hub: &'a Hub, id: &'a HubId) -> Result<Self> {
        let origin = origin(&hub.endpoint).ok_or_else(|| {
            Error::argument(
                "HF_ENDPOINT",
                "an address such as https://huggingface.co",
                &hub.endpoint,
                "",
            )
        })?;
        let agent = Agent::config_builder()
            .user_agent(concat!("diffuscope/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are of the file itself.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .build();
        Ok(Self { hub, id, origin, agent: agent.into() })
    }

    fn refused(&self, message: impl ToString) -> Error {
        Error::hub(self.id, message)
    }

    /// The commit of the revision and the names of its files.
    pub fn names(&self) -> Answer<(String, BTreeSet<String>)> {
        let (endpoint, repository) = (&self.hub.endpoint, self.id.repository());
        let revision = quoted(self.id.revision(), "");
        let url = format!("{endpoint}/api/models/{repository}/revision/{revision}");
        let mut response = self.ask(&url, false, 0)?;
        match response.status().as_u16() {
            200 => {}
            429 | 500.. => return Err(Failed::Network(self.refusal(&response))),
            _ => return Err(self.refused(self.refusal(&response)).into()),
        }
        let text = response.body_mut().with_config().limit(LIST).read_to_vec();
        let text = text.map_err(|e| Failed::Network(e.to_string()))?;
        let RepoInfo { siblings, sha } = serde_json::from_slice(&text).map_err(|e| {
            self.refused(format!("{endpoint} does not answer as the hub does: {e}"))
        })?;
        let names: BTreeSet<String> = siblings.into_iter().map(|file| file.rfilename).collect();
        if let Some(name) = names.iter().find(|name| !is_inside(name)) {
            return Err(self
                .refused(format!("a file's name leads out of the repository: {name:?}"))
                .into());
        }
        if !is_word(&sha) {
            return Err(self.refused(format!("{sha:?} is no commit")).into());
        }
        Ok((sha, names))
    }

    /// Puts the files of a commit that are not there yet into its snapshot.
    pub fn bring(&self, cache: &Cache, commit: &str, names: &[String], tell: bool) -> Result<()> {
        let snapshot = cache.snapshot(commit);
        let remotes = names
            .iter()
            .filter(|name| !snapshot.join(name).exists())
            .map(|name| self.look(commit, name))
            .collect::<Result<Vec<_>>>()?;
        let total = remotes.iter().map(|remote| remote.size).sum();
        let bar = if tell && !remotes.is_empty() { bar(total) } else { ProgressBar::hidden() };
        if tell && !remotes.is_empty() && bar.is_hidden() {
            let (count, size) = (remotes.len(), DecimalBytes(total));
            eprintln!("{}: {count} files, {size}, from {}", self.id, self.hub.endpoint);
        }
        let mut done = 0;
        for remote in &remotes {
            bar.set_message(remote.name.clone());
            self.download(cache, commit, remote, done, &bar)?;
            cache.link(&remote.etag, commit, &remote.name)?;
            done += remote.size;
        }
        Ok(())
    }

    fn url(&self, commit: &str, name: &str) -> String {
        let (endpoint, repository) = (&self.hub.endpoint, self.id.repository());
        format!("{endpoint}/{repository}/resolve/{commit}/{}", quoted(name, "/"))
    }

    /// A file's length and the name of its content.
    fn look(&self, commit: &str, name: &str) -> Result<Remote> {
        let response =
            self.ask(&self.url(commit, name), true, 0).map_err(|failed| self.plain(failed))?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refused(format!("{name}: {}", self.refusal(&response))));
        }
        let said = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = said("x-linked-etag").or(said("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // A redirect's own length is not the file's.
        let length = said("content-length").filter(|_| status.is_success());
        let size = said("x-linked-size").or(length).and_then(|size| size.parse().ok());
        match size.filter(|_| is_word(&etag)) {
            Some(size) => Ok(Remote { name: name.to_owned(), etag, size }),
            None => {
                let endpoint = &self.hub.endpoint;
                let message = format!("{endpoint} does not say the length and the ETag of {name}");
                Err(self.refused(message))
            }
        }
    }

    /// Makes `path` a file of a `.safetensors`'s length, with its header and nothing after it.
    pub fn header(&self, commit: &str, name: &str, path: &Path) -> Result<()> {
        let size = self.look(commit, name)?.size;
        let response = self.ask(&self.url(commit, name), false, 0).map_err(|e| self.plain(e))?;
        if !response.status().is_success() {
            return Err(self.refused(format!("{name}: {}", self.refusal(&response))));
        }
        let mut body = response.into_body().into_reader();
        let mut read = |count: u64| {
            let mut bytes = Vec::new();
            let all = (&mut body).take(count).read_to_end(&mut bytes);
            let all = all.map_err(|e| self.plain(Failed::Network(e.to_string())))? as u64;
            if all < count { Err(self.refused(format!("{name}: no header"))) } else { Ok(bytes) }
        };
        let mut bytes = read(8)?;
        let count = bytes.iter().rev().fold(0, |count, &byte| count << 8 | u64::from(byte));
        // No longer than the format allows.
        if count > size.saturating_sub(8).min(100_000_000) {
            return Err(self.refused(format!("{name}: no header")));
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

    /// Makes the content of a file whole; `done` bytes of other files are behind.
    fn download(
        &self,
        cache: &Cache,
        commit: &str,
        remote: &Remote,
        done: u64,
        bar: &ProgressBar,
    ) -> Result<()> {
        let Remote { name, etag, size } = remote;
        let wait = || bar.suspend(|| eprintln!("{name}: another program fetches it, waiting"));
        let _lock = cache.lock(etag, wait)?;
        let blob = cache.blob(etag);
        if blob.is_file() {
            return Ok(());
        }
        let mut part = Part::open(blob.with_file_name(format!("{etag}.incomplete")), *size)?;
        bar.set_position(done + part.len);
        bar.reset_eta();
        let mut tries = 0;
        while part.len < *size {
            let before = part.len;
            let told = |len| bar.set_position(done + len);
            let why = match self.receive(&self.url(commit, name), remote, &mut part, told) {
                Ok(()) => continue,
                Err(Failed::Said(error)) => return Err(error),
                Err(Failed::Network(why)) => why,
            };
            tries = if part.len > before { 1 } else { tries + 1 };
            if tries == TRIES {
                let message = format!(
                    "{name}: {} of {} arrived, then the network failed: {why}; run again to go on from there",
                    DecimalBytes(part.len),
                    DecimalBytes(*size)
                );
                return Err(self.refused(message));
            }
            std::thread::sleep(Duration::from_millis(250 << tries));
        }
        part.file.sync_all().map_err(|e| Error::io(&part.path, e))?;
        let got = part.hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        // The ETag of a large file is its SHA-256, that of a small one git's name for it.
        if etag.len() == got.len() && *etag != got {
            fs::remove_file(&part.path).map_err(|e| Error::io(&part.path, e))?;
            let message = format!(
                "{name}: what arrived has the SHA-256 {got}, the hub says {etag}; it was removed, run again"
            );
            return Err(self.refused(message));
        }
        fs::rename(&part.path, &blob).map_err(|e| Error::io(&blob, e))
    }

    /// Receives the rest of a file, or as much of it as comes.
    fn receive(
        &self,
        url: &str,
        remote: &Remote,
        part: &mut Part,
        told: impl Fn(u64),
    ) -> Answer<()> {
        let response = self.ask(url, false, part.len)?;
        let status = response.status().as_u16();
        let said = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let range = said(header::CONTENT_RANGE).unwrap_or_default();
        let total = match status {
            206 => range.rsplit('/').next().and_then(|total| total.parse().ok()),
            200 => said(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            // It does not know what has arrived so far.
            416 => {
                part.restart()?;
                return Err(Failed::Network("no such range".into()));
            }
            429 | 500.. => return Err(Failed::Network(self.refusal(&response))),
            _ => {
                return Err(self
                    .refused(format!("{}: {}", remote.name, self.refusal(&response)))
                    .into());
            }
        };
        if total.is_some_and(|total: u64| total != remote.size) {
            let (name, size) = (&remote.name, remote.size);
            let message =
                format!("{name}: the hub says {size} bytes, and sends {}", total.unwrap_or(0));
            return Err(self.refused(message).into());
        }
        // A server may send all where the rest was asked for.
        if !range.starts_with(&format!("bytes {}-", part.len)) && part.len > 0 {
            part.restart()?;
            if status == 206 {
                return Err(Failed::Network(format!("other bytes than asked for: {range:?}")));
            }
        }
        let mut body = response.into_body().into_reader();
        let mut bytes = vec![0; 1 << 18];
        loop {
            let count = match body.read(&mut bytes) {
                Ok(0) if part.len < remote.size => {
                    return Err(Failed::Network("ended early".into()));
                }
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(Failed::Network(error.to_string())),
            };
            if part.len + count as u64 > remote.size {
                part.restart()?;
                let message = format!("{}: more than {} bytes arrive", remote.name, remote.size);
                return Err(self.refused(message).into());
            }
            part.add(&bytes[..count], remote.size)?;
            told(part.len);
        }
    }

    /// The answer to a request, redirects followed; of `head` those to another place are not.
    fn ask(&self, url: &str, head: bool, from: u64) -> Answer<Response<Body>> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let here = origin(&url);
            let mut request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            if let Some(token) = &self.hub.token
                && here.as_ref() == Some(&self.origin)
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| Failed::Network(e.to_string()))?;
            let location = response.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return Ok(response);
            };
            let next = location.to_str().ok().and_then(|location| absolute(&url, location));
            let there = next.as_deref().and_then(origin);
            let (Some(next), Some(there), Some(here)) = (next, there, here) else {
                return Err(self
                    .refused(format!("{url} leads to {location:?}, which is no address"))
                    .into());
            };
            if head && there != here {
                return Ok(response);
            }
            if here.0 == "https" && there.0 != "https" {
                return Err(self
                    .refused(format!("{url} leads to {next}, which is not encrypted"))
                    .into());
            }
            url = next;
        }
        Err(self.refused(format!("more than {REDIRECTS} redirects, the last one to {url}")).into())
    }

    fn plain(&self, failed: Failed) -> Error {
        match failed {
            Failed::Said(error) => error,
            Failed::Network(why) => {
                self.refused(format!("{} cannot be reached: {why}", self.hub.endpoint))
            }
        }
    }

    /// What an answer other than a success means, and what to do.
    fn refusal(&self, response: &Response<Body>) -> String {
        let said = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (endpoint, repository) = (&self.hub.endpoint, self.id.repository());
        match (response.status().as_u16(), said("x-error-code")) {
            (401 | 403, _) => {
                let token = match self.hub.token {
                    Some(_) => "the account of the token that was sent must be let in there",
                    None => "then set HF_TOKEN to a token of your account",
                };
                format!(
                    "{endpoint} does not show it: it is gated or private, or there is no such repository; \
                     accept its licence on {endpoint}/{repository}, {token}"
                )
            }
            (404, Some("RevisionNotFound")) => {
                format!("{endpoint} has no revision {} of {repository}", self.id.revision())
            }
            (404, Some("EntryNotFound")) => format!("{endpoint} has no such file of {repository}"),
            (404, _) => {
                format!(
                    "{endpoint} has no repository {repository} with a revision {}",
                    self.id.revision()
                )
            }
            (429, _) => format!("{endpoint} is asked too often; wait, or set HF_TOKEN"),
            (status, _) => {
                let why = said("x-error-message").map(|why| format!(": {why}")).unwrap_or_default();
                format!("{endpoint} answers {status}{why}")
            }
        }
    }
}

impl Part {
    /// Takes up what an earlier download left.
    fn open(path: PathBuf, size: u64) -> Result<Self> {
        let open = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(|e| Error::io(&path, e))?;
        let mut part = Self { path, file, len: 0, hash: Sha256::new() };
        let mut read = || {
            if part.file.metadata()?.len() > size {
                part.file.set_len(0)?;
            }
            std::io::copy(&mut part.file, &mut part.hash)
        };
        part.len = read().map_err(|e| Error::io(&part.path, e))?;
        Ok(part)
    }

    fn restart(&mut self) -> Result<()> {
        let cut = self.file.set_len(0).and_then(|()| self.file.rewind());
        cut.map_err(|e| Error::io(&self.path, e))?;
        (self.len, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn add(&mut self, bytes: &[u8], size: u64) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    let rest = DecimalBytes(size - self.len);
                    let todo = format!(
                        "{error}; {rest} of this file are missing: make room and run again to go on from here, or \
                         let HF_HOME name another disk"
                    );
                    std::io::Error::new(error.kind(), todo)
                }
                _ => error,
            };
            Error::io(&self.path, error)
        })?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn bar(total: u64) -> ProgressBar {
    let template = "{bar:30} {decimal_bytes} of {decimal_total_bytes} {wide_msg} {eta} left";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_finish(ProgressFinish::AndClear)
}

/// Where a redirect from `url` leads.
fn absolute(url: &str, location: &str) -> Option<String> {
    let here: Uri = url.parse().ok()?;
    let (scheme, host) = (here.scheme_str()?, here.authority()?);
    match location {
        whole if whole.contains("://") && !whole.starts_with('/') => Some(whole.to_owned()),
        host if host.starts_with("//") => Some(format!("{scheme}:{host}")),
        path if path.starts_with('/') => Some(format!("{scheme}://{host}{path}")),
        _ => None,
    }
}

/// A name as part of an address.
fn quoted(name: &str, plain: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || plain.contains(c) {
            text.push(c);
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
