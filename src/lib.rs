//! Step inside Stable Diffusion: every stage is a function that can be called alone.
#![deny(missing_docs)]

pub mod device;
mod error;
pub mod models;
pub mod noise;
pub mod weights;

pub use error::{Error, Result};
