//! One evaluation of the model.

use tch::Tensor;

use super::Position;

/// One evaluation of the model: a sample, and what the model saw in it.
#[derive(Debug)]
pub struct Evaluation {
    /// Where the sample was.
    pub position: Position,
    /// The sample; after a corrector, the corrected one.
    pub x_t: Tensor,
    /// The picture that the model saw in it.
    pub x_0: Tensor,
    /// The noise that the model saw in it.
    pub noise_pred: Tensor,
}

impl Evaluation {
    /// The same evaluation, sharing its tensors.
    pub fn shallow_clone(&self) -> Self {
        Self {
            position: self.position,
            x_t: self.x_t.shallow_clone(),
            x_0: self.x_0.shallow_clone(),
            noise_pred: self.noise_pred.shallow_clone(),
        }
    }
}
