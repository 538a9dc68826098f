//! libc's `fsync` and `fdatasync`, which look at what there is when they are called.

use std::ffi::c_int;
use std::fs::{read, read_dir, read_link};
use std::path::PathBuf;
use std::sync::Mutex;

/// What a call found: the synced file, its content, and what else its folder held.
pub struct Synced {
    pub path: PathBuf,
    pub content: Vec<u8>,
    pub beside: Vec<(PathBuf, Vec<u8>)>,
}

static SYNCED: Mutex<Vec<Synced>> = Mutex::new(Vec::new());

/// What was synced since the last call.
pub fn synced() -> Vec<Synced> {
    std::mem::take(&mut *SYNCED.lock().unwrap())
}

fn look(file: c_int) {
    let Ok(path) = read_link(format!("/proc/self/fd/{file}")) else { return };
    let folder = path.parent().map(read_dir);
    let names = folder.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
    let beside =
        names.filter(|name| *name != path).filter_map(|name| Some((read(&name).ok()?, name)));
    let beside = beside.map(|(content, name)| (name, content)).collect();
    let content = read(&path).unwrap_or_default();
    SYNCED.lock().unwrap().push(Synced { path, content, beside });
}

// SAFETY: it does what libc's function of this name does.
#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    look(file);
    unsafe { libc::syscall(libc::SYS_fsync, file) as c_int }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    look(file);
    unsafe { libc::syscall(libc::SYS_fdatasync, file) as c_int }
}
