//! Epsilon, x_0, v and score are four forms of one prediction: each follows from any other.
//!
//! ```text
//! x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps      Ho et al. 2020, eq. 4
//! v   = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0      Salimans & Ho 2022, appendix D
//! score = -eps / sqrt(1 - alpha_bar_t)                         Song et al. 2021, section 3.4
//! ```

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::check::alike;
use crate::rates::Rates;
use crate::schedule::Schedule;
use crate::timesteps::Timesteps;
use crate::{Error, Result};

/// What a network was trained to predict; serde uses diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prediction {
    /// The noise.
    #[serde(rename = "epsilon")]
    Epsilon,
    /// v, between noise and picture.
    #[serde(rename = "v_prediction")]
    V,
    /// The picture, x_0.
    #[serde(rename = "sample")]
    Sample,
}

impl Prediction {
    /// Refuses a prediction of the noise where there is nothing but noise: it says nothing of the picture.
    pub(crate) fn check(self, rates: &Rates) -> Result<()> {
        if self == Self::Epsilon && rates.any(|signal, _| signal == 0.) {
            let advice = "use a model of v or of the sample, or a schedule that ends above 0";
            return Err(Error::argument("prediction", "v or sample at alpha_bar = 0", "epsilon")
                .hint(advice));
        }
        Ok(())
    }

    /// The picture that a network's `output` says is in `x`.
    ///
    /// ```text
    /// epsilon: x_0 = (x - noise_rate eps) / signal_rate
    /// v:       x_0 = signal_rate x / n^2 - noise_rate v / n        n^2 = signal_rate^2 + noise_rate^2
    /// ```
    /// At a timestep of a schedule n is 1; samplers that scale their samples have other sizes.
    ///
    /// # Shapes
    /// `x` and `output` [B, ...] alike; returns the same.
    /// # Errors
    /// Shapes that differ; a prediction of the noise where there is nothing but noise.
    pub fn x_0(self, rates: &Rates, x: &Tensor, output: &Tensor) -> Result<Tensor> {
        alike("prediction", output, x)?;
        rates.check(x)?;
        self.check(rates)?;
        match self {
            Self::Epsilon => {
                Ok(rates.under(&(x - rates.times(output, |_, noise| noise)), |signal, _| signal))
            }
            Self::V => Ok(rates
                .times(x, |signal, noise| signal / (signal * signal + noise * noise))
                - rates.times(output, |signal, noise| noise / signal.hypot(noise))),
            Self::Sample => Ok(output.shallow_clone()),
        }
    }

    /// The noise that a network's `output` says is in `x`.
    ///
    /// ```text
    /// v:       eps = noise_rate x / n^2 + signal_rate v / n        n^2 = signal_rate^2 + noise_rate^2
    /// sample:  eps = (x - signal_rate x_0) / noise_rate
    /// ```
    ///
    /// # Shapes
    /// `x` and `output` [B, ...] alike; returns the same.
    /// # Errors
    /// Shapes that differ; a prediction of the picture where there is nothing but picture.
    pub fn noise(self, rates: &Rates, x: &Tensor, output: &Tensor) -> Result<Tensor> {
        alike("prediction", output, x)?;
        rates.check(x)?;
        match self {
            Self::Epsilon => Ok(output.shallow_clone()),
            Self::V => Ok(rates
                .times(x, |signal, noise| noise / (signal * signal + noise * noise))
                + rates.times(output, |signal, noise| signal / signal.hypot(noise))),
            Self::Sample if rates.any(|_, noise| noise == 0.) => {
                let expected = "noise in the sample at alpha_bar = 1";
                Err(Error::argument("prediction", expected, "sample"))
            }
            Self::Sample => {
                Ok(rates.under(&(x - rates.times(output, |signal, _| signal)), |_, noise| noise))
            }
        }
    }

