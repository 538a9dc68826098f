//! Stopping early: loops of many steps look here after each one, and end with what they have.
//!
//! In a notebook the first interrupt of a cell is such a request (a second one ends the kernel's process, with all its
//! variables). The command line makes one of the first Ctrl-C.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// What the program that starts the kernel writes at an interrupt, in the kernel's folder.
const INTERRUPT: &str = "interrupt";
/// The code of the cell that runs, there too.
const CODE: &str = "src/lib.rs";

/// Asks all loops of this process to end after the step under way. Returns whether that was asked before.
pub fn request() -> bool {
    REQUESTED.swap(true, Relaxed)
}

/// Whether the loops shall end after the step under way.
pub fn requested() -> bool {
    REQUESTED.load(Relaxed) || cell_is_interrupted()
}

/// Ends a loop whose part is of no use to anybody.
///
/// # Errors
/// If the loops shall end; `when` says where that was: "after 3 of 20 steps".
pub fn check(when: impl FnOnce() -> String) -> Result<()> {
    if requested() { Err(Error::Interrupted(when())) } else { Ok(()) }
}

/// An interrupt is meant for a cell whose code was there already: one of an earlier cell no longer counts.
fn cell_is_interrupted() -> bool {
    std::env::var_os("EVCXR_TMPDIR").is_some_and(|folder| is_interrupted(folder.as_ref()))
}

fn is_interrupted(folder: &Path) -> bool {
    let written = |name: &str| fs::metadata(folder.join(name)).and_then(|file| file.modified());
    matches!((written(INTERRUPT), written(CODE)), (Ok(interrupt), Ok(code)) if interrupt > code)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn an_interrupt_is_meant_for_the_cell_whose_code_is_older() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        let write = |name: &str, second: u64| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        };
        assert!(!is_interrupted(folder.path()));
        write(CODE, 10);
        assert!(!is_interrupted(folder.path()));
        write(INTERRUPT, 11);
        assert!(is_interrupted(folder.path()));
        write(CODE, 12);
        assert!(!is_interrupted(folder.path()));
        assert!(!requested() && check(|| unreachable!()).is_ok());
    }
}
