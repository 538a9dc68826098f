//! The Rust kernel: installing evcxr_jupyter, our kernelspec, and what JupyterLab starts.
//!
//! evcxr builds a notebook's dependencies in a folder of its own, and two kernels must not share
//! one. Set-up builds the dependency once in `.lab/evcxr/warm`; a kernel takes the first slot
//! `.lab/evcxr/1`, `2`, ... that no other one holds, and fills a new slot from `warm`.
//!
//! Most of what a first cell costs is rust-analyzer reading the dependency's sources, which evcxr
//! needs for the types of variables. The kernel does that when it starts, while a person reads.

use crate::progress::Progress;
use crate::project::{Project, is_about_a_package, output, remove, write};
use crate::{Result, interrupts, prerequisites};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

pub const EVCXR: &str = "0.22.0";
/// What `.lab/evcxr/warm` was built from.
pub const WARM_ID: &str = "evcxr/warm.id";
/// Names a slot instead of taking a free one.
const SLOT: &str = "DIFFUSCOPE_KERNEL_SLOT";
/// evcxr's configuration, in `.lab`, with and without the library loaded at the start. The
/// person's own start-up code stays out.
const PRELOAD: &str = "evcxr/preload";
const NO_PRELOAD: &str = "evcxr/no-preload";
/// Names the project's lock file. evcxr first builds a crate without dependencies, and cargo empties
/// the lock file for it: only after that can the project's versions be put back. With them, nothing
/// is asked of the network.
const LOCK: &str = "DIFFUSCOPE_LOCK";
const PUT_LOCK: &str = "!cp \"$DIFFUSCOPE_LOCK\" \"$EVCXR_TMPDIR/Cargo.lock\"\n";
/// evcxr turns on a backtrace at every panic. This turns it off, and a cell can turn it on again.
const NO_BACKTRACE: &str = "unsafe { std::env::set_var(\"RUST_BACKTRACE\", \"0\") };\n";

/// evcxr learns of `?` by an error in the first cell that has one, and loses the figure that such a cell ends with: here it
/// has learned it before.
const QUESTION_MARK: &str = "Ok::<(), String>(())?;\n";
/// Cargo's settings for all kernels: a panic tells the line of its cell. evcxr asks for no such lines, and strips them. And
/// our own loops are compiled for speed, as in Cargo.toml.
const LINES_OF_CELLS: &str = "\
[profile.dev]
strip = \"none\"

[profile.dev.package.ctx]
debug = \"line-tables-only\"

[profile.dev.package.diffuscope-kernels]
opt-level = 3
debug-assertions = false
overflow-checks = false
";
/// The lines that go on with an error.
const CAUSES: [&str; 3] = ["", "Caused by:", "Stack backtrace:"];

pub fn pin() -> String {
    format!("evcxr_jupyter {EVCXR}")
}

/// The kernel's program, or a link to it.
pub fn program(project: &Project) -> PathBuf {
    project.lab("bin/evcxr_jupyter")
}

/// One of this version that the person has already installed.
fn installed() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let mut folders: Vec<PathBuf> = cargo.into_iter().map(|cargo| cargo.join("bin")).collect();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|bin| is_pinned_evcxr(bin)).map(|bin| bin.join("evcxr_jupyter"))
}

/// evcxr_jupyter does not tell its version; cargo's list beside the folder `bin` does.
fn is_pinned_evcxr(bin: &Path) -> bool {
    let list = bin.parent().map(|root| root.join(".crates.toml"));
    bin.join("evcxr_jupyter").exists()
        && list
            .and_then(|list| fs::read_to_string(list).ok())
            .is_some_and(|list| list.contains(&format!("\"evcxr_jupyter {EVCXR} ")))
}

pub fn install(project: &Project, progress: &mut Progress) -> Result {
    let program = program(project);
    if is_pinned_evcxr(&project.lab("bin")) {
        return Ok(());
    }
    remove(&program)?;
    if let Some(found) = installed() {
        progress.note(&format!("using {}", found.display()));
        return fs::create_dir_all(project.lab("bin"))
            .and_then(|()| std::os::unix::fs::symlink(&found, &program))
            .map_err(|error| format!("could not link {}: {error}", program.display()));
    }
    // Its own target folder, so that an interrupted build goes on where it was.
    let build = project.lab("build-kernel");
    let mut command = project.cargo();
    command.args(["install", "evcxr_jupyter", "--locked", "--version", &format!("={EVCXR}")]);
    command.arg("--root").arg(project.lab("")).env("CARGO_TARGET_DIR", &build);
    // Built in four fifths of the time; a cell waits for the compiler, not for the kernel.
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    progress.run(
        &mut command,
        "cargo could not install evcxr_jupyter (its message is above); check the network and run \
         this again",
    )?;
    remove(&build)
}

pub fn spec_pin(project: &Project) -> String {
    let exe = std::env::current_exe().and_then(fs::read).unwrap_or_default();
    format!("{} {:x}", project.root.display(), hash(&exe))
}

