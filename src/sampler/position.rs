//! Where samples stand between picture and noise, and the sigmas that a sampling visits.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};
use tch::Tensor;

use super::Settings;
use crate::forward::same_shape;
use crate::prediction::Prediction;
use crate::schedule::{Schedule, Spacing, timesteps, timesteps_f64};
use crate::{Error, Result};

/// Where a sample stands between picture and noise: `x = alpha x_0 + sigma eps`.
///
/// The samplers in time keep the variance: `alpha = sqrt(alpha_bar_t)`, `sigma = sqrt(1 - alpha_bar_t)`. Those in
/// sigma keep the picture: alpha is 1, and sigma grows. Both are the same sample at another size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// The timestep that the model is told; it may lie between two training timesteps.
    pub t: f64,
    /// How much of the picture there is.
    pub alpha: f64,
    /// How much noise there is.
    pub sigma: f64,
}

impl Position {
    /// The picture itself: no noise.
    pub const PICTURE: Self = Self { t: 0., alpha: 1., sigma: 0. };

    /// The position of a training timestep: `alpha = sqrt(alpha_bar_t)`, `sigma = sqrt(1 - alpha_bar_t)`.
    ///
    /// # Errors
    /// `t` that is not below `num_train_timesteps`.
    pub fn of(s: &Schedule, t: usize) -> Result<Self> {
        let alpha_bar_t = s.alpha_bar(t)?;
        Ok(Self { t: t as f64, alpha: alpha_bar_t.sqrt(), sigma: (1. - alpha_bar_t).sqrt() })
    }

    /// The same noise at the size where alpha is 1; Karras et al. 2022, table 1.
    fn in_sigma(t: f64, sigma: f64) -> Self {
        Self { t, alpha: 1., sigma }
    }

    /// The same noise at the size where the variance stays: `alpha = 1 / sqrt(sigma^2 + 1)`.
    fn in_time(t: f64, sigma: f64) -> Self {
        let alpha = 1. / sigma.hypot(1.);
        Self { t, alpha, sigma: sigma * alpha }
    }

    /// What the sample is multiplied with before the model sees it: `1 / sqrt(alpha^2 + sigma^2)`.
    pub fn input_scale(&self) -> f64 {
        1. / self.alpha.hypot(self.sigma)
    }

    /// `lambda = log(alpha / sigma)`, half the logarithm of the signal-to-noise ratio; infinite for the picture.
    pub fn lambda(&self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// A picture noised to here: `alpha x_0 + sigma noise`.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn noised(&self, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        same_shape("noise", noise, x_0)?;
        Ok(x_0 * self.alpha + noise * self.sigma)
    }

    /// What `model_output` says here of the picture.
    ///
    /// ```text
    /// epsilon: x_0 = (x - sigma eps) / alpha
    /// v:       x_0 = a x / n - b v         n = sqrt(alpha^2 + sigma^2), a = alpha / n, b = sigma / n
    /// ```
    /// # Errors
    /// Shapes that differ; noise that is asked for where there is nothing else.
    pub fn x_0(&self, prediction: Prediction, x: &Tensor, model_output: &Tensor) -> Result<Tensor> {
        same_shape("model output", model_output, x)?;
        let scale = self.input_scale();
        match prediction {
            Prediction::Epsilon if self.alpha == 0. => {
                let todo = "use a model of v or of the sample, or a schedule that ends above 0";
                Err(Error::argument("prediction", "v or sample at alpha_bar = 0", "epsilon", todo))
            }
            Prediction::Epsilon => Ok((x - self.sigma * model_output) / self.alpha),
            Prediction::V => {
                Ok(x * (self.alpha * scale * scale) - model_output * (self.sigma * scale))
            }
            Prediction::Sample => Ok(model_output.shallow_clone()),
        }
    }

    /// What `model_output` says here of the noise: `a v + b x / n` of a v, `(x - alpha x_0) / sigma` of a picture.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn noise_pred(
        &self,
        prediction: Prediction,
        x: &Tensor,
        model_output: &Tensor,
    ) -> Result<Tensor> {
        same_shape("model output", model_output, x)?;
        let scale = self.input_scale();
        Ok(match prediction {
            Prediction::Epsilon => model_output.shallow_clone(),
            Prediction::V => x * (self.sigma * scale * scale) + model_output * (self.alpha * scale),
            Prediction::Sample => (x - self.alpha * model_output) / self.sigma,
        })
    }
}

