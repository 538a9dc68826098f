//! Stable Diffusion's three networks, built from diffusers' JSON configurations.

pub mod clip;
mod layers;
pub mod unet;
pub mod vae;
