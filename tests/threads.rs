//! Two programs at once share the cores: waiting threads soon sleep, unless a person has decided.
#![cfg(all(feature = "cli", target_os = "linux"))]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Whether the program's own environment ever held `variable`.
fn ever_had(variable: &str, environment: &[(&str, &str)]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_diffuscope"))
        .args(["generate", "a red apple", "--out", "out"])
        .current_dir(folder.path())
        .env_remove("GOMP_SPINCOUNT")
        .env_remove("OMP_WAIT_POLICY")
        .env("DIFFUSCOPE_DEVICE", "cpu")
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/environ", child.id());
    let mut found = false;
    while child.try_wait().unwrap().is_none() {
        let environment = fs::read(&path).unwrap_or_default();
        found |= environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    found
}

#[test]
fn waiting_threads_soon_sleep() {
    assert!(ever_had("GOMP_SPINCOUNT=2000", &[]));
}

#[test]
fn a_persons_choice_stays() {
    assert!(!ever_had("GOMP_SPINCOUNT=2000", &[("OMP_WAIT_POLICY", "passive")]));
    assert!(ever_had("GOMP_SPINCOUNT=500", &[("GOMP_SPINCOUNT", "500")]));
}
