//! Step inside Stable Diffusion: every stage is a function that can be called alone.
#![deny(missing_docs)]

mod error;

pub use error::{Error, Result};
