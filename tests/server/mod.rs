//! A hub with one repository, and a second server for its large files, as the real hub has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request and what was sent for it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// The first byte of the range.
    pub from: Option<u64>,
    pub token: bool,
    /// Whether the second server answered.
    pub cdn: bool,
    /// The length of the body.
    pub sent: usize,
}

/// The repository's files, and the faults to simulate.
#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    pub log: Vec<Asked>,
    /// The hub's answer to every request: status, error code.
    pub status: Option<(u16, &'static str)>,
    /// The same, for files only.
    pub file_status: Option<(u16, &'static str)>,
    /// The numbers of bytes after which the second server's next answers break off.
    pub cuts: Vec<usize>,
    /// The number of bytes after which answers with large files stall.
    pub stalls: Option<usize>,
    pub ignores_ranges: bool,
    /// A false length and ETag of large files.
    pub size: Option<usize>,
    pub etag: Option<String>,
    pub commit: Option<String>,
    /// The address that requests for large files are redirected to.
    pub location: Option<String>,
    /// The text of the list of files.
    pub list: Option<String>,
    /// A mirror: files lie on the second server, and the first one redirects to it without a word about them.
    pub mirror: bool,
    /// Whether the second server answers GET alone.
    pub refuses_head: bool,
    /// A login page that is answered with 200 in place of a file: the end of the file's name, the page's type, the page.
    pub page: Option<(&'static str, &'static str, &'static str)>,
}

pub struct Server {
    pub endpoint: String,
    cdn: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let listeners = [false, true].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, cdn] =
            listeners.each_ref().map(|l| format!("http://{}", l.local_addr().unwrap()));
        for (listener, is_cdn) in listeners.into_iter().zip([false, true]) {
            let (state, cdn) = (state.clone(), cdn.clone());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (state, cdn) = (state.clone(), cdn.clone());
                    // A client that hangs up is not an error.
                    thread::spawn(move || answer(&stream.unwrap(), &state, &cdn, is_cdn).ok());
                }
            });
        }
        Self { endpoint, cdn, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests since the last call.
    pub fn log(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().log)
    }

    pub fn cdn(&self) -> &str {
        &self.cdn
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".ckpt", ".msgpack"].iter().any(|end| name.ends_with(end))
}

