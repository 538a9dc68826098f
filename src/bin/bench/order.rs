//! What a line of the protocol asks for.

use std::path::PathBuf;
use std::time::Instant;

use diffuscope::{Error, Result};
use serde::Deserialize;
use tch::{Cuda, Device, Kind, Tensor};

use crate::operations::OperationCounts;

/// One line of the protocol.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum BenchOrder {
    /// Say the versions of what computes.
    Hello,
    /// Make a work ready. Replaces the one before.
    Prepare(Box<WorkOrder>),
    /// Do it once and say how long it took.
    Run,
    /// Say how long its operations take at the best rate of any kernel.
    Roofline,
    /// Say how fast this machine multiplies and convolves.
    Rates {
        /// The dtype.
        dtype: String,
        /// The device.
        device: String,
    },
    /// Say how far two answers are apart.
    Compare {
        /// What is expected.
        ours: PathBuf,
        /// What is compared with it.
        theirs: PathBuf,
    },
}

/// A work: what is computed, with which model, how large.
#[derive(Deserialize, Clone)]
pub struct WorkOrder {
    pub work: String,
    /// The way of doing it, where there are several.
    #[serde(default)]
    pub variant: String,
    /// The model.
    pub folder: PathBuf,
    pub dtype: String,
    pub device: String,
    /// Samples or pictures at once.
    pub batch: i64,
    /// The side of the latents.
    pub side: i64,
    /// Denoising steps.
    pub steps: usize,
    pub threads: usize,
    /// Where the inputs lie. The first one that is asked writes them.
    pub inputs: PathBuf,
    /// Where the answer goes.
    pub answer: PathBuf,
    /// A folder for what a work writes.
    pub scratch: PathBuf,
    /// The command-line program.
    pub program: PathBuf,
}

/// A work that is ready.
pub struct ReadyWork {
    /// Does it once.
    pub run: Box<dyn FnMut() -> Result<WorkRun>>,
    /// The operations of one run.
    pub operations: OperationCounts,
}

/// What one run came to.
pub struct WorkRun {
    pub seconds: f64,
    /// What was computed, where it can be compared.
    pub answer: Option<Tensor>,
}

impl WorkOrder {
    pub fn kind(&self) -> Result<Kind> {
        kind(&self.dtype)
    }

    pub fn device(&self) -> Result<Device> {
        Ok(diffuscope::device::pick(Some(&self.device))?.device)
    }
}

pub fn kind(dtype: &str) -> Result<Kind> {
    match dtype {
        "f32" => Ok(Kind::Float),
        "bf16" => Ok(Kind::BFloat16),
        "f16" => Ok(Kind::Half),
        other => Err(Error::argument("dtype", "f32, bf16 or f16", other)),
    }
}

/// How long something takes, with all that a GPU still computes before and after it.
pub fn timed<T>(device: Device, body: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    wait_for(device);
    let start = Instant::now();
    let made = body()?;
    wait_for(device);
    Ok((start.elapsed().as_secs_f64(), made))
}

fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
