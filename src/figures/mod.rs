//! The figures that the chapters and the command line draw: what they measure is in [`crate::measure`], how they look in
//! [`crate::plot`].
//!
//! | Ask for | and see |
//! |---|---|
//! | [`schedule_figure`] | betas, alphas_cumprod and SNR of one schedule or several |
//! | [`compare_guidance`], [`compare_steps`], [`compare_samplers`] | one seed, one thing changed: a row for every prompt |
//! | [`steps_of_run`] | the steps of one request, as pictures |
//! | [`moments_figure`], [`noise_strip`] | what noise makes of a picture |
//! | [`guidance_geometry`] | how long the two noise predictions are, and the angle between them |
//! | [`trace_figure`], [`trace_latents`] | a generation over its steps, as pictures and as latents |
//! | [`loss_curve`] | a training |

mod compare;
mod forward;
mod guidance;
mod loss;
mod schedule;
mod trace;

pub use compare::{compare_guidance, compare_samplers, compare_steps, steps_of_run};
pub use forward::{moments_figure, noise_strip};
pub use guidance::guidance_geometry;
pub use loss::loss_curve;
pub use schedule::schedule_figure;
pub(crate) use trace::trace_strip;
pub use trace::{trace_figure, trace_latents};
