//! How long the steps of a full-size model take, beside diffusers' on the same card.

use std::process::Command;
use std::time::Instant;

use diffuscope::models::params::Params;
use diffuscope::models::unet::{UNet, UNetConfig};
use diffuscope::noise::{standard_normal, with_seed};
use diffuscope::sampler::{Plan, PlanSettings, Sampler, Sampling};
use diffuscope::schedule::Schedule;
use diffuscope::{Error, Result, device};
use tch::{Device, Kind};

use crate::bench::{Bench, said_by};
use crate::outcome::Outcome;

const STEPS: usize = 50;

/// Waits for what a GPU is still computing.
fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// The seconds of guided DDIM steps with random weights, after some to warm up.
fn seconds(
    config: &UNetConfig,
    side: i64,
    kind: Kind,
    device: Device,
    steps: usize,
) -> Result<f64> {
    let params = Params::fresh(kind, device);
    let unet = with_seed(0, || UNet::new(&params, config))?;
    let width = config.cross_attention_dim;
    let context = |seed| Ok::<_, Error>(standard_normal(&[1, 77, width], seed)?.to_device(device));
    let (uncond, cond) = (context(1)?, context(2)?);
    let draw = |steps: usize| -> Result<f64> {
        let schedule = Schedule::stable_diffusion();
        let plan = Plan::new(Sampler::ddim(0.), &schedule, steps, &PlanSettings::default())?;
        let x_t = standard_normal(&[1, 4, side, side], 0)?.to_device(device);
        let contexts = Some((&uncond, &cond));
        synchronize(device);
        let started = Instant::now();
        for step in Sampling::new(&unet, plan, x_t, contexts, 7.5, Vec::new())? {
            step?;
        }
        synchronize(device);
        Ok(started.elapsed().as_secs_f64())
    };
    draw(steps.min(5))?;
    draw(steps)
}

/// The published U-Net of Stable Diffusion 1.5, and the side of its latents.
fn stable_diffusion() -> (UNetConfig, i64) {
    let mut config = UNetConfig::default();
    config.cross_attention_dim = 768;
    (config, 64)
}

pub fn own(bench: &Bench) -> Result<Outcome> {
    if bench.device != Device::Cpu {
        let (config, side) = stable_diffusion();
        return Ok(Outcome::seconds(seconds(&config, side, Kind::Half, bench.device, STEPS)?));
    }
    // The same code on a network that a CPU has done in a moment.
    let small = UNetConfig::narrow(&[32, 32], &[true, false], 1, 2, 16, 8);
    let took = seconds(&small, 8, Kind::Float, bench.device, STEPS)?;
    Ok(Outcome::NotRun(format!(
        "needs a GPU; {STEPS} steps of a network of toy size took {took:.2} s on the CPU"
    )))
}

pub fn of_diffusers(bench: &Bench) -> Result<Outcome> {
    let Some(python) = &bench.python else {
        return Ok(Outcome::NotRun("--python names no Python with diffusers".into()));
    };
    if bench.device == Device::Cpu {
        return Ok(Outcome::NotRun("needs a GPU".into()));
    }
    let mut command = Command::new(python);
    command.args(["-c", include_str!("diffusers.py"), &device::name(bench.device)]);
    let said = said_by(command.arg(STEPS.to_string()))?;
    let words: Vec<&str> = said.lines().last().unwrap_or_default().split(' ').collect();
    match words.as_slice() {
        [seconds, versions @ ..] if seconds.parse::<f64>().is_ok() => {
            let seconds = seconds.parse().unwrap_or(f64::NAN);
            Ok(Outcome::seconds(seconds).note(versions.join(" ")))
        }
        _ => Err(Error::argument("diffusers.py", "seconds", said)),
    }
}
