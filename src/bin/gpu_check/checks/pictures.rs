//! Pictures on the device against those on the CPU, and what a model can do besides.

use diffuscope::checkpoint::Lora;
use diffuscope::guidance::{Guidance, Projection};
use diffuscope::models::vae::{Tiling, Vae};
use diffuscope::pipeline::{InitImage, Request, StableDiffusion, Trace};
use diffuscope::sampler::{Clip, Sampler};
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor, no_grad};

use super::{AS_ON_THE_CPU, families};
use crate::bench::{Bench, WorstGap};
use crate::outcome::Outcome;

/// A small model and a request of a few steps.
const MODEL: &str = "pipeline/sd1";

fn few_steps() -> Request {
    Request { num_inference_steps: 4, seed: 3, ..Request::batch(["a red star, flat", "a cat"]) }
}

/// The largest difference of what both models make of some requests, which have names.
fn as_on_the_cpu(bench: &Bench, requests: Vec<(String, Request)>) -> Result<Outcome> {
    let (here, there) = (bench.model(MODEL, Kind::Float)?, bench.model_on_cpu(MODEL)?);
    let mut worst = WorstGap::default();
    for (name, request) in &requests {
        let (got, expected) = (here.generate(request)?, there.generate(request)?);
        worst.take(name, &got.latents, &expected.latents)?;
        worst.take(name, &got.image, &expected.image)?;
    }
    let count = format!("{} of them", requests.len());
    Ok(Outcome::within(worst.gap, AS_ON_THE_CPU).note(count).note(worst.place))
}

/// How many numbers of the first sample and of the steps' noise differ.
pub fn initial_latents(bench: &Bench) -> Result<Outcome> {
    let mut request = few_steps();
    request.sampler = Some(Sampler::ddim(1.));
    let differing = |a: &Tensor, b: &Tensor| {
        (a.to_device(Device::Cpu).ne_tensor(b)).sum(Kind::Int64).int64_value(&[]) as f64
    };
    let (here, there) = (bench.model(MODEL, Kind::Float)?, bench.model_on_cpu(MODEL)?);
    let (here, there) = (here.prepare(&request)?, there.prepare(&request)?);
    let of_steps = here.noises.iter().zip(&there.noises).map(|(a, b)| differing(a, b));
    let different = differing(&here.x_t, &there.x_t) + of_steps.sum::<f64>();
    Ok(Outcome::within(different, 0.).note(format!("numbers of {}", here.noises.len() + 1)))
}

fn compare_traces(worst: &mut WorstGap, name: &str, got: &Trace, expected: &Trace) -> Result<()> {
    let tensors = |trace: &Trace| {
        let whole = [
            ("timesteps", &trace.timesteps),
            ("x_t", &trace.x_t),
            ("output", &trace.output),
            ("noise_pred", &trace.noise_pred),
            ("x_0", &trace.x_0),
            ("coefficients", &trace.coefficients),
            ("latents", &trace.latents),
            ("image", &trace.image),
        ]
        .map(|(tensor, values)| (tensor, values.shallow_clone()));
        // Which steps have an output is part of what is compared.
        let steps = |outputs: &[Option<Tensor>]| {
            outputs.iter().flatten().map(Tensor::shallow_clone).collect::<Vec<_>>()
        };
        let uncond = steps(&trace.output_uncond).into_iter().map(|x| ("output_uncond", x));
        let cond = steps(&trace.output_cond).into_iter().map(|x| ("output_cond", x));
        whole.into_iter().chain(uncond).chain(cond).collect::<Vec<_>>()
    };
    let (got, expected) = (tensors(got), tensors(expected));
    if got.len() != expected.len() {
        return Err(Error::argument(name, format!("{} tensors", expected.len()), got.len()));
    }
    for ((tensor, got), (_, expected)) in got.iter().zip(&expected) {
        worst.take(&format!("{name}, {tensor}"), got, expected)?;
    }
    Ok(())
}

pub fn traces(bench: &Bench) -> Result<Outcome> {
    let mut worst = WorstGap::default();
    for family in families::all() {
        let request = Request { num_inference_steps: 5, ..family.request(bench, "euler")? };
        let [got, expected] =
            [bench.model(family.folder, Kind::Float)?, bench.model_on_cpu(family.folder)?]
                .map(|model| model.trace(&request));
        compare_traces(&mut worst, family.name, &got?, &expected?)?;
    }
    Ok(Outcome::within(worst.gap, AS_ON_THE_CPU).note(worst.place))
}

