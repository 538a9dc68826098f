//! A machine whose programs are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

pub const RUSTC: (&str, &str) = ("rustc", "echo rustc 1.95.0");
pub const COMPILER: (&str, &str) = ("c++", "cat > /dev/null; echo c++ 12");
pub const DISK: (&str, &str) = ("df", "echo head; echo /dev/sda 9 9 900000000 1% /");

pub struct Machine(tempfile::TempDir);

impl Machine {
    /// Its programs are these shell scripts, by name.
    pub fn with(programs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("bin")).unwrap();
        fs::create_dir_all(folder.path().join("project/xtask")).unwrap();
        for (name, script) in programs {
            let path = folder.path().join("bin").join(name);
            // The scripts' own `cat` and `sleep` come from the real machine.
            fs::write(&path, format!("#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }

    pub fn project(&self) -> std::path::PathBuf {
        self.0.path().join("project")
    }

    /// `cargo xtask TASK` on this machine.
    pub fn task(&self, task: &str) -> Command {
        let bin: &Path = &self.0.path().join("bin");
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg(task).env("PATH", bin).env("CARGO", bin.join("cargo"));
        command.env("CARGO_MANIFEST_DIR", self.project().join("xtask"));
        for variable in ["CXX", "RUSTC", "HOME", "CARGO_HOME"] {
            command.env_remove(variable);
        }
        command
    }
}
