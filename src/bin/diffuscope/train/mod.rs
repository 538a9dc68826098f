//! `diffuscope train`: scenes in, a diffusers folder out.

mod args;
mod command;
mod diffusion;
mod judge;
mod progress;
mod scenes;
mod vae;

pub use command::{TrainCommand, run};
