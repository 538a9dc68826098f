//! A sampling before it starts: where the model will be evaluated, and the coefficients of every step.

use std::fmt;

use tch::Tensor;

use super::{Clip, Evaluation, PlanSettings, PlannedStep, Position, Sampler};
use crate::prediction::Prediction;
use crate::schedule::Schedule;
use crate::short::Digits;
use crate::{Error, Result};

/// Everything that is known of a sampling before it starts.
///
/// # Examples
/// ```
/// use diffuscope::sampler::{Plan, PlanSettings};
/// use diffuscope::schedule::Schedule;
/// let plan = Plan::new("dpm++2m".parse()?, &Schedule::stable_diffusion(), 20, &PlanSettings::default())?;
/// for step in &plan.steps {
///     println!("at t = {}: {:?}", step.timestep(), step.coefficients);
/// }
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Clone)]
pub struct Plan {
    /// The sampler.
    pub sampler: Sampler,
    /// What the model predicts.
    pub prediction: Prediction,
    /// How the predicted picture is kept within its range.
    pub clip: Clip,
    /// The number of steps that are taken.
    pub num_inference_steps: usize,
    /// The evaluations of the model, from the noisiest on: samplers of two stages have two in every step but the last, PNDM
    /// has two in its first.
    pub steps: Vec<PlannedStep>,
    /// The factor that makes standard noise the first sample.
    pub init_noise_sigma: f64,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sampler, steps) = (self.sampler, self.num_inference_steps);
        write!(f, "Plan {{ {sampler}, {steps} steps, {} evaluations", self.steps.len())?;
        match self.steps.first().zip(self.steps.last()) {
            Some((first, last)) => {
                let [from, to] = [first.position.t, last.position.t].map(Digits);
                write!(f, ", t = {from} to {to} }}")
            }
            None => f.write_str(" }"),
        }
    }
}

impl Plan {
    /// Plans `num_inference_steps` steps on a schedule.
    ///
    /// # Errors
    /// Steps that the schedule does not have; settings that the sampler cannot follow.
    pub fn new(
        sampler: Sampler,
        schedule: &Schedule,
        num_inference_steps: usize,
        settings: &PlanSettings,
    ) -> Result<Self> {
        Self::starting_at(sampler, schedule, num_inference_steps, settings, 0)
    }

    /// The same without its first `skipped` steps: image to image starts later. Multistep samplers then have no earlier
    /// evaluations in their first steps.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn starting_at(
        sampler: Sampler,
        s: &Schedule,
        num_inference_steps: usize,
        settings: &PlanSettings,
        skipped: usize,
    ) -> Result<Self> {
        settings.clip.check()?;
        let settings = &PlanSettings {
            sigmas: sampler.sigmas.unwrap_or(settings.sigmas),
            as_diffusers: settings.as_diffusers || sampler.as_diffusers,
            ..settings.clone()
        };
        let n = settings.timesteps.as_ref().map_or(num_inference_steps, Vec::len);
        if skipped > n {
            return Err(Error::argument("skipped steps", format!("0 to {n}"), skipped));
        }
        let (method, options) = (sampler.method, &sampler.options);
        let grid = (method.grid)(s, n, settings, options)?.skipping(skipped);
        let steps = (method.plan)(&grid, options)?;
        let init_noise_sigma = grid.init_noise_sigma;
        let (prediction, clip) = (settings.prediction, settings.clip);
        let num_inference_steps = n - skipped;
        let plan = Self { sampler, prediction, clip, num_inference_steps, steps, init_noise_sigma };
        plan.check()?;
        Ok(plan)
    }

    /// Refuses what would divide by zero in one of the steps.
    fn check(&self) -> Result<()> {
        for step in &self.steps {
            self.prediction.check(&step.position.rates())?;
            if !step.is_finite() {
                let got =
                    format!("a step from t = {} that divides by zero", Digits(step.position.t));
                let expected = "steps between samples of picture and noise";
                return Err(Error::argument(self.sampler, expected, got).hint(match step.position.signal_rate {
                    0. => "its schedule ends on pure noise (zero SNR), where ddim, ddpm and euler begin",
                    _ => "take other sigmas, another end or another number of steps",
                }));
            }
        }
        Ok(())
    }

    /// How often fresh noise is drawn: samplers of two stages draw it once a step, DPM++ SDE in each of its stages, and
    /// none draws it for a step that ends on the picture.
    pub fn draws(&self) -> usize {
        self.steps.iter().filter(|step| step.adds_noise()).count()
    }

    /// The step, counted from 0, that evaluation `i` belongs to; the number of steps after the last one.
    pub fn step_of(&self, i: usize) -> usize {
        self.steps.get(i).map_or(self.num_inference_steps, |planned| planned.step)
    }

    /// The first sample, from standard noise.
    pub fn start(&self, noise: &Tensor) -> Tensor {
        noise * self.init_noise_sigma
    }

    /// A picture's latents as noisy as the sample is before step `i`: the start of image to image for 0, the picture
    /// itself after the last step.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn noised(&self, i: usize, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let position = self.steps.get(i).map_or(Position::PICTURE, |step| step.position);
        position.noised(x_0, noise)
    }

    /// What a model's output at step `i` says of the sample `x_t`.
    ///
    /// # Errors
    /// A step that the plan does not have; shapes that differ.
    pub fn interpret(&self, i: usize, x_t: &Tensor, output: &Tensor) -> Result<Evaluation> {
        let position = self.planned(i)?.position;
        let rates = position.rates();
        let x_0 = self.clip.apply(self.prediction.x_0(&rates, x_t, output)?)?;
        let kept = self.clip == Clip::Off || self.sampler.method.keeps_noise_when_clipped;
        let noise_pred = match kept {
            true => self.prediction.noise(&rates, x_t, output)?,
            false => Prediction::Sample.noise(&rates, x_t, &x_0)?,
        };
        Ok(Evaluation { position, x_t: x_t.shallow_clone(), x_0, noise_pred })
    }

    /// The step that follows an evaluation: the next sample. Where the plan has a corrector, it replaces `evaluation.x_t`.
    /// `earlier` are the earlier evaluations, the latest first.
    ///
    /// # Errors
    /// An evaluation or noise that is needed and missing; shapes that differ.
    pub fn step(
        &self,
        i: usize,
        evaluation: &mut Evaluation,
        earlier: &[Evaluation],
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let planned = self.planned(i)?;
        if let Some(correction) = &planned.correction {
            evaluation.x_t = correction.sum(&newest_first(evaluation, earlier), None)?;
        }
        planned.coefficients.sum(&newest_first(evaluation, earlier), noise)
    }

    fn planned(&self, i: usize) -> Result<&PlannedStep> {
        let expected = format!("0..{}", self.steps.len());
        self.steps.get(i).ok_or_else(|| Error::argument("step", expected, i))
    }
}

