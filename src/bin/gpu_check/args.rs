//! The program's options.

use std::path::{Path, PathBuf};

use clap::Parser;
use diffuscope::device::{Cuda, cuda, pick};
use diffuscope::{Error, Result};
use tch::Device;

use crate::bench::Bench;
use crate::checks::GpuCheck;

/// Check on a GPU that everything computes there what it computes on the CPU, and write the figures as JSON.
#[derive(Parser)]
#[command(
    name = "gpu-check",
    version,
    after_help = "\
Every check prints a line: passed, FAILED or not run here, with its figure and the bound that it must not pass. The program
ends with 0 if none failed.

`cargo xtask gpu-check` builds it and runs it. For a machine without Rust, `cargo xtask gpu-check --pack FOLDER` builds it here
and says what to run there: in a checkout of this project, whose data and golden numbers it reads."
)]
pub struct CheckArgs {
    /// The device: cuda:N, or cpu for a dry run of the same checks [default: cuda:0]
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// The report, as JSON [default: docs/gpu.json in the project's folder; none for a dry run]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The project's folder, with tests/golden, data and notebooks [default: the folder that this is called in]
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    root: PathBuf,
    /// The program that was made of the chapters
    #[arg(long, value_name = "PROGRAM")]
    chapters: Option<PathBuf>,
    /// A Python with diffusers, to take the time of its steps too
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Only the checks whose names hold one of these words
    #[arg(long, value_name = "WORDS")]
    only: Vec<String>,
    /// Without the checks that take more than some seconds on a CPU
    #[arg(long)]
    quick: bool,
    /// Print the names of the checks and end
    #[arg(long)]
    pub list: bool,
    /// What a check asks of a process of its own
    #[arg(long, hide = true)]
    pub child: Option<String>,
}

impl CheckArgs {
    /// The device, or what to do without a GPU.
    pub fn device(&self) -> Result<Device> {
        if let Some(name) = &self.device {
            return Ok(pick(Some(name))?.device);
        }
        match cuda() {
            Cuda::Usable(_) => Ok(Device::Cuda(0)),
            why => Err(Error::argument("--device", "a GPU, cuda:0", format!("none: {why}")).hint(
                "--device cpu is a dry run: it runs the same checks on the CPU, to show that they are right when a GPU \
                 comes, and writes no docs/gpu.json",
            )),
        }
    }

    pub fn bench(&self, device: Device, scratch: &Path) -> Result<Bench> {
        let root = self.root.canonicalize().map_err(|e| Error::io(&self.root, e))?;
        for part in ["tests/golden", "data/tiny"] {
            if !root.join(part).is_dir() {
                let got = format!("{}, without {part}", root.display());
                return Err(Error::argument("--root", "the project's folder", got));
            }
        }
        let whole = |path: &PathBuf| path.canonicalize().map_err(|e| Error::io(path, e));
        Ok(Bench {
            device,
            root,
            chapters: self.chapters.as_ref().map(whole).transpose()?,
            // A name alone is looked for where programs are.
            python: self.python.clone(),
            scratch: scratch.to_owned(),
        })
    }

    /// Where the report goes.
    pub fn out(&self, device: Device) -> Option<PathBuf> {
        let default = || (device != Device::Cpu).then(|| self.root.join("docs/gpu.json"));
        self.out.clone().or_else(default)
    }

    pub fn chosen(&self, mut checks: Vec<GpuCheck>) -> Result<Vec<GpuCheck>> {
        checks.retain(|check| {
            let named = |word: &String| check.name.contains(word.as_str());
            !(self.quick && check.slow) && (self.only.is_empty() || self.only.iter().any(named))
        });
        if checks.is_empty() {
            let got = self.only.join(", ");
            return Err(Error::argument("--only", "words of a check's name", got)
                .hint("--list prints the names"));
        }
        Ok(checks)
    }
}