/// Writes the kernelspec into the virtual environment. It starts a copy of this program, which
/// stays when `target` is cleaned.
pub fn write_spec(project: &Project) -> Result {
    let program = project.lab("bin/xtask");
    let beside = project.lab("bin/xtask-new");
    std::env::current_exe()
        .and_then(|exe| {
            fs::create_dir_all(project.lab("bin"))?;
            fs::copy(exe, &beside)?;
            fs::rename(&beside, &program)
        })
        .map_err(|error| format!("could not write {}: {error}", program.display()))?;
    let spec = serde_json::json!({
        "display_name": "Rust (Diffuscope)",
        "language": "rust",
        "argv": [program, "kernel", project.root, "{connection_file}"],
        "env": {
            "LIBTORCH": project.libtorch(),
            // evcxr updates a kernelspec of its own when it finds one; here it finds none.
            "JUPYTER_PATH": project.lab("jupyter/data"),
        },
        "interrupt_mode": "signal",
    });
    let path = project.lab("venv/share/jupyter/kernels/diffuscope/kernel.json");
    write(&path, &format!("{spec:#}\n"))?;
    write(&project.lab("evcxr/.cargo/config.toml"), LINES_OF_CELLS)?;
    write(
        &project.lab(NO_PRELOAD).join("prelude.rs"),
        &format!("{PUT_LOCK}{NO_BACKTRACE}{QUESTION_MARK}"),
    )?;
    write(&project.lab(PRELOAD).join("prelude.rs"), &preload(&project.root))
}

/// What a kernel runs when it starts. The variable is moved away again; its type makes
/// rust-analyzer read tch, and its value loads libtorch. Its `?` stands for [`QUESTION_MARK`].
fn preload(root: &Path) -> String {
    // As evcxr writes the path of `:dep diffuscope = { path = ".." }`, which is then the same.
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let root = serde_json::Value::from(root.to_string_lossy());
    format!(
        "{PUT_LOCK}:dep diffuscope = {{ path = {root} }}\n\
         {NO_BACKTRACE}\
         let preloaded = diffuscope::tch::Tensor::from(0.0).f_neg()?;\n\
         drop(preloaded);\n"
    )
}

/// Changes with anything that the notebooks' dependency is built from.
pub fn warm_pin(project: &Project) -> String {
    let mut files = vec![project.root.join("Cargo.lock"), project.root.join("Cargo.toml")];
    files.push(project.root.join("build.rs"));
    list_files(&project.root.join("src"), &mut files);
    files.sort();
    let contents: Vec<Option<Vec<u8>>> = files.iter().map(|file| fs::read(file).ok()).collect();
    let rustc = output(Command::new("rustc").arg("--version"));
    format!("{:x} for {}", hash(&(contents, rustc)), project.root.display())
}

/// Builds the notebooks' dependency in a kernel, as a first cell would.
pub fn warm(project: &Project, pin: &str, progress: &mut Progress) -> Result {
    prerequisites::add_rust_sources(progress)?;
    let mut command = project.python_command();
    command.arg(project.root.join("xtask/python/notebooks.py")).arg("warm").arg(&project.root);
    // While it is rebuilt, nothing is built.
    remove(&project.lab(WARM_ID))?;
    progress.run(
        command.env(SLOT, "warm"),
        "the notebooks' dependency could not be built in the kernel (the reason is above)",
    )?;
    write(&project.lab(WARM_ID), pin)
}

