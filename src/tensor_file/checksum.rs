//! The checksum that this crate writes into a safetensors file's metadata.

/// Its key in the metadata. Files that other programs wrote do not have one.
pub(super) const CRC32: &str = "crc32";

/// The checksum of the tensors' names and bytes; it does not depend on their order in the file.
pub(super) fn checksum<'a>(sums: impl Iterator<Item = (&'a String, u32)>) -> String {
    let mut sums: Vec<(&String, u32)> = sums.collect();
    sums.sort();
    let mut all = crc32fast::Hasher::new();
    for (name, sum) in sums {
        all.update(name.as_bytes());
        all.update(&sum.to_le_bytes());
    }
    format!("{:08x}", all.finalize())
}
