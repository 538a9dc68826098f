//! How libtorch's threads wait for work.

/// What a person sets to decide it, read when libtorch is loaded.
#[cfg(target_os = "linux")]
const VARIABLES: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];
/// A thread that waits looks this many times for work, then sleeps. By default it looks on for milliseconds, and two
/// programs that share the cores take each other's time. The kernel sets the same.
#[cfg(target_os = "linux")]
const LOOKS: &str = "2000";

/// Starts this program anew with short waits, unless a person has decided.
pub fn wait_briefly() {
    #[cfg(target_os = "linux")]
    if VARIABLES.iter().all(|name| std::env::var_os(name).is_none()) {
        use std::os::unix::process::CommandExt;
        let mut arguments = std::env::args_os();
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg0(arguments.next().unwrap_or_default()).args(arguments);
        // Where that cannot be done, threads wait as they do by default.
        let _ = command.env(VARIABLES[0], LOOKS).exec();
    }
}
