//! How much noise there is at every timestep, and which timesteps are visited.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rates::Rates;
use crate::short::Digits;
use crate::timesteps::Timesteps;
use crate::{Error, Result};

/// How beta grows over the training timesteps; serde uses diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BetaSchedule {
    /// `beta_t` linear in t from `beta_start` to `beta_end`; Ho et al. 2020, section 4.
    #[serde(rename = "linear")]
    Linear,
    /// `sqrt(beta_t)` linear in t: what CompVis calls linear and Stable Diffusion uses.
    #[serde(rename = "scaled_linear")]
    ScaledLinear,
    /// `alpha_bar` a squared cosine; Nichol & Dhariwal 2021, eq. 17.
    #[serde(rename = "squaredcos_cap_v2", alias = "cosine")]
    Cosine,
}

/// The noise at every training timestep, in f64.
///
/// ```text
/// alpha_t = 1 - beta_t        alpha_bar_t = alpha_1 ... alpha_t        Ho et al. 2020, section 2
/// ```
#[derive(Clone, PartialEq)]
pub struct Schedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = |values: &[f64]| {
            let ends = values.first().zip(values.last()).unwrap_or((&0., &0.));
            format!("{} to {}", Digits(*ends.0), Digits(*ends.1))
        };
        let (betas, alphas_cumprod) = (ends(&self.betas), ends(&self.alphas_cumprod));
        let count = self.betas.len();
        write!(f, "Schedule of {count} timesteps: betas {betas}, alphas_cumprod {alphas_cumprod}")
    }
}

impl Schedule {
    /// The schedule of `num_train_timesteps` betas from `beta_start` to `beta_end`, of the kind that a configuration names; a
    /// cosine schedule needs neither end and caps beta at 0.999.
    ///
    /// # Errors
    /// No timestep; betas outside (0, 1) or decreasing.
    ///
    /// # Examples
    /// ```
    /// use diffuscope::schedule::{BetaSchedule, Schedule};
    /// let schedule = Schedule::new(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000)?;
    /// assert!((schedule.alphas_cumprod()[999] - 0.00466).abs() < 1e-5);
    /// # Ok::<(), diffuscope::Error>(())
    /// ```
    pub fn new(
        kind: BetaSchedule,
        beta_start: f64,
        beta_end: f64,
        num_train_timesteps: usize,
    ) -> Result<Self> {
        let n = num_train_timesteps;
        if !(1..=100_000).contains(&n) {
            return Err(Error::argument("num_train_timesteps", "1 to 100000", n));
        }
        let line = |from: f64, to: f64, i: usize| match n {
            1 => from,
            _ => from + (to - from) * i as f64 / (n - 1) as f64,
        };
        let betas = match kind {
            BetaSchedule::Linear => (0..n).map(|i| line(beta_start, beta_end, i)).collect(),
            BetaSchedule::ScaledLinear => {
                (0..n).map(|i| line(beta_start.sqrt(), beta_end.sqrt(), i).powi(2)).collect()
            }
            BetaSchedule::Cosine => {
                let alpha_bar = |i: usize| {
                    let u = i as f64 / n as f64;
                    ((u + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
                };
                (0..n).map(|i| (1. - alpha_bar(i + 1) / alpha_bar(i)).min(0.999)).collect()
            }
        };
        Self::from_betas(betas)
    }

    /// Betas that rise linearly: Ho et al. 2020 take 0.0001 to 0.02 over 1000 timesteps.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn linear(beta_start: f64, beta_end: f64, num_train_timesteps: usize) -> Result<Self> {
        Self::new(BetaSchedule::Linear, beta_start, beta_end, num_train_timesteps)
    }

    /// Betas whose roots rise linearly: Stable Diffusion takes 0.00085 to 0.012 over 1000 timesteps.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn scaled_linear(
        beta_start: f64,
        beta_end: f64,
        num_train_timesteps: usize,
    ) -> Result<Self> {
        Self::new(BetaSchedule::ScaledLinear, beta_start, beta_end, num_train_timesteps)
    }

    /// `alpha_bar` as a squared cosine of the timestep; Nichol & Dhariwal 2021, eq. 17.
    ///
    /// # Errors
    /// No timestep.
    #[doc(alias = "squaredcos_cap_v2")]
    pub fn cosine(num_train_timesteps: usize) -> Result<Self> {
        Self::new(BetaSchedule::Cosine, 0., 0., num_train_timesteps)
    }

