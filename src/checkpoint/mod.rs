//! Checkpoints as people publish them: what a folder or a file is, what its tensors are called, and what it leaves unsaid.

mod diffusers;
mod family;
pub mod hub;
mod inferred_configs;
mod latent_diffusion_keys;
mod lora;
mod lora_adapter_config;
mod lora_keys;
mod lora_merge;
mod model_index;
mod open;
mod opened;
mod prediction_type;
mod report;
mod scheduler_config;
mod scheduler_values;
mod stored_network;

pub use family::Family;
pub use lora::Lora;
pub use lora_keys::LoraKeyStyle;
pub(crate) use lora_merge::merge_loras;
pub use open::OpenOptions;
pub use opened::{Checkpoint, KeyStyle};
pub use prediction_type::PredictionType;
pub use report::{NetworkReport, Report, examine};
pub use scheduler_config::SchedulerConfig;
pub use stored_network::StoredNetwork;
