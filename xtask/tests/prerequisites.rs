//! A machine that lacks something: one clear sentence, a code that is not 0, nothing set up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A machine whose programs are these shell scripts, by name.
struct Machine(tempfile::TempDir);

const RUSTC: (&str, &str) = ("rustc", "echo rustc 1.95.0");
const COMPILER: (&str, &str) = ("c++", "cat > /dev/null; echo c++ 12");
const PYTHON: (&str, &str) = ("python3", "echo Python 3.12.1");
const DISK: (&str, &str) = ("df", "echo head; echo /dev/sda 9 9 900000000 1% /");

impl Machine {
    fn with(programs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("bin")).unwrap();
        fs::create_dir_all(folder.path().join("project/xtask")).unwrap();
        let machine = Self(folder);
        for (name, script) in programs {
            machine.write(name, script);
        }
        machine
    }

    fn write(&self, name: &str, script: &str) {
        let path = self.path().join("bin").join(name);
        // The scripts' own `cat` and `sleep` come from the real machine.
        fs::write(&path, format!("#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, task: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg(task)
            .env("PATH", self.path().join("bin"))
            .env("CARGO_MANIFEST_DIR", self.path().join("project/xtask"))
            .env_remove("CXX")
            .env_remove("RUSTC")
            .output()
            .unwrap()
    }

    /// Runs `lab`, which must fail with one line that holds `words`.
    #[track_caller]
    fn fails_with(&self, words: &[&str]) {
        let output = self.run("lab");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!self.path().join("project/.lab/venv").exists());
    }
}

#[test]
fn no_rust() {
    Machine::with(&[COMPILER, PYTHON, DISK]).fails_with(&["rustc was not found", "rustup"]);
}

#[test]
fn an_old_rust() {
    let machine = Machine::with(&[("rustc", "echo rustc 1.75.0"), COMPILER, PYTHON, DISK]);
    machine.fails_with(&["1.75.0 is too old", "rustup update"]);
}

#[test]
fn no_compiler() {
    Machine::with(&[RUSTC, PYTHON, DISK]).fails_with(&["C++ compiler", "not found", "install"]);
}

#[test]
fn a_compiler_without_its_library() {
    let broken = ("c++", "test \"$1\" = --version && echo c++ 12 || exit 1");
    Machine::with(&[RUSTC, broken, PYTHON, DISK]).fails_with(&["cannot compile", "install"]);
}

#[test]
fn no_python_and_an_old_one() {
    Machine::with(&[RUSTC, COMPILER, DISK]).fails_with(&["python3 was not found", "3.11"]);
    let old = ("python3", "echo Python 3.8.10");
    Machine::with(&[RUSTC, COMPILER, old, DISK]).fails_with(&["3.8.10 is too old", "3.11"]);
}

#[test]
fn a_python_without_venv() {
    let bare = ("python3", "test \"$1\" = --version && echo Python 3.12.1 || exit 1");
    Machine::with(&[RUSTC, COMPILER, bare, DISK]).fails_with(&["no venv module", "python3-venv"]);
}

#[test]
fn a_full_disk() {
    let full = ("df", "echo head; echo /dev/sda 9 9 900000 99% /");
    Machine::with(&[RUSTC, COMPILER, PYTHON, full]).fails_with(&["0.9 GB are free", "needed"]);
}

#[test]
fn the_doctor_names_all_that_is_wrong() {
    let output = Machine::with(&[RUSTC, DISK]).run("doctor");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for name in [
        "Rust's sources",
        "C++ compiler",
        "Python",
        "set-up",
        "libtorch",
        "kernel",
        "embedded model",
    ] {
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.starts_with("WRONG"), "{line}");
    }
    assert!(text.contains("ok     Rust"), "{text}");
}

#[test]
fn arguments_that_do_not_exist() {
    for arguments in [&["bogus"][..], &["lab", "--cpu", "--cuda"], &["notebooks", "--chek"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cargo xtask help"));
    }
}
