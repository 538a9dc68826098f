//! Training: the pictures, the loop that all networks share, and each network's loss.

mod optimizer;
mod run;
mod workers;
#[cfg(feature = "scenes")]
pub mod scenes;
#[cfg(feature = "scenes")]
pub mod judge;
#[cfg(feature = "scenes")]
pub mod evaluate;
pub mod scores;
pub mod vae;
pub mod diffusion;

pub use optimizer::{Optimizer, OptimizerConfig, orthogonal};
pub use run::{Learner, Parts, Progress, Settings, Task, run};
