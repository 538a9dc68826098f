//! Epsilon, x_0, v and score are four names for one prediction: each follows from any other.
//!
//! ```text
//! x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps      Ho et al. 2020, eq. 4
//! v   = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0      Salimans & Ho 2022, appendix D
//! score = -eps / sqrt(1 - alpha_bar_t)                         Song et al. 2021, section 3.4
//! ```

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::forward::same_shape;
use crate::schedule::Schedule;
use crate::{Error, Result};

/// What a network was trained to say; serde reads diffusers' names.
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
    /// What `model_output` at timestep `t` says of the picture.
    ///
    /// # Errors
    /// `t` outside the schedule; shapes that differ.
    pub fn to_x_0(
        self,
        s: &Schedule,
        t: usize,
        x_t: &Tensor,
        model_output: &Tensor,
    ) -> Result<Tensor> {
        match self {
            Self::Epsilon => x_0_from_epsilon(s, t, x_t, model_output),
            Self::V => x_0_from_v(s, t, x_t, model_output),
            Self::Sample => Ok(model_output.shallow_clone()),
        }
    }

    /// What `model_output` at timestep `t` says of the noise.
    ///
    /// # Errors
    /// `t` outside the schedule; shapes that differ.
    pub fn to_epsilon(
        self,
        s: &Schedule,
        t: usize,
        x_t: &Tensor,
        model_output: &Tensor,
    ) -> Result<Tensor> {
        match self {
            Self::Epsilon => Ok(model_output.shallow_clone()),
            Self::V => epsilon_from_v(s, t, x_t, model_output),
            Self::Sample => epsilon_from_x_0(s, t, x_t, model_output),
        }
    }
}

/// `(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t))`, after the tensors were found to fit.
fn roots(s: &Schedule, t: usize, x: &Tensor, y: &Tensor) -> Result<(f64, f64)> {
    same_shape("prediction", y, x)?;
    let alpha_bar_t = s.alpha_bar(t)?;
    Ok((alpha_bar_t.sqrt(), (1. - alpha_bar_t).sqrt()))
}

/// `x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn x_0_from_epsilon(s: &Schedule, t: usize, x_t: &Tensor, epsilon: &Tensor) -> Result<Tensor> {
    let (signal, noise) = roots(s, t, x_t, epsilon)?;
    Ok((x_t - noise * epsilon) / signal)
}

/// `eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn epsilon_from_x_0(s: &Schedule, t: usize, x_t: &Tensor, x_0: &Tensor) -> Result<Tensor> {
    let (signal, noise) = roots(s, t, x_t, x_0)?;
    Ok((x_t - signal * x_0) / noise)
}

/// `x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn x_0_from_v(s: &Schedule, t: usize, x_t: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (signal, noise) = roots(s, t, x_t, v)?;
    Ok(signal * x_t - noise * v)
}

/// `eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t`
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn epsilon_from_v(s: &Schedule, t: usize, x_t: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (signal, noise) = roots(s, t, x_t, v)?;
    Ok(signal * v + noise * x_t)
}

/// `v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0`: what v-prediction is trained on.
///
/// # Errors
/// `t` outside the schedule; shapes that differ.
pub fn v_from_epsilon(s: &Schedule, t: usize, x_0: &Tensor, epsilon: &Tensor) -> Result<Tensor> {
    let (signal, noise) = roots(s, t, x_0, epsilon)?;
    Ok(signal * epsilon - noise * x_0)
}

/// `score = grad log q(x_t) = -eps / sqrt(1 - alpha_bar_t)`
///
/// # Errors
/// `t` outside the schedule.
pub fn score_from_epsilon(s: &Schedule, t: usize, epsilon: &Tensor) -> Result<Tensor> {
    let (_, noise) = roots(s, t, epsilon, epsilon)?;
    Ok(epsilon / -noise)
}

/// `eps = -sqrt(1 - alpha_bar_t) score`
///
/// # Errors
/// `t` outside the schedule.
pub fn epsilon_from_score(s: &Schedule, t: usize, score: &Tensor) -> Result<Tensor> {
    let (_, noise) = roots(s, t, score, score)?;
    Ok(score * -noise)
}

impl std::str::FromStr for Prediction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "epsilon" => Ok(Self::Epsilon),
            "v_prediction" | "v" => Ok(Self::V),
            "sample" => Ok(Self::Sample),
            other => Err(Error::argument(
                "prediction type",
                "epsilon, v_prediction or sample",
                other,
                "",
            )),
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
    fn there_and_back_by_every_road() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x_0 = standard_normal(&[2, 4, 3, 3], 1)?.to_kind(Kind::Double);
        let noise = standard_normal(&[2, 4, 3, 3], 2)?.to_kind(Kind::Double);
        let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-11;
        for t in [0, 10, 500, 999] {
            let x_t = add_noise(&s, &Tensor::from_slice(&[t as i64]), &x_0, &noise)?;
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
}
