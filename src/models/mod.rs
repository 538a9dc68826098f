//! Stable Diffusion's three networks, built from diffusers' JSON configurations, and the judge of scenes.

pub mod clip;
pub mod judge;
mod layers;
pub mod params;
pub mod unet;
pub mod vae;
