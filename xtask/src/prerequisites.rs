//! What a machine must bring: Rust, a C++ compiler, Python with venv, and disk. Each check ends
//! in what was found or in one sentence that says what to do.

use crate::Result;
use crate::progress::Progress;
use crate::project::output;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// As in the workspace's `rust-version`.
pub const RUST: (u32, u32) = (1, 89);
const PYTHON: (u32, u32) = (3, 11);

/// The installed rustc, if it is new enough.
pub fn rust() -> Result<String> {
    let (major, minor) = RUST;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = output(Command::new(rustc).arg("--version"))
        .ok_or("rustc was not found; install Rust from https://rustup.rs")?;
    match first_version(&version) {
        Some(found) if found >= RUST => Ok(version),
        _ => Err(format!(
            "{version} is too old; {major}.{minor} or newer is needed: run `rustup update stable`"
        )),
    }
}

/// The sources of Rust's standard library: without them the kernel does not know the types of
/// most variables, and refuses them.
pub fn rust_sources() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    let own = std::env::var_os("RUST_SRC_PATH").map(PathBuf::from);
    let installed = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
    own.into_iter()
        .chain([installed])
        .find(|folder| folder.join("core").exists())
        .map(|folder| folder.display().to_string())
        .ok_or_else(|| {
            "the sources of Rust's standard library are missing, which the kernel needs for the \
             types of variables; run `rustup component add rust-src`"
                .into()
        })
}

/// Adds them where rustup is, or says what to do.
pub fn add_rust_sources(progress: &mut Progress) -> Result {
    let Err(missing) = rust_sources() else { return Ok(()) };
    progress.note("rustup component add rust-src");
    // Whether that worked is asked below.
    let _ = progress.run(Command::new("rustup").args(["component", "add", "rust-src"]), "");
    rust_sources().map(drop).map_err(|_| missing)
}

/// The C++ compiler, tried on a program that needs the standard library.
pub fn compiler() -> Result<String> {
    let how = if cfg!(target_os = "macos") {
        "run `xcode-select --install`"
    } else {
        "install g++ (`sudo apt install g++`, `sudo dnf install gcc-c++`) or set CXX"
    };
    let name = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version = output(Command::new(&name).arg("--version"))
        .ok_or_else(|| format!("the C++ compiler `{name}` was not found; {how}"))?;
    let mut child = Command::new(&name)
        .args(["-std=c++17", "-x", "c++", "-fsyntax-only", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("`{name}` does not start: {error}; {how}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that stops early closes its input; its exit status says so below.
        let _ = stdin
            .write_all(b"#include <memory>\nint main() { return !std::make_unique<int>(); }\n");
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(version.lines().next().unwrap_or(&name).to_owned()),
        _ => Err(format!("`{name}` cannot compile a C++17 program; {how}")),
    }
}

/// The Python that makes the virtual environment: its name and version.
pub fn python() -> Result<(&'static str, String)> {
    let (major, minor) = PYTHON;
    let mut found = None;
    for name in ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"] {
        let Some(version) = output(Command::new(name).arg("--version")) else { continue };
        if first_version(&version) < Some(PYTHON) {
            found.get_or_insert(version);
            continue;
        }
        if output(Command::new(name).args(["-c", "import venv, ensurepip"])).is_none() {
            return Err(format!(
                "{version} has no venv module; install it (`sudo apt install python3-venv`)"
            ));
        }
        return Ok((name, version));
    }
    Err(match found {
        Some(old) => format!("{old} is too old; install Python {major}.{minor} or newer"),
        None => format!("python3 was not found; install Python {major}.{minor} or newer"),
    })
}

/// Fails if the disk that holds `folder` has less than `needed` GB free.
pub fn disk(folder: &Path, needed: f64) -> Result<String> {
    // An unknown size must not stop anyone.
    let Some(free) = free_disk(folder) else { return Ok("unknown".into()) };
    if free < needed {
        return Err(format!(
            "{free:.1} GB are free in {}, and {needed:.0} GB are needed; free some",
            folder.display()
        ));
    }
    Ok(format!("{free:.1} GB free"))
}

fn free_disk(folder: &Path) -> Option<f64> {
    let table = output(Command::new("df").arg("-Pk").arg(folder))?;
    let kib: f64 = table.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib * 1024.0 / 1e9)
}

/// Whether this machine has an NVIDIA driver.
pub fn nvidia_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
        || Path::new("/dev/nvidiactl").exists()
        || output(Command::new("nvidia-smi").arg("-L")).is_some_and(|list| list.contains("GPU"))
}

fn first_version(text: &str) -> Option<(u32, u32)> {
    let number =
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find(|n| n.contains('.'))?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_print() {
        assert_eq!(first_version("rustc 1.95.0 (59807616e 2026-04-14)"), Some((1, 95)));
        assert_eq!(first_version("Python 3.11.7"), Some((3, 11)));
        assert_eq!(first_version("Python 3.14.0rc1"), Some((3, 14)));
        assert_eq!(first_version("no number"), None);
    }

    #[test]
    fn the_pinned_rust_is_the_workspaces() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("rust-version = \"{}.{}\"", RUST.0, RUST.1)));
    }

    #[test]
    fn too_little_disk_is_one_sentence() {
        let error = disk(Path::new("."), 1e9).unwrap_err();
        assert!(error.contains("are needed"), "{error}");
    }
}
