//! The loop over the steps of any sampler, as an iterator.

use tch::{Kind, Tensor};

use super::{
    Coefficients, Sampler, SigmaStep, ddim_coefficients, ddpm_coefficients, euler_coefficients,
    sigma_steps,
};
use crate::denoiser::Denoiser;
use crate::guidance::guide;
use crate::prediction::Prediction;
use crate::schedule::{Schedule, Spacing, Step, steps, timesteps};
use crate::{Error, Result};

/// Where a sampler stands: at a timestep, or at a sigma.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// DDIM and DDPM.
    Time(Step),
    /// Euler.
    Sigma(SigmaStep),
}

impl Position {
    /// The timestep that the model is told.
    pub fn timestep(&self) -> f64 {
        match self {
            Self::Time(step) => step.t as f64,
            Self::Sigma(step) => step.t,
        }
    }

    /// What the sample is multiplied with before the model sees it.
    pub fn input_scale(&self) -> f64 {
        match self {
            Self::Time(_) => 1.,
            Self::Sigma(step) => step.input_scale(),
        }
    }
}

/// All that is known of a sampling before it starts.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The sampler.
    pub sampler: Sampler,
    /// The schedule that the model was trained on.
    pub schedule: Schedule,
    /// What the model predicts.
    pub prediction: Prediction,
    /// Whether the predicted x_0 is clipped to [-1, 1], as models of pixels want it.
    pub clip_sample: bool,
    /// The steps, from the noisiest on.
    pub positions: Vec<Position>,
    /// What standard noise is multiplied with to be the first sample.
    pub init_noise_sigma: f64,
}

impl Plan {
    /// Plans `num_inference_steps` steps. `set_alpha_to_one` false: a DDIM ends on timestep 0
    /// instead of on the picture, as Stable Diffusion's does.
    ///
    /// # Errors
    /// As [`timesteps`]; `eta` outside [0, 1].
    pub fn new(
        sampler: Sampler,
        schedule: &Schedule,
        prediction: Prediction,
        num_inference_steps: usize,
        spacing: Spacing,
        steps_offset: usize,
        set_alpha_to_one: bool,
    ) -> Result<Self> {
        if let Sampler::Ddim { eta } = sampler
            && !(0. ..=1.).contains(&eta)
        {
            return Err(Error::argument("eta", "0 (deterministic) to 1 (as DDPM)", eta, ""));
        }
        let (positions, init_noise_sigma) = match sampler {
            Sampler::Euler => {
                let list = sigma_steps(schedule, num_inference_steps, spacing, steps_offset)?;
                let first = list.first().map_or(1., |step| step.sigma);
                let init = match spacing {
                    Spacing::Leading => (first.powi(2) + 1.).sqrt(),
                    _ => first,
                };
                (list.into_iter().map(Position::Sigma).collect::<Vec<_>>(), init)
            }
            Sampler::Ddim { .. } | Sampler::Ddpm => {
                let list = timesteps(schedule, num_inference_steps, spacing, steps_offset)?;
                let mut list = steps(&list);
                if let (Sampler::Ddim { .. }, false, Some(last)) =
                    (sampler, set_alpha_to_one, list.last_mut())
                {
                    last.t_prev = Some(0);
                }
                (list.into_iter().map(Position::Time).collect(), 1.)
            }
        };
        let schedule = schedule.clone();
        let clip_sample = false;
        Ok(Self { sampler, schedule, prediction, clip_sample, positions, init_noise_sigma })
    }

    /// The first sample, from standard noise.
    pub fn start(&self, noise: &Tensor) -> Tensor {
        noise * self.init_noise_sigma
    }

