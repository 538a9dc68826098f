//! Stable Diffusion from prompt to picture: nothing but the stages, composed.
//!
//! A [`Request`] says what is drawn, and a [`StableDiffusion`] of any family draws it. A request goes one way, and each
//! stop on it is a file of this module:
//!
//! ```text
//! check -> plan -> texts -> shape -> noise -> conditions      prepare
//!                                          -> steps -> decode  run
//! ```
//!
//! | Task | What the [`Request`] holds | Families |
//! |---|---|---|
//! | text to image | `prompts`; SDXL also [`Sdxl`] | all but the next three |
//! | inpainting | [`InitImage`] with a mask | inpainting (9 channels); any other keeps the rest of the picture by force |
//! | depth to image | [`DepthMap`], and an [`InitImage`] to start from a picture | depth (5 channels) |
//! | upscaling | [`LowResImage`] | x4 upscaler (7 channels) |
//! | image to image | [`InitImage`] | any |
//! | variations of a seed | [`Variation`] | any |
//! | between two requests | two of them: [`StableDiffusion::generate_between`] | any |
//! | back to noise | [`InitImage`]: [`StableDiffusion::invert`] | any |

mod conditions;
mod drawn_noise;
mod extra_channels;
mod fingerprint;
mod generate;
mod invert;
mod known_region;
mod making;
mod model;
mod open;
mod plan;
mod prepare;
mod request;
mod revisit;
mod run;
mod size;
mod text;
mod trace;
mod warnings;

pub use extra_channels::ExtraChannels;
pub use known_region::KnownRegion;
pub use making::Making;
pub use model::StableDiffusion;
pub use open::tiny_folder;
pub use prepare::{LaterText, Prepared};
pub use request::{
    ClipSkip, DepthMap, ImageSizes, InitImage, LowResImage, Request, Sdxl, Variation,
};
pub use run::Generation;
pub use text::EncodedText;
pub use trace::Trace;
