//! What a value shows when it ends a notebook cell.
//!
//! The kernel calls the method `evcxr_display` of the value that a cell ends in; without one it prints `{:?}`. End a
//! cell in `&made`, not in `made`: the kernel moves a variable that stands alone, and the next cell could not find it.
//!
//! | End a cell in | and see |
//! |---|---|
//! | [`Generation`](crate::pipeline::Generation), [`Rgb8`](crate::picture::Rgb8) | its pictures, and what a person should know |
//! | [`Trace`](crate::pipeline::Trace), [`SamplingStep`](crate::sampler::SamplingStep) | the latents of its steps |
//! | [`Request`](crate::pipeline::Request) | what is asked for, as a table |
//! | [`Schedule`](crate::schedule::Schedule) | betas, alphas_cumprod and SNR |
//! | [`Plan`](crate::sampler::Plan), [`Sampling`](crate::sampler::Sampling), [`Prepared`](crate::pipeline::Prepared) | the steps, as a table |
//! | [`Panel`](crate::plot::Panel) | the chart |
//! | [`Guidance`](crate::guidance::Guidance) | its rule, in words and as a formula |
//! | [`Encoding`](crate::models::clip::Encoding), [`EncodedText`](crate::pipeline::EncodedText) | the tokens and their ids |
//! | [`StableDiffusion`](crate::pipeline::StableDiffusion), [`Checkpoint`](crate::checkpoint::Checkpoint), [`Report`](crate::checkpoint::Report) | its networks, as a table |
//! | [`UNetConfig`](crate::models::unet::UNetConfig) and other configurations | their settings, as a table |
//! | [`Posterior`](crate::models::vae::Posterior), [`CaptionedLatents`](crate::train::CaptionedLatents) | latents, one tile a channel |
//! | [`LossCurve`](crate::train::LossCurve), [`Scores`](crate::eval::scores::Scores), `Scene` | a training's loss, a model's scores, a training picture |
//! | what [`explore::page`](crate::explore::page) returns | the interactive page, and its still picture where a notebook is not trusted |
//! | what [`plot`](crate::plot) and [`figures`](crate::figures) return | the figure |
//! | a bare tensor | its shape; [`plot::picture`](crate::plot::picture), [`plot::pictures`](crate::plot::pictures) and [`plot::latents`](crate::plot::latents) draw it |
//!
//! Everything else has a short `{:?}`.

mod cell_start;
mod cell_errors;
mod checkpoints;
mod configs;
pub(crate) mod escaped;
mod generations;
mod guidance;
pub(crate) mod look;
mod schedules;
pub(crate) mod table;
mod texts;

pub use cell_errors::{LastError, last_error};
