//! JupyterLab on the first chapter.

use crate::Result;
use crate::project::{Project, write};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, parent_id};
use std::time::{Duration, Instant};

const FIRST_CHAPTER: &str = "notebooks/00_start_here.ipynb";
/// A notebook of one's own, which git ignores.
pub const SCRATCH: &str = "scratch.ipynb";

pub struct Options {
    pub browser: bool,
    pub port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { browser: true, port: None }
    }
}

/// The variable by which Jupyter takes its token; on a command line others could read it.
const TOKEN: &str = "JUPYTER_TOKEN";

/// Where the server answers.
struct Address {
    port: u16,
    token: String,
}

impl Address {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/lab/tree/{FIRST_CHAPTER}?token={}", self.port, self.token)
    }
}

/// Writes the notebook that a person starts their own from, unless there is one.
fn offer_scratch(project: &Project) -> Result {
    let path = project.notebooks().join(SCRATCH);
    if path.exists() { Ok(()) } else { write(&path, include_str!("../notebooks/scratch.ipynb")) }
}

/// Becomes the server, so that Ctrl-C and signals reach it alone.
pub fn open(project: &Project, options: &Options) -> Result {
    let address = Address { port: free_port(options.port)?, token: token()? };
    offer_scratch(project)?;
    trust_notebooks(project);
    let announcer =
        std::env::current_exe().map_err(|error| format!("this program was not found: {error}"))?;
    // It is a child of the server that this process becomes, and ends before it.
    std::process::Command::new(announcer)
        .args(["announce", &address.port.to_string(), &std::process::id().to_string()])
        .env(TOKEN, &address.token)
        .spawn()
        .map_err(|error| format!("could not start a process: {error}"))?;
    println!("Starting JupyterLab ...");
    let mut server = project.python_command();
    server
        .args(["-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"])
        .args(["--ServerApp.answer_yes=True", "--ServerApp.allow_root=True"])
        .args(["--log-level=WARN", "--LabApp.log_level=WARN"])
        .args(["--KernelSpecManager.allowed_kernelspecs=diffuscope"])
        .arg("--MappingKernelManager.default_kernel_name=diffuscope")
        // The kernel answers when it has loaded the library.
        .arg("--MappingKernelManager.kernel_info_timeout=300")
        .arg(format!("--ServerApp.port={}", address.port))
        .arg(format!("--ServerApp.root_dir={}", project.root.display()))
        .arg(format!("--ServerApp.open_browser={}", if options.browser { "True" } else { "False" }))
        .arg(format!("--LabApp.default_url=/lab/tree/{FIRST_CHAPTER}"))
        .env(TOKEN, &address.token);
    Err(format!("JupyterLab does not start: {}", server.exec()))
}

/// Prints the address as soon as the server answers, or leaves when the server has ended.
pub fn announce(port: u16, server: u32) -> Result {
    let token = std::env::var(TOKEN).map_err(|_| format!("{TOKEN} is not set"))?;
    let address = Address { port, token };
    let started = Instant::now();
    while parent_id() == server && started.elapsed() < Duration::from_secs(120) {
        if answers(&address) {
            println!(
                "JupyterLab is running; Ctrl-C stops it. Open\n    {}\nA notebook of your own: notebooks/{SCRATCH}",
                address.url()
            );
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Whether the page of the first chapter is served.
fn answers(address: &Address) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let request = format!(
        "GET /api/status?token={} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n",
        address.token, address.port
    );
    let mut start = [0; 15];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut start).is_ok()
        && start.ends_with(b" 200 OK")
}

fn free_port(asked: Option<u16>) -> Result<u16> {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    match asked {
        Some(port) if free(port) => Ok(port),
        Some(port) => Err(format!("port {port} is in use; choose another one with --port")),
        None => (8888..8988)
            .find(|&port| free(port))
            .ok_or_else(|| "ports 8888 to 8987 are all in use; choose one with --port".into()),
    }
}

fn token() -> Result<String> {
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| format!("could not make a token: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Signs the project's own notebooks, so that JupyterLab shows their saved figures.
fn trust_notebooks(project: &Project) {
    let Ok(entries) = std::fs::read_dir(project.notebooks()) else { return };
    let paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "ipynb"))
        .collect();
    // Unsigned notebooks still open: a failure here is no reason to stop.
    let _ = project.python_command().args(["-m", "nbformat.sign"]).args(paths).output();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused_or_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(free_port(Some(port)).unwrap_err().contains("--port"));
        assert_ne!(free_port(None).unwrap(), port);
    }

    #[test]
    fn a_notebook_of_ones_own_is_offered_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        std::fs::create_dir(project.notebooks()).unwrap();
        let path = project.notebooks().join(SCRATCH);
        offer_scratch(&project).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let notebook: serde_json::Value = serde_json::from_str(&text).unwrap();
        let first = &notebook["cells"][1]["source"];
        assert!(first.to_string().contains(":dep diffuscope = { path = "), "{first}");
        std::fs::write(&path, "mine").unwrap();
        offer_scratch(&project).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn tokens_differ() {
        assert_eq!(token().unwrap().len(), 48);
        assert_ne!(token().unwrap(), token().unwrap());
    }

    #[test]
    fn only_a_200_is_an_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address { port: listener.local_addr().unwrap().port(), token: "t".into() };
        let server = std::thread::spawn(move || {
            for status in ["403 Forbidden", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).unwrap();
                // In one piece: who has read enough of it closes.
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).unwrap();
            }
        });
        assert!(!answers(&address));
        assert!(answers(&address));
        server.join().unwrap();
    }
}