fn newest_first<'a>(newest: &'a Evaluation, earlier: &'a [Evaluation]) -> Vec<&'a Evaluation> {
    std::iter::once(newest).chain(earlier).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{EARLIER, EvaluationCoefficients};

    #[test]
    fn evaluations_belong_to_steps() -> Result<()> {
        let s = Schedule::stable_diffusion();
        for (name, expected) in [
            ("ddim", &[0, 1, 2, 3][..]),
            ("heun", &[0, 0, 1, 1, 2, 2, 3]),
            ("pndm", &[0, 0, 1, 2, 3]),
            ("pndm-diffusers", &[0, 0, 1, 2, 3]),
            ("pndm-rk", &[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]),
            ("unipc", &[0, 1, 2, 3]),
            ("dpm++3s", &[0, 1, 2, 3]),
            ("dpm++sde", &[0, 0, 1, 1, 2, 2, 3]),
        ] {
            let of = |plan: &Plan| -> Vec<usize> {
                (0..plan.steps.len()).map(|i| plan.step_of(i)).collect()
            };
            let settings = PlanSettings::default();
            assert_eq!(of(&Plan::new(name.parse()?, &s, 4, &settings)?), expected, "{name}");
            let later = Plan::starting_at(name.parse()?, &s, 6, &settings, 2)?;
            assert_eq!(of(&later), expected, "{name}, without its first two steps");
        }
        Ok(())
    }

    #[test]
    fn a_plan_that_starts_later_remembers_nothing_of_the_steps_before() -> Result<()> {
        let s = Schedule::stable_diffusion();
        for name in Sampler::names() {
            let sampler: Sampler = name.parse()?;
            let whole = Plan::new(sampler, &s, 12, &PlanSettings::default())?;
            let part = Plan::starting_at(sampler, &s, 12, &PlanSettings::default(), 5)?;
            assert_eq!(part.num_inference_steps, 7, "{name}");
            let first = part.steps[0];
            assert!(whole.steps.iter().any(|step| step.position == first.position), "{name}");
            let nothing = [EvaluationCoefficients::default(); EARLIER];
            assert_eq!(first.coefficients.earlier, nothing, "{name}");
            assert_eq!(part.init_noise_sigma, whole.init_noise_sigma, "{name}");
            assert!(
                Plan::starting_at(sampler, &s, 12, &PlanSettings::default(), 12)?.steps.is_empty()
            );
            assert!(Plan::starting_at(sampler, &s, 12, &PlanSettings::default(), 13).is_err());
            assert!(Plan::new(sampler, &s, 0, &PlanSettings::default()).is_err(), "{name}");
            assert!(Plan::new(sampler, &s, 1001, &PlanSettings::default()).is_err(), "{name}");
        }
        Ok(())
    }
}
