//! What the training loop needs to know of a network: its loss, its batches, its sheet and its export.

use std::path::Path;

use tch::Tensor;

use super::optimizer::Optimizer;
use crate::Result;

/// The parts of a loss and other numbers for the log, by name: tensors of one number each, in f32 on the loss's device.
/// They are read when the step is done, all at once.
pub type LossParts = Vec<(&'static str, Tensor)>;

/// A network that knows its loss.
pub trait Trainable: Send {
    /// The mean loss of some samples, and further numbers for the log. All random numbers come with the
    /// samples.
    ///
    /// # Errors
    /// Samples that the network cannot process.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, LossParts)>;
}

/// One kind of training: where the samples come from, and what becomes of the network.
pub trait TrainingTask {
    /// The network.
    type Network: Trainable;

    /// Draws the samples of one step. Each row of a tensor is one sample. `seed` is that of the step.
    ///
    /// # Errors
    /// Whatever prevents a batch from being made.
    fn batch(&self, seed: i64) -> Result<Vec<Tensor>>;

    /// Draws a sheet of samples. During the call the network has the averaged weights.
    ///
    /// # Errors
    /// A picture that cannot be made or written.
    fn sheet(&self, network: &Self::Network, path: &Path) -> Result<()>;

    /// Writes the network with the averaged weights, which `optimizer` has.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    fn export(&self, network: &Self::Network, optimizer: &Optimizer, folder: &Path) -> Result<()>;
}
