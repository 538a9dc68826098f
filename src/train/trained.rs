//! What a training call leaves.

use std::fmt;
use std::path::PathBuf;

use super::LossCurve;
use crate::Result;

/// How far a training came. It shows its loss when it ends a notebook cell.
#[derive(Clone)]
pub struct Trained {
    /// The folder with the network, the log and the checkpoint.
    pub out: PathBuf,
    /// Steps taken, in all sittings.
    pub step: u64,
    /// Steps of the whole training.
    pub steps: u64,
}

impl Trained {
    /// Whether all steps were taken: a training that was interrupted goes on when it is called again.
    pub fn finished(&self) -> bool {
        self.step >= self.steps
    }

    /// The loss of every step so far.
    ///
    /// # Errors
    /// A folder whose log is gone.
    pub fn losses(&self) -> Result<LossCurve> {
        LossCurve::open(&self.out)
    }
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { out, step, steps } = self;
        match self.finished() {
            true => write!(f, "trained for {steps} steps, into {}", out.display()),
            false => write!(
                f,
                "stopped after {step} of {steps} steps, into {}; the same call goes on from there",
                out.display()
            ),
        }
    }
}

impl fmt::Debug for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trained {{ step: {} of {}, out: {:?} }}", self.step, self.steps, self.out)
    }
}
