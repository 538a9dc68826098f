//! The archive that `torch.save` writes: a zip of one pickle and of the storages that its tensors view.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::budget::Budget;
use super::pickle::{Pickle, PickleValue, StorageView};
use super::tensor_location::{TensorLocation, checked_numel};
use super::zip;

/// The error says what is wrong with the file.
type Result<T> = std::result::Result<T, String>;

/// The pickles of published checkpoints have a few hundred kilobytes.
const LARGEST_PICKLE: usize = 32 << 20;

/// The tensors of a file, and what else it holds.
pub(super) struct TorchArchive {
    pub index: BTreeMap<String, TensorLocation>,
    /// The strings and numbers of the outermost dict, such as `global_step`.
    pub metadata: HashMap<String, String>,
    /// The names of everything that is not a tensor.
    pub others: Vec<String>,
}

/// Whether `torch.save` wrote the file.
///
/// # Errors
/// The format that torch wrote before version 1.6.
pub(super) fn is_torch(file: &[u8]) -> Result<bool> {
    // A safetensors file begins with the length of its header, which is JSON.
    if file.get(8) == Some(&b'{') {
        return Ok(false);
    }
    let tar = file.get(257..262) == Some(b"ustar");
    if tar || matches!(file, [0x80, 1..=5, ..]) {
        return Err("written by torch before version 1.6, or pickled by another program; such a file cannot be read \
                    without executing it. If you trust its source, open it in Python and torch.save it \
                    again, or download the .safetensors file"
            .into());
    }
    Ok(file.starts_with(b"PK"))
}

/// Reads the archive's pickle and checks every tensor against its storage.
///
/// # Errors
/// What [`zip::entries`] and [`Pickle::read`] refuse; tensors that reach outside their storage, or that
/// expand to much more than the file.
pub(super) fn read(file: &[u8]) -> Result<TorchArchive> {
    let entries = zip::entries(file)?;
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let folder = match (pickles.next(), pickles.next()) {
        (Some(folder), None) if folder.is_empty() || folder.ends_with('/') => folder,
        _ => {
            return Err(
                "a zip archive with no data.pkl, or several: not a file that torch.save wrote"
                    .into(),
            );
        }
    };
    let bytes = |name: &str| {
        let range = entries.get(format!("{folder}{name}").as_str());
        range.and_then(|range| file.get(range.clone()))
    };
    if let Some(order) = bytes("byteorder").filter(|&order| order.trim_ascii() != b"little") {
        return Err(format!(
            "its numbers are {}-endian; only little-endian files are supported",
            String::from_utf8_lossy(order.get(..16).unwrap_or(order)).trim()
        ));
    }
    let pickle = bytes("data.pkl").unwrap_or_default();
    if pickle.len() > LARGEST_PICKLE {
        return Err(format!("its pickle of {} bytes is too long for a weight file", pickle.len()));
    }
    let pickle = Pickle::read(pickle)?;
    let root: Vec<_> =
        pickle.dict(pickle.root).ok_or("its pickle holds no dict of tensors")?.collect();
    let wrapped = root.iter().find(|(key, _)| *key == PickleValue::Text("state_dict"));
    let state = wrapped.and_then(|&(_, value)| pickle.dict(value)).map(Iterator::collect::<Vec<_>>);

    let mut archive =
        TorchArchive { index: BTreeMap::new(), metadata: HashMap::new(), others: Vec::new() };
    let (mut expanded, mut budget) = (0usize, Budget::new());
    for (key, value) in state.as_ref().unwrap_or(&root) {
        let (PickleValue::Text(name), Some(view)) = (key, pickle.tensor(*value)) else { continue };
        let said = |reason: String| format!("its tensor {name:?} {reason}");
        let storage = entries.get(format!("{folder}data/{}", view.storage.key).as_str());
        let storage = storage.ok_or_else(|| said("has no storage".into()))?;
        let location = location(view, storage).map_err(said)?;
        expanded = expanded
            .saturating_add(location.numel().saturating_mul(location.kind.elt_size_in_bytes()));
        if expanded > 2 * file.len() + (256 << 20) {
            return Err(
                "its tensors expand to more than twice the file's size: not a weight file".into()
            );
        }
        budget.take::<TensorLocation>(1)?;
        budget.take::<u8>(name.len())?;
        if archive.index.insert((*name).to_owned(), location).is_some() {
            return Err(said("occurs twice".into()));
        }
    }
    archive.describe(&pickle, "", &root, state.is_some(), &mut budget)?;
    if let Some(state) = &state {
        archive.describe(&pickle, "state_dict.", state, true, &mut budget)?;
    }
    if archive.index.is_empty() {
        let names: Vec<_> = archive.others.iter().take(8).map(String::as_str).collect();
        return Err(format!("holds no tensors; its entries are: {}", names.join(", ")));
    }
    Ok(archive)
}

