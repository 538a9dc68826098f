//! The entries of a zip archive, as ranges of its bytes.
//!
//! torch stores tensors uncompressed, so that they can be mapped. A compressed entry was not written by torch and
//! could unpack to any size: it is refused. Layout: PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.3.

use std::collections::BTreeMap;
use std::ops::Range;

/// The error says what is wrong with the file.
type Result<T> = std::result::Result<T, String>;

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).ok_or("it is cut off")?;
    from.get(at..end).and_then(|b| b.try_into().ok()).ok_or_else(|| "it is cut off".into())
}

fn u16_at(from: &[u8], at: usize) -> Result<usize> {
    Ok(u16::from_le_bytes(bytes(from, at)?).into())
}

fn u32_at(from: &[u8], at: usize) -> Result<u64> {
    Ok(u32::from_le_bytes(bytes(from, at)?).into())
}

fn u64_at(from: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(from, at)?))
}

fn place(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| "an offset points past its end".into())
}

/// Where the directory is, and how many entries it has.
fn directory(file: &[u8]) -> Result<(Range<usize>, u64)> {
    const END: [u8; 4] = *b"PK\x05\x06";
    const END_64: [u8; 4] = *b"PK\x06\x06";
    const LOCATOR: [u8; 4] = *b"PK\x06\x07";
    // The last record is 22 bytes and a comment of up to 65535.
    let last = file.len().checked_sub(22).ok_or("it is cut off")?;
    let end = (last.saturating_sub(0xffff)..=last)
        .rev()
        .find(|&at| bytes(file, at) == Ok(END))
        .ok_or("its directory is missing: it is cut off")?;
    let (mut count, mut size, mut start) =
        (u16_at(file, end + 10)? as u64, u32_at(file, end + 12)?, u32_at(file, end + 16)?);
    let mut limit = end;
    if let Some(locator) = end.checked_sub(20).filter(|&at| bytes(file, at) == Ok(LOCATOR)) {
        let at = place(u64_at(file, locator + 8)?)?;
        if bytes(file, at)? != END_64 {
            return Err("its zip64 directory is missing".into());
        }
        (count, size, start) =
            (u64_at(file, at + 32)?, u64_at(file, at + 40)?, u64_at(file, at + 48)?);
        limit = at;
    }
    let (start, size) = (place(start)?, place(size)?);
    let stop = start.checked_add(size).filter(|&stop| stop <= limit);
    Ok((start..stop.ok_or("its directory points past its end")?, count))
}

/// Reads an entry's sizes and offset from its zip64 field if they do not fit into 32 bits.
fn widen(extra: &[u8], values: [&mut u64; 3]) -> Result<()> {
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (id, size) = (u16_at(extra, at)?, u16_at(extra, at + 2)?);
        if id == 1 {
            let mut field = at + 4;
            for value in values {
                if *value == 0xffff_ffff {
                    *value = u64_at(extra, field)?;
                    field += 8;
                }
            }
            return if field <= at + 4 + size {
                Ok(())
            } else {
                Err("a zip64 record is too short for its fields".into())
            };
        }
        at += 4 + size;
    }
    Ok(())
}

/// Every entry's name, and where its bytes are.
///
/// # Errors
/// An archive that is cut off, or whose entries are compressed or encrypted, overlap or share a name.
pub(super) fn entries(file: &[u8]) -> Result<BTreeMap<&str, Range<usize>>> {
    let (directory, count) = directory(file)?;
    let mut entries = BTreeMap::new();
    let mut at = directory.start;
    for _ in 0..count {
        if at >= directory.end || bytes(file, at)? != *b"PK\x01\x02" {
            return Err("its directory is damaged".into());
        }
        let (flags, method) = (u16_at(file, at + 8)?, u16_at(file, at + 10)?);
        let (mut packed, mut size) = (u32_at(file, at + 20)?, u32_at(file, at + 24)?);
        let mut offset = u32_at(file, at + 42)?;
        let (name_len, extra_len) = (u16_at(file, at + 28)?, u16_at(file, at + 30)?);
        let next = at + 46 + name_len + extra_len + u16_at(file, at + 32)?;
        let name = file.get(at + 46..at + 46 + name_len).ok_or("it is cut off")?;
        let name = std::str::from_utf8(name).map_err(|_| "an entry's name is not UTF-8")?;
        let extra = file.get(at + 46 + name_len..at + 46 + name_len + extra_len);
        widen(extra.ok_or("it is cut off")?, [&mut size, &mut packed, &mut offset])?;
        at = next;

        if flags & 1 != 0 {
            return Err(format!("its entry {name:?} is encrypted"));
        }
        if method != 0 || packed != size {
            return Err(format!(
                "its entry {name:?} is compressed, {packed} bytes to {size}; torch never compresses"
            ));
        }
        let header = place(offset)?;
        if bytes(file, header)? != *b"PK\x03\x04" {
            return Err(format!("its entry {name:?} is missing"));
        }
        // The entry's own header repeats its name, and its extra fields may differ.
        let names = u16_at(file, header + 26)?;
        let own = file.get(header + 30..header + 30 + names);
        let start = header + 30 + names + u16_at(file, header + 28)?;
        let stop = start.checked_add(place(size)?).filter(|&stop| stop <= directory.start);
        match (own, stop) {
            (Some(own), Some(stop)) if own == name.as_bytes() => {
                if entries.insert(name, (header, start..stop)).is_some() {
                    return Err(format!("it has two entries named {name:?}"));
                }
            }
            (_, None) => return Err(format!("its entry {name:?} goes past the end")),
            _ => return Err(format!("its entry {name:?} has another name in its own header")),
        }
    }
    let mut places: Vec<_> = entries.iter().map(|(n, (h, r))| (*h, r.end, *n)).collect();
    places.sort();
    if let Some(pair) = places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        return Err(format!("its entries {:?} and {:?} overlap", pair[0].2, pair[1].2));
    }
    Ok(entries.into_iter().map(|(name, (_, range))| (name, range)).collect())
}
