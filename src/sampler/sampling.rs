//! The loop over the steps of any sampler, as an iterator.

use std::fmt;

use tch::{Device, Tensor};

use super::{Coefficients, Evaluation, Plan, Position};
use crate::check::alike;
use crate::denoiser::{Denoiser, Half};
use crate::device::{self, moved};
use crate::guidance::{Guidance, Needs, guide, guide_projected, rescale};
use crate::memory::guarded;
use crate::prediction::Prediction;
use crate::timesteps::Timesteps;
use crate::{Error, Result, interrupt};

/// How many evaluations are remembered: PNDM needs four in a Runge-Kutta step, and the first one of each such step after it.
const REMEMBERED: usize = 8;

/// What happened in one step.
pub struct SamplingStep {
    /// Counted from 0.
    pub i: usize,
    /// Where it started.
    pub position: Position,
    /// The coefficients of its sum.
    pub coefficients: Coefficients,
    /// The sample that it started from.
    pub x_t: Tensor,
    /// The network's raw output without the prompt; `None` where the step did not need it, or there is no prompt.
    pub output_uncond: Option<Tensor>,
    /// The network's raw output with the prompt, or the only one of a model without; `None` where the step did not need it.
    pub output_cond: Option<Tensor>,
    /// The guided output.
    pub output: Tensor,
    /// What the outputs predict.
    pub prediction: Prediction,
    /// The noise that the guided output says is in the sample; of a clipped picture, the noise that is left.
    pub noise_pred: Tensor,
    /// The picture that the guided output says is in the sample.
    pub x_0: Tensor,
    /// The sample that it ended on.
    pub prev_sample: Tensor,
}

impl fmt::Debug for SamplingStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.x_t.size();
        write!(f, "SamplingStep {{ i: {}, {:?}, x_t: {size:?} }}", self.i, self.position)
    }
}

impl SamplingStep {
    /// The noise that the network predicts without the prompt, where it was asked.
    ///
    /// # Errors
    /// Tensors that were replaced by others of another shape.
    pub fn noise_uncond(&self) -> Result<Option<Tensor>> {
        self.noise(self.output_uncond.as_ref())
    }

    /// The noise that the network predicts with the prompt, where it was asked.
    ///
    /// # Errors
    /// Tensors that were replaced by others of another shape.
    pub fn noise_cond(&self) -> Result<Option<Tensor>> {
        self.noise(self.output_cond.as_ref())
    }

    fn noise(&self, output: Option<&Tensor>) -> Result<Option<Tensor>> {
        let rates = self.position.rates();
        output.map(|output| self.prediction.noise(&rates, &self.x_t, output)).transpose()
    }
}

/// Guided sampling, one owned record a step: `collect` it or stop early. After an [`interrupt`] the next step is an error.
pub struct Sampling<'a, D: Denoiser> {
    denoiser: &'a D,
    plan: Plan,
    /// [2 B, tokens, width]: without the prompt, then with it.
    context: Option<Tensor>,
    /// Those of all evaluations.
    timesteps: Tensor,
    guidance: Guidance,
    /// What projected guidance remembers of the step before.
    difference: Option<Tensor>,
    /// What is left of the noises, in the order in which the steps take them.
    noises: std::vec::IntoIter<Tensor>,
    /// The earlier evaluations, the latest first.
    earlier: Vec<Evaluation>,
    x_t: Tensor,
    i: usize,
    /// After a step that failed there is no other.
    failed: bool,
}

impl<D: Denoiser> fmt::Debug for Sampling<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (taken, all) = (self.taken(), self.plan.steps.len());
        write!(f, "Sampling {{ {}, {taken} of {all} evaluations taken }}", self.plan.sampler)
    }
}

