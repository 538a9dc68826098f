//! Works of a whole model: pictures, steps, and the first step.

use diffuscope::guidance::Guidance;
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::sampler::Sampler;
use diffuscope::{Error, Result, figures};
use tch::Tensor;

use crate::networks::inputs;
use crate::operations::{OperationCounts, picture_operations};
use crate::order::{ReadyWork, WorkOrder, WorkRun, timed};

/// What is drawn. A caption as the embedded model knows them.
pub const PROMPT: &str = "a red apple on the grass, cartoon";
/// The guidance scale, and those of a sweep.
const SCALE: f64 = 5.;
const SCALES: [f64; 8] = [0., 1., 2., 3., 5., 7., 10., 15.];
/// So many steps are taken in one run, and the time is that of one of them.
const STEPS_OF_A_RUN: usize = 10;

fn opened(order: &WorkOrder) -> Result<StableDiffusion> {
    StableDiffusion::open(&order.folder, order.kind()?, order.device()?)
}

fn counted(order: &WorkOrder, passes: f64, times: f64) -> Result<OperationCounts> {
    picture_operations(&order.folder, order.batch, order.side, passes, times)
}

fn request(order: &WorkOrder, model: &StableDiffusion) -> Result<Request> {
    let channels = model.vae.config().latent_channels;
    let shape = vec![order.batch, channels, order.side, order.side];
    let latents = inputs(order, &[("latents", shape)])?.remove(0);
    Ok(Request {
        num_inference_steps: order.steps,
        sampler: Some(Sampler::ddim(0.)),
        guidance: SCALE.into(),
        initial_latents: Some(latents),
        ..Request::batch(vec![PROMPT; order.batch as usize])
    })
}

/// Prompts to pictures. What is compared are the pictures, cut to the range that a file has.
pub fn generate(order: &WorkOrder) -> Result<ReadyWork> {
    let (model, device) = (opened(order)?, order.device()?);
    let mut request = request(order, &model)?;
    let (mut scales, mut halves) = (vec![SCALE], 2.);
    match order.variant.as_str() {
        "" => (),
        "scale-1" => (request.guidance, halves) = (1.0.into(), 1.),
        "half-interval" => {
            let interval = Some((0.25, 0.75));
            (request.guidance, halves) = (Guidance { interval, ..SCALE.into() }, 1.5);
        }
        "one-call" | "single-runs" => scales = SCALES.to_vec(),
        other => return Err(Error::argument("variant", "one of those in docs/bench.md", other)),
    }
    // Scales 0 and 1 need one of the two halves.
    let halves_of = |scale: &f64| if [0., 1.].contains(scale) { 1. } else { halves };
    let passes = order.steps as f64 * scales.iter().map(halves_of).sum::<f64>() / 2.;
    let operations = counted(order, passes, scales.len() as f64)?;
    let one_call = order.variant == "one-call";
    let several = scales.len() > 1;
    let run = move || {
        let draw = || -> Result<Option<Tensor>> {
            if one_call {
                figures::compare_guidance(&model, &request, &scales)?;
                return Ok(None);
            }
            let mut last = None;
            for &scale in &scales {
                if several {
                    request.guidance.scale = scale;
                }
                last = Some(model.generate(&request)?.image);
            }
            Ok(last.filter(|_| !several))
        };
        let (seconds, image) = timed(device, draw)?;
        Ok(WorkRun { seconds, answer: image.map(|image| image.clamp(-1., 1.)) })
    };
    Ok(ReadyWork { run: Box::new(run), operations })
}

/// Guided steps, the time of one of them. What is compared is the sample after them.
pub fn steps(order: &WorkOrder) -> Result<ReadyWork> {
    let (model, device) = (opened(order)?, order.device()?);
    let request = request(order, &model)?;
    let operations = counted(order, 1., 0.)?;
    let run = move || {
        let prepared = model.prepare(&request)?;
        let take = || {
            let mut sampling = prepared.sampling()?;
            for step in sampling.by_ref().take(STEPS_OF_A_RUN) {
                step?;
            }
            Ok(sampling.into_sample())
        };
        let (seconds, sample) = timed(device, take)?;
        Ok(WorkRun { seconds: seconds / STEPS_OF_A_RUN as f64, answer: Some(sample) })
    };
    Ok(ReadyWork { run: Box::new(run), operations })
}

/// From a prompt to the end of the first step.
pub fn first_step(order: &WorkOrder) -> Result<ReadyWork> {
    let (model, device) = (opened(order)?, order.device()?);
    let request = request(order, &model)?;
    let operations = counted(order, 1., 0.)?;
    let run = move || {
        let take = || {
            let prepared = model.prepare(&request)?;
            let mut sampling = prepared.sampling()?;
            sampling.next().transpose()?;
            Ok(sampling.into_sample())
        };
        let (seconds, sample) = timed(device, take)?;
        Ok(WorkRun { seconds, answer: Some(sample) })
    };
    Ok(ReadyWork { run: Box::new(run), operations })
}