    /// A picture's latents as noisy as the sample is before step `i`: the start of image to image for 0, the
    /// picture itself after the last step.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn noised(&self, i: usize, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        crate::forward::same_shape("noise", noise, x_0)?;
        match self.positions.get(i) {
            Some(Position::Sigma(step)) => Ok(x_0 + noise * step.sigma),
            Some(Position::Time(step)) => {
                let t = Tensor::from_slice(&[step.t as i64]);
                crate::forward::add_noise(&self.schedule, &t, x_0, noise)
            }
            None => Ok(x_0.shallow_clone()),
        }
    }

    /// The weights of the step at `position`.
    ///
    /// # Errors
    /// A position that is not this sampler's.
    pub fn coefficients(&self, position: Position) -> Result<Coefficients> {
        match (self.sampler, position) {
            (Sampler::Ddim { eta }, Position::Time(step)) => {
                ddim_coefficients(&self.schedule, step, eta)
            }
            (Sampler::Ddpm, Position::Time(step)) => ddpm_coefficients(&self.schedule, step),
            (Sampler::Euler, Position::Sigma(step)) => euler_coefficients(step),
            (sampler, position) => Err(Error::argument(
                "position",
                format!("one of {}'s", sampler.name()),
                format!("{position:?}"),
                "",
            )),
        }
    }

    /// One reverse step from the model's output: x_0 and epsilon from the prediction, then the
    /// weighted sum.
    ///
    /// # Errors
    /// Shapes that differ; noise that is needed and missing.
    pub fn step(
        &self,
        position: Position,
        x_t: &Tensor,
        model_output: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<super::StepOutput> {
        let (mut x_0, epsilon) = match position {
            Position::Time(Step { t, .. }) => (
                self.prediction.to_x_0(&self.schedule, t, x_t, model_output)?,
                self.prediction.to_epsilon(&self.schedule, t, x_t, model_output)?,
            ),
            Position::Sigma(step) => {
                crate::forward::same_shape("model output", model_output, x_t)?;
                let (sigma, scale) = (step.sigma, step.input_scale());
                let x_0 = match self.prediction {
                    Prediction::Epsilon => x_t - model_output * sigma,
                    Prediction::V => x_t * scale.powi(2) - model_output * (sigma * scale),
                    Prediction::Sample => model_output.shallow_clone(),
                };
                let epsilon = (x_t - &x_0) / sigma;
                (x_0, epsilon)
            }
        };
        if self.clip_sample {
            x_0 = x_0.clamp(-1., 1.);
        }
        self.coefficients(position)?.apply(x_0, &epsilon, x_t, noise)
    }
}

/// What happened in one step.
#[derive(Debug)]
pub struct SamplingStep {
    /// Counted from 0.
    pub i: usize,
    /// Where it started.
    pub position: Position,
    /// The weights of its sum.
    pub coefficients: Coefficients,
    /// The sample that it started from.
    pub x_t: Tensor,
    /// The model's output without the prompt.
    pub noise_uncond: Tensor,
    /// The model's output with the prompt.
    pub noise_cond: Tensor,
    /// The guided output.
    pub noise_pred: Tensor,
    /// x_0 as it looks from here.
    pub x_0: Tensor,
    /// The sample that it ended on.
    pub prev_sample: Tensor,
}

/// Guided sampling, one owned record a step: `collect` it or stop early.
pub struct Sampling<'a, D: Denoiser> {
    denoiser: &'a D,
    plan: Plan,
    /// [2 B, tokens, width]: without the prompt, then with it.
    context: Option<Tensor>,
    guidance_scale: f64,
    /// One a step, for samplers that add noise.
    noises: Vec<Tensor>,
    x_t: Tensor,
    i: usize,
}

impl<'a, D: Denoiser> Sampling<'a, D> {
    /// Starts from `x_t`, already noised to the plan's first position. `uncond` and `cond` are
    /// contexts [B, tokens, width], or both `None` for a model without one. `noises`: one a step
    /// where the sampler adds noise, drawn last as everywhere.
    ///
    /// # Errors
    /// Too few noises; contexts that differ in shape; a scale that is not finite.
    pub fn new(
        denoiser: &'a D,
        plan: Plan,
        x_t: Tensor,
        contexts: Option<(&Tensor, &Tensor)>,
        guidance_scale: f64,
        noises: Vec<Tensor>,
    ) -> Result<Self> {
        if !guidance_scale.is_finite() {
            return Err(Error::argument("guidance_scale", "a finite number", guidance_scale, ""));
        }
        if plan.sampler.is_stochastic() && noises.len() < plan.positions.len() {
            let expected = format!("{}, one a step", plan.positions.len());
            return Err(Error::argument("noises", expected, noises.len(), ""));
        }
        let context = match contexts {
            Some((uncond, cond)) => {
                crate::forward::same_shape("cond", cond, uncond)?;
                Some(Tensor::f_cat(&[uncond, cond], 0)?)
            }
            None => None,
        };
        Ok(Self { denoiser, plan, context, guidance_scale, noises, x_t, i: 0 })
    }

