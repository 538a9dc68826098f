//! The only place that draws random numbers.
//!
//! A seed gives the numbers of `torch.Generator("cpu").manual_seed(seed)`: everything is drawn on the
//! CPU in f32 and then moved, so that CPU and GPU see the same noise.

use std::sync::{Mutex, MutexGuard};

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// tch offers only the global generator: whoever draws holds this.
static GENERATOR: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Draws `shape` from the standard normal distribution, as `torch.randn(shape, generator=g)` does
/// for `g = torch.Generator("cpu").manual_seed(seed)`.
///
/// # Errors
/// A negative length.
///
/// # Examples
/// ```
/// let x_t = diffuscope::noise::standard_normal(&[1, 4, 64, 64], 0)?;
/// assert!((x_t.double_value(&[0, 0, 0, 0]) + 1.1258).abs() < 1e-4);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn standard_normal(shape: &[i64], seed: i64) -> Result<Tensor> {
    Ok(standard_normals(shape, seed, 1)?.remove(0))
}

/// Draws `count` tensors of `shape` one after another from one generator: what a sampler that adds
/// noise at every step consumes.
///
/// # Errors
/// A negative length.
pub fn standard_normals(shape: &[i64], seed: i64, count: usize) -> Result<Vec<Tensor>> {
    if shape.iter().any(|&n| n < 0) {
        return Err(Error::shape("noise", "lengths of 0 and more", shape));
    }
    let _guard = lock();
    tch::manual_seed(seed);
    (0..count).map(|_| Ok(Tensor::f_randn(shape, (Kind::Float, Device::Cpu))?)).collect()
}

/// Runs `draw` with torch's global generator started from `seed`, and nobody else drawing.
pub fn with_seed<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    let _guard = lock();
    tch::manual_seed(seed);
    draw()
}