/// A large file's ETag is its SHA-256; a small one's is as long as git's.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    let mut hash = sha256(bytes);
    hash.truncate(if is_large(name) { 64 } else { 40 });
    hash
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn plain(status: u16, headers: Vec<(&'static str, String)>, body: &[u8]) -> Answer {
    Answer { status, headers, body: body.to_vec() }
}

fn answer(
    stream: &TcpStream,
    state: &Mutex<State>,
    cdn: &str,
    is_cdn: bool,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap()?;
    let headers: Vec<String> =
        lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
    let header = |name: &str| {
        let mut all = headers.iter().filter_map(|line| line.split_once(": "));
        all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let range =
        header("range").map(|range| range["bytes=".len()..range.len() - 1].parse().unwrap());
    let token = header("authorization");
    assert!(token.as_deref().is_none_or(|token| token == "Bearer hf_secret"), "{token:?}");

    let (mut answer, cut, stall) = {
        let mut state = state.lock().unwrap();
        let answer = match is_cdn {
            true if state.refuses_head && method == "HEAD" => plain(403, Vec::new(), b""),
            true => of_cdn(&state, &path, range),
            false => of_hub(&state, &path, cdn),
        };
        let whole = method == "GET" && is_cdn;
        let cut = if whole && !state.cuts.is_empty() { Some(state.cuts.remove(0)) } else { None };
        let length = if method == "HEAD" { 0 } else { answer.body.len() };
        let sent = cut.map_or(length, |cut| cut.min(length));
        let token = token.is_some();
        state.log.push(Asked {
            method: method.clone(),
            path,
            from: range,
            token,
            cdn: is_cdn,
            sent,
        });
        (answer, cut, state.stalls.filter(|_| whole))
    };
    let mut out = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        write!(out, "{name}: {value}\r\n").unwrap();
    }
    write!(out, "Content-Length: {}\r\n\r\n", answer.body.len()).unwrap();
    let mut stream = stream;
    stream.write_all(out.as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    answer.body.truncate(cut.or(stall).unwrap_or(usize::MAX));
    stream.write_all(&answer.body)?;
    if stall.is_some() {
        thread::sleep(Duration::from_secs(600));
    }
    Ok(())
}

fn of_hub(state: &State, path: &str, cdn: &str) -> Answer {
    let failed =
        |(status, code): (u16, &str)| plain(status, vec![("X-Error-Code", code.into())], b"");
    if let Some(status) = state.status {
        return failed(status);
    }
    // The repository's old name, and a page that redirects to itself.
    if let Some(rest) = path.strip_prefix("/api/models/old/name/") {
        return plain(307, vec![("Location", format!("/api/models/some/model/{rest}"))], b"");
    }
    if let Some(rest) = path.strip_prefix("/old/name/") {
        return plain(307, vec![("Location", format!("/some/model/{rest}"))], b"");
    }
    if path.starts_with("/api/models/round/about") {
        return plain(302, vec![("Location", path.into())], b"");
    }
    let commit = state.commit.as_deref().unwrap_or(COMMIT);
    if let Some(revision) = path.strip_prefix("/api/models/some/model/revision/") {
        if !["main", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return failed((404, "RevisionNotFound"));
        }
        let names = state.files.keys().map(|name| serde_json::json!({ "rfilename": name }));
        let names: Vec<_> = names.collect();
        let list = serde_json::json!({ "id": "some/model", "sha": commit, "siblings": names });
        let list = state.list.clone().unwrap_or_else(|| list.to_string());
        return plain(200, vec![("Content-Type", "application/json".into())], list.as_bytes());
    }
    // The list that Python's huggingface_hub asks for.
    if path.starts_with("/api/models/some/model/tree/") {
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            let oid = &sha256(bytes)[..40];
            serde_json::json!({ "type": "file", "path": name, "size": bytes.len(), "oid": oid })
        };
        let list: Vec<_> = state.files.iter().map(file).collect();
        return plain(200, Vec::new(), serde_json::json!(list).to_string().as_bytes());
    }
    let small = path.strip_prefix("/api/resolve-cache/models/some/model/");
    let Some(rest) = small.or_else(|| path.strip_prefix("/some/model/resolve/")) else {
        return failed((404, "RepoNotFound"));
    };
    if let Some(status) = state.file_status {
        return failed(status);
    }
    let (_, name) = rest.split_once('/').unwrap();
    let name = name.replace("%20", " ").replace("%23", "#");
    if let Some((_, kind, page)) = state.page.filter(|(end, ..)| name.ends_with(end)) {
        let headers = vec![("Content-Type", kind.to_owned()), ("ETag", "\"a-page\"".into())];
        return plain(200, headers, page.as_bytes());
    }
    if state.mirror {
        return plain(302, vec![("Location", format!("{cdn}/mirror/{name}"))], b"see there");
    }
    let Some(bytes) = state.files.get(&name) else { return failed((404, "EntryNotFound")) };
    let etag = etag(&name, bytes);
    let commit = ("X-Repo-Commit", commit.to_owned());
    if !is_large(&name) {
        if small.is_none() {
            let location = format!("/api/resolve-cache/models/some/model/{rest}");
            return plain(307, vec![commit, ("Location", location)], b"");
        }
        return plain(200, vec![commit, ("ETag", format!("W/\"{etag}\""))], bytes);
    }
    let location = state.location.clone().unwrap_or_else(|| format!("{cdn}/{etag}?signature=x"));
    let size = state.size.unwrap_or(bytes.len());
    let etag = state.etag.clone().unwrap_or(etag);
    let linked = [("X-Linked-ETag", format!("\"{etag}\"")), ("X-Linked-Size", size.to_string())];
    let mut headers = vec![commit, ("Location", location), ("Accept-Ranges", "bytes".into())];
    headers.extend(linked);
    plain(302, headers, b"a page that says where to go")
}

fn of_cdn(state: &State, path: &str, range: Option<u64>) -> Answer {
    if let Some(name) = path.strip_prefix("/mirror/") {
        let Some(bytes) = state.files.get(name) else { return plain(404, Vec::new(), b"") };
        return plain(200, vec![("ETag", format!("\"{}\"", etag(name, bytes)))], bytes);
    }
    let hash = path[1..].split('?').next().unwrap();
    let Some(bytes) = state.files.values().find(|bytes| sha256(bytes) == hash) else {
        return plain(404, Vec::new(), b"");
    };
    match range.filter(|_| !state.ignores_ranges) {
        Some(from) if from as usize >= bytes.len() => plain(416, Vec::new(), b""),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            plain(206, vec![("Content-Range", range)], &bytes[from as usize..])
        }
        None => plain(200, Vec::new(), bytes),
    }
}
