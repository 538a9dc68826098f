//! What a person reads of a set-up: on a machine whose programs only pretend to install.

mod machine;

use machine::{COMPILER, DISK, Machine, RUSTC};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Its environment's Python prints 100 lines at each call, and runs `on_pip` when pip is called.
fn python(on_pip: &str) -> String {
    format!(
        r#"
case "$*" in
  --version) echo Python 3.12.1 ;;
  "-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    touch "$3/bin/jupyter-lab" ;;
  *sysconfig*)
    mkdir -p "${{0%/bin/python}}/torch/lib"; echo "${{0%/bin/python}}" ;;
  *"-m pip"*)
    seq 100; {on_pip} ;;
esac"#
    )
}

const CARGO: (&str, &str) = (
    "cargo",
    r#"seq 300; while test "$1" != --root; do shift; done; mkdir -p "$2/bin"; touch "$2/bin/evcxr_jupyter""#,
);

fn machine(on_pip: &str) -> Machine {
    let python = python(on_pip);
    let machine = Machine::with(&[RUSTC, COMPILER, DISK, CARGO, ("python3", &python)]);
    let sources = machine.project().join("sources");
    fs::create_dir_all(sources.join("core")).unwrap();
    machine
}

fn lab(machine: &Machine) -> Command {
    let mut command = machine.task("lab");
    command.arg("--cpu").env("RUST_SRC_PATH", machine.project().join("sources"));
    command
}

#[test]
fn a_whole_set_up_is_at_most_15_lines() {
    let machine = machine("");
    let output = lab(&machine).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The address takes three more.
    assert_eq!(text.lines().count(), 7, "{text}");
    assert_eq!(text.matches("done in").count(), 6, "{text}");
    assert!(
        text.starts_with("[1/6] Python environment in .lab/venv, about 5 s ... done in "),
        "{text}"
    );
    let log = |name| fs::read_to_string(machine.project().join(".lab/logs").join(name)).unwrap();
    assert_eq!(log("libtorch.log").lines().count(), 100);
    assert_eq!(log("kernel.log").lines().count(), 300);
    let again = lab(&machine).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&again.stdout), "Starting JupyterLab ...\n");
}

#[test]
fn a_failed_step_shows_the_end_of_its_log() {
    let machine = machine("exit 1");
    let output = lab(&machine).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("      81\n") && error.contains("      100\nerror: pip could not"));
    assert!(error.trim_end().ends_with(".lab/logs/jupyter.log"), "{error}");
    assert_eq!(error.lines().count(), 21, "{error}");
}

#[test]
fn an_interrupted_step_says_how_to_go_on() {
    let machine = machine("exec sleep 60");
    // A terminal's Ctrl-C goes to a group of processes.
    let mut child = lab(&machine)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut start = Vec::new();
    // The step's line has no end yet.
    while !start.ends_with(b"[2/6] JupyterLab, about 30 s ...") {
        assert!(said.read_until(b'.', &mut start).unwrap() > 0);
    }
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let rest: Vec<String> = said.lines().map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(rest[0].contains("interrupted after"), "{rest:?}");
    assert!(error.starts_with("error: interrupted; run this again"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let stamp = machine.project().join(".lab/stamps/jupyter");
    assert_eq!(fs::read_to_string(stamp).unwrap(), "unfinished");
}

#[test]
fn a_kernel_has_no_backtraces_and_says_nothing_when_it_ends() {
    let evcxr = r#"env; echo "hb error: closed" >&2; echo "   0: anyhow" >&2; echo other >&2"#;
    let machine = Machine::with(&[RUSTC, ("evcxr_jupyter", &format!("({evcxr}) > \"$2\""))]);
    let bin = machine.project().join(".lab/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(machine.project().join("../bin/evcxr_jupyter"), bin.join("evcxr_jupyter")).unwrap();
    let seen = machine.project().join("seen");
    let mut command = machine.task("kernel");
    command
        .args([&machine.project(), &seen])
        .env("RUST_BACKTRACE", "1")
        .env("CARGO_PKG_NAME", "xtask");
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "other\n");
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("RUST_BACKTRACE=0") && !seen.contains("CARGO_PKG_"), "{seen}");
}
