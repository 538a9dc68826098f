//! Files of tensors, read as data: safetensors, and torch's archives, whose pickles execute nothing here.

mod budget;
mod checksum;
mod component_folder;
pub(crate) mod json;
mod named_tensors;
mod pickle;
mod read;
mod tensor_location;
mod torch_archive;
mod wrapped_names;
mod write;
mod zip;

pub use component_folder::weight_files;
#[cfg(feature = "hub")]
pub(crate) use component_folder::{NO_WEIGHTS, shards, weights_among};
pub use json::read_config;
pub use named_tensors::NamedTensors;
pub(crate) use named_tensors::TensorPart;
pub use read::TensorFile;
pub(crate) use wrapped_names::{common_prefix, unwrapped, wrappers};
pub use write::write_tensors;
