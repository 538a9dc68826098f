//! Stable Diffusion's three networks, built from diffusers' JSON configurations.

pub mod clip;
pub mod judge;
mod layers;
pub mod unet;
pub mod vae;
