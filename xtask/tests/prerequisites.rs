//! A machine that lacks something: one clear sentence, a code that is not 0, nothing set up.

mod machine;

use machine::{COMPILER, DISK, Machine, RUSTC};
use std::process::Command;

const PYTHON: (&str, &str) = ("python3", "echo Python 3.12.1");

/// Runs `lab`, which must fail with one line that holds `words`.
#[track_caller]
fn fails_with(machine: &Machine, words: &[&str]) {
    let output = machine.task("lab").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    assert!(!machine.project().join(".lab/venv").exists());
}

#[test]
fn no_rust() {
    fails_with(&Machine::with(&[COMPILER, PYTHON, DISK]), &["rustc was not found", "rustup"]);
}

#[test]
fn an_old_rust() {
    let machine = Machine::with(&[("rustc", "echo rustc 1.75.0"), COMPILER, PYTHON, DISK]);
    fails_with(&machine, &["1.75.0 is too old", "rustup update"]);
}

#[test]
fn no_compiler() {
    fails_with(&Machine::with(&[RUSTC, PYTHON, DISK]), &["C++ compiler", "not found", "install"]);
}

#[test]
fn a_compiler_without_its_library() {
    let broken = ("c++", "test \"$1\" = --version && echo c++ 12 || exit 1");
    fails_with(&Machine::with(&[RUSTC, broken, PYTHON, DISK]), &["cannot compile", "install"]);
}

#[test]
fn no_python_and_an_old_one() {
    fails_with(&Machine::with(&[RUSTC, COMPILER, DISK]), &["python3 was not found", "3.11"]);
    let old = ("python3", "echo Python 3.8.10");
    fails_with(&Machine::with(&[RUSTC, COMPILER, old, DISK]), &["3.8.10 is too old", "3.11"]);
}

#[test]
fn a_python_without_venv() {
    let bare = ("python3", "test \"$1\" = --version && echo Python 3.12.1 || exit 1");
    fails_with(&Machine::with(&[RUSTC, COMPILER, bare, DISK]), &["no venv module", "python3-venv"]);
}

#[test]
fn a_full_disk() {
    let full = ("df", "echo head; echo /dev/sda 9 9 900000 99% /");
    fails_with(&Machine::with(&[RUSTC, COMPILER, PYTHON, full]), &["0.9 GB are free", "needed"]);
}

#[test]
fn the_doctor_names_all_that_is_wrong() {
    let output = Machine::with(&[RUSTC, DISK]).task("doctor").output().unwrap();
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
