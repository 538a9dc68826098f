//! The autoencoder: pictures to latents and back.

mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod encoder;
mod posterior;
mod tiling;

pub use autoencoder::Vae;
pub(crate) use autoencoder::pictures_at_once;
pub use config::VaeConfig;
pub use posterior::Posterior;
pub use tiling::Tiling;
