//! What a plan depends on besides the sampler, the schedule and the number of steps.

use std::fmt;

use tch::{Kind, Tensor};

use super::{FinalSigma, Sigmas};
use crate::prediction::Prediction;
use crate::schedule::Spacing;
use crate::short::Few;
use crate::{Error, Result};

/// The largest bound of a predicted picture: the largest number of f16, which no other dtype lacks.
const LARGEST: f64 = 65504.;

/// How the predicted picture is kept within its range.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Clip {
    /// Not at all: for models of latents.
    #[default]
    Off,
    /// Clipped to ± this value: for models of pixels.
    Range(f64),
    /// Dynamic thresholding, Saharia et al. 2022, section 2.3: every picture is clipped at a quantile of its magnitudes
    /// and divided by it.
    Dynamic {
        /// The quantile.
        ratio: f64,
        /// The largest threshold; the smallest is 1.
        max: f64,
    },
}

impl Clip {
    pub(super) fn apply(self, x_0: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Off => x_0,
            Self::Range(range) => x_0.clamp(-range, range),
            Self::Dynamic { .. } if x_0.dim() < 2 => {
                return Err(Error::shape("x_0", "[B, ...]", &x_0.size()));
            }
            Self::Dynamic { ratio, max } => {
                let wide = if x_0.kind() == Kind::Double { Kind::Double } else { Kind::Float };
                let magnitudes = x_0.to_kind(wide).abs().flatten(1, -1);
                let s = magnitudes.f_quantile_scalar(ratio, 1, true, "linear")?.clamp(1., max);
                let s = s
                    .view([&[-1], &vec![1; x_0.dim() - 1][..]].concat().as_slice())
                    .to_kind(x_0.kind());
                x_0.clamp_tensor(Some(&-&s), Some(&s)) / s
            }
        })
    }

    pub(super) fn check(self) -> Result<()> {
        let holds = |bound: f64| bound <= LARGEST || bound == f64::INFINITY;
        let good = match self {
            Self::Off => true,
            Self::Range(range) => range > 0. && holds(range),
            Self::Dynamic { ratio, max } => (0. ..=1.).contains(&ratio) && max >= 1. && holds(max),
        };
        let expected = format!(
            "a range above 0; a ratio of 0 to 1 and a largest threshold of 1 or more; both at most {LARGEST}, or infinite"
        );
        if good { Ok(()) } else { Err(Error::argument("clip", expected, format!("{self:?}"))) }
    }
}

/// Everything that a plan depends on besides the sampler, the schedule and the number of steps.
#[derive(Clone, PartialEq)]
pub struct PlanSettings {
    /// What the model predicts.
    pub prediction: Prediction,
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// Added to the timesteps of leading spacing.
    pub steps_offset: usize,
    /// The timesteps themselves, downwards, in place of a number of steps and a spacing.
    pub timesteps: Option<Vec<usize>>,
    /// The sigmas, if the sampler names none.
    pub sigmas: Sigmas,
    /// Whether DDIM and PNDM end on the picture; otherwise on timestep 0, as Stable Diffusion's do.
    pub set_alpha_to_one: bool,
    /// Where the samplers in sigma and lambda end; `None` for what is usual for each.
    pub final_sigma: Option<FinalSigma>,
    /// How the predicted picture is kept within its range.
    pub clip: Clip,
    /// Follow diffusers where it departs from its own equations:
    ///
    /// - DDIM and PNDM end a step on `t - T / N`, rounded down. With linspace spacing, and with trailing where N does not
    ///   divide T, that is not the next visited timestep, on which they end otherwise.
    /// - PNDM that starts later, from image to image, takes the rest of a list in which one timestep stands twice, so that
    ///   it takes its sample for less noisy than it is. Otherwise it takes the rest of its steps.
    /// - The stochastic DPM-Solver++ of order 3 has another sign in its second difference.
    pub as_diffusers: bool,
}

impl fmt::Debug for PlanSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanSettings")
            .field("prediction", &self.prediction)
            .field("spacing", &self.spacing)
            .field("steps_offset", &self.steps_offset)
            .field("timesteps", &self.timesteps.as_deref().map(Few))
            .field("sigmas", &self.sigmas)
            .field("set_alpha_to_one", &self.set_alpha_to_one)
            .field("final_sigma", &self.final_sigma)
            .field("clip", &self.clip)
            .field("as_diffusers", &self.as_diffusers)
            .finish()
    }
}

impl Default for PlanSettings {
    /// Stable Diffusion 1.x's.
    fn default() -> Self {
        Self {
            prediction: Prediction::Epsilon,
            spacing: Spacing::Leading,
            steps_offset: 1,
            timesteps: None,
            sigmas: Sigmas::Own,
            set_alpha_to_one: false,
            final_sigma: None,
            clip: Clip::Off,
            as_diffusers: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_bounds_a_picture_and_a_range_clips_it() -> Result<()> {
        let x = Tensor::from_slice(&[-4f32, 1., 2., 3., 0.5, 0.2, 0.1, 0.]).view([2, 1, 2, 2]);
        let got = Clip::Range(2.).apply(x.shallow_clone())?;
        assert!(got.equal(&x.clamp(-2., 2.)));
        let got = Clip::Dynamic { ratio: 0.5, max: 10. }.apply(x.shallow_clone())?;
        // The median of 1, 2, 3, 4; the other picture's is below 1.
        assert!(got.get(0).equal(&(x.get(0).clamp(-2.5, 2.5) / 2.5)));
        assert!(got.get(1).equal(&x.get(1)));
        let got = Clip::Dynamic { ratio: 1., max: 2. }.apply(x.shallow_clone())?;
        assert!(got.get(0).equal(&(x.get(0).clamp(-2., 2.) / 2.)));
        for far in [1e5, 1e300, f64::NAN] {
            assert!(Clip::Range(far).check().is_err(), "{far}");
            assert!(Clip::Dynamic { ratio: 0.5, max: far }.check().is_err(), "{far}");
        }
        // No bound at all, as some files write it.
        for kind in [Kind::Float, Kind::Half] {
            let x = x.to_kind(kind);
            for none in
                [Clip::Range(f64::INFINITY), Clip::Dynamic { ratio: 1., max: f64::INFINITY }]
            {
                none.check()?;
                assert!(none.apply(x.shallow_clone())?.isfinite().all().int64_value(&[]) == 1);
            }
            assert!(Clip::Range(f64::INFINITY).apply(x.shallow_clone())?.equal(&x));
        }
        let one = Tensor::from_slice(&[1f32]);
        assert!(Clip::Dynamic { ratio: 0.5, max: 1. }.apply(one.get(0)).is_err(), "no batch");
        assert!(
            Clip::Range(-1.).check().is_err()
                && Clip::Dynamic { ratio: 2., max: 1. }.check().is_err()
        );
        Ok(())
    }
}
