//! Mean and standard deviation, and what the forward process makes of them.

use tch::{Kind, Tensor};

use crate::device::in_f64_on_cpu;
use crate::schedule::Schedule;
use crate::{Error, Result};

/// The first two moments of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// The mean of all numbers.
    pub mean: f64,
    /// Their standard deviation, divided by n.
    pub std_dev: f64,
}

/// Mean and standard deviation of all numbers of `x`, in f64.
///
/// ```text
/// mean = (1/n) sum_i x_i        std_dev^2 = (1/n) sum_i (x_i - mean)^2
/// ```
/// # Errors
/// No numbers.
///
/// # Examples
/// ```
/// let x = tch::Tensor::from_slice(&[1., 3.]);
/// let m = diffuscope::measure::moments(&x)?;
/// assert_eq!((m.mean, m.std_dev), (2., 1.));
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn moments(x: &Tensor) -> Result<Moments> {
    if x.numel() == 0 {
        return Err(Error::shape("x", "one number and more", &x.size()));
    }
    let x = in_f64_on_cpu(x)?;
    let mean = x.mean(Kind::Double).double_value(&[]);
    let variance = (x - mean).square().mean(Kind::Double).double_value(&[]);
    Ok(Moments { mean, std_dev: variance.sqrt() })
}

impl Moments {
    /// The moments at timestep `t` of a picture with these moments, averaged over the noise.
    ///
    /// ```text
    /// mean_t = sqrt(alpha_bar_t) mean        std_dev_t^2 = alpha_bar_t std_dev^2 + 1 - alpha_bar_t
    /// ```
    /// From Ho et al. 2020, eq. 4: noise has mean 0 and variance 1 and is independent of the picture.
    ///
    /// # Errors
    /// `t` outside the schedule.
    pub fn noised(self, s: &Schedule, t: usize) -> Result<Self> {
        let alpha_bar_t = s.alpha_bar(t)?;
        let variance = alpha_bar_t * self.std_dev.powi(2) + 1. - alpha_bar_t;
        Ok(Self { mean: alpha_bar_t.sqrt() * self.mean, std_dev: variance.sqrt() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::add_noise;
    use crate::noise::standard_normal;

    #[test]
    fn the_law_is_what_noise_does() -> Result<()> {
        let s = Schedule::stable_diffusion();
        // Far from a normal distribution, as pictures are.
        let x_0 = standard_normal(&[200_000], 1)?.sign() * 0.4 - 0.3;
        let noise = standard_normal(&[200_000], 2)?;
        let start = moments(&x_0)?;
        for t in [0, 200, 600, 999] {
            let x_t = add_noise(&s, t, &x_0, &noise)?;
            let (law, got) = (start.noised(&s, t)?, moments(&x_t)?);
            assert!((law.mean - got.mean).abs() < 0.01, "{t}: {law:?} {got:?}");
            assert!((law.std_dev - got.std_dev).abs() < 0.01, "{t}: {law:?} {got:?}");
        }
        assert!(start.noised(&s, 1000).is_err());
        assert!(moments(&x_0.narrow(0, 0, 0)).is_err());
        Ok(())
    }
}
