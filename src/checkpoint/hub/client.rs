//! Requests to the hub: a repository's list of files, and the files themselves.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

use super::cache::is_file_name;
use super::id::is_inside;
use super::{Hub, HubId};
use crate::{Error, Result};

const MAX_REDIRECTS: usize = 10;
/// The longest list of files that is read, in bytes.
const MAX_LIST: u64 = 64 << 20;

/// The longest file that can be, in bytes: the lengths of all files of a list add up to a number.
const LARGEST: u64 = 1 << 40;

/// Why a request failed.
pub(super) enum RequestError {
    /// The network or the server failed; another attempt may succeed.
    Network(String),
    /// The request was refused, or the answer was; another attempt would fail too.
    Refused(Error),
}

pub(super) type RequestResult<T> = std::result::Result<T, RequestError>;

impl From<Error> for RequestError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// What the hub says about a file.
pub(super) struct RemoteFile {
    pub name: String,
    pub etag: String,
    pub size: u64,
}

/// A client for one repository.
pub(super) struct HubClient<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    server: ServerAddress,
    agent: Agent,
}

impl<'a> HubClient<'a> {
    pub fn new(hub: &'a Hub, id: &'a HubId) -> Result<Self> {
        let server = server_address(&hub.endpoint).ok_or_else(|| {
            Error::argument(
                "HF_ENDPOINT",
                "an address such as https://huggingface.co",
                &hub.endpoint,
            )
        })?;
        let agent = Agent::config_builder()
            .user_agent(concat!("diffuscope/", env!("CARGO_PKG_VERSION")))
            // Uncompressed, so that lengths and ranges are those of the file.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .build();
        Ok(Self { hub, id, server, agent: agent.into() })
    }

    /// The repository and its host, for a message to the user.
    pub fn source(&self) -> (&HubId, &str) {
        (self.id, &self.hub.endpoint)
    }

    /// An error about this repository.
    pub fn error(&self, message: impl ToString) -> Error {
        Error::hub(self.id, message)
    }

    /// The error to report when a request is not repeated.
    pub fn final_error(&self, error: RequestError) -> Error {
        match error {
            RequestError::Refused(error) => error,
            RequestError::Network(why) => {
                self.error(format!("{} cannot be reached: {why}", self.hub.endpoint))
            }
        }
    }

    /// The revision's commit and the names of its files.
    pub fn list_files(&self) -> RequestResult<(String, BTreeSet<String>)> {
        #[derive(Deserialize)]
        struct RevisionAnswer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (endpoint, repository) = (&self.hub.endpoint, self.id.repository());
        let revision = percent_encode(self.id.revision(), "");
        let url = format!("{endpoint}/api/models/{repository}/revision/{revision}");
        let mut response = self.send(&url, false, 0)?;
        match response.status().as_u16() {
            200 => {}
            429 | 500.. => return Err(RequestError::Network(self.explain(&response))),
            _ => return Err(self.error(self.explain(&response)).into()),
        }
        self.refuse_page("the list of files", &response)?;
        let text = response.body_mut().with_config().limit(MAX_LIST).read_to_vec();
        let text = text.map_err(|e| RequestError::Network(e.to_string()))?;
        let RevisionAnswer { sha, siblings } = serde_json::from_slice(&text)
            .map_err(|e| self.error(format!("{endpoint} does not answer as the hub does: {e}")))?;
        let names: BTreeSet<String> = siblings.into_iter().map(|file| file.rfilename).collect();
        if let Some(name) = names.iter().find(|name| !is_inside(name)) {
            let message = format!("the name of a file leads out of the repository: {name:?}");
            return Err(self.error(message).into());
        }
        if !is_file_name(&sha) {
            return Err(self.error(format!("{sha:?} is not a commit")).into());
        }
        Ok((sha, names))
    }