/// Runs the kernel in a slot that no other kernel has, until it ends.
pub fn launch(project: &Project, connection_file: &Path) -> Result<ExitCode> {
    let (slot, _held) = match std::env::var_os(SLOT) {
        Some(name) => (project.lab("evcxr").join(name), None),
        None => take_slot(&project.lab("evcxr")).map(|(slot, lock)| (slot, Some(lock)))?,
    };
    let evcxr = program(project);
    fs::create_dir_all(&slot)
        .map_err(|error| format!("could not make {}: {error}", slot.display()))?;
    // A preload that does not compile would end the kernel before it can say why.
    let built = fs::read_to_string(project.lab(WARM_ID)).unwrap_or_default();
    let preload = if built == warm_pin(project) { PRELOAD } else { NO_PRELOAD };
    let process = interrupts::listen(slot.clone());
    let mut command = interrupts::apart(&evcxr);
    command
        .arg("--control_file")
        .arg(connection_file)
        .envs(project.libtorch_environment())
        .env("EVCXR_TMPDIR", &slot)
        .env("EVCXR_CONFIG_DIR", project.lab(preload))
        .env(LOCK, project.root.join("Cargo.lock"))
        // evcxr's own errors are told in a line.
        .env("RUST_BACKTRACE", "0")
        .env("RUST_LIB_BACKTRACE", "0")
        // Only evcxr's own start-up lines: what cells print goes to Jupyter another way.
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // A build script may look at what cargo tells of the crate that it runs, which is this program or none.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_a_package) {
            command.env_remove(name);
        }
    }
    let status = command
        .spawn()
        .and_then(|mut child| {
            if let Ok(mut process) = process.lock() {
                *process = Some(child.id());
            }
            if let Some(errors) = child.stderr.take() {
                pass_on(BufReader::new(errors), std::io::stderr());
            }
            child.wait()
        })
        .map_err(|error| format!("{}: {error}; run `cargo xtask lab`", evcxr.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Passes the kernel's errors on, but for the one that it prints whenever it is shut down.
fn pass_on(errors: impl BufRead, mut to: impl Write) {
    let mut of_shutdown = false;
    for line in errors.split(b'\n').map_while(std::result::Result::ok) {
        let text = String::from_utf8_lossy(&line);
        of_shutdown = text.starts_with("hb error")
            || (of_shutdown && (text.starts_with([' ', '\t']) || CAUSES.contains(&&*text)));
        if !of_shutdown {
            // Who started the kernel may have gone; the kernel goes on.
            let _ = writeln!(to, "{text}");
        }
    }
}

/// The first free slot, filled from `warm` if it is new or older than `warm`. It is free again
/// when the returned file is closed, whatever ends the process.
fn take_slot(folder: &Path) -> Result<(PathBuf, File)> {
    let problem =
        |error| format!("could not prepare a kernel's folder in {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(problem)?;
    for n in 1.. {
        let lock = File::create(folder.join(format!("{n}.lock"))).map_err(problem)?;
        if lock.try_lock().is_err() {
            continue;
        }
        let slot = folder.join(n.to_string());
        let warm_id = fs::read_to_string(folder.join("warm.id")).unwrap_or_default();
        let id = folder.join(format!("{n}.id"));
        if fs::read_to_string(&id).unwrap_or_default() != warm_id {
            remove(&slot)?;
            copy_folder(&folder.join("warm"), &slot).map_err(problem)?;
            fs::write(&id, &warm_id).map_err(problem)?;
        }
        return Ok((slot, lock));
    }
    Err("no slot is free".into())
}

/// Copies a folder with the files' times: cargo decides by them what is fresh.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            let modified = entry.metadata()?.modified()?;
            File::options().write(true).open(&target)?.set_modified(modified)?;
        }
    }
    Ok(())
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { list_files(&path, files) } else { files.push(path) }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_kernels_never_share_a_slot() {
        let folder = tempfile::tempdir().unwrap();
        let warm = folder.path().join("warm/target");
        fs::create_dir_all(&warm).unwrap();
        fs::write(warm.join("a.rlib"), "built").unwrap();
        fs::write(folder.path().join("warm.id"), "1").unwrap();
        let (one, lock) = take_slot(folder.path()).unwrap();
        let (two, _lock) = take_slot(folder.path()).unwrap();
        assert_eq!(
            (one.file_name().unwrap(), two.file_name().unwrap()),
            ("1".as_ref(), "2".as_ref())
        );
        for slot in [&one, &two] {
            let copy = slot.join("target/a.rlib");
            assert_eq!(fs::read_to_string(&copy).unwrap(), "built");
            let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
            assert_eq!(time(&copy), time(&warm.join("a.rlib")));
        }
        drop(lock);
        assert_eq!(take_slot(folder.path()).unwrap().0, one);
        // A slot that is older than what set-up built is filled anew.
        fs::write(one.join("target/a.rlib"), "own").unwrap();
        take_slot(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(one.join("target/a.rlib")).unwrap(), "own");
        fs::write(folder.path().join("warm.id"), "2").unwrap();
        take_slot(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(one.join("target/a.rlib")).unwrap(), "built");
    }

    #[test]
    fn a_panic_in_a_cell_has_no_backtrace() {
        let preload = preload(Path::new("/p"));
        assert!(
            preload.contains("\nunsafe { std::env::set_var(\"RUST_BACKTRACE\", \"0\") };\nlet")
        );
    }

    #[test]
    fn a_shutdown_is_no_error() {
        let shutdown = "hb error: Socket closed\n\nCaused by:\n    0: gone\n\nStack backtrace:\n   \
                        0: anyhow::error\n             at /core.rs:1\n";
        let pass = |text: &str| {
            let mut passed = Vec::new();
            pass_on(text.as_bytes(), &mut passed);
            String::from_utf8(passed).unwrap()
        };
        assert_eq!(pass(shutdown), "");
        let other = "shell error: broken\n\nCaused by:\n    0: gone\n";
        assert_eq!(pass(&format!("{other}{shutdown}end\n")), format!("{other}end\n"));
    }

    #[test]
    fn only_the_pinned_kernel_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        assert!(!is_pinned_evcxr(&bin));
        fs::write(bin.join("evcxr_jupyter"), "").unwrap();
        let list = |v| format!("[v1]\n\"evcxr_jupyter {v} (registry+x)\" = [\"evcxr_jupyter\"]\n");
        fs::write(root.path().join(".crates.toml"), list("0.21.1")).unwrap();
        assert!(!is_pinned_evcxr(&bin));
        fs::write(root.path().join(".crates.toml"), list(EVCXR)).unwrap();
        assert!(is_pinned_evcxr(&bin));
    }
}
