//! Memory that is given back, and what happens when there is not enough of it.

use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::bench::{Bench, gap};
use crate::machine::used_memory;
use crate::outcome::Outcome;

/// How much more may be in use after further runs than after the first: libraries keep some workspace.
const KEPT: f64 = 32e6;
/// A libtorch that keeps no freed memory for later on a GPU, so that what is in use is what is needed.
const NO_CACHE: (&str, &str) = ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1");

fn request() -> Request {
    Request { num_inference_steps: 3, ..Request::batch(["a red apple on the grass", "a boat"]) }
}

/// In a process of its own, which has nothing else in memory.
pub fn given_back(bench: &Bench) -> Result<Outcome> {
    let said = bench.ask_child("memory", &[NO_CACHE])?;
    let used: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [first, while_open, later @ ..] = used.as_slice() else {
        return Ok(Outcome::NotRun("nobody says how much memory is in use".into()));
    };
    let most = later.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let open = format!("{:.0} MB more while a model is open", (while_open - first) / 1e6);
    Ok(Outcome::within((most - first) / 1e6, KEPT / 1e6)
        .note("MB more after later runs")
        .note(open))
}

/// The memory in use after the first runs, while a model is open, and after each of the later runs.
pub fn print_used_memory(bench: &Bench) -> Result<()> {
    let used = || used_memory(bench.device).map(|bytes| bytes.to_string()).unwrap_or_default();
    // On the device at once, and moved there while it is used.
    let whole = || StableDiffusion::open(bench.tiny(), Kind::Float, bench.device);
    let moving = || {
        let there = StableDiffusion::open(bench.tiny(), Kind::Float, Device::Cpu)?;
        Ok::<_, Error>(there.offloaded(bench.device))
    };
    for run in 0..6 {
        let model = if run % 2 == 0 { whole() } else { moving() }?;
        model.trace(&request())?;
        // After the first two there are the libraries' own workspaces.
        if run == 2 {
            println!("{}", used());
        }
        drop(model);
        if run > 0 {
            println!("{}", used());
        }
    }
    Ok(())
}

/// Asks for absurdly much in every network, then draws the picture from before again.
pub fn lack(bench: &Bench) -> Result<Outcome> {
    let model = bench.model("pipeline/sd1", Kind::Float)?;
    let small = Request { width: Some(16), height: Some(16), ..request() };
    let before = model.generate(&small)?;
    // As large as that, in no memory at all.
    let huge = |shape: &[i64]| {
        let ones = vec![1; shape.len()];
        Tensor::ones(&ones[..], (Kind::Float, bench.device)).expand(shape, false)
    };
    let latents = huge(&[1 << 40, 4, 8, 8]);
    let context = huge(&[1 << 40, 7, model.unet.config().cross_attention_dim]);
    let asked = [
        ("decoding", model.decode(&latents).err()),
        ("encoding", tch::no_grad(|| model.vae.encode(&huge(&[1 << 40, 3, 8, 8]))).err()),
        ("the U-Net", tch::no_grad(|| model.unet.forward(&latents, 5, &context)).err()),
        ("what a GPU has", more_than_there_is(&model, bench.device)),
    ];
    let mut faults = Vec::new();
    let mut words = String::new();
    for (name, error) in asked {
        match error {
            Some(error @ Error::Memory { .. }) => words = error.to_string(),
            Some(other) => faults.push(format!("{name}: {other}")),
            None => faults.push(format!("{name}: there was enough memory")),
        }
    }
    let after = gap(&model.generate(&small)?.image, &before.image)?;
    if after.is_nan() || after > 1e-5 {
        faults.push(format!("the next picture is {after:e} apart"));
    }
    Ok(Outcome::faults(&faults).note(words))
}

/// A picture that is larger than any memory by a factor that a person may ask for: 2 million pixels a side.
fn more_than_there_is(model: &StableDiffusion, device: Device) -> Option<Error> {
    let side = (2 << 20) / model.vae.config().factor();
    let latents =
        Tensor::ones([1, 4, 1, 1], (Kind::Float, device)).expand([1, 4, side, side], false);
    tch::no_grad(|| model.vae.decode(&latents)).err()
}
