//! Where everything lies, and the environment that child processes get.

use crate::Result;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's folder. All that set-up makes lies in its `.lab`.
pub struct Project {
    pub root: PathBuf,
}

impl Project {
    /// Finds the project: cargo says where `xtask` lies.
    pub fn find() -> Result<Self> {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = xtask.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        root.map(|root| Self { root }).ok_or_else(|| {
            "the project's folder is not known; run this as `cargo xtask` inside it".into()
        })
    }

    pub fn lab(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(".lab").join(path)
    }

    pub fn python(&self) -> PathBuf {
        self.lab("venv/bin/python")
    }

    pub fn libtorch(&self) -> PathBuf {
        self.lab("libtorch")
    }

    pub fn notebooks(&self) -> PathBuf {
        self.root.join("notebooks")
    }

    /// A command of the project's Python; it sees nothing of the person's own Python set-up, and
    /// Jupyter keeps its files in `.lab`.
    pub fn python_command(&self) -> Command {
        let mut command = Command::new(self.python());
        command.current_dir(&self.root).env("PYTHONNOUSERSITE", "1");
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        command.envs(self.jupyter_environment());
        command
    }

    /// A cargo command whose programs find libtorch whatever the person's own library path is.
    pub fn cargo(&self) -> Command {
        let mut command = self.plain_cargo();
        command.envs(self.libtorch_environment());
        command
    }

    /// A cargo command with the person's own environment.
    pub fn plain_cargo(&self) -> Command {
        let mut command =
            Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.current_dir(&self.root);
        // With what cargo says of this program, packages that ask for it would be built again, and all above them.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_about_a_package) {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn libtorch_environment(&self) -> Vec<(&'static str, OsString)> {
        let name = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
        let folder = self.libtorch().join("lib");
        vec![
            ("LIBTORCH", self.libtorch().into()),
            (name, prepend(&folder, std::env::var_os(name).as_deref())),
        ]
    }

    fn jupyter_environment(&self) -> Vec<(&'static str, OsString)> {
        let folder = |name: &str| self.lab("jupyter").join(name).into_os_string();
        vec![
            ("JUPYTER_CONFIG_DIR", folder("config")),
            ("JUPYTER_DATA_DIR", folder("data")),
            ("JUPYTER_RUNTIME_DIR", folder("runtime")),
            ("JUPYTER_PATH", folder("data")),
            ("JUPYTER_PREFER_ENV_PATH", "1".into()),
            ("JUPYTERLAB_SETTINGS_DIR", folder("settings")),
            ("JUPYTERLAB_WORKSPACES_DIR", folder("workspaces")),
            ("IPYTHONDIR", folder("ipython")),
            ("LIBTORCH", self.libtorch().into()),
        ]
    }
}

/// Whether it is a variable in which cargo tells a program about its own package.
pub fn is_about_a_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

fn prepend(folder: &Path, list: Option<&OsStr>) -> OsString {
    let mut joined = folder.as_os_str().to_owned();
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        if std::env::split_paths(list).any(|entry| entry == folder) {
            return list.to_owned();
        }
        joined.push(":");
        joined.push(list);
    }
    joined
}

/// Writes a file beside its place, then renames it: it is never seen half-written.
pub fn write(path: &Path, text: &str) -> Result {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A temporary file is private; this one becomes a file like any other.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut write = || {
        fs::create_dir_all(folder)?;
        let mut file = builder.prefix(".").suffix(".part").tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)
    };
    write().map(|_| ()).map_err(|error| format!("could not write {}: {error}", path.display()))
}

/// Removes a file, link or folder, whether it is there or not.
pub fn remove(path: &Path) -> Result {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
    .map_err(|error| format!("could not remove {}: {error}", path.display()))
}

/// Runs a command with its output shown; `problem` is the sentence for a failure.
pub fn run(command: &mut Command, problem: &str) -> Result {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if status.code().is_none() => {
            Err(format!("{problem}: it was stopped ({status})"))
        }
        Ok(_) => Err(problem.to_owned()),
        Err(error) => {
            Err(format!("{problem} (`{}`: {error})", command.get_program().to_string_lossy()))
        }
    }
}

/// What a command prints, if it runs and succeeds.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_path_keeps_what_was_in_it() {
        let folder = Path::new("/p/.lab/libtorch/lib");
        assert_eq!(prepend(folder, None), "/p/.lab/libtorch/lib");
        assert_eq!(prepend(folder, Some(OsStr::new("/a:/b"))), "/p/.lab/libtorch/lib:/a:/b");
        let already = OsStr::new("/a:/p/.lab/libtorch/lib");
        assert_eq!(prepend(folder, Some(already)), already);
    }

    #[test]
    fn a_file_is_written_whole_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/kernel.json");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        remove(path.parent().unwrap()).unwrap();
        remove(&path).unwrap();
    }

    /// What was synced: its content, and whether the file in whose place it goes had that content already.
    #[cfg(target_os = "linux")]
    static SYNCED: std::sync::Mutex<Vec<(String, bool)>> = std::sync::Mutex::new(Vec::new());

    // SAFETY: it does what libc's function of this name does.
    #[cfg(target_os = "linux")]
    #[unsafe(no_mangle)]
    extern "C" fn fsync(file: std::ffi::c_int) -> std::ffi::c_int {
        if let Ok(path) = fs::read_link(format!("/proc/self/fd/{file}")) {
            let content = fs::read_to_string(&path).unwrap_or_default();
            let named = fs::read_to_string(path.with_file_name("synced.json"));
            SYNCED
                .lock()
                .unwrap()
                .push((content.clone(), named.is_ok_and(|named| named == content)));
        }
        unsafe { libc::syscall(libc::SYS_fsync, file) as std::ffi::c_int }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_is_on_the_disk_before_it_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["first of these", "second of these"] {
            write(&folder.path().join("synced.json"), text).unwrap();
            let synced = std::mem::take(&mut *SYNCED.lock().unwrap());
            assert!(synced.contains(&(text.to_owned(), false)), "{synced:?}");
        }
    }
}
