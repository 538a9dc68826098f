//! What a figure measures: small pure functions of tensors, schedules and folders.
//!
//! | Ask for | and get |
//! |---|---|
//! | [`parameters`] | how many numbers a network has learned |
//! | [`moments`], [`Moments::noised`] | mean and standard deviation, and what noise makes of them |
//! | [`norm`], [`angle`] | how long predictions are, and the angle between them |
//! | [`largest_difference`], [`mean_square`] | how far apart two tensors are |

mod difference;
mod moments;
mod parameters;
mod vectors;

pub use difference::{largest_difference, mean_square};
pub use moments::{Moments, moments};
pub use parameters::parameters;
pub use vectors::{angle, norm};
