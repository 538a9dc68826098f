//! What happens before the code of a cell runs: the kernel loads it as a library, and this one with it.

use super::cell_errors;
use crate::cores::SharedCores;

/// Called by the system's loader; it does nothing outside a notebook's kernel.
#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static AT_LOAD: extern "C" fn() = at_load;

/// Set in the process that runs the cells.
const IN_KERNEL: &str = "EVCXR_IS_RUNTIME";
/// Set by the first cell of a process: what it has started stays.
const STARTED: &str = "DIFFUSCOPE_KERNEL_STARTED";

extern "C" fn at_load() {
    let process = std::process::id().to_string();
    if std::env::var_os(IN_KERNEL).is_none() {
        return;
    }
    std::panic::set_hook(Box::new(cell_errors::tell));
    if std::env::var(STARTED).is_ok_and(|started| started == process) {
        return;
    }
    // SAFETY: the kernel waits for this call; no other thread of the process looks at its variables.
    unsafe { std::env::set_var(STARTED, process) };
    std::mem::forget(SharedCores::watch());
    cell_errors::forget();
    cell_errors::shorten_stderr();
}
