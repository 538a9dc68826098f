//! Step inside Stable Diffusion: every stage is a function that can be called alone.
#![deny(missing_docs)]

pub mod schedule;
pub mod forward;
pub mod prediction;
pub mod denoiser;
pub mod guidance;
pub mod sampler;
pub mod models;
pub mod prompt;
pub mod weights;
pub mod noise;
pub mod pipeline;
pub mod trace;
pub mod device;
pub mod picture;
pub mod explore;
pub mod plot;
pub mod train;

mod error;

pub use error::{Error, Result};
/// Notebooks name the types of their variables through this.
pub use tch;

/// The README's examples run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
