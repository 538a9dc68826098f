//! Work shared out among OpenMP's threads: those that libtorch uses, so that none of them waits for another's core. In such
//! a team libtorch divides no operation any further.

use std::ffi::{c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `GOMP_parallel` of GNU's library, which LLVM's has too: calls the function on every thread of a team, and returns when
/// all are done. With 0 threads the team is as large as libtorch's.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// `None` where OpenMP is not there.
fn parallel() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(unix)]
        {
            let found = symbol(libc::RTLD_DEFAULT).or_else(in_a_loaded_library)?;
            // SAFETY: what has this name has this type.
            Some(unsafe { std::mem::transmute::<*mut c_void, Parallel>(found) })
        }
        #[cfg(not(unix))]
        None
    })
}

#[cfg(unix)]
fn symbol(library: *mut c_void) -> Option<*mut c_void> {
    // SAFETY: the name ends with 0.
    let found = unsafe { libc::dlsym(library, c"GOMP_parallel".as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// A library that was loaded for another one shows its names only to who asks it.
#[cfg(target_os = "linux")]
fn in_a_loaded_library() -> Option<*mut c_void> {
    unsafe extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _: usize,
        found: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: the system gives a library's name, and `found` is what was handed over below.
        unsafe {
            let name = (*info).dlpi_name;
            let omp = !name.is_null()
                && std::ffi::CStr::from_ptr(name).to_bytes().windows(3).any(|part| part == b"omp");
            if omp {
                let library = libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
                if !library.is_null() {
                    *found.cast::<Option<*mut c_void>>() = symbol(library);
                }
            }
            libc::c_int::from((*found.cast::<Option<*mut c_void>>()).is_some())
        }
    }
    let mut found: Option<*mut c_void> = None;
    // SAFETY: `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), std::ptr::from_mut(&mut found).cast()) };
    found
}

#[cfg(all(unix, not(target_os = "linux")))]
fn in_a_loaded_library() -> Option<*mut c_void> {
    None
}

/// Calls `work` for every number below `count`, each once, on the threads of a team; on one thread where there is no
/// OpenMP. `work` may not panic.
pub fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    share_out(count, || (), |(), i| work(i));
}

/// Whether there are teams.
pub fn has_teams() -> bool {
    parallel().is_some()
}

/// Calls `work` for every number below `count`, each once, on all threads; `start` makes what a thread needs for itself.
pub(crate) fn share_out<S>(
    count: usize,
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let member = || {
        let mut own = start();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            work(&mut own, i);
        }
    };
    match parallel().filter(|_| count > 1) {
        Some(parallel) => on_a_team(parallel, &member),
        None => member(),
    }
}

fn on_a_team<F: Fn() + Sync>(parallel: Parallel, member: &F) {
    extern "C" fn call<F: Fn() + Sync>(member: *mut c_void) {
        // SAFETY: it is the reference that was handed over below, and outlives the team.
        unsafe { (*member.cast::<F>())() }
    }
    // SAFETY: the team ends before the call returns.
    unsafe { parallel(call::<F>, std::ptr::from_ref(member).cast_mut().cast(), 0, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_work_is_done_once() {
        for count in [0, 1, 2, 1000] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let starts = AtomicUsize::new(0);
            share_out(
                count,
                || starts.fetch_add(1, Ordering::Relaxed),
                |_, i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                },
            );
            assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            assert!(starts.load(Ordering::Relaxed) >= 1);
        }
    }
}