pub fn trace_of_the_embedded_model(bench: &Bench) -> Result<Outcome> {
    let request =
        Request { num_inference_steps: 8, ..Request::new("a red apple on the grass, 3d") };
    let trace = |device| StableDiffusion::open(bench.tiny(), Kind::Float, device)?.trace(&request);
    let mut worst = WorstGap::default();
    compare_traces(&mut worst, "data/tiny", &trace(bench.device)?, &trace(Device::Cpu)?)?;
    Ok(Outcome::within(worst.gap, AS_ON_THE_CPU).note(worst.place))
}

pub fn samplers(bench: &Bench) -> Result<Outcome> {
    let request = |name: &str| {
        let sampler = Some(name.parse()?);
        Ok((name.to_owned(), Request { sampler, num_inference_steps: 5, ..few_steps() }))
    };
    as_on_the_cpu(bench, Sampler::names().map(request).collect::<Result<_>>()?)
}

pub fn guidances(bench: &Bench) -> Result<Outcome> {
    let plain = || Guidance::from(5.);
    let rules = [
        ("plain", plain()),
        ("each step its own", Guidance { scales: vec![1., 7., 3., 0.], ..plain() }),
        ("in an interval", Guidance { interval: Some((0.25, 0.75)), ..plain() }),
        ("rescaled", Guidance { rescale: 0.7, ..plain() }),
        ("projected", Guidance { projection: Some(Projection::default()), ..plain() }),
    ];
    let rules =
        rules.map(|(name, guidance)| (name.to_owned(), Request { guidance, ..few_steps() }));
    let clip = |clip| Request { clip: Some(clip), ..few_steps() };
    let clips = [
        ("clipped".to_owned(), clip(Clip::Range(1.))),
        ("thresholded".to_owned(), clip(Clip::Dynamic { ratio: 0.95, max: 2. })),
    ];
    as_on_the_cpu(bench, rules.into_iter().chain(clips).collect())
}

/// A masked picture of an ordinary model, weighted prompts that change over the steps, and a picture's way back.
pub fn tasks(bench: &Bench) -> Result<Outcome> {
    let pictures = bench.numbers("families/pictures")?;
    let picture = || pictures.tensor("picture");
    let mask = Some(pictures.tensor("mask")?);
    let init = InitImage { mask, sample_posterior: true, ..InitImage::new(picture()?, 0.75) };
    let weighted = |prompt: &str| Request { weighted_prompts: true, ..Request::new(prompt) };
    let requests = vec![
        ("known region".to_owned(), Request { init: Some(init), ..few_steps() }),
        (
            "weights".to_owned(),
            Request { num_inference_steps: 4, ..weighted("a (red:1.4) [cat:star:0.5]") },
        ),
    ];
    let drawn = as_on_the_cpu(bench, requests)?;
    let one = InitImage::new(picture()?.narrow(0, 0, 1), 1.);
    let back = Request {
        sampler: Some(Sampler::ddim(0.)),
        init: Some(one),
        guidance: 1.0.into(),
        num_inference_steps: 4,
        ..Request::new("a cat")
    };
    let (here, there) = (bench.model(MODEL, Kind::Float)?, bench.model_on_cpu(MODEL)?);
    let mut worst = WorstGap::default();
    worst.take("inversion", &here.invert(&back, 2)?, &there.invert(&back, 2)?)?;
    match drawn {
        Outcome::Measured { figure, bound, note } if figure >= worst.gap || figure.is_nan() => {
            Ok(Outcome::Measured { figure, bound, note })
        }
        _ => Ok(Outcome::within(worst.gap, AS_ON_THE_CPU).note(worst.place)),
    }
}

/// Models that wait on the CPU, and those that are on the device.
const OFFLOADED: [&str; 2] = [MODEL, "families/sdxl"];

pub fn offloaded(bench: &Bench) -> Result<Outcome> {
    let mut worst = WorstGap::default();
    for folder in OFFLOADED {
        let expected = bench.model(folder, Kind::Float)?.generate(&few_steps())?;
        let moving = bench.model_on_cpu(folder)?.offloaded(bench.device);
        for _ in 0..2 {
            let got = moving.generate(&few_steps())?;
            worst.take(folder, &got.latents, &expected.latents)?;
            worst.take(folder, &got.image, &expected.image)?;
        }
    }
    // The same numbers and the same kernels.
    Ok(Outcome::within(worst.gap, 1e-5).note(worst.place))
}

