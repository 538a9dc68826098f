//! The loop over the steps of any sampler, as an iterator.

use tch::{Kind, Tensor};

use super::{Coefficients, Look, Plan, Position};
use crate::denoiser::Denoiser;
use crate::guidance::{Guidance, guide, guide_projected, rescale};
use crate::{Error, Result};

/// How many looks are remembered: Runge-Kutta's three steps of four, of which the multistep needs every first.
const REMEMBERED: usize = 8;

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
    guidance: Guidance,
    /// What projected guidance remembers of the step before.
    difference: Option<Tensor>,
    /// One a step, for samplers that add noise.
    noises: Vec<Tensor>,
    /// What the model saw before, the last look first.
    earlier: Vec<Look>,
    x_t: Tensor,
    i: usize,
}

impl<'a, D: Denoiser> Sampling<'a, D> {
    /// Starts from `x_t`, already noised to the plan's first position. `uncond` and `cond` are
    /// contexts [B, tokens, width], or both `None` for a model without one. `noises`: one a step
    /// where the sampler adds noise, drawn last as everywhere.
    ///
    /// # Errors
    /// Too few noises; contexts that differ in shape; guidance that cannot be followed.
    pub fn new(
        denoiser: &'a D,
        plan: Plan,
        x_t: Tensor,
        contexts: Option<(&Tensor, &Tensor)>,
        guidance: impl Into<Guidance>,
        noises: Vec<Tensor>,
    ) -> Result<Self> {
        let guidance = guidance.into();
        guidance.check(plan.num_inference_steps)?;
        if plan.sampler.is_stochastic() && noises.len() < plan.steps.len() {
            let expected = format!("{}, one a look", plan.steps.len());
            return Err(Error::argument("noises", expected, noises.len(), ""));
        }
        let context = match contexts {
            Some((uncond, cond)) => {
                crate::forward::same_shape("cond", cond, uncond)?;
                Some(Tensor::f_cat(&[uncond, cond], 0)?)
            }
            None => None,
        };
        Ok(Self {
            denoiser,
            plan,
            context,
            guidance,
            difference: None,
            noises,
            earlier: Vec::new(),
            x_t,
            i: 0,
        })
    }

    /// The sample as it is now: the result, after the last step.
    pub fn into_sample(self) -> Tensor {
        self.x_t
    }

    /// Goes on from another sample, where somebody changed it between two steps.
    pub fn set_sample(&mut self, x_t: Tensor) {
        self.x_t = x_t;
    }

    /// Goes on with other contexts, as a prompt that changes over the steps asks for.
    ///
    /// # Errors
    /// Contexts that differ in shape.
    pub fn set_contexts(&mut self, uncond: &Tensor, cond: &Tensor) -> Result<()> {
        crate::forward::same_shape("cond", cond, uncond)?;
        self.context = Some(Tensor::f_cat(&[uncond, cond], 0)?);
        Ok(())
    }

    /// Both predictions in one pass: [uncond, cond].
    fn predict(&self, position: Position) -> Result<(Tensor, Tensor)> {
        let t = Tensor::from_slice(&[position.t]).to_kind(Kind::Float);
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

    /// One prediction from two, by the guidance of this step.
    fn guide(&mut self, uncond: &Tensor, cond: &Tensor) -> Result<Tensor> {
        let scale =
            self.guidance.scale_at(self.plan.step_of(self.i), self.plan.num_inference_steps);
        let guided = match &self.guidance.projection {
            None => guide(uncond, cond, scale)?,
            Some(projection) => {
                // Its directions are those of pictures.
                let (position, prediction) =
                    (self.plan.steps[self.i].position, self.plan.prediction);
                let x_0 = |output: &Tensor| position.x_0(prediction, &self.x_t, output);
                let before = self.difference.as_ref();
                let (guided, difference) =
                    guide_projected(&x_0(uncond)?, &x_0(cond)?, scale, projection, before)?;
                self.difference = Some(difference);
                position.model_output(prediction, &self.x_t, &guided)?
            }
        };
        match self.guidance.rescale {
            0. => Ok(guided),
            part => rescale(&guided, cond, part),
        }
    }

    fn step(&mut self) -> Result<SamplingStep> {
        let planned = self.plan.steps[self.i];
        let position = planned.position;
        let (noise_uncond, noise_cond) = self.predict(position)?;
        let noise_pred = self.guide(&noise_uncond, &noise_cond)?;
        let mut look = self.plan.look(self.i, &self.x_t, &noise_pred)?;
        let noise = self.noises.get(self.i);
        let prev_sample = self.plan.step(self.i, &mut look, &self.earlier, noise)?;
        let x_t = std::mem::replace(&mut self.x_t, prev_sample.shallow_clone());
        let x_0 = look.x_0.shallow_clone();
        self.earlier.insert(0, look);
        self.earlier.drain(..planned.forget.min(self.earlier.len()));
        self.earlier.truncate(REMEMBERED);
        Ok(SamplingStep {
            i: self.i,
            position,
            coefficients: planned.coefficients,
            x_t,
            noise_uncond,
            noise_cond,
            noise_pred,
            x_0,
            prev_sample,
        })
    }
}

impl<D: Denoiser> Iterator for Sampling<'_, D> {
    type Item = Result<SamplingStep>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.i >= self.plan.steps.len() {
            return None;
        }
        let step = tch::no_grad(|| self.step());
        self.i = if step.is_ok() { self.i + 1 } else { usize::MAX };
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::ExactDenoiser;
    use crate::noise::{standard_normal, standard_normals};
    use crate::sampler::{Sampler, Settings, Sigmas};
    use crate::schedule::{Schedule, Spacing};

    #[test]
    fn with_the_exact_denoiser_every_sampler_ends_on_the_data() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let data = standard_normal(&[5, 8], 3)?;
        let exact = Interpolated(ExactDenoiser::new(s.clone(), &data)?);
        for name in Sampler::names().filter(|name| *name != "lcm") {
            for sigmas in [Sigmas::Own, Sigmas::Karras] {
                for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
                    let mut sampler: Sampler = name.parse()?;
                    sampler.sigmas = Some(sigmas);
                    let settings =
                        Settings { spacing, set_alpha_to_one: true, ..Settings::default() };
                    let plan = Plan::new(sampler, &s, 50, &settings)?;
                    let looks = plan.steps.len();
                    let x_t = plan.start(&standard_normal(&[7, 8], 4)?);
                    let noises = standard_normals(&[7, 8], 5, looks)?;
                    let all = Sampling::new(&exact, plan, x_t, None, 1., noises)?
                        .collect::<Result<Vec<_>>>()?;
                    let end = &all[looks - 1].prev_sample;
                    let gaps = (end.unsqueeze(1) - data.unsqueeze(0)).abs().amax(-1, false);
                    let worst = gaps.amin(-1, false).max().double_value(&[]);
                    assert!(worst < 0.1, "{sampler} {spacing:?} ends {worst} away from the data");
                }
            }
        }
        Ok(())
    }

    /// The exact denoiser between training timesteps.
    struct Interpolated(ExactDenoiser);

    impl Denoiser for Interpolated {
        fn predict(&self, x_t: &Tensor, t: &Tensor, context: Option<&Tensor>) -> Result<Tensor> {
            let t = t.double_value(&[0]);
            let part = t - t.floor();
            let at = |t: f64| self.0.predict(x_t, &Tensor::from_slice(&[t as i64]), context);
            Ok(if part == 0. {
                at(t)?
            } else {
                at(t.floor())? * (1. - part) + at(t.ceil())? * part
            })
        }
    }
}
