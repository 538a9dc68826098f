//! Passes over the samples of a trace: what its run did not ask for.

use tch::{Tensor, no_grad};

use super::{Prepared, StableDiffusion, Trace};
use crate::denoiser::{Denoiser, Half};
use crate::device::moved;
use crate::models::unet::AttentionMap;
use crate::timesteps::Timesteps;
use crate::{Result, interrupt};

impl StableDiffusion {
    /// Asks for both predictions at every step of a trace of `prepared`, where the run needed one alone. A model that runs
    /// once has no second one. `each` is called after every pass.
    ///
    /// # Errors
    /// A trace of another request; an [`interrupt`].
    pub fn ask_for_both(
        &self,
        prepared: &Prepared<'_>,
        trace: &mut Trace,
        mut each: impl FnMut(),
    ) -> Result<()> {
        self.using(&["unet"], || {
            for i in 0..trace.len() {
                let (denoiser, Some((uncond, cond))) = prepared.text_at(i) else { continue };
                let (input, t) = seen(prepared, trace, i)?;
                for (half, context) in [(Half::Uncond, uncond), (Half::Cond, cond)] {
                    let known = match half {
                        Half::Uncond => &mut trace.output_uncond[i],
                        Half::Cond => &mut trace.output_cond[i],
                    };
                    if known.is_some() {
                        continue;
                    }
                    interrupt::check(|| format!("at step {} of a second look", i + 1))?;
                    let output =
                        no_grad(|| denoiser.predict_half(half, &input, &t, Some(context)))?;
                    *known = Some(moved(&output, tch::Device::Cpu)?);
                    each();
                }
            }
            Ok(())
        })
    }

    /// What every cell attended to in the prompts, at every step of a trace of `prepared`: `each` gets the step and the maps of
    /// its layers.
    ///
    /// # Errors
    /// A trace of another request; an [`interrupt`]; what `each` refuses.
    pub fn attend_again(
        &self,
        prepared: &Prepared<'_>,
        trace: &Trace,
        mut each: impl FnMut(usize, Vec<AttentionMap>) -> Result<()>,
    ) -> Result<()> {
        self.using(&["unet"], || {
            for i in 0..trace.len() {
                interrupt::check(|| format!("at step {} of a second look", i + 1))?;
                let (denoiser, contexts) = prepared.text_at(i);
                let (input, t) = seen(prepared, trace, i)?;
                let cond = contexts.map(|(_, cond)| cond);
                each(i, no_grad(|| denoiser.cross_attention(&input, &t, cond))?)?;
            }
            Ok(())
        })
    }
}

/// The sample of step `i` as the network saw it, and its timestep.
fn seen(prepared: &Prepared<'_>, trace: &Trace, i: usize) -> Result<(Tensor, Timesteps)> {
    let x_t = moved(&trace.x_t.f_get(i as i64)?, prepared.x_t.device())?;
    let position = prepared.plan.steps.get(i).map(|step| step.position);
    let position = position.ok_or_else(|| {
        let expected = format!("at most {}", prepared.plan.steps.len());
        crate::Error::argument("steps of the trace", expected, trace.len())
    })?;
    Ok((x_t * position.input_scale(), position.t.into()))
}