impl Position {
    /// What a model would have said here, had it seen the picture `x_0` in `x`: the inverse of [`Position::x_0`].
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn model_output(&self, prediction: Prediction, x: &Tensor, x_0: &Tensor) -> Result<Tensor> {
        let noise = self.noise_pred(Prediction::Sample, x, x_0)?;
        let scale = self.input_scale();
        Ok(match prediction {
            Prediction::Epsilon => noise,
            Prediction::V => noise * (self.alpha * scale) - x_0 * (self.sigma * scale),
            Prediction::Sample => x_0.shallow_clone(),
        })
    }
}

/// How the sigmas lie between the noisiest and the cleanest; serde and people use these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sigmas {
    /// Those of the visited timesteps.
    #[default]
    Own,
    /// `sigma^(1/7)` on a line; Karras et al. 2022, eq. 5 with rho = 7.
    Karras,
    /// `log sigma` on a line.
    Exponential,
    /// Quantiles of the beta distribution with both parameters 0.6; Lee et al. 2024, "Beta Sampling is All You Need".
    Beta,
}

impl Sigmas {
    /// `n` sigmas from `high` down to `low`.
    fn between(self, high: f64, low: f64, n: usize) -> Result<Vec<f64>> {
        let ramp = |i: usize| if n > 1 { i as f64 / (n - 1) as f64 } else { 0. };
        let line = |from: f64, to: f64, i: usize| from + (to - from) * ramp(i);
        Ok(match self {
            Self::Own => {
                return Err(Error::argument("sigmas", "karras, exponential or beta", "own", ""));
            }
            Self::Karras => {
                let root = |sigma: f64| sigma.powf(1. / 7.);
                (0..n).map(|i| line(root(high), root(low), i).powi(7)).collect()
            }
            Self::Exponential => (0..n).map(|i| line(high.ln(), low.ln(), i).exp()).collect(),
            Self::Beta => {
                let beta = Beta::new(0.6, 0.6)
                    .map_err(|e| Error::argument("sigmas", "a beta distribution", e, ""))?;
                (0..n).map(|i| low + beta.inverse_cdf(1. - ramp(i)) * (high - low)).collect()
            }
        })
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

/// The sigma of every training timestep. One that leaves nothing of the picture would be infinite; it gets the sigma of
/// alpha_bar = 2^-24, as in diffusers.
fn all_sigmas(s: &Schedule) -> Vec<f64> {
    let floor = 2f64.powi(-24);
    s.alphas_cumprod().iter().map(|a| ((1. - a.max(floor)) / a.max(floor)).sqrt()).collect()
}

/// Sigmas between training timesteps lie on a line.
fn sigma_at(sigmas: &[f64], t: f64) -> f64 {
    let low = (t.floor().max(0.) as usize).min(sigmas.len() - 1);
    let high = (low + 1).min(sigmas.len() - 1);
    sigmas[low] + (sigmas[high] - sigmas[low]) * (t - low as f64)
}

/// The timestep of a sigma, on a line in log sigma between training timesteps.
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

/// Timesteps that a person chose: downwards, below T.
fn chosen(s: &Schedule, list: &[usize]) -> Result<Vec<usize>> {
    let down = list.windows(2).all(|w| w[0] > w[1]);
    let total = s.num_train_timesteps();
    match list.first() {
        Some(&first) if down && first < total => Ok(list.to_vec()),
        _ => {
            let expected = format!("one and more below {total}, each below the one before");
            Err(Error::argument("timesteps", expected, format!("{list:?}"), ""))
        }
    }
}

/// The training timesteps that a sampler in time visits.
pub(super) fn time_list(s: &Schedule, n: usize, settings: &Settings) -> Result<Vec<usize>> {
    match &settings.timesteps {
        Some(list) => chosen(s, list),
        None => timesteps(s, n, settings.spacing, settings.steps_offset),
    }
}

/// The positions of a sampler in sigma (Euler, Heun, LMS ...): `n` and the end, alpha = 1.
///
/// Linspace stands between training timesteps. The sigmas of Karras and others lie between the first and the last of
/// the visited timesteps. `whole`: the timesteps of Karras' sigmas are rounded.
pub(super) fn in_sigma(
    s: &Schedule,
    n: usize,
    settings: &Settings,
    whole: bool,
) -> Result<Vec<Position>> {
    let list: Vec<f64> = match (&settings.timesteps, settings.spacing) {
        (None, Spacing::Linspace) => timesteps_f64(s, n, settings.spacing, settings.steps_offset)?,
        _ => time_list(s, n, settings)?.into_iter().map(|t| t as f64).collect(),
    };
    let all = all_sigmas(s);
    let own: Vec<f64> = list.iter().map(|&t| sigma_at(&all, t)).collect();
    let mut positions: Vec<Position> = match settings.sigmas {
        Sigmas::Own => {
            list.iter().zip(&own).map(|(&t, &sigma)| Position::in_sigma(t, sigma)).collect()
        }
        sigmas => {
            let ends = own.first().copied().zip(own.last().copied()).unwrap_or((1., 1.));
            sigmas
                .between(ends.0, ends.1, own.len())?
                .into_iter()
                .map(|sigma| {
                    let t = timestep_of(s, sigma);
                    let t = if whole && sigmas == Sigmas::Karras { t.round_ties_even() } else { t };
                    Position::in_sigma(t, sigma)
                })
                .collect()
        }
    };
    positions.push(match settings.final_sigma {
        Some(FinalSigma::SigmaMin) => Position::in_sigma(0., all[0]),
        _ => Position::PICTURE,
    });
    Ok(positions)
}

/// The positions of a sampler of the DPM-Solver kind: `n` and the end, the variance kept, the model told whole timesteps.
///
/// Leading and linspace divide by `n + 1`, so that none visits the cleanest timestep. The sigmas of Karras and others lie
/// between the noisiest and the cleanest of all training timesteps.
pub(super) fn in_lambda(
    s: &Schedule,
    n: usize,
    settings: &Settings,
    end: FinalSigma,
) -> Result<Vec<Position>> {
    let total = s.num_train_timesteps();
    let list = match (&settings.timesteps, settings.spacing) {
        (Some(list), _) => chosen(s, list)?,
        (None, Spacing::Trailing) => timesteps(s, n, Spacing::Trailing, 0)?,
        (None, spacing) => {
            let offset = if spacing == Spacing::Leading { settings.steps_offset } else { 0 };
            if n == 0 || n >= total {
                let todo = "this sampler leaves out the cleanest timestep";
                return Err(Error::argument("steps", format!("1 to {}", total - 1), n, todo));
            }
            let mut list = timesteps(s, n + 1, spacing, offset)?;
            list.pop();
            list
        }
    };
    let all = all_sigmas(s);
    let (low, high) = (all[0], all[total - 1]);
    let mut positions: Vec<Position> = match settings.sigmas {
        Sigmas::Own => list.iter().map(|&t| Position::in_time(t as f64, all[t])).collect(),
        sigmas => sigmas
            .between(high, low, list.len())?
            .into_iter()
            .map(|sigma| {
                let t = timestep_of(s, sigma);
                // diffusers rounds the timesteps of Karras' sigmas and cuts off the others' fractions.
                let t = if sigmas == Sigmas::Karras { t.round_ties_even() } else { t.floor() };
                Position::in_time(t, sigma)
            })
            .collect(),
    };
    positions.push(match settings.final_sigma.unwrap_or(end) {
        FinalSigma::Zero => Position::PICTURE,
        FinalSigma::SigmaMin => Position::in_time(0., low),
    });
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use tch::Kind;

    #[test]
    fn a_prediction_says_the_same_of_a_sample_at_any_size() -> Result<()> {
        let x_0 = standard_normal(&[2, 4, 3, 3], 1)?.to_kind(Kind::Double);
        let noise = standard_normal(&[2, 4, 3, 3], 2)?.to_kind(Kind::Double);
        let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-11;
        for sigma in [0.03, 1., 14.] {
            let (time, space) = (Position::in_time(5., sigma), Position::in_sigma(5., sigma));
            let v = &noise * time.alpha - &x_0 * time.sigma;
            for at in [time, space] {
                let x = at.noised(&x_0, &noise)?;
                for (prediction, output) in
                    [(Prediction::Epsilon, &noise), (Prediction::V, &v), (Prediction::Sample, &x_0)]
                {
                    assert!(near(&at.x_0(prediction, &x, output)?, &x_0), "{at:?} {prediction:?}");
                    assert!(near(&at.noise_pred(prediction, &x, output)?, &noise));
                    assert!(near(&at.model_output(prediction, &x, &x_0)?, output));
                }
                assert!(near(&(&x * at.input_scale()), &time.noised(&x_0, &noise)?));
            }
            assert!((time.lambda() - space.lambda()).abs() < 1e-12);
        }
        Ok(())
    }

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

    #[test]
    fn chosen_timesteps_must_go_down() {
        let s = Schedule::stable_diffusion();
        assert!(chosen(&s, &[999, 500, 0]).is_ok());
        for list in [&[][..], &[1000], &[5, 5], &[1, 2]] {
            assert!(chosen(&s, list).is_err(), "{list:?}");
        }
    }
}