/// How many of the networks' tensors are elsewhere after a run, or others.
pub fn home_copies(bench: &Bench) -> Result<Outcome> {
    let mut faults = Vec::new();
    for folder in OFFLOADED {
        let model = bench.model_on_cpu(folder)?.offloaded(bench.device);
        let networks = ["unet", "vae", "text_encoder", "text_encoder_2"];
        let tensors = || networks.iter().flat_map(|network| model.tensors(network));
        let before: Vec<(Tensor, usize)> =
            tensors().map(|(_, tensor)| (tensor.copy(), tensor.data_ptr() as usize)).collect();
        model.generate(&few_steps())?;
        for ((name, tensor), (numbers, place)) in tensors().zip(&before) {
            let stayed = tensor.device() == Device::Cpu && tensor.data_ptr() as usize == *place;
            if !stayed || !tensor.equal(numbers) {
                faults.push(format!("{folder}, {name}"));
            }
        }
    }
    Ok(Outcome::faults(&faults))
}

pub fn tiles(bench: &Bench) -> Result<Outcome> {
    let vae = Vae::open(bench.golden("vae/sd"), Kind::Float, bench.device)?;
    let numbers = bench.numbers("vae_tiles")?;
    let tiling = Some(Tiling { tile: 4, overlap: 1 });
    let mut worst = WorstGap::default();
    no_grad(|| {
        let posterior = vae.posterior_tiled(&numbers.tensor("image")?, tiling)?;
        worst.take("mean", &posterior.mean, &numbers.tensor("mean")?)?;
        let decoded = vae.decode_tiled(&numbers.tensor("latents")?, tiling)?;
        worst.take("decoded", &decoded, &numbers.tensor("decoded")?)
    })?;
    Ok(Outcome::within(worst.gap, AS_ON_THE_CPU).note(worst.place))
}

/// LoRAs, the models that they change, and the weights that diffusers merged.
const LORAS: [(&str, &str, &str); 2] = [
    (MODEL, "lora/sd1_diffusers.safetensors", "lora/sd1_diffusers_merged"),
    ("families/sdxl", "lora/sdxl_kohya.safetensors", "lora/sdxl_kohya_merged"),
];

/// A copy of every weight, by network and name.
fn weights(model: &StableDiffusion) -> Vec<(String, Tensor)> {
    let copy = |network: &'static str| {
        let named = move |(name, tensor): (String, Tensor)| {
            let name = name.strip_prefix("text_model.").unwrap_or(&name).to_owned();
            (format!("{network}.{name}"), tensor.copy())
        };
        model.tensors(network).into_iter().map(named)
    };
    ["unet", "vae", "text_encoder", "text_encoder_2"].into_iter().flat_map(copy).collect()
}

pub fn lora_set(bench: &Bench) -> Result<Outcome> {
    let mut worst = WorstGap::default();
    for (folder, lora, merged) in LORAS {
        let mut model = bench.model(folder, Kind::Float)?;
        model.set_loras(&[(Lora::open(bench.golden(lora))?, 0.7)])?;
        let got = weights(&model);
        let expected = bench.numbers(merged)?;
        for key in expected.names() {
            let plain = key.replace(".text_model.", ".");
            let found = got.iter().find(|(name, _)| *name == plain).map(|(_, tensor)| tensor);
            let missing = Tensor::new();
            worst.take(key, found.unwrap_or(&missing), &expected.tensor(key)?)?;
        }
    }
    Ok(Outcome::within(worst.gap, 1e-5).note(worst.place))
}

pub fn lora_unset(bench: &Bench) -> Result<Outcome> {
    let mut faults = Vec::new();
    for (folder, lora, _) in LORAS {
        let mut model = bench.model(folder, Kind::Float)?;
        let before = weights(&model);
        let plain = model.generate(&few_steps())?.latents;
        model.set_loras(&[(Lora::open(bench.golden(lora))?, 1.)])?;
        let changed = model.generate(&few_steps())?.latents;
        if crate::bench::gap(&changed, &plain)? < 1e-3 {
            faults.push(format!("{lora} changes nothing"));
        }
        model.set_loras(&[])?;
        let other = |((name, a), (_, b)): (&(String, Tensor), &(String, Tensor))| {
            (!a.equal(b)).then(|| format!("{folder}, {name}"))
        };
        faults.extend(before.iter().zip(&weights(&model)).filter_map(other));
    }
    Ok(Outcome::faults(&faults))
}
