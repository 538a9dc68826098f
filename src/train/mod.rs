//! Training: the pictures, the loop that all networks share, and each network's loss.

mod optimizer;
mod run;
#[cfg(feature = "scenes")]
pub mod scenes;
pub mod vae;
pub mod diffusion;

pub use optimizer::{AdamW, Optimizer};
pub use run::{Progress, Settings, Task, run};