    /// A schedule of these betas, one per timestep.
    ///
    /// # Errors
    /// No beta, or one outside (0, 1).
    pub fn from_betas(betas: Vec<f64>) -> Result<Self> {
        if betas.is_empty() {
            return Err(Error::argument("betas", "one per timestep", "none"));
        }
        if let Some(beta) = betas.iter().find(|b| !(**b > 0. && **b < 1.)) {
            return Err(Error::argument("beta", "above 0 and below 1", beta));
        }
        let alphas_cumprod = betas
            .iter()
            .scan(1., |product, beta| {
                *product *= 1. - beta;
                Some(*product)
            })
            .collect();
        Ok(Self { betas, alphas_cumprod })
    }

    /// The same schedule, stretched so that nothing of the picture is left at the last timestep, while the first one stays
    /// as it was.
    ///
    /// ```text
    /// r_t = sqrt(alpha_bar_t)        r'_t = (r_t - r_T) r_1 / (r_1 - r_T)        Lin et al. 2023, algorithm 1
    /// ```
    ///
    /// # Errors
    /// A schedule of one timestep.
    pub fn rescale_zero_snr(&self) -> Result<Self> {
        let roots: Vec<f64> = self.alphas_cumprod.iter().map(|a| a.sqrt()).collect();
        let (first, last) = match roots[..] {
            [first, .., last] => (first, last),
            _ => return Err(Error::argument("num_train_timesteps", "2 or more", roots.len())),
        };
        let stretched = |root: &f64| ((root - last) * first / (first - last)).powi(2);
        let alphas_cumprod: Vec<f64> = roots.iter().map(stretched).collect();
        let before = std::iter::once(&1.).chain(&alphas_cumprod);
        let betas = alphas_cumprod.iter().zip(before).map(|(a, before)| 1. - a / before).collect();
        Ok(Self { betas, alphas_cumprod })
    }

    /// Stable Diffusion's: scaled_linear from 0.00085 to 0.012 over 1000 timesteps.
    #[doc(alias = "default")]
    #[doc(alias = "sd15")]
    pub fn stable_diffusion() -> Self {
        let (start, end, n) = (0.00085f64.sqrt(), 0.012f64.sqrt(), 1000);
        let beta = |i: usize| (start + (end - start) * i as f64 / (n - 1) as f64).powi(2);
        let betas: Vec<f64> = (0..n).map(beta).collect();
        let mut product = 1.;
        let alphas_cumprod = betas
            .iter()
            .map(|beta| {
                product *= 1. - beta;
                product
            })
            .collect();
        Self { betas, alphas_cumprod }
    }

    /// The number of training timesteps, T. Timesteps are numbered from 0.
    pub fn num_train_timesteps(&self) -> usize {
        self.betas.len()
    }

    /// The variance that one forward step adds.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// `alpha_t = 1 - beta_t`
    pub fn alphas(&self) -> Vec<f64> {
        self.betas.iter().map(|beta| 1. - beta).collect()
    }

    /// `alpha_bar_t`: the share of the picture's variance that is left at t.
    #[doc(alias = "alpha_bars")]
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// `SNR(t) = alpha_bar_t / (1 - alpha_bar_t)`; Kingma et al. 2021, eq. 2.
    pub fn snr(&self) -> Vec<f64> {
        self.alphas_cumprod.iter().map(|a| a / (1. - a)).collect()
    }

    /// `log SNR(t)`, natural logarithm.
    pub fn log_snr(&self) -> Vec<f64> {
        self.snr().into_iter().map(f64::ln).collect()
    }

    /// `sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t)`: the noise relative to the picture; Karras et al. 2022, table 1.
    pub fn sigmas(&self) -> Vec<f64> {
        self.alphas_cumprod.iter().map(|a| ((1. - a) / a).sqrt()).collect()
    }

    /// `alpha_bar_t` of one timestep.
    ///
    /// # Errors
    /// `t` that is not below `num_train_timesteps`.
    pub fn alpha_bar(&self, t: usize) -> Result<f64> {
        let n = self.alphas_cumprod.len();
        let advice = "timesteps are numbered from 0";
        self.alphas_cumprod
            .get(t)
            .copied()
            .ok_or_else(|| Error::argument("timestep", format!("0..{n}"), t).hint(advice))
    }

