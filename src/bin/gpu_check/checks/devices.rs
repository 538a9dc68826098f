//! Which device is picked, and what is said of those that are not there.

use diffuscope::device::{self, Cuda, cuda, pick};
use diffuscope::pipeline::StableDiffusion;
use diffuscope::{Error, Result};
use std::process::Command;
use tch::{Device, Kind};

use crate::bench::{Bench, existing, said_by};
use crate::outcome::Outcome;

/// What is picked where CUDA can be used, and where it cannot.
fn expected() -> &'static str {
    if matches!(cuda(), Cuda::Usable(_)) { "cuda:0" } else { "cpu" }
}

fn is(got: &str, expected: &str) -> Outcome {
    let fault = (got != expected).then(|| format!("{expected} was expected"));
    Outcome::faults(&fault.into_iter().collect::<Vec<_>>()).note(format!("{got} was picked"))
}

pub fn picked(bench: &Bench) -> Result<Outcome> {
    Ok(is(&bench.ask_child("pick", &[])?, expected()).note(cuda().to_string()))
}

/// libtorch looks for its CUDA library once, when it is first seeded.
pub fn picked_after_noise(bench: &Bench) -> Result<Outcome> {
    Ok(is(&bench.ask_child("pick-after-noise", &[])?, expected()))
}

pub fn none_visible(bench: &Bench) -> Result<Outcome> {
    Ok(is(&bench.ask_child("pick", &[("CUDA_VISIBLE_DEVICES", "")])?, "cpu"))
}

/// `cargo xtask doctor` asks the driver from Python; the library asks libtorch. They have to agree.
pub fn doctor(bench: &Bench) -> Result<Outcome> {
    let Some(script) = existing(&bench.root, "xtask/python/cuda.py") else {
        return Ok(Outcome::NotRun("there is no xtask/python/cuda.py in the folder".into()));
    };
    let Some(libtorch) = std::env::var_os("LIBTORCH") else {
        return Ok(Outcome::NotRun("LIBTORCH is not set".into()));
    };
    let python = bench.python.clone().unwrap_or_else(|| "python3".into());
    let libraries = std::path::Path::new(&libtorch).join("lib");
    let said = match said_by(Command::new(&python).arg(&script).arg(libraries)) {
        Ok(said) => said,
        Err(Error::Io { path, source }) => {
            return Ok(Outcome::NotRun(format!("{}: {source}", path.display())));
        }
        Err(other) => return Err(other),
    };
    let found = cuda();
    let word = match found {
        Cuda::Usable(_) => "usable",
        Cuda::CpuBuild | Cuda::NotLoaded(_) => "library",
        Cuda::NoDriver | Cuda::NoGpu => "driver",
    };
    let agrees = said.split_whitespace().next() == Some(word);
    let fault = (!agrees).then(|| format!("the library says: {found}"));
    Ok(Outcome::faults(&fault.into_iter().collect::<Vec<_>>()).note(said))
}

/// Every name of a GPU that is not there is an error that says so, and so is the GPU itself.
pub fn wrong_names(bench: &Bench) -> Result<Outcome> {
    let gpus = match cuda() {
        Cuda::Usable(count) => count.max(7),
        _ => 7,
    };
    let mut faults = Vec::new();
    let mut expect_refusal = |asked: &str, refused: Option<Error>| match refused {
        Some(Error::Device { reason, .. }) if !reason.is_empty() => (),
        Some(other) => faults.push(format!("{asked}: {other}")),
        None => faults.push(format!("{asked} was taken")),
    };
    let missing = format!("cuda:{gpus}");
    for asked in [missing.as_str(), "cuda:99999999999", "cuda:-1", "cuda:", "gpu", "CUDA:one", ""] {
        expect_refusal(asked, pick(Some(asked)).err());
    }
    for index in [gpus as usize, 99_999_999_999] {
        let gone = Device::Cuda(index);
        let opened = StableDiffusion::open(bench.golden("pipeline/sd1"), Kind::Float, gone);
        expect_refusal(&device::name(gone), opened.err());
    }
    let said = pick(Some(&missing)).err().map(|e| e.to_string()).unwrap_or_default();
    Ok(Outcome::faults(&faults).note(said))
}
