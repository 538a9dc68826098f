//! `diffuscope eval`: how well a model's pictures show what captions say, as numbers and as a figure.

mod args;
mod judging;
mod latents;
mod memorisation;
mod run;
mod scorer;
mod summary;
mod true_scenes;

pub use args::EvalArgs;
pub use run::run;
