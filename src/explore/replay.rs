//! The steps of a trace, taken once more from what was recorded.

use std::cell::Cell;
use std::fmt;

use tch::{Tensor, kind::FLOAT_CPU};

use crate::check::same_shape;
use crate::denoiser::{Denoiser, Half};
use crate::device::in_f64_on_cpu;
use crate::guidance::Guidance;
use crate::pipeline::{Making, Trace};
use crate::sampler::{Sampling, SamplingStep};
use crate::timesteps::Timesteps;
use crate::{Error, Result};

/// The steps of a trace, taken once more.
pub struct Replayed {
    /// One a step; each started from the sample that was recorded.
    pub steps: Vec<SamplingStep>,
    /// How far each picture's next samples are from the recorded ones at most, as a share of their standard deviation,
    /// where nothing was put back. `[B]`
    pub residuals: Vec<f64>,
}

impl fmt::Debug for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst = self.residuals.iter().copied().fold(0., f64::max);
        write!(f, "Replayed {{ {} steps, residual {worst:.1e} }}", self.steps.len())
    }
}

/// A model that answers what was recorded.
struct RecordedModel<'a> {
    trace: &'a Trace,
    i: Cell<usize>,
}

impl RecordedModel<'_> {
    fn output(&self, outputs: &[Option<Tensor>], which: &str) -> Result<Tensor> {
        let output = outputs.get(self.i.get()).and_then(Option::as_ref);
        let said =
            || Error::argument("the trace", format!("a prediction {which} the prompt"), "none");
        output.map(Tensor::shallow_clone).ok_or_else(said)
    }
}

impl Denoiser for RecordedModel<'_> {
    fn predict(&self, _: &Tensor, _: &Timesteps, context: Option<&Tensor>) -> Result<Tensor> {
        let cond = self.output(&self.trace.output_cond, "with")?;
        match context {
            None => Ok(cond),
            Some(_) => {
                let uncond = self.output(&self.trace.output_uncond, "without")?;
                Ok(Tensor::f_cat(&[uncond, cond], 0)?)
            }
        }
    }

    fn predict_half(
        &self,
        half: Half,
        _: &Tensor,
        _: &Timesteps,
        _: Option<&Tensor>,
    ) -> Result<Tensor> {
        match half {
            Half::Uncond => self.output(&self.trace.output_uncond, "without"),
            Half::Cond => self.output(&self.trace.output_cond, "with"),
        }
    }
}

/// What a trace was made with.
pub(super) fn making(trace: &Trace) -> Result<&Making> {
    trace.making.as_ref().ok_or_else(|| {
        let todo =
            "a file of a trace keeps neither the noise of its steps nor its rule of guidance";
        Error::argument("trace", "one that a model has just made", "one without its making")
            .hint(todo)
    })
}

/// Takes every step of a trace once more by the library's own sampling, from the recorded samples and predictions, with
/// this guidance: that of the trace, or another.
///
/// # Errors
/// A trace that does not know what it was made with; guidance that needs a prediction that was not asked for.
pub fn replay(trace: &Trace, guidance: &Guidance) -> Result<Replayed> {
    let made = making(trace)?;
    let model = RecordedModel { trace, i: Cell::new(0) };
    let batch = trace.latents.size()[0];
    let (sample, nothing) =
        (trace.latents.shallow_clone(), Tensor::zeros([batch, 1, 1], FLOAT_CPU));
    // A model that runs once has no prediction without the prompt at any step, and its guidance is 1.
    let once = made.guidance == 1.0.into() && trace.output_uncond.iter().all(Option::is_none);
    let contexts = (!once).then_some((&nothing, &nothing));
    let noises = made.noises.iter().map(Tensor::shallow_clone).collect();
    let mut sampling =
        Sampling::new(&model, made.plan.clone(), sample, contexts, guidance.clone(), noises)?;
    let mut replayed = Replayed { steps: Vec::new(), residuals: vec![0.; batch as usize] };
    for i in 0..trace.len() {
        model.i.set(i);
        sampling.set_sample(trace.x_t.f_get(i as i64)?);
        let Some(step) = sampling.take_step() else { break };
        let step = step?;
        let residuals = apart(&step.prev_sample, &following(trace, i)?, made.mask.as_ref())?;
        for (worst, residual) in replayed.residuals.iter_mut().zip(residuals) {
            // NaN is worse than any number.
            *worst = if residual > *worst || residual.is_nan() { residual } else { *worst };
        }
        replayed.steps.push(step);
    }
    Ok(replayed)
}

/// The sample that step `i` ended on.
pub(super) fn following(trace: &Trace, i: usize) -> Result<Tensor> {
    match i + 1 < trace.len() {
        true => Ok(trace.x_t.f_get(i as i64 + 1)?),
        false => Ok(trace.latents.shallow_clone()),
    }
}

/// The largest difference of each picture, as a share of the standard deviation of what was recorded.
fn apart(got: &Tensor, recorded: &Tensor, mask: Option<&Tensor>) -> Result<Vec<f64>> {
    same_shape("the next sample", got, recorded)?;
    let mut gap = (got - recorded).abs();
    if let Some(mask) = mask {
        gap *= mask.ge(1.).to_kind(gap.kind());
    }
    let rest = [-1i64, -2, -3];
    let spread = recorded.std_dim(&rest[..], false, false);
    Ok(Vec::try_from(in_f64_on_cpu(&(gap.amax(&rest[..], false) / spread))?)?)
}