    /// The sample as it is now: the result, after the last step.
    pub fn into_sample(self) -> Tensor {
        self.x_t
    }

    /// Goes on from another sample, where somebody changed it between two steps.
    pub fn set_sample(&mut self, x_t: Tensor) {
        self.x_t = x_t;
    }

    /// Both predictions in one pass: [uncond, cond].
    fn predict(&self, position: Position) -> Result<(Tensor, Tensor)> {
        let t = Tensor::from_slice(&[position.timestep()]).to_kind(Kind::Float);
        let input = &self.x_t * position.input_scale();
        let Some(context) = &self.context else {
            let noise_pred = self.denoiser.predict(&input, &t, None)?;
            return Ok((noise_pred.shallow_clone(), noise_pred));
        };
        let both =
            self.denoiser.predict(&Tensor::f_cat(&[&input, &input], 0)?, &t, Some(context))?;
        let both = both.to_device(self.x_t.device()).chunk(2, 0);
        Ok((both[0].shallow_clone(), both[1].shallow_clone()))
    }

    fn step(&mut self, position: Position) -> Result<SamplingStep> {
        let (noise_uncond, noise_cond) = self.predict(position)?;
        let noise_pred = guide(&noise_uncond, &noise_cond, self.guidance_scale)?;
        let out = self.plan.step(position, &self.x_t, &noise_pred, self.noises.get(self.i))?;
        let x_t = std::mem::replace(&mut self.x_t, out.prev_sample.shallow_clone());
        Ok(SamplingStep {
            i: self.i,
            position,
            coefficients: self.plan.coefficients(position)?,
            x_t,
            noise_uncond,
            noise_cond,
            noise_pred,
            x_0: out.pred_original_sample,
            prev_sample: out.prev_sample,
        })
    }
}

impl<D: Denoiser> Iterator for Sampling<'_, D> {
    type Item = Result<SamplingStep>;

    fn next(&mut self) -> Option<Self::Item> {
        let position = *self.plan.positions.get(self.i)?;
        let step = tch::no_grad(|| self.step(position));
        self.i = if step.is_ok() { self.i + 1 } else { usize::MAX };
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::ExactDenoiser;
    use crate::noise::{standard_normal, standard_normals};

    #[test]
    fn with_the_exact_denoiser_every_sampler_ends_on_the_data() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let data = standard_normal(&[5, 8], 3)?;
        let exact = ExactDenoiser::new(s.clone(), &data)?;
        for sampler in
            [Sampler::Ddim { eta: 0. }, Sampler::Ddim { eta: 1. }, Sampler::Ddpm, Sampler::Euler]
        {
            for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
                let plan = Plan::new(sampler, &s, Prediction::Epsilon, 50, spacing, 0, true)?;
                let x_t = plan.start(&standard_normal(&[7, 8], 4)?);
                let noises = standard_normals(&[7, 8], 5, 50)?;
                let all = Sampling::new(&exact, plan, x_t, None, 1., noises)?
                    .collect::<Result<Vec<_>>>()?;
                let end = &all[49].prev_sample;
                let gaps = (end.unsqueeze(1) - data.unsqueeze(0)).abs().amax(-1, false);
                let worst = gaps.amin(-1, false).max().double_value(&[]);
                assert!(worst < 0.05, "{sampler:?} {spacing:?} ends {worst} away from the data");
            }
        }
        Ok(())
    }
}
