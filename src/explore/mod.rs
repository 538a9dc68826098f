//! What a figure measures: small pure functions of tensors, schedules and folders.
//!
//! | Ask for | and get |
//! |---|---|
//! | [`environment`] | versions, device and threads |
//! | [`parameters`] | how many numbers a network has learned |
//! | [`moments`], [`Moments::noised`] | mean and standard deviation, and what noise makes of them |
//! | [`norm`], [`angle`] | how long predictions are and how they lie to each other |
//! | [`largest_difference`], [`mean_square`] | how far two tensors are apart |

mod difference;
mod environment;
mod moments;
mod parameters;
mod vectors;

pub use difference::{largest_difference, mean_square};
pub use environment::{Environment, environment};
pub use moments::{Moments, moments};
pub use parameters::parameters;
pub use vectors::{angle, norm};
