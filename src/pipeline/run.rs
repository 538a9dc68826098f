//! From a prepared start to pictures.

use std::fmt;
use std::ops::ControlFlow;

use tch::{Device, Tensor};

use super::{Prepared, StableDiffusion};
use crate::cores::SharedCores;
use crate::sampler::SamplingStep;
use crate::{Result, interrupt};

/// What a generation gives. It shows its pictures when it ends a notebook cell.
pub struct Generation {
    /// The final latents [B, 4, h, w], scaled as the U-Net knows them; of a run that was stopped, the latents at that
    /// point.
    pub latents: Tensor,
    /// The pictures [B, 3, H, W], about [-1, 1], in f32 on the CPU; of a run that was stopped, the pictures predicted at
    /// that point.
    pub image: Tensor,
    /// Whether all steps were taken.
    pub finished: bool,
    /// What was asked for, one a picture: its prompt and its seed.
    pub captions: Vec<String>,
    /// What a person should know, see [`StableDiffusion::warnings`].
    pub notes: Vec<String>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (image, latents) = (self.image.size(), self.latents.size());
        write!(
            f,
            "Generation {{ image: {image:?}, latents: {latents:?}, finished: {}",
            self.finished
        )?;
        match self.notes.len() {
            0 => f.write_str(" }"),
            count => write!(f, ", {count} notes }}"),
        }
    }
}

impl StableDiffusion {
    /// Takes the steps from a start to pictures. `each` is called with every step and may break: the run then stops and
    /// gives what there is, as after an [`interrupt`].
    ///
    /// # Errors
    /// A step that fails; latents that are not finite.
    pub fn run(
        &self,
        prepared: &Prepared<'_>,
        mut each: impl FnMut(SamplingStep) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let _cores = SharedCores::watch();
        let (latents, stopped) = self.using(&["unet"], || {
            let mut sampling = prepared.sampling()?;
            for i in 0.. {
                if let Some((denoiser, contexts)) = prepared.text_from(i) {
                    sampling.set_denoiser(denoiser);
                    if let Some((uncond, cond)) = contexts {
                        sampling.set_contexts(uncond, cond)?;
                    }
                }
                let Some(step) = sampling.take_step() else { break };
                let mut step = step?;
                if let Some(known) = &prepared.known_region {
                    let restored = known.restore(&prepared.plan, step.i + 1, &step.prev_sample)?;
                    step.prev_sample = restored.shallow_clone();
                    sampling.set_sample(restored);
                }
                let (taken, all) = (step.i + 1, prepared.plan.steps.len());
                let x_0 = step.x_0.shallow_clone();
                if (each(step).is_break() || interrupt::requested()) && taken < all {
                    let note = format!(
                        "stopped after {taken} of {all} steps: the picture as it looked from there"
                    );
                    return Ok((sampling.into_sample(), Some((x_0, note))));
                }
            }
            Ok((sampling.into_sample(), None))
        })?;
        let finished = stopped.is_none();
        let (predicted, note) = stopped.unzip();
        let image = self.decode(predicted.as_ref().unwrap_or(&latents))?;
        Ok(Generation {
            latents: latents.to_device(Device::Cpu),
            image,
            finished,
            captions: prepared.captions.clone(),
            notes: note.into_iter().chain(prepared.notes.iter().cloned()).collect(),
        })
    }
}
