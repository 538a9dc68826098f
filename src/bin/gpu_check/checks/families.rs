//! Every family's pictures against diffusers' pipelines: small models with random weights, and what they were asked for
//! when `tests/golden/make.py` recorded the numbers.

use diffuscope::Result;
use diffuscope::pipeline::{DepthMap, InitImage, LowResImage, Request};
use diffuscope::sampler::Sampler;
use tch::Kind;

use crate::bench::{Bench, WorstGap};
use crate::outcome::Outcome;

/// A family: its model's folder, where its numbers are and under which name, and its request.
pub struct FamilyCase {
    pub name: &'static str,
    pub folder: &'static str,
    numbers: &'static str,
    tensor: &'static str,
    request: fn(&Bench) -> Result<Request>,
}

const fn case(
    name: &'static str,
    folder: &'static str,
    tensor: &'static str,
    request: fn(&Bench) -> Result<Request>,
) -> FamilyCase {
    FamilyCase { name, folder, numbers: folder, tensor, request }
}

pub fn all() -> [FamilyCase; 8] {
    let plain: fn(&Bench) -> Result<Request> = |_| Ok(small());
    [
        case("SD 1", "pipeline/sd1", "latents", traced),
        case("SD 2", "pipeline/sd2", "latents", traced),
        FamilyCase {
            numbers: "families",
            ..case("SD 1, image to image", "pipeline/sd1", "picture", |bench| {
                of_picture(bench, 0.75, false)
            })
        },
        case("SDXL", "families/sdxl", "plain", plain),
        case("inpainting", "families/inpainting", "whole", |bench| of_picture(bench, 1., true)),
        case("depth", "families/depth", "part", |bench| {
            let depth = Some(DepthMap(bench.numbers("families/pictures")?.tensor("depth")?));
            Ok(Request { depth, ..of_picture(bench, 0.8, false)? })
        }),
        case("upscaler", "families/upscaler", "plain", |bench| {
            let small = bench.numbers("families/small")?.tensor("small")?;
            Ok(Request { low_res: Some(LowResImage::new(small)), ..asked() })
        }),
        case("LCM", "families/lcm", "plain", |_| {
            Ok(Request { negative_prompt: String::new(), ..small() })
        }),
    ]
}

/// The families that have U-Nets of their own.
pub fn folders() -> impl Iterator<Item = &'static str> {
    all().into_iter().map(|family| family.folder).filter(|folder| folder.starts_with("families/"))
}

const PROMPTS: [&str; 2] = ["a red star, flat", "two cats on the beach"];

/// What the reference was asked for.
fn asked() -> Request {
    Request {
        negative_prompt: "blurry!".into(),
        num_inference_steps: 20,
        seed: 5,
        sampler: Some(Sampler::ddim(0.)),
        ..Request::batch(PROMPTS)
    }
}

fn small() -> Request {
    Request { width: Some(8), height: Some(16), ..asked() }
}

/// The whole traces have fewer steps, and start from latents of the file.
fn traced(_: &Bench) -> Result<Request> {
    Ok(Request { num_inference_steps: 5, ..asked() })
}

fn of_picture(bench: &Bench, strength: f64, masked: bool) -> Result<Request> {
    let pictures = bench.numbers("families/pictures")?;
    let mask = masked.then(|| pictures.tensor("mask")).transpose()?;
    let init = InitImage { mask, ..InitImage::new(pictures.tensor("picture")?, strength) };
    Ok(Request { init: Some(init), ..asked() })
}

impl FamilyCase {
    /// What was asked for, with a sampler.
    pub fn request(&self, bench: &Bench, sampler: &str) -> Result<Request> {
        let mut request = (self.request)(bench)?;
        request.sampler = Some(sampler.parse()?);
        if self.tensor == "latents" {
            let numbers = bench.numbers(&format!("{}/{sampler}", self.numbers))?;
            request.initial_latents = Some(numbers.tensor("initial_latents")?);
        }
        Ok(request)
    }
}

/// The last latents by both samplers that the reference recorded.
pub fn parity(bench: &Bench, family: &FamilyCase, kind: Kind, bound: f64) -> Result<Outcome> {
    let model = bench.model(family.folder, kind)?;
    let mut worst = WorstGap::default();
    for sampler in ["ddim", "euler"] {
        let expected = bench.numbers(&format!("{}/{sampler}", family.numbers))?;
        let got = model.generate(&family.request(bench, sampler)?)?;
        worst.take(sampler, &got.latents, &expected.tensor(family.tensor)?)?;
    }
    Ok(Outcome::within(worst.gap, bound).note(worst.place))
}
