//! What every check is given: the device, and where the numbers of the reference lie.

use std::path::{Path, PathBuf};
use std::process::Command;

use diffuscope::pipeline::StableDiffusion;
use diffuscope::tensor_file::TensorFile;
use diffuscope::{Error, Result, device};
use tch::{Device, Kind, Tensor};

/// What every check is given.
pub struct Bench {
    pub device: Device,
    /// The project's folder, with `tests/golden`, `data` and `notebooks`.
    pub root: PathBuf,
    /// The program that was made of the chapters.
    pub chapters: Option<PathBuf>,
    /// A Python with diffusers.
    pub python: Option<PathBuf>,
    /// An empty folder.
    pub scratch: PathBuf,
}

impl Bench {
    pub fn golden(&self, name: &str) -> PathBuf {
        self.root.join("tests/golden").join(name)
    }

    pub fn numbers(&self, name: &str) -> Result<TensorFile> {
        TensorFile::open(self.golden(&format!("{name}.safetensors")))
    }

    pub fn tiny(&self) -> PathBuf {
        self.root.join("data/tiny")
    }

    /// A small model with random weights, on this device.
    pub fn model(&self, name: &str, kind: Kind) -> Result<StableDiffusion> {
        StableDiffusion::open(self.golden(name), kind, self.device)
    }

    /// The same model on the CPU, in f32.
    pub fn model_on_cpu(&self, name: &str) -> Result<StableDiffusion> {
        StableDiffusion::open(self.golden(name), Kind::Float, Device::Cpu)
    }

    /// The folders of one kind of network, in order.
    pub fn folders(&self, kind: &str) -> Result<Vec<String>> {
        let folder = self.golden(kind);
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<String> = names.map(|name| format!("{kind}/{name}")).collect();
        all.sort();
        Ok(all)
    }

    /// What this program says when a process of its own is asked one thing, see [`crate::child`].
    pub fn ask_child(&self, task: &str, environment: &[(&str, &str)]) -> Result<String> {
        let program = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
        let mut command = Command::new(&program);
        command.arg("--root").arg(&self.root).args(["--child", task]);
        command.args(["--device", &device::name(self.device)]);
        command.env_remove(device::VARIABLE).envs(environment.iter().copied());
        said_by(&mut command)
    }
}

/// What a program prints, if it ends well.
pub fn said_by(command: &mut Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(|e| Error::io(&program, e))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(Error::argument(
            program.display(),
            "a program that ends well",
            format!("{}: {}", output.status, last_line(&text(&output.stderr))),
        )),
    }
}

/// The last line that says something: Rust's advice to ask for a backtrace does not.
fn last_line(text: &str) -> &str {
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("note: "));
    lines.next_back().unwrap_or("nothing on its standard error")
}

/// A file in a folder, if it is there.
pub fn existing(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|path| path.exists())
}

/// The largest difference of two elements, as a share of the largest magnitude that is expected.
pub fn gap(got: &Tensor, expected: &Tensor) -> Result<f64> {
    if got.size() != expected.size() {
        return Err(Error::shape(
            "what was computed",
            format!("{:?}", expected.size()),
            &got.size(),
        ));
    }
    let [got, expected] = [got, expected].map(|x| x.to_device(Device::Cpu).to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]);
    let difference = (got - expected).abs().max().double_value(&[]);
    Ok(if difference == 0. { 0. } else { difference / largest })
}

/// The largest of many gaps, and where it was, if there is any. NaN is the largest.
#[derive(Default)]
pub struct WorstGap {
    pub gap: f64,
    pub place: String,
}

impl WorstGap {
    pub fn take(&mut self, place: &str, got: &Tensor, expected: &Tensor) -> Result<()> {
        self.take_number(place, gap(got, expected)?);
        Ok(())
    }

    pub fn take_number(&mut self, place: &str, gap: f64) {
        if self.gap.is_nan() || self.gap >= gap {
            return;
        }
        (self.gap, self.place) = (gap, place.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_gap_is_kept_and_nan_is_worse_than_any() {
        let mut worst = WorstGap::default();
        for (place, number) in [("a", 1e-3), ("b", 1e-2), ("c", 1e-4)] {
            worst.take_number(place, number);
        }
        assert_eq!((worst.gap, worst.place.as_str()), (1e-2, "b"));
        worst.take_number("d", f64::NAN);
        worst.take_number("e", 1.);
        assert!(worst.gap.is_nan() && worst.place == "d");
        let x = Tensor::from_slice(&[1f32, -4.]);
        assert_eq!(gap(&(&x + 1.), &x).unwrap(), 0.25);
        assert!(gap(&x, &x.get(0)).is_err());
    }
}
