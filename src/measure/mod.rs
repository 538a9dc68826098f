//! What a figure measures: small pure functions of tensors, schedules and folders.
//!
//! | Ask for | and get |
//! |---|---|
//! | [`parameters`] | how many numbers a network has learned |
//! | [`moments`], [`Moments::noised`] | mean and standard deviation, and what noise makes of them |
//! | [`norm`], [`angle`] | how long predictions are, and the angle between them |
//! | [`latent_rgb`], [`LatentRgb::preview`] | latents as colours by a linear map, and how much of the picture that is |
//! | [`token_maps`] | where the picture looks in the text |
//! | [`largest_difference`], [`mean_square`] | how far apart two tensors are |

mod difference;
mod latent_rgb;
mod moments;
mod parameters;
mod token_maps;
mod vectors;

pub use difference::{largest_difference, mean_square};
pub use latent_rgb::{LatentRgb, latent_rgb};
pub use moments::{Moments, moments};
pub use parameters::parameters;
pub use token_maps::token_maps;
pub use vectors::{angle, norm};