impl TorchArchive {
    /// Notes what a dict holds beside the tensors that were found; `wrapped` leaves out the dict that they are in.
    fn describe<'a>(
        &mut self,
        pickle: &Pickle<'a>,
        scope: &str,
        dict: &[(PickleValue<'a>, PickleValue<'a>)],
        wrapped: bool,
        budget: &mut Budget,
    ) -> Result<()> {
        for &(key, value) in dict {
            // A text may be long, and stand in many places.
            for text in [key, value] {
                let length = if let PickleValue::Text(text) = text { text.len() } else { 0 };
                budget.take::<u8>(2 * length)?;
            }
            budget.take::<String>(3)?;
            let is_tensor = pickle.tensor(value).is_some();
            let name = match key {
                PickleValue::Text("state_dict") if wrapped => continue,
                PickleValue::Text(key) if is_tensor && self.index.contains_key(key) => continue,
                PickleValue::Text(key) if is_tensor => key.to_owned(),
                PickleValue::Text(key) => format!("{scope}{key}"),
                other => format!("{scope}{other:?}"),
            };
            let text = match value {
                PickleValue::Text(text) => Some(text.to_owned()),
                PickleValue::Int(n) => Some(n.to_string()),
                PickleValue::Float(x) => Some(x.to_string()),
                _ => None,
            };
            if let Some(text) = text {
                self.metadata.insert(name.clone(), text);
            }
            self.others.push(name);
        }
        Ok(())
    }
}

/// Where a tensor's numbers are in the file: `offset + sum_i index_i stride_i`, all of them inside its storage.
fn location(view: &StorageView, storage: &Range<usize>) -> Result<TensorLocation> {
    let size = view.storage.kind.elt_size_in_bytes();
    let held = storage.len() / size;
    let claimed = usize::try_from(view.storage.numel).unwrap_or(usize::MAX);
    if claimed > held {
        return Err(format!("claims a storage of {claimed} numbers, which has {held}"));
    }
    if view.shape.len() != view.strides.len() || view.offset < 0 {
        return Err(format!(
            "has the shape {:?}, the strides {:?} and the offset {}",
            view.shape, view.strides, view.offset
        ));
    }
    let too_large = || {
        format!(
            "has the shape {:?} and the strides {:?}, larger than any tensor's",
            view.shape, view.strides
        )
    };
    let numel = checked_numel(&view.shape).ok_or_else(too_large)?;
    // How many numbers lie from the first to the last, both counted.
    let span = view.shape.iter().zip(&view.strides).try_fold(1i64, |sum, (&side, &stride)| {
        sum.checked_add((side - 1).max(0).checked_mul(stride)?)
    });
    let span = if numel == 0 { 0 } else { span.ok_or_else(too_large)? };
    let last = view.offset.checked_add(span).and_then(|last| usize::try_from(last).ok());
    if last.is_none_or(|last| last > claimed) {
        return Err(format!(
            "reaches outside its storage of {claimed} numbers: it has the shape {:?}, the offset {} and the strides {:?}",
            view.shape, view.offset, view.strides
        ));
    }
    let mut dense = 1i64;
    let mut contiguous = true;
    for (&side, &stride) in view.shape.iter().zip(&view.strides).rev() {
        contiguous &= side == 1 || stride == dense;
        dense = dense.saturating_mul(side);
    }
    let start = storage.start + view.offset as usize * size;
    Ok(TensorLocation {
        kind: view.storage.kind,
        shape: view.shape.clone(),
        strides: (!contiguous && numel > 0).then(|| view.strides.clone()),
        range: start..start + span as usize * size,
    })
}
