//! Where a sample is between picture and noise.

use std::fmt;

use tch::Tensor;

use crate::Result;
use crate::rates::Rates;
use crate::schedule::{Schedule, Step};
use crate::short::Digits;

/// Where a sample is between picture and noise.
///
/// ```text
/// x = signal_rate x_0 + noise_rate eps
/// ```
/// Samplers in time keep the variance: `signal_rate = sqrt(alpha_bar_t)`, `noise_rate = sqrt(1 - alpha_bar_t)`. Samplers
/// in sigma keep the picture: `signal_rate` is 1, and `noise_rate` is sigma. Both are the same sample at another size.
/// Papers on DPM-Solver and its relatives call the rates `alpha_t` and `sigma_t`.
#[derive(Clone, Copy, PartialEq)]
pub struct Position {
    /// The timestep that the model is given; it may lie between two training timesteps.
    pub t: f64,
    /// How much of the picture there is.
    pub signal_rate: f64,
    /// How much noise there is.
    pub noise_rate: f64,
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Position")
            .field("t", &Digits(self.t))
            .field("signal_rate", &Digits(self.signal_rate))
            .field("noise_rate", &Digits(self.noise_rate))
            .finish()
    }
}

impl Position {
    /// The picture itself: no noise.
    pub const PICTURE: Self = Self { t: 0., signal_rate: 1., noise_rate: 0. };

    /// The position of a training timestep: `signal_rate = sqrt(alpha_bar_t)`, `noise_rate = sqrt(1 - alpha_bar_t)`.
    ///
    /// # Errors
    /// `t` that is not below `num_train_timesteps`.
    pub fn of(s: &Schedule, t: usize) -> Result<Self> {
        let alpha_bar_t = s.alpha_bar(t)?;
        let (signal_rate, noise_rate) = (alpha_bar_t.sqrt(), (1. - alpha_bar_t).sqrt());
        Ok(Self { t: t as f64, signal_rate, noise_rate })
    }

    /// Both ends of a step: from its timestep to the next one, or to the picture.
    ///
    /// # Errors
    /// A step outside the schedule or that does not go down.
    pub fn of_step(s: &Schedule, step: Step) -> Result<(Self, Self)> {
        s.alpha_bar_prev(step)?;
        let to = step.t_prev.map_or(Ok(Self::PICTURE), |t_prev| Self::of(s, t_prev))?;
        Ok((Self::of(s, step.t)?, to))
    }

    /// The step from here to `next`, both at training timesteps.
    pub(super) fn step_to(self, next: Self) -> Step {
        let t_prev = (next.noise_rate > 0.).then_some(next.t as usize);
        Step { t: self.t as usize, t_prev }
    }

    /// A sigma at the size where `signal_rate` is 1; Karras et al. 2022, table 1.
    pub(super) fn in_sigma(t: f64, sigma: f64) -> Self {
        Self { t, signal_rate: 1., noise_rate: sigma }
    }

    /// A sigma at the size where the variance is kept: `signal_rate = 1 / sqrt(sigma^2 + 1)`.
    pub(super) fn in_time(t: f64, sigma: f64) -> Self {
        let signal_rate = 1. / sigma.hypot(1.);
        Self { t, signal_rate, noise_rate: sigma * signal_rate }
    }

    /// The rates alone, for [`Prediction::x_0`](crate::prediction::Prediction::x_0) and its inverses.
    pub fn rates(&self) -> Rates {
        Rates::new(self.signal_rate, self.noise_rate)
    }

    /// `sigma = noise_rate / signal_rate`
    pub fn sigma(&self) -> f64 {
        self.noise_rate / self.signal_rate
    }

    /// `lambda = log(signal_rate / noise_rate)`, half the logarithm of the signal-to-noise ratio; infinite for the
    /// picture.
    pub fn lambda(&self) -> f64 {
        (self.signal_rate / self.noise_rate).ln()
    }

    /// The factor that scales a sample for the model: `1 / sqrt(signal_rate^2 + noise_rate^2)`.
    pub fn input_scale(&self) -> f64 {
        1. / self.signal_rate.hypot(self.noise_rate)
    }

    /// A picture noised to here: `signal_rate x_0 + noise_rate noise`.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn noised(&self, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        self.rates().noised(x_0, noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use crate::prediction::Prediction;
    use tch::Kind;

    #[test]
    fn a_prediction_means_the_same_at_any_size_of_the_sample() -> Result<()> {
        let x_0 = standard_normal(&[2, 4, 3, 3], 1)?.to_kind(Kind::Double);
        let noise = standard_normal(&[2, 4, 3, 3], 2)?.to_kind(Kind::Double);
        let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-11;
        for sigma in [0.03, 1., 14.] {
            let (time, space) = (Position::in_time(5., sigma), Position::in_sigma(5., sigma));
            let v = &noise * time.signal_rate - &x_0 * time.noise_rate;
            for at in [time, space] {
                let (rates, x) = (at.rates(), at.noised(&x_0, &noise)?);
                for (prediction, output) in
                    [(Prediction::Epsilon, &noise), (Prediction::V, &v), (Prediction::Sample, &x_0)]
                {
                    assert!(
                        near(&prediction.x_0(&rates, &x, output)?, &x_0),
                        "{at:?} {prediction:?}"
                    );
                    assert!(near(&prediction.noise(&rates, &x, output)?, &noise));
                    assert!(near(&prediction.output(&rates, &x, &x_0)?, output));
                }
                assert!(near(&(&x * at.input_scale()), &time.noised(&x_0, &noise)?));
                assert!((at.sigma() - sigma).abs() < 1e-12);
            }
            assert!((time.lambda() - space.lambda()).abs() < 1e-12);
        }
        Ok(())
    }
}
