//! Where a network's tensors come from: a file of weights, or a fresh start for training.

mod folder;
mod params;
mod tensors;

pub use folder::{read_config, weight_files};
pub(crate) use params::channels_last;
pub use params::{Init, Params};
pub use tensors::{TensorFile, write_file, write_tensors};
