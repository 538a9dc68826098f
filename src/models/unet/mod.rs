//! The U-Net: given a noisy sample, a timestep and a context, what is the noise?

mod attention;
mod blocks;
mod conditioned;
mod conditions;
mod config;
mod embedding;
mod network;

pub use attention::AttentionMap;
pub use conditioned::Conditioned;
pub use conditions::Conditions;
pub use config::UNetConfig;
pub use embedding::{guidance_embedding, timestep_embedding};
pub use network::UNet;