    /// How much of a sample is picture and how much is noise at `t`.
    ///
    /// ```text
    /// signal_rate = sqrt(alpha_bar_t)        noise_rate = sqrt(1 - alpha_bar_t)        Ho et al. 2020, eq. 4
    /// ```
    ///
    /// # Errors
    /// No timestep; a fraction; one outside `0..num_train_timesteps`.
    pub fn rates(&self, t: impl Into<Timesteps>) -> Result<Rates> {
        let of = |t: usize| {
            let alpha_bar_t = self.alphas_cumprod[t];
            (alpha_bar_t.sqrt(), (1. - alpha_bar_t).sqrt())
        };
        let t = t.into().whole(self.num_train_timesteps())?;
        Ok(Rates::per_sample(t.into_iter().map(of).collect()))
    }

    /// The rates of one forward step, from `t - 1` to `t`: how much of the less noisy sample is kept, and how much noise
    /// is added.
    ///
    /// ```text
    /// signal_rate = sqrt(1 - beta_t)        noise_rate = sqrt(beta_t)        Ho et al. 2020, eq. 2
    /// ```
    ///
    /// # Errors
    /// No timestep; a fraction; one outside `0..num_train_timesteps`.
    pub fn rates_of_one_step(&self, t: impl Into<Timesteps>) -> Result<Rates> {
        let of = |t: usize| ((1. - self.betas[t]).sqrt(), self.betas[t].sqrt());
        let t = t.into().whole(self.num_train_timesteps())?;
        Ok(Rates::per_sample(t.into_iter().map(of).collect()))
    }

    /// `alpha_bar` where a step ends; the picture itself has 1.
    pub(crate) fn alpha_bar_prev(&self, step: Step) -> Result<f64> {
        if step.t_prev.is_some_and(|t_prev| t_prev >= step.t && step.t > 0) {
            let expected = format!("below t = {}", step.t);
            return Err(Error::argument("t_prev", expected, format!("{:?}", step.t_prev)));
        }
        step.t_prev.map_or(Ok(1.), |t_prev| self.alpha_bar(t_prev))
    }
}

/// A reverse step: from `t` to the next timestep that is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Where `x_t` is.
    pub t: usize,
    /// Where the step ends; `None` is the picture itself, `alpha_bar = 1`.
    pub t_prev: Option<usize>,
}

/// Which of the training timesteps are visited; Lin et al. 2023, table 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// `i floor(T / N) + steps_offset`: never reaches the noisiest timestep.
    Leading,
    /// `i (T - 1) / (N - 1)`: both ends.
    Linspace,
    /// `T - i T / N - 1`: counted from the noisiest timestep.
    Trailing,
}

/// The timesteps that `num_inference_steps` steps visit, the noisiest first, rounded half to even as numpy does.
/// `steps_offset` applies only to leading spacing.
///
/// # Errors
/// No step, or more steps than timesteps; an offset that leads past the last timestep.
///
/// # Examples
/// ```
/// use diffuscope::schedule::{Schedule, Spacing, timesteps};
/// let s = Schedule::stable_diffusion();
/// assert_eq!(timesteps(&s, 4, Spacing::Leading, 1)?, [751, 501, 251, 1]);
/// assert_eq!(timesteps(&s, 4, Spacing::Linspace, 0)?, [999, 666, 333, 0]);
/// assert_eq!(timesteps(&s, 4, Spacing::Trailing, 0)?, [999, 749, 499, 249]);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn timesteps(
    s: &Schedule,
    num_inference_steps: usize,
    spacing: Spacing,
    steps_offset: usize,
) -> Result<Vec<usize>> {
    Ok(timesteps_f64(s, num_inference_steps, spacing, steps_offset)?
        .into_iter()
        .map(|t| t.round_ties_even() as usize)
        .collect())
}

/// The same timesteps before rounding, where the spacing is linear: a sampler in sigma may visit positions between two
/// training timesteps.
pub(crate) fn timesteps_f64(
    s: &Schedule,
    num_inference_steps: usize,
    spacing: Spacing,
    steps_offset: usize,
) -> Result<Vec<f64>> {
    let (total, n) = (s.num_train_timesteps(), num_inference_steps);
    if !(1..=total).contains(&n) {
        let advice = "a model has no more steps than training timesteps";
        return Err(Error::argument("steps", format!("1 to {total}"), n).hint(advice));
    }
    let list: Vec<f64> = match spacing {
        Spacing::Leading => {
            let gap = total / n;
            (0..n).rev().map(|i| (i * gap).saturating_add(steps_offset) as f64).collect()
        }
        Spacing::Linspace => {
            let gap = if n > 1 { (total - 1) as f64 / (n - 1) as f64 } else { 0. };
            // Rounding may carry the last product past the end.
            (0..n).rev().map(|i| (i as f64 * gap).min((total - 1) as f64)).collect()
        }
        Spacing::Trailing => {
            // The gap as numpy's arange has it: halves round as they do there.
            let total = total as f64;
            let gap = total - (total - total / n as f64);
            (0..n).map(|i| (total - i as f64 * gap).round_ties_even() - 1.).collect()
        }
    };
    match list.first() {
        Some(&t) if t > (total - 1) as f64 => Err(Error::argument(
            "steps_offset",
            format!("timesteps below {total}"),
            format!("{t} in {n} steps with offset {steps_offset}"),
        )
        .hint("use fewer steps or another spacing")),
        _ => Ok(list),
    }
}