    /// A file's length and ETag.
    pub fn metadata(&self, commit: &str, name: &str) -> Result<RemoteFile> {
        let ask = |head: bool| {
            let sent = self.send(&self.file_url(commit, name), head, 0);
            sent.map_err(|error| self.final_error(error))
        };
        let mut response = ask(true)?;
        // A server behind a redirect may take GET alone: an address that is signed for one method, say.
        let may = matches!(response.status().as_u16(), 200..=399 | 403 | 405 | 501);
        if may && about(&response).is_none() {
            response = ask(false)?;
        }
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.error(format!("{name}: {}", self.explain(&response))));
        }
        self.refuse_page(name, &response)?;
        let about = about(&response);
        if let Some((_, size)) = about.as_ref().filter(|(_, size)| *size > LARGEST) {
            let message =
                format!("{name}: it cannot be {size} bytes long, as {} says", self.hub.endpoint);
            return Err(self.error(message));
        }
        match about {
            Some((etag, size)) => Ok(RemoteFile { name: name.to_owned(), etag, size }),
            None => {
                let endpoint = &self.hub.endpoint;
                let message = format!("{endpoint} does not say the length and the ETag of {name}");
                Err(self.error(message))
            }
        }
    }

    /// Refuses a web page where a file was asked for: a login, or the portal of a network.
    pub fn refuse_page(&self, what: &str, response: &Response<Body>) -> Result<()> {
        let kind = text_header(response, "content-type").unwrap_or_default().to_ascii_lowercase();
        let page = kind.starts_with("text/html") || kind.starts_with("application/xhtml");
        if page && response.status().is_success() { Err(self.page_error(what)) } else { Ok(()) }
    }

    /// The error about a web page that came in place of `what`.
    pub fn page_error(&self, what: &str) -> Error {
        let endpoint = &self.hub.endpoint;
        self.error(format!(
            "{what}: a web page came in its place, such as a login; check that {endpoint} (HF_ENDPOINT) is a hub, open \
             it in a browser, or set HF_TOKEN"
        ))
    }

    /// Asks for the content of a file, from byte `from` on.
    pub fn get(&self, commit: &str, name: &str, from: u64) -> RequestResult<Response<Body>> {
        self.send(&self.file_url(commit, name), false, from)
    }

    fn file_url(&self, commit: &str, name: &str) -> String {
        let (endpoint, repository) = (&self.hub.endpoint, self.id.repository());
        format!("{endpoint}/{repository}/resolve/{commit}/{}", percent_encode(name, "/"))
    }

    /// Sends a request and follows its redirects; with `head` as far as an answer that says length and ETag of the file.
    fn send(&self, url: &str, head: bool, from: u64) -> RequestResult<Response<Body>> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let here = server_address(&url);
            let mut request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            if let Some(token) = &self.hub.token
                && here.as_ref() == Some(&self.server)
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| RequestError::Network(e.to_string()))?;
            let location = response.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return Ok(response);
            };
            let next = location.to_str().ok().and_then(|location| absolute_url(&url, location));
            let there = next.as_deref().and_then(server_address);
            let (Some(next), Some(there), Some(here)) = (next, there, here) else {
                let message = format!("{url} redirects to {location:?}, which is not an address");
                return Err(self.error(message).into());
            };
            if head
                && text_header(&response, "x-linked-size").is_some()
                && about(&response).is_some()
            {
                return Ok(response);
            }
            if here.0 == "https" && there.0 != "https" {
                let message = format!("{url} redirects to {next}, which is not encrypted");
                return Err(self.error(message).into());
            }
            url = next;
        }
        Err(self.error(format!("more than {MAX_REDIRECTS} redirects, the last to {url}")).into())
    }

    /// What an answer that is not a success means, and what to do.
    pub fn explain(&self, response: &Response<Body>) -> String {
        let (endpoint, repository) = (&self.hub.endpoint, self.id.repository());
        let revision = self.id.revision();
        match (response.status().as_u16(), text_header(response, "x-error-code")) {
            (401 | 403, _) => {
                let token = match self.hub.token {
                    Some(_) => "the account of the token that was sent needs access there",
                    None => "then set HF_TOKEN to a token of your account",
                };
                format!(
                    "{endpoint} denies access: the repository is gated or private, or does not exist; \
                     accept its licence on {endpoint}/{repository}, {token}"
                )
            }
            (404, Some("RevisionNotFound")) => {
                format!("{endpoint} has no revision {revision} of {repository}")
            }
            (404, Some("EntryNotFound")) => {
                format!("{endpoint} has no such file in {repository}")
            }
            (404, _) => {
                format!("{endpoint} has no repository {repository} with a revision {revision}")
            }
            (429, _) => {
                format!("{endpoint} was asked too often; wait, or set HF_TOKEN")
            }
            (status, _) => {
                let why = text_header(response, "x-error-message");
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!("{endpoint} answers {status}{why}")
            }
        }
    }
}

/// The ETag and the length of the file that an answer is about, if it says both.
fn about(response: &Response<Body>) -> Option<(String, u64)> {
    let success = response.status().is_success();
    let etag = text_header(response, "x-linked-etag").or(text_header(response, "etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    // The length of a redirect is not that of the file.
    let length = text_header(response, "content-length").filter(|_| success);
    let size = text_header(response, "x-linked-size").or(length)?.parse().ok()?;
    let known = success || response.status().is_redirection();
    (known && is_file_name(&etag)).then_some((etag, size))
}

/// A header of an answer, if it is there and is text.
pub(super) fn text_header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Scheme, host and port.
type ServerAddress = (String, String, u16);

fn server_address(url: &str) -> Option<ServerAddress> {
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

/// The address that a redirect from `url` leads to.
fn absolute_url(url: &str, location: &str) -> Option<String> {
    let here: Uri = url.parse().ok()?;
    let (scheme, host) = (here.scheme_str()?, here.authority()?);
    match location {
        whole if whole.contains("://") && !whole.starts_with('/') => Some(whole.to_owned()),
        host if host.starts_with("//") => Some(format!("{scheme}:{host}")),
        path if path.starts_with('/') => Some(format!("{scheme}://{host}{path}")),
        _ => None,
    }
}

/// Escapes a name for use in an address; the characters in `plain` stay as they are.
fn percent_encode(name: &str, plain: &str) -> String {
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
