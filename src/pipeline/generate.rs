//! The walk: from a request to pictures, in one call or stage by stage.

use std::ops::ControlFlow;

use super::plan::plan;
use super::prepare::prepare;
use super::size::check_trace;
use super::{Generation, Making, Prepared, Request, StableDiffusion, Trace};
use crate::Result;
use crate::cores::SharedCores;
use crate::memory::guarded;
use crate::sampler::{Plan, SamplingStep};

impl StableDiffusion {
    /// Prompts to pictures.
    ///
    /// # Errors
    /// A request that cannot be met.
    #[doc(alias = "draw")]
    #[doc(alias = "text_to_image")]
    #[doc(alias = "txt2img")]
    pub fn generate(&self, request: &Request) -> Result<Generation> {
        self.generate_with(request, |_| ControlFlow::Continue(()))
    }

    /// Prompts to pictures; `each` is called with every step and may break: the run then stops and gives what there is.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn generate_with(
        &self,
        request: &Request,
        each: impl FnMut(SamplingStep) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let _cores = SharedCores::watch();
        self.run(&self.prepare(request)?, each)
    }

    /// Prompts to pictures, with everything that happened on the way.
    ///
    /// # Errors
    /// A request that cannot be met.
    pub fn trace(&self, request: &Request) -> Result<Trace> {
        self.trace_with(request, |_| ControlFlow::Continue(()))
    }

    /// The same; `each` is called with every step and may break: the trace then ends there.
    ///
    /// # Errors
    /// A request that cannot be met, or whose trace would not fit into memory.
    pub fn trace_with(
        &self,
        request: &Request,
        mut each: impl FnMut(&SamplingStep) -> ControlFlow<()>,
    ) -> Result<Trace> {
        let prepared = self.prepare(request)?;
        check_trace(&prepared.plan, &prepared.x_t)?;
        let mut steps = Vec::new();
        let generation = self.run(&prepared, |step| {
            let flow = each(&step);
            steps.push(step);
            flow
        })?;
        let mut trace = Trace::new(&steps, generation)?;
        trace.making = Some(Making::new(request, &prepared));
        Ok(trace)
    }

    /// Part of the way from one request's pictures to another's: from noise to noise on the sphere, from text to text
    /// on a line. All else, as sampler and steps, is as in `from`.
    ///
    /// # Errors
    /// Requests that cannot be met, or of different numbers or sizes of pictures.
    pub fn generate_between(
        &self,
        from: &Request,
        to: &Request,
        weight: f64,
    ) -> Result<Generation> {
        let Request { sampler, num_inference_steps, .. } = *from;
        let to = Request { sampler, num_inference_steps, ..to.clone() };
        let prepared = self.prepare(from)?.towards(&self.prepare(&to)?, weight)?;
        self.run(&prepared, |_| ControlFlow::Continue(()))
    }

    /// The reverse steps of a request.
    ///
    /// # Errors
    /// Steps that the schedule cannot give.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        plan(self, request)
    }

    /// Everything that is known of a request before its first step.
    ///
    /// # Errors
    /// A request that cannot be met: it lacks what the family needs, holds what it cannot use, or its parts do not fit
    /// each other.
    pub fn prepare(&self, request: &Request) -> Result<Prepared<'_>> {
        let doing = || format!("preparing {} pictures", request.prompts.len());
        guarded(doing, &self.on_less_memory(), || prepare(self, request))
    }
}