impl<'a, D: Denoiser> Sampling<'a, D> {
    /// Starts from `x_t`, already noised to the plan's first position. `contexts` are those without and with the prompt,
    /// [B, tokens, width] each, or `None` for a model without one. `noises`: one for each step that adds some,
    /// [`Plan::draws`] of them. It stays on the device of `x_t`.
    ///
    /// # Errors
    /// Too few noises; contexts that differ in shape; settings of guidance that contradict each other or the plan.
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
        if noises.len() < plan.draws() {
            let expected = format!("{}, one for each step that adds some", plan.draws());
            return Err(Error::argument("noises", expected, noises.len()));
        }
        // What the steps need is moved to the sample once, before the first of them.
        let here = |x: &Tensor| moved(x, x_t.device());
        let context = contexts.map(|(uncond, cond)| joined(uncond, cond, x_t.device()));
        let timesteps: Vec<f32> = plan.steps.iter().map(|step| step.position.t as f32).collect();
        Ok(Self {
            denoiser,
            context: context.transpose()?,
            timesteps: here(&Tensor::from_slice(&timesteps))?,
            guidance,
            difference: None,
            noises: noises.iter().map(here).collect::<Result<Vec<_>>>()?.into_iter(),
            plan,
            earlier: Vec::new(),
            x_t,
            i: 0,
            failed: false,
        })
    }

    /// The steps that it takes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many of the plan's evaluations are done.
    pub fn taken(&self) -> usize {
        self.i
    }

    /// The current sample: the result, after the last step.
    pub fn into_sample(self) -> Tensor {
        self.x_t
    }

    /// Continues from another sample, one that was changed between two steps.
    pub fn set_sample(&mut self, x_t: Tensor) {
        self.x_t = x_t;
    }

    /// Continues with another model, as for a prompt that changes over the steps and is among the model's conditions.
    pub fn set_denoiser(&mut self, denoiser: &'a D) {
        self.denoiser = denoiser;
    }

    /// Continues with other contexts, as for a prompt that changes over the steps.
    ///
    /// # Errors
    /// Contexts that differ in shape.
    pub fn set_contexts(&mut self, uncond: &Tensor, cond: &Tensor) -> Result<()> {
        self.context = Some(joined(uncond, cond, self.x_t.device())?);
        Ok(())
    }

    /// The outputs that this step needs, [uncond, cond]: both in one pass.
    fn predict(&self, position: Position) -> Result<[Option<Tensor>; 2]> {
        let t = Timesteps::from(self.timesteps.f_narrow(0, self.i as i64, 1)?);
        let input = &self.x_t * position.input_scale();
        let Some(context) = &self.context else {
            return Ok([None, Some(self.denoiser.predict(&input, &t, None)?)]);
        };
        let one = |half: Half| -> Result<Option<Tensor>> {
            let context = &context.f_chunk(2, 0)?[half as usize];
            let output = self.denoiser.predict_half(half, &input, &t, Some(context))?;
            moved(&output, self.x_t.device()).map(Some)
        };
        match self.guidance.needs(self.plan.step_of(self.i), self.plan.num_inference_steps) {
            Needs::Uncond => Ok([one(Half::Uncond)?, None]),
            Needs::Cond => Ok([None, one(Half::Cond)?]),
            Needs::Both => {
                let twice = Tensor::f_cat(&[&input, &input], 0)?;
                let both = self.denoiser.predict(&twice, &t, Some(context))?;
                let both = moved(&both, self.x_t.device())?.chunk(2, 0);
                Ok([0, 1].map(|half: usize| Some(both[half].shallow_clone())))
            }
        }
    }

    /// One output from those that this step needs, by its guidance.
    fn guide(&mut self, outputs: &[Option<Tensor>; 2]) -> Result<Tensor> {
        let (uncond, cond) = match outputs {
            [Some(uncond), Some(cond)] => (uncond, cond),
            [Some(only), None] | [None, Some(only)] => return Ok(only.shallow_clone()),
            [None, None] => return Err(Error::argument("outputs", "one or two", "none")),
        };
        let scale =
            self.guidance.scale_at(self.plan.step_of(self.i), self.plan.num_inference_steps);
        let guided = match &self.guidance.projection {
            None => guide(uncond, cond, scale)?,
            Some(projection) => {
                // Its directions are those of pictures.
                let rates = self.plan.steps[self.i].position.rates();
                let prediction = self.plan.prediction;
                let x_0 = |output: &Tensor| prediction.x_0(&rates, &self.x_t, output);
                let before = self.difference.as_ref();
                let (guided, difference) =
                    guide_projected(&x_0(uncond)?, &x_0(cond)?, scale, projection, before)?;
                self.difference = Some(difference);
                prediction.output(&rates, &self.x_t, &guided)?
            }
        };
        match self.guidance.rescale {
            0. => Ok(guided),
            part => rescale(&guided, cond, part),
        }
    }

    /// The next step, also after an interrupt: for a caller that looks for itself.
    pub(crate) fn take_step(&mut self) -> Option<Result<SamplingStep>> {
        if self.failed || self.i >= self.plan.steps.len() {
            return None;
        }
        let doing = {
            let (size, device) = (self.x_t.size(), device::name(self.x_t.device()));
            move || format!("a step with samples of {size:?} on {device}")
        };
        let step = guarded(doing, "", || tch::no_grad(|| self.step()));
        self.failed = step.is_err();
        self.i += usize::from(step.is_ok());
        Some(step)
    }

    fn step(&mut self) -> Result<SamplingStep> {
        let planned = self.plan.steps[self.i];
        let position = planned.position;
        let outputs = self.predict(position)?;
        let output = self.guide(&outputs)?;
        let [output_uncond, output_cond] = outputs;
        let mut evaluation = self.plan.interpret(self.i, &self.x_t, &output)?;
        let noise = if planned.adds_noise() { self.noises.next() } else { None };
        let prev_sample = self.plan.step(self.i, &mut evaluation, &self.earlier, noise.as_ref())?;
        let x_t = std::mem::replace(&mut self.x_t, prev_sample.shallow_clone());
        let (x_0, noise_pred) =
            (evaluation.x_0.shallow_clone(), evaluation.noise_pred.shallow_clone());
        self.earlier.insert(0, evaluation);
        self.earlier.drain(..planned.forget.min(self.earlier.len()));
        self.earlier.truncate(REMEMBERED);
        Ok(SamplingStep {
            i: self.i,
            position,
            coefficients: planned.coefficients,
            x_t,
            output_uncond,
            output_cond,
            output,
            prediction: self.plan.prediction,
            noise_pred,
            x_0,
            prev_sample,
        })
    }
}

