//! How much memory this process takes.

use std::fs;

/// The memory that the process has now, in bytes, where the system says it.
pub fn taken() -> Option<u64> {
    field("VmRSS:")
}

/// The most that it had since [`forget_peak`].
pub fn peak() -> Option<u64> {
    field("VmHWM:")
}

/// From here on the peak counts anew. Where the system does not do that, the peak is that of the whole process.
pub fn forget_peak() {
    let _ =
        fs::OpenOptions::new().write(true).open("/proc/self/clear_refs").and_then(|mut file| {
            use std::io::Write;
            file.write_all(b"5")
        });
}

fn field(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_peak_is_forgotten() {
        let block = vec![1u8; 200 << 20];
        let taken = taken();
        assert!(taken.is_some() && peak() >= taken && block[7] == 1);
        let high = peak().unwrap();
        drop(block);
        forget_peak();
        assert!(peak().unwrap() < high - (100 << 20));
    }
}