    /// The output of a network that sees the picture `x_0` in `x`: the inverse of [`Prediction::x_0`].
    ///
    /// ```text
    /// v = (signal_rate eps - noise_rate x_0) / n        n^2 = signal_rate^2 + noise_rate^2
    /// ```
    ///
    /// # Shapes
    /// `x` and `x_0` [B, ...] alike; returns the same.
    /// # Errors
    /// Shapes that differ; no noise in `x`.
    pub fn output(self, rates: &Rates, x: &Tensor, x_0: &Tensor) -> Result<Tensor> {
        alike("x_0", x_0, x)?;
        let epsilon = || Self::Sample.noise(rates, x, x_0);
        match self {
            Self::Epsilon => epsilon(),
            Self::V => Ok(v(rates, x_0, &epsilon()?)),
            Self::Sample => Ok(x_0.shallow_clone()),
        }
    }

    /// The picture that a network's `output` says is in `x_t` at the timestep `t`: [`Prediction::x_0`] with the
    /// schedule's rates.
    ///
    /// # Errors
    /// `t` outside the schedule; shapes that differ; a prediction of the noise where there is nothing but noise.
    pub fn to_x_0(
        self,
        s: &Schedule,
        t: impl Into<Timesteps>,
        x_t: &Tensor,
        output: &Tensor,
    ) -> Result<Tensor> {
        self.x_0(&s.rates(t)?, x_t, output)
    }

    /// The noise that a network's `output` says is in `x_t` at the timestep `t`: [`Prediction::noise`] with the
    /// schedule's rates.
    ///
    /// # Errors
    /// `t` outside the schedule; shapes that differ.
    pub fn to_epsilon(
        self,
        s: &Schedule,
        t: impl Into<Timesteps>,
        x_t: &Tensor,
        output: &Tensor,
    ) -> Result<Tensor> {
        self.noise(&s.rates(t)?, x_t, output)
    }

    /// diffusers' name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::V => "v_prediction",
            Self::Sample => "sample",
        }
    }
}

/// `x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)`
///
/// # Errors
/// `t` outside the schedule; shapes that differ; `alpha_bar_t` of 0.
pub fn x_0_from_epsilon(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_t: &Tensor,
    epsilon: &Tensor,
) -> Result<Tensor> {
    Prediction::Epsilon.to_x_0(s, t, x_t, epsilon)
}

/// `eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn epsilon_from_x_0(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_t: &Tensor,
    x_0: &Tensor,
) -> Result<Tensor> {
    Prediction::Sample.to_epsilon(s, t, x_t, x_0)
}

/// `x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn x_0_from_v(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_t: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    Prediction::V.to_x_0(s, t, x_t, v)
}

/// `eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn epsilon_from_v(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_t: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    Prediction::V.to_epsilon(s, t, x_t, v)
}

/// `v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0`: what v-prediction is trained on.
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn v_from_epsilon(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_0: &Tensor,
    epsilon: &Tensor,
) -> Result<Tensor> {
    alike("epsilon", epsilon, x_0)?;
    let rates = s.rates(t)?;
    rates.check(x_0)?;
    Ok(v(&rates, x_0, epsilon))
}

/// v of a picture and its noise, at any size of the sample.
fn v(rates: &Rates, x_0: &Tensor, epsilon: &Tensor) -> Tensor {
    rates.times(epsilon, |signal, noise| signal / signal.hypot(noise))
        - rates.times(x_0, |signal, noise| noise / signal.hypot(noise))
}

/// `score = grad log q(x_t) = -eps / sqrt(1 - alpha_bar_t)`
///
/// # Errors
/// `t` outside the schedule, or for another number of samples.
pub fn score_from_epsilon(
    s: &Schedule,
    t: impl Into<Timesteps>,
    epsilon: &Tensor,
) -> Result<Tensor> {
    let rates = s.rates(t)?;
    rates.check(epsilon)?;
    Ok(rates.under(epsilon, |_, noise| -noise))
}

/// `eps = -sqrt(1 - alpha_bar_t) score`
///
/// # Errors
/// `t` outside the schedule, or for another number of samples.
pub fn epsilon_from_score(s: &Schedule, t: impl Into<Timesteps>, score: &Tensor) -> Result<Tensor> {
    let rates = s.rates(t)?;
    rates.check(score)?;
    Ok(rates.times(score, |_, noise| -noise))
}

