//! What the program runs on.

use std::fmt;
use std::path::Path;

use crate::Result;
use crate::cpu::{Ways, ways};
use crate::device::{Picked, pick};

/// Versions, device and threads.
#[derive(Debug, Clone)]
pub struct Environment {
    /// This library's version.
    pub diffuscope: &'static str,
    /// libtorch's version and flavour, if its folder says it.
    pub libtorch: Option<String>,
    /// Where tensors are computed, and why there.
    pub device: Picked,
    /// The threads that one operation uses on the CPU.
    pub threads: i32,
    /// How the CPU computes.
    pub ways: Ways,
}

/// Looks at what the program runs on.
///
/// # Errors
/// A device that was asked for and is not there.
pub fn environment() -> Result<Environment> {
    Ok(Environment {
        diffuscope: env!("CARGO_PKG_VERSION"),
        libtorch: std::env::var_os("LIBTORCH").and_then(|root| libtorch_version(root.as_ref())),
        device: pick(None)?,
        threads: tch::get_num_threads(),
        ways: ways(),
    })
}

/// A Python wheel says its version in `version.py`, an archive of libtorch in `build-version`.
fn libtorch_version(root: &Path) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    let wheel = read("version.py").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(line.trim_matches(['\'', '"']).to_owned())
    });
    wheel.or_else(|| Some(read("build-version")?.trim().to_owned()))
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "diffuscope  {}", self.diffuscope)?;
        writeln!(f, "libtorch    {}", self.libtorch.as_deref().unwrap_or("of unknown version"))?;
        writeln!(f, "device      {}", self.device)?;
        writeln!(f, "threads     {}", self.threads)?;
        write!(f, "CPU         {}", self.ways)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_libtorch_say_their_version() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(libtorch_version(folder.path()), None);
        std::fs::write(folder.path().join("build-version"), "2.13.0+cpu\n").unwrap();
        assert_eq!(libtorch_version(folder.path()).as_deref(), Some("2.13.0+cpu"));
        let wheel = "__all__ = []\n__version__ = '2.13.0+cu130'\ndebug = False\n";
        std::fs::write(folder.path().join("version.py"), wheel).unwrap();
        assert_eq!(libtorch_version(folder.path()).as_deref(), Some("2.13.0+cu130"));
    }

    #[test]
    fn it_reads_as_five_lines() -> Result<()> {
        let text = environment()?.to_string();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains(env!("CARGO_PKG_VERSION")));
        Ok(())
    }
}
