//! Step inside Stable Diffusion: every stage is a function that can be called alone.
//!
//! # What to call first
//!
//! **[`Schedule`](schedule::Schedule)** says how much noise there is at every timestep, and
//! [`add_noise`](forward::add_noise) puts it into a picture:
//!
//! ```
//! use diffuscope::{forward::add_noise, noise::standard_normal, schedule::Schedule};
//!
//! let schedule = Schedule::stable_diffusion();
//! let (x_0, noise) = (standard_normal(&[1, 4, 8, 8], 0)?, standard_normal(&[1, 4, 8, 8], 1)?);
//! let x_t = add_noise(&schedule, 500, &x_0, &noise)?;
//! # Ok::<(), diffuscope::Error>(())
//! ```
//!
//! **[`Plan`](sampler::Plan)** lists the steps of any sampler and their weights, and
//! [`Sampling`](sampler::Sampling) takes them, one record a step.
//!
//! **[`StableDiffusion`](pipeline::StableDiffusion)** is a whole model, opened from a folder, a file or the embedded one;
//! all its parts are public:
//!
//! ```no_run
//! use diffuscope::pipeline::{Request, StableDiffusion};
//!
//! let sd = StableDiffusion::tiny()?;
//! let generation = sd.generate(&Request::new("a red apple on the grass, cartoon"))?;
//! diffuscope::picture::write_png("apple.png", &generation.image, &[])?;
//! # Ok::<(), diffuscope::Error>(())
//! ```
//!
//! # The modules, in the order of the walk
//!
//! | Module | The question that it answers | Builds on |
//! |---|---|---|
//! | [`timesteps`], [`rates`] | Where does a sample stand, and how much of it is noise? | |
//! | [`schedule`] | How much noise is there at timestep t? | `timesteps`, `rates` |
//! | [`forward`] | How does a picture become noise? | `schedule` |
//! | [`noise`] | Where do random numbers come from? | |
//! | [`prediction`] | How do noise, v, x_0 and score follow from each other? | `schedule`, `rates` |
//! | [`guidance`] | How do two predictions become one? | |
//! | [`denoiser`] | What does a sampler need of a model? | `schedule`, `prediction` |
//! | [`sampler`] | How does noise become a picture, step by step? | `denoiser`, `guidance`, `prediction` |
//! | [`prompt`] | What do weights and changes in a prompt mean? | |
//! | [`tensor_file`], [`picture`], [`write_file`] | How are tensors and pictures read and written? | |
//! | [`models`] | What do text encoder, U-Net, VAE and judge compute? | `tensor_file` |
//! | [`checkpoint`] | What is this file, and what does it hold? | `models`, `tensor_file` |
//! | [`pipeline`] | How does a prompt become a picture? | all of the above |
//! | [`measure`] | What does a figure measure? | |
//! | [`plot`] | How does a figure look? | |
//! | [`figures`] | What do the chapters draw? | `measure`, `plot`, `pipeline` |
//! | [`notebook`] | What does a value show when it ends a cell? | `figures` |
//! | [`explore`] | What happens when a person turns the knob? | `measure`, `plot`, `pipeline` |
//! | `scenes` (feature) | What are the training pictures? | |
//! | [`eval`] | How many pictures show what they should? | `scenes`, `plot` |
//! | [`train`] | How does a network learn? | `models`, `scenes`, `eval` |
//! | [`device`], [`cpu`], [`environment`], [`cores`] | What does all of this run on? | |
//! | [`interrupt`] | How does a long run end early, with what it has? | |
#![deny(missing_docs)]

mod check;
mod error;
mod memory;
mod short;

pub mod timesteps;
pub mod rates;
pub mod schedule;
pub mod forward;
pub mod noise;
pub mod prediction;
pub mod guidance;
pub mod denoiser;
pub mod sampler;
pub mod prompt;
pub mod write_file;
pub mod tensor_file;
pub mod picture;
mod kernels;
pub mod models;
pub mod checkpoint;
pub mod pipeline;
pub mod measure;
pub mod plot;
pub mod figures;
pub mod notebook;
pub mod explore;
#[cfg(feature = "scenes")]
pub mod scenes;
pub mod eval;
pub mod train;
pub mod cpu;
pub mod device;
pub mod cores;
pub mod interrupt;
pub mod environment;

pub use error::{Error, Result};
/// Notebooks name the types of their variables through this.
pub use tch;

/// The README's examples run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