impl std::str::FromStr for Prediction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "epsilon" => Ok(Self::Epsilon),
            "v_prediction" | "v" => Ok(Self::V),
            "sample" => Ok(Self::Sample),
            other => {
                Err(Error::argument("prediction type", "epsilon, v_prediction or sample", other))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::add_noise;
    use crate::noise::standard_normal;
    use tch::Kind;

    #[test]
    fn every_conversion_and_its_inverse() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x_0 = standard_normal(&[2, 4, 3, 3], 1)?.to_kind(Kind::Double);
        let noise = standard_normal(&[2, 4, 3, 3], 2)?.to_kind(Kind::Double);
        let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-11;
        for t in [0, 10, 500, 999] {
            let x_t = add_noise(&s, t, &x_0, &noise)?;
            let v = v_from_epsilon(&s, t, &x_0, &noise)?;
            assert!(near(&x_0_from_epsilon(&s, t, &x_t, &noise)?, &x_0));
            assert!(near(&epsilon_from_x_0(&s, t, &x_t, &x_0)?, &noise));
            assert!(near(&x_0_from_v(&s, t, &x_t, &v)?, &x_0));
            assert!(near(&epsilon_from_v(&s, t, &x_t, &v)?, &noise));
            let score = score_from_epsilon(&s, t, &noise)?;
            assert!(near(&epsilon_from_score(&s, t, &score)?, &noise));
            for (kind, output) in
                [(Prediction::Epsilon, &noise), (Prediction::V, &v), (Prediction::Sample, &x_0)]
            {
                assert!(near(&kind.to_x_0(&s, t, &x_t, output)?, &x_0));
                assert!(near(&kind.to_epsilon(&s, t, &x_t, output)?, &noise));
            }
        }
        assert!(x_0_from_v(&s, 1000, &x_0, &noise).is_err());
        assert!(x_0_from_v(&s, 0, &x_0, &noise.get(0)).is_err());
        Ok(())
    }

    #[test]
    fn every_sample_of_a_batch_has_its_own_timestep() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let (x, y) = (standard_normal(&[2, 4, 3, 3], 1)?, standard_normal(&[2, 4, 3, 3], 2)?);
        let t = [7, 800];
        type Two = fn(&Schedule, Timesteps, &Tensor, &Tensor) -> Result<Tensor>;
        let all: [Two; 6] = [
            x_0_from_epsilon,
            epsilon_from_x_0,
            x_0_from_v,
            epsilon_from_v,
            v_from_epsilon,
            |s, t, x, _| epsilon_from_score(s, &t, &score_from_epsilon(s, &t, x)?),
        ];
        for convert in all {
            let both = convert(&s, t.into(), &x, &y)?;
            for (i, t) in t.into_iter().enumerate() {
                let i = i as i64;
                let alone = convert(&s, t.into(), &x.get(i), &y.get(i))?;
                assert!((both.get(i) - alone).abs().max().double_value(&[]) < 1e-6);
            }
            assert!(convert(&s, [1, 2, 3].into(), &x, &y).is_err());
            assert!(convert(&s, 0.5.into(), &x, &y).is_err());
        }
        Ok(())
    }

    #[test]
    fn where_there_is_only_noise_or_only_picture_the_other_is_not_read_off() -> Result<()> {
        let zero = Schedule::stable_diffusion().rescale_zero_snr()?;
        let x = standard_normal(&[2, 3], 1)?;
        assert!(x_0_from_epsilon(&zero, 999, &x, &x).is_err());
        assert!(x_0_from_epsilon(&zero, [0, 999], &x, &x).is_err());
        assert!(x_0_from_epsilon(&zero, 998, &x, &x).is_ok());
        assert!(x_0_from_v(&zero, 999, &x, &x).is_ok());
        assert!(Prediction::Sample.noise(&Rates::new(1., 0.), &x, &x).is_err());
        Ok(())
    }
}
