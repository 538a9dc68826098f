//! How good a model's pictures are: a judge answers questions about them, and its answers and features are
//! compared with the truth.

#[cfg(feature = "scenes")]
pub mod accuracy;
mod curves;
mod looks;
pub mod distances;
#[cfg(feature = "scenes")]
pub mod questions;
pub mod scores;
#[cfg(feature = "scenes")]
pub mod validity;

pub use curves::score_curves;