/// Contexts as one batch: without the prompt, then with it.
fn joined(uncond: &Tensor, cond: &Tensor, device: Device) -> Result<Tensor> {
    alike("cond", cond, uncond)?;
    moved(&Tensor::f_cat(&[uncond, cond], 0)?, device)
}

impl<D: Denoiser> Iterator for Sampling<'_, D> {
    type Item = Result<SamplingStep>;

    fn next(&mut self) -> Option<Self::Item> {
        let (taken, all) = (self.i, self.plan.steps.len());
        match interrupt::check(|| format!("after {taken} of {all} evaluations")) {
            Err(error) if taken < all && !self.failed => {
                self.failed = true;
                Some(Err(error))
            }
            _ => self.take_step(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::ExactDenoiser;
    use crate::noise::{standard_normal, standard_normals};
    use crate::sampler::{PlanSettings, Sampler, Sigmas};
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
                        PlanSettings { spacing, set_alpha_to_one: true, ..PlanSettings::default() };
                    let plan = Plan::new(sampler, &s, 50, &settings)?;
                    let evaluations = plan.steps.len();
                    let x_t = plan.start(&standard_normal(&[7, 8], 4)?);
                    let noises = standard_normals(&[7, 8], 5, evaluations)?;
                    let all = Sampling::new(&exact, plan, x_t, None, 1., noises)?
                        .collect::<Result<Vec<_>>>()?;
                    let end = &all[evaluations - 1].prev_sample;
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
        fn predict(&self, x_t: &Tensor, t: &Timesteps, context: Option<&Tensor>) -> Result<Tensor> {
            let t = t.tensor().double_value(&[0]);
            let part = t - t.floor();
            let at = |t: f64| self.0.predict(x_t, &t.into(), context);
            Ok(if part == 0. {
                at(t)?
            } else {
                at(t.floor())? * (1. - part) + at(t.ceil())? * part
            })
        }
    }
}
