//! Training: the loop that all networks share, and the loss, the batches and the sheets of each network.

pub mod diffusion;
mod export;
mod initial_weights;
mod looks;
#[cfg(feature = "scenes")]
pub mod judge;
mod latents;
pub mod losses;
mod loss_log;
mod muon;
mod optimizer;
mod parallel;
mod pictures;
mod replica;
mod resume;
mod run;
mod settings;
mod sheet;
mod task;
mod trained;
pub mod vae;
mod vocabulary;

pub use latents::CaptionedLatents;
pub use loss_log::LossCurve;
pub use muon::orthogonal;
pub use optimizer::{Optimizer, OptimizerConfig};
pub use run::{TrainProgress, run};
pub use settings::TrainSettings;
pub use task::{LossParts, Trainable, TrainingTask};
pub use trained::Trained;
