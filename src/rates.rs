//! How much of a sample is picture and how much is noise.

use std::fmt;

use tch::Tensor;

use crate::device::send;
use crate::memory::guarded;
use crate::short::Few;
use crate::{Error, Result};

/// How much of a sample is picture and how much is noise, once for a batch or for each of its samples.
///
/// ```text
/// x = signal_rate x_0 + noise_rate eps
/// ```
/// A schedule gives them for its timesteps, see [`Schedule::rates`](crate::schedule::Schedule::rates), a sampler for its
/// positions.
///
/// # Examples
/// ```
/// use diffuscope::{prediction::Prediction, rates::Rates, schedule::Schedule};
/// use tch::Tensor;
/// let (x_0, noise) = (Tensor::from_slice(&[1.]), Tensor::from_slice(&[0.5]));
/// let rates = Schedule::stable_diffusion().rates(500)?;
/// let x_t = rates.noised(&x_0, &noise)?;
/// let back = Prediction::Epsilon.x_0(&rates, &x_t, &noise)?;
/// assert!((back - x_0).double_value(&[0]).abs() < 1e-12);
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Rates {
    /// (signal_rate, noise_rate): one pair, or one per sample.
    pairs: Vec<(f64, f64)>,
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").field("pairs", &Few(&self.pairs)).finish()
    }
}

impl Rates {
    /// The rates of a whole batch.
    pub fn new(signal_rate: f64, noise_rate: f64) -> Self {
        Self { pairs: vec![(signal_rate, noise_rate)] }
    }

    /// The rates of each sample, as pairs of a signal rate and a noise rate.
    pub fn per_sample(pairs: Vec<(f64, f64)>) -> Self {
        Self { pairs }
    }

    /// A picture with noise: `signal_rate x_0 + noise_rate noise`.
    ///
    /// # Errors
    /// Shapes that differ; rates for another number of samples.
    pub fn noised(&self, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        crate::check::alike("noise", noise, x_0)?;
        self.check(x_0)?;
        let doing = || format!("adding noise to samples of {:?}", x_0.size());
        guarded(doing, "", || {
            Ok(self.times(x_0, |signal, _| signal) + self.times(noise, |_, noise| noise))
        })
    }

    /// Refuses a tensor that has another number of samples.
    pub(crate) fn check(&self, x: &Tensor) -> Result<()> {
        let count = self.pairs.len();
        if count == 1 || x.size().first() == Some(&(count as i64)) {
            return Ok(());
        }
        let expected = match x.size().first() {
            Some(batch) => format!("one number, or [{batch}], one per sample"),
            None => "one number for a sample without dimensions".to_owned(),
        };
        Err(Error::shape("timestep", expected, &[count as i64]))
    }

    /// Whether a condition on (signal_rate, noise_rate) holds for any sample.
    pub(crate) fn any(&self, condition: impl Fn(f64, f64) -> bool) -> bool {
        self.pairs.iter().any(|&(signal, noise)| condition(signal, noise))
    }

    /// `factor(signal_rate, noise_rate) x`, sample by sample, in the dtype of `x`.
    pub(crate) fn times(&self, x: &Tensor, factor: impl Fn(f64, f64) -> f64) -> Tensor {
        match self.pairs[..] {
            [(signal, noise)] => x * factor(signal, noise),
            _ => x * self.shaped_for(x, factor),
        }
    }

    /// `x / divisor(signal_rate, noise_rate)`, sample by sample, in the dtype of `x`.
    pub(crate) fn under(&self, x: &Tensor, divisor: impl Fn(f64, f64) -> f64) -> Tensor {
        match self.pairs[..] {
            [(signal, noise)] => x / divisor(signal, noise),
            _ => x / self.shaped_for(x, divisor),
        }
    }

    /// One number per sample, shaped to multiply `x`: [B, 1, ...].
    fn shaped_for(&self, x: &Tensor, number: impl Fn(f64, f64) -> f64) -> Tensor {
        let numbers: Vec<f64> =
            self.pairs.iter().map(|&(signal, noise)| number(signal, noise)).collect();
        let mut shape = vec![1; x.dim().max(1)];
        shape[0] = -1;
        send(&Tensor::from_slice(&numbers).reshape(shape), x.kind(), x.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_own_rates_or_all_the_same() -> Result<()> {
        let (x_0, noise) = (Tensor::from_slice(&[1., 10.]), Tensor::from_slice(&[2., 20.]));
        let each = Rates::per_sample(vec![(0.5, 1.), (0.1, 0.2)]);
        assert!(each.noised(&x_0, &noise)?.equal(&Tensor::from_slice(&[2.5, 5.])));
        assert!(Rates::new(0.5, 1.).noised(&x_0, &noise)?.equal(&Tensor::from_slice(&[2.5, 25.])));
        assert!(each.noised(&x_0.get(0), &noise.get(0)).is_err(), "no dimension");
        let three = Tensor::zeros([3], tch::kind::DOUBLE_CPU);
        assert!(each.noised(&three, &three).is_err() && each.noised(&x_0, &three).is_err());
        Ok(())
    }
}
