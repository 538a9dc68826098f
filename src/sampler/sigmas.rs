//! The sigmas of a schedule, and how those that a sampling visits are spaced.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

use crate::schedule::Schedule;
use crate::{Error, Result};

/// How the sigmas are spaced from the noisiest to the cleanest; serde and people use these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sigmas {
    /// Those of the visited timesteps.
    #[default]
    Own,
    /// `sigma^(1/7)` evenly spaced; Karras et al. 2022, eq. 5 with rho = 7.
    Karras,
    /// `log sigma` evenly spaced.
    Exponential,
    /// Quantiles of the beta distribution with both parameters 0.6; Lee et al. 2024, "Beta Sampling is All You Need".
    Beta,
}

impl Sigmas {
    /// `n` sigmas from `high` down to `low`.
    pub(super) fn between(self, high: f64, low: f64, n: usize) -> Result<Vec<f64>> {
        let ramp = |i: usize| if n > 1 { i as f64 / (n - 1) as f64 } else { 0. };
        let line = |from: f64, to: f64, i: usize| from + (to - from) * ramp(i);
        let mut all: Vec<f64> = match self {
            Self::Own => {
                return Err(Error::argument("sigmas", "karras, exponential or beta", "own"));
            }
            Self::Karras => {
                let root = |sigma: f64| sigma.powf(1. / 7.);
                (0..n).map(|i| line(root(high), root(low), i).powi(7)).collect()
            }
            Self::Exponential => (0..n).map(|i| line(high.ln(), low.ln(), i).exp()).collect(),
            Self::Beta => {
                let beta = Beta::new(0.6, 0.6)
                    .map_err(|e| Error::argument("sigmas", "a beta distribution", e))?;
                (0..n).map(|i| low + beta.inverse_cdf(1. - ramp(i)) * (high - low)).collect()
            }
        };
        // Without the rounding of powers and logarithms: a sampling may end on exactly `low`.
        if let [first, .., last] = &mut all[..] {
            (*first, *last) = (high, low);
        }
        Ok(all)
    }
}

/// Where a sampling ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// On the picture.
    Zero,
    /// On the noise of timestep 0.
    SigmaMin,
}

/// The sigma of every training timestep. One that leaves nothing of the picture, at the end of a schedule that was rescaled
/// to zero SNR, would be infinite; it gets the sigma of alpha_bar = 2^-24, as in diffusers.
pub(super) fn all_sigmas(s: &Schedule) -> Vec<f64> {
    let kept = |a: f64| if a > 0. { a } else { 2f64.powi(-24) };
    s.alphas_cumprod().iter().map(|a| ((1. - a) / kept(*a)).sqrt()).collect()
}

/// The sigma of a timestep; between training timesteps, by linear interpolation.
pub(super) fn sigma_at(sigmas: &[f64], t: f64) -> f64 {
    let low = (t.floor().max(0.) as usize).min(sigmas.len() - 1);
    let high = (low + 1).min(sigmas.len() - 1);
    sigmas[low] + (sigmas[high] - sigmas[low]) * (t - low as f64)
}

/// The timestep of a sigma; between training timesteps, by linear interpolation in log sigma.
pub(super) fn timestep_of(s: &Schedule, sigma: f64) -> f64 {
    let logs: Vec<f64> = all_sigmas(s).iter().map(|sigma| sigma.ln()).collect();
    let target = sigma.max(1e-10).ln();
    let low = logs
        .partition_point(|log| *log <= target)
        .saturating_sub(1)
        .min(logs.len().saturating_sub(2));
    match logs.get(low + 1) {
        Some(high) => low as f64 + ((target - logs[low]) / (high - logs[low])).clamp(0., 1.),
        None => 0.,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sigma_knows_its_timestep() {
        let s = Schedule::stable_diffusion();
        for t in [0usize, 1, 500, 998, 999] {
            assert!((timestep_of(&s, s.sigmas()[t]) - t as f64).abs() < 1e-9, "{t}");
        }
        let between = (s.sigmas()[7] * s.sigmas()[8]).sqrt();
        assert!((timestep_of(&s, between) - 7.5).abs() < 1e-9);
        assert_eq!((timestep_of(&s, 1e9), timestep_of(&s, 0.)), (999., 0.));
    }

    #[test]
    fn every_kind_of_sigmas_goes_down_between_its_ends() -> Result<()> {
        for kind in [Sigmas::Karras, Sigmas::Exponential, Sigmas::Beta] {
            for n in [1, 2, 3, 30, 200] {
                let list = kind.between(14.6, 0.03, n)?;
                assert!((list[0] - 14.6).abs() < 1e-9 && list.len() == n, "{kind:?}");
                assert!(n == 1 || (list[n - 1] - 0.03).abs() < 1e-9, "{kind:?}");
                assert!(list.windows(2).all(|w| w[1] < w[0]), "{kind:?}");
            }
        }
        Ok(())
    }
}