/// Pairs each timestep with the next one visited; the last step ends on the picture.
pub fn steps(timesteps: &[usize]) -> Vec<Step> {
    let next = timesteps.iter().skip(1).map(|&t| Some(t)).chain([None]);
    timesteps.iter().zip(next).map(|(&t, t_prev)| Step { t, t_prev }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_bar_falls_from_nearly_1_to_nearly_0() {
        for kind in [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::Cosine] {
            let s = Schedule::new(kind, 0.0001, 0.02, 1000).unwrap();
            assert!(s.alphas_cumprod().windows(2).all(|w| w[1] < w[0]));
            assert!(s.alphas_cumprod()[0] > 0.999 && s.alphas_cumprod()[999] < 0.01);
            assert!(s.betas().iter().filter(|&&b| b > 1e-5).count() > 990, "{kind:?}");
        }
    }

    #[test]
    fn stable_diffusion_is_scaled_linear() {
        let built = Schedule::new(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000).unwrap();
        assert_eq!(built, Schedule::stable_diffusion());
    }

    #[test]
    fn rescaled_it_ends_on_pure_noise_and_begins_as_before() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let zero = s.rescale_zero_snr()?;
        let (a, b) = (s.alphas_cumprod(), zero.alphas_cumprod());
        assert!((a[0] - b[0]).abs() < 1e-12 && b[999] == 0. && zero.betas()[999] == 1.);
        assert!(b.windows(2).all(|w| w[1] < w[0]));
        let product: f64 = zero.alphas()[..900].iter().product();
        assert!((product - b[899]).abs() < 1e-12);
        assert!(Schedule::from_betas(vec![0.1])?.rescale_zero_snr().is_err());
        Ok(())
    }

    #[test]
    fn the_definitions_agree_with_each_other() {
        let s = Schedule::stable_diffusion();
        for t in [0, 1, 500, 999] {
            let a = s.alphas_cumprod()[t];
            assert!((s.snr()[t] * s.sigmas()[t].powi(2) - 1.).abs() < 1e-12);
            assert!((s.log_snr()[t].exp() - a / (1. - a)).abs() < 1e-9 * s.snr()[t]);
            assert_eq!(s.alphas()[t], 1. - s.betas()[t]);
        }
    }

    #[test]
    fn what_leads_past_the_end_is_refused() {
        let s = Schedule::stable_diffusion();
        assert!(timesteps(&s, 0, Spacing::Leading, 0).is_err());
        assert!(timesteps(&s, 1001, Spacing::Leading, 0).is_err());
        assert!(timesteps(&s, 1000, Spacing::Leading, 1).is_err());
        for offset in [1 << 63, usize::MAX] {
            let said = timesteps(&s, 10, Spacing::Leading, offset).unwrap_err().to_string();
            assert!(said.starts_with("steps_offset: expected timesteps below 1000"), "{said}");
        }
        assert!(timesteps(&s, 1000, Spacing::Leading, 0).is_ok());
        assert!(s.alpha_bar(1000).is_err());
        assert!(Schedule::new(BetaSchedule::Linear, 0., 0.02, 10).is_err());
        assert!(Schedule::new(BetaSchedule::Linear, f64::NAN, 0.02, 10).is_err());
    }

    #[test]
    fn every_spacing_visits_the_timesteps_downwards_without_repeats() {
        let s = Schedule::stable_diffusion();
        for n in 1..=1000 {
            for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
                let list = timesteps(&s, n, spacing, 0).unwrap();
                assert_eq!(list.len(), n);
                assert!(list.windows(2).all(|w| w[0] > w[1]), "{spacing:?} {n}");
            }
        }
    }
}
