//! Where a network's tensors come from: a file of weights, or a fresh start for training.

mod archive;
mod checkpoint;
mod configs;
mod doctor;
mod family;
mod folder;
pub mod hub;
mod ldm;
mod lora;
mod params;
mod pickle;
mod source;
mod tensors;
mod zip;

pub use checkpoint::{Checkpoint, Dialect, Network, PredictionType, Stated};
pub use doctor::{NetworkReport, Report, examine};
pub use family::{Family, LoraKeys};
pub use folder::{read_config, weight_files};
pub use lora::Lora;
pub(crate) use lora::merge;
pub(crate) use params::channels_last;
pub use params::{Init, Params, Problem};
pub use source::Weights;
pub use tensors::{TensorFile, write_file, write_tensors};
