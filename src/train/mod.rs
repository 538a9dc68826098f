//! Training: the pictures, the loop that all networks share, and each network's loss.

mod optimizer;
mod run;
#[cfg(feature = "scenes")]
pub mod scenes;
#[cfg(feature = "scenes")]
pub mod judge;
#[cfg(feature = "scenes")]
pub mod evaluate;
pub mod vae;
pub mod diffusion;

pub use optimizer::{Optimizer, OptimizerConfig, orthogonal};
pub use run::{Progress, Settings, Task, run};
