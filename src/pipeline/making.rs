//! What a trace was made with.

use std::fmt;

use tch::{Device, Tensor};

use super::{Prepared, Request};
use crate::guidance::Guidance;
use crate::models::clip::Encoding;
use crate::sampler::Plan;
use crate::short::{Few, starts};

/// What a trace was made with: beside its tensors, all that is needed to take each of its steps again.
pub struct Making {
    /// One a picture.
    pub prompts: Vec<String>,
    /// The prompt of the prediction without the prompts; empty for none.
    pub negative_prompt: String,
    /// One a picture.
    pub seeds: Vec<i64>,
    /// What the first text encoder read of the prompts, one a picture; empty where it read nothing.
    pub encodings: Vec<Encoding>,
    /// The steps, also those that an interrupted run did not take.
    pub plan: Plan,
    /// How two predictions became one.
    pub guidance: Guidance,
    /// One for each step that adds some, in their order, [B, 4, h, w] each.
    pub noises: Vec<Tensor>,
    /// Where the picture was drawn anew, [1 or B, 1, h, w] with 1 there; elsewhere it was put back after every step.
    /// `None` for everywhere.
    pub mask: Option<Tensor>,
}

impl fmt::Debug for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Making")
            .field("prompts", &Few(&starts(&self.prompts)))
            .field("seeds", &Few(&self.seeds))
            .field("sampler", &self.plan.sampler)
            .field("guidance", &self.guidance.scale)
            .finish_non_exhaustive()
    }
}

impl Making {
    /// The same, sharing its tensors.
    pub fn shallow_clone(&self) -> Self {
        Self {
            prompts: self.prompts.clone(),
            negative_prompt: self.negative_prompt.clone(),
            seeds: self.seeds.clone(),
            encodings: self.encodings.clone(),
            plan: self.plan.clone(),
            guidance: self.guidance.clone(),
            noises: self.noises.iter().map(Tensor::shallow_clone).collect(),
            mask: self.mask.as_ref().map(Tensor::shallow_clone),
        }
    }

    pub(super) fn new(request: &Request, prepared: &Prepared<'_>) -> Self {
        let here = |x: &Tensor| x.to_device(Device::Cpu);
        Self {
            prompts: request.prompts.clone(),
            negative_prompt: request.negative_prompt.clone(),
            seeds: request.picture_seeds(),
            encodings: prepared.encodings.clone(),
            plan: prepared.plan.clone(),
            guidance: prepared.guidance.clone(),
            noises: prepared.noises.iter().map(here).collect(),
            mask: prepared.known_region.as_ref().map(|known| here(&known.mask)),
        }
    }
}
