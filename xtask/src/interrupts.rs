//! What a notebook's interrupt does: the first one asks the cell's loops to end, the second one ends the kernel's process.
//!
//! Jupyter signals the group of processes that it has started. evcxr itself would end the process at once, with all the
//! variables in it, so only this program listens.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What the library looks for in the kernel's folder: newer than the code of the cell, it asks for an end.
const INTERRUPT: &str = "interrupt";
/// The code of the cell, there too.
const CODE: &str = "src/lib.rs";

const FIRST: &str = "interrupted: a run ends after this step, with what it has; a second interrupt ends the kernel's \
                     process and its variables";
const SECOND: &str = "interrupted twice: the kernel's process has ended, and all variables with it";

/// The program in a group of its own, which Jupyter does not signal: a compiler would end at an interrupt, and so would
/// the kernel. It ends with this program, however that ends.
pub fn apart(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: it only asks the system for a signal.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

/// Listens for the kernel with this folder, from the moment that it is started: its number comes later.
pub fn listen(folder: PathBuf) -> &'static Mutex<Option<u32>> {
    let kernel: &'static Mutex<Option<u32>> = Box::leak(Box::new(Mutex::new(None)));
    let answer = move || {
        let kernel = kernel.lock().ok().and_then(|kernel| *kernel);
        let cells = kernel.and_then(process_of_cells);
        interrupt(&folder, cells);
    };
    // Without it an interrupt ends this program and the kernel's, as before.
    let _ = ctrlc::set_handler(answer);
    kernel
}

fn interrupt(folder: &Path, cells: Option<u32>) {
    let running = cells.filter(|&process| runs_a_cell(process));
    match running {
        Some(process) if is_interrupted(folder) => {
            tell(process, SECOND);
            let _ = Command::new("sh")
                .args(["-c", "kill -KILL \"$0\""])
                .arg(process.to_string())
                .status();
        }
        // While a cell is compiled, too: it is meant for that one.
        _ => {
            let _ = fs::write(folder.join(INTERRUPT), "");
            if let Some(process) = running {
                tell(process, FIRST);
            }
        }
    }
}

fn is_interrupted(folder: &Path) -> bool {
    let written = |name: &str| fs::metadata(folder.join(name)).and_then(|file| file.modified());
    matches!((written(INTERRUPT), written(CODE)), (Ok(interrupt), Ok(code)) if interrupt > code)
}

/// Prints a line as if the cell had done so, where that is possible.
fn tell(process: u32, line: &str) {
    let errors = OpenOptions::new().write(true).open(format!("/proc/{process}/fd/2"));
    let _ = errors.and_then(|mut errors| writeln!(errors, "{line}"));
}

/// The kernel starts a process of its own for the cells.
#[cfg(target_os = "linux")]
fn process_of_cells(kernel: u32) -> Option<u32> {
    let mut processes = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.find(|process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parent == Some(&kernel.to_string())
            && fs::read(format!("/proc/{process}/environ")).is_ok_and(|all| {
                all.split(|&byte| byte == 0)
                    .any(|variable| variable.starts_with(b"EVCXR_IS_RUNTIME="))
            })
    })
}

#[cfg(not(target_os = "linux"))]
fn process_of_cells(kernel: u32) -> Option<u32> {
    let found =
        Command::new("pgrep").args(["-P", &kernel.to_string(), "evcxr_jupyter"]).output().ok()?;
    String::from_utf8_lossy(&found.stdout).lines().next()?.parse().ok()
}

/// Between two cells it reads the kernel's next order. Where the system does not tell, a cell may be running.
fn runs_a_cell(process: u32) -> bool {
    let read = if cfg!(target_arch = "x86_64") { "0" } else { "63" };
    fs::read_to_string(format!("/proc/{process}/syscall"))
        .map_or(true, |call| !call.starts_with(&format!("{read} 0x0 ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use std::time::Duration;

    #[test]
    fn an_interrupt_while_nothing_runs_ends_nothing_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        fs::write(folder.path().join(CODE), "").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        // It waits for a line, as the kernel's process does between two cells.
        let mut idle = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..3 {
            interrupt(folder.path(), Some(idle.id()));
        }
        assert!(idle.try_wait().unwrap().is_none() && is_interrupted(folder.path()));
        // The next cell is not meant.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(folder.path().join(CODE), "").unwrap();
        assert!(!is_interrupted(folder.path()));
        std::thread::sleep(Duration::from_millis(20));
        let mut busy = Command::new("sleep").arg("60").spawn().unwrap();
        interrupt(folder.path(), Some(busy.id()));
        assert!(busy.try_wait().unwrap().is_none() && is_interrupted(folder.path()));
        interrupt(folder.path(), Some(busy.id()));
        assert!(!busy.wait().unwrap().success());
        drop(idle.stdin.take());
        assert!(idle.wait().unwrap().success());
    }

    #[test]
    fn a_kernel_hears_no_interrupt_and_ends_with_its_launcher() {
        let mut launched = apart("sleep".as_ref()).arg("60").spawn().unwrap();
        let group = |process: u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let after_name = stat.rsplit(')').next().unwrap_or_default().to_owned();
            after_name.split_whitespace().nth(2).map(str::to_owned)
        };
        #[cfg(target_os = "linux")]
        assert_eq!(group(launched.id()), Some(launched.id().to_string()));
        assert_ne!(group(launched.id()), group(std::process::id()));
        launched.kill().unwrap();
        launched.wait().unwrap();
        #[cfg(target_os = "linux")]
        {
            // The thread that starts it stands for the launcher.
            let start = || apart("sleep".as_ref()).arg("60").spawn().unwrap();
            let mut orphan = std::thread::spawn(start).join().unwrap();
            let ended = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                orphan.try_wait().unwrap().is_some()
            });
            assert!(ended);
        }
    }
}
