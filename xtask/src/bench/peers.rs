//! Who is measured: this project, and the programs that people would take in its place.

use crate::interrupts::apart;
use crate::progress::Progress;
use crate::project::{Project, write};
use crate::{Result, prerequisites};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Who does a work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// This library.
    Ours,
    /// This library without its fast ways.
    Plain,
    Diffusers,
    Compile,
    OpenVino,
    OnnxRuntime,
    Candle,
    StableDiffusionCpp,
}

/// What Python packages a peer needs; their versions are in the constraints.
const DIFFUSERS: [&str; 6] =
    ["torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy"];
const OPENVINO: [&str; 1] = ["openvino"];
const ONNXRUNTIME: [&str; 3] = ["onnx", "onnxruntime", "onnxscript"];
/// GB of disk for all of them.
const DISK: f64 = 12.;
const NOT_INSTALLED: &str = "it is not installed; `cargo xtask bench --install` does that";
/// Its library's calls draw whole pictures from a prompt and a seed of its own.
const NO_PASSES: &str = "it cannot be asked for a pass of a network, nor be given latents";
/// What candle's program is made of.
const CANDLE_SOURCES: [&str; 3] = ["Cargo.toml", "Cargo.lock", "src/main.rs"];

pub const ALL: [Peer; 8] = [
    Peer::Ours,
    Peer::Plain,
    Peer::Diffusers,
    Peer::Compile,
    Peer::OpenVino,
    Peer::OnnxRuntime,
    Peer::Candle,
    Peer::StableDiffusionCpp,
];

impl Peer {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "diffuscope",
            Self::Plain => "diffuscope-plain",
            Self::Diffusers => "diffusers",
            Self::Compile => "torch.compile",
            Self::OpenVino => "openvino",
            Self::OnnxRuntime => "onnxruntime",
            Self::Candle => "candle",
            Self::StableDiffusionCpp => "stable-diffusion.cpp",
        }
    }

    pub fn of_name(name: &str) -> Result<Self> {
        ALL.into_iter().find(|peer| peer.name() == name).ok_or_else(|| {
            let names = ALL.map(Self::name).join(", ");
            format!("there is no contestant `{name}`; there are {names}")
        })
    }

    /// How many times the memory of a process that holds the weights in f32 and computes with them. What converts,
    /// exports or packs them holds two copies meanwhile.
    pub fn memory(self, dtype: &str) -> f64 {
        match (self, dtype) {
            (Self::OpenVino | Self::OnnxRuntime, _) => 2.2,
            (Self::Compile, "f32") => 2.4,
            (Self::Compile, _) => 1.4,
            (_, "f32") => 1.,
            _ => 0.55,
        }
    }

    /// The script of a Python peer.
    fn script(self) -> Option<&'static str> {
        match self {
            Self::Ours | Self::Plain | Self::Candle | Self::StableDiffusionCpp => None,
            Self::Diffusers => Some("eager.py"),
            Self::Compile => Some("with_compile.py"),
            Self::OpenVino => Some("with_openvino.py"),
            Self::OnnxRuntime => Some("with_onnxruntime.py"),
        }
    }

    /// The folder's stamp says that its packages are there: everything in Python needs those of diffusers.
    fn stamps(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::Ours | Self::Plain | Self::Candle | Self::StableDiffusionCpp => &[],
            Self::Diffusers | Self::Compile => &[("diffusers", &DIFFUSERS)],
            Self::OpenVino => &[("diffusers", &DIFFUSERS), ("openvino", &OPENVINO)],
            Self::OnnxRuntime => &[("diffusers", &DIFFUSERS), ("onnxruntime", &ONNXRUNTIME)],
        }
    }
}

/// Where the programs are.
pub struct Programs<'a> {
    pub project: &'a Project,
    /// The program `bench`.
    pub bench: PathBuf,
    pub threads: usize,
}

impl Programs<'_> {
    fn folder(&self) -> PathBuf {
        self.project.lab("bench")
    }

    fn python(&self) -> PathBuf {
        self.folder().join("venv/bin/python")
    }

    /// The command that starts a peer, or why it cannot take part. It ends with this program.
    pub fn command(&self, peer: Peer) -> Result<Command> {
        let mut command = match peer {
            Peer::Ours | Peer::Plain => {
                let mut command = apart(&self.bench);
                command.arg("serve").envs(self.project.libtorch_environment());
                match peer {
                    Peer::Plain => command.env("DIFFUSCOPE_PLAIN", "1"),
                    _ => command.env_remove("DIFFUSCOPE_PLAIN"),
                };
                command
            }
            Peer::Candle if self.candle_is_built() => apart(&self.candle()),
            Peer::Candle => return Err(NOT_INSTALLED.into()),
            Peer::StableDiffusionCpp => return Err(NO_PASSES.into()),
            _ => self.script(peer)?,
        };
        let threads = self.threads.to_string();
        for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(variable, &threads);
        }
        command.env_remove("DIFFUSCOPE_DEVICE");
        Ok(command)
    }

    fn script(&self, peer: Peer) -> Result<Command> {
        let missing =
            peer.stamps().iter().find(|(name, packages)| !self.is_installed(name, packages));
        if missing.is_some() {
            return Err(NOT_INSTALLED.into());
        }
        let mut command = apart(&self.python());
        let name = peer.script().unwrap_or_default();
        command.arg(self.project.root.join("xtask/python/bench").join(name));
        // It has a torch of its own, and loads nothing from the network.
        for variable in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"] {
            command.env_remove(variable);
        }
        command.envs([("PYTHONNOUSERSITE", "1"), ("HF_HUB_OFFLINE", "1")]);
        command.env("TORCHINDUCTOR_CACHE_DIR", self.folder().join("inductor"));
        Ok(command)
    }

    fn stamp(&self, name: &str) -> PathBuf {
        self.folder().join("stamps").join(name)
    }

    fn is_installed(&self, name: &str, packages: &[&str]) -> bool {
        let pin = fs::read_to_string(self.stamp(name)).ok();
        pin.is_some_and(|pin| pin == self.pin(packages)) && self.python().exists()
    }

    fn constraints(&self) -> PathBuf {
        self.project.root.join("xtask/python/bench-constraints.txt")
    }

    /// The packages with their versions.
    fn pin(&self, packages: &[&str]) -> String {
        let constraints = fs::read_to_string(self.constraints()).unwrap_or_default();
        let is = |line: &&str| packages.iter().any(|name| line.starts_with(&format!("{name}==")));
        constraints.lines().filter(is).map(|line| format!("{line}\n")).collect()
    }

    /// Installs what the peers need. One that cannot be installed is told, and the others go on.
    pub fn install(&self, peers: &[Peer]) -> Result {
        let mut wanted: Vec<(&str, &[&str])> = Vec::new();
        for stamp in peers.iter().flat_map(|peer| peer.stamps()) {
            if !wanted.contains(stamp) && !self.is_installed(stamp.0, stamp.1) {
                wanted.push(*stamp);
            }
        }
        let candle = peers.contains(&Peer::Candle) && !self.candle_is_built();
        if wanted.is_empty() && !candle {
            return Ok(());
        }
        prerequisites::disk(&self.project.lab(""), DISK)?;
        if !wanted.is_empty() && !self.python().exists() {
            let (python, _) = prerequisites::python()?;
            let mut make = Command::new(python);
            make.args(["-m", "venv"]).arg(self.folder().join("venv"));
            self.step("bench-python", "Python environment in .lab/bench", 10, &mut make)?;
        }
        for (name, packages) in wanted {
            let mut pip = Command::new(self.python());
            pip.args(["-m", "pip", "install", "--disable-pip-version-check"]);
            pip.args(["--progress-bar", "off"]).env("PYTHONNOUSERSITE", "1");
            pip.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
            pip.arg("-c").arg(self.constraints()).args(packages);
            self.install_one(name, 180, &mut pip, &self.pin(packages))?;
        }
        if candle {
            let mut cargo = self.project.plain_cargo();
            cargo.args(["build", "--release", "--locked", "--manifest-path"]);
            cargo.arg(self.candle_folder().join("Cargo.toml"));
            cargo.arg("--target-dir").arg(self.folder().join("candle"));
            // As its documentation advises.
            cargo.env("RUSTFLAGS", "-C target-cpu=native");
            self.install_one("candle", 300, &mut cargo, &self.candle_pin())?;
        }
        Ok(())
    }

    /// A failure is told, and is none of the others'.
    fn install_one(&self, name: &str, seconds: u64, command: &mut Command, pin: &str) -> Result {
        let title = format!("{name} in .lab/bench");
        match self.step(&format!("bench-{name}"), &title, seconds, command) {
            Ok(()) => write(&self.stamp(name), pin),
            Err(problem) if problem.starts_with("interrupted") => Err(problem),
            Err(problem) => {
                eprintln!("{name} does not take part: {problem}");
                Ok(())
            }
        }
    }

    fn candle_folder(&self) -> PathBuf {
        self.project.root.join("xtask/bench-candle")
    }

    fn candle(&self) -> PathBuf {
        self.folder().join("candle/release/bench-candle")
    }

    fn candle_pin(&self) -> String {
        let read = |name| fs::read_to_string(self.candle_folder().join(name)).unwrap_or_default();
        CANDLE_SOURCES.map(read).concat()
    }

    fn candle_is_built(&self) -> bool {
        let stamp = fs::read_to_string(self.stamp("candle")).ok();
        self.candle().exists() && stamp.is_some_and(|stamp| stamp == self.candle_pin())
    }

    fn step(&self, log: &str, title: &str, seconds: u64, command: &mut Command) -> Result {
        let expected = Duration::from_secs(seconds);
        let mut progress = Progress::start(self.project, log, title.to_owned(), expected)?;
        let result = progress.run(command, "it could not be installed (the message is above)");
        progress.end(result)
    }

    /// The folder of a model; one with random weights is made if it is not there.
    pub fn model(&self, model: super::works::Model) -> Result<PathBuf> {
        use super::works::Model;
        if model == Model::Tiny {
            return Ok(self.project.root.join("data/tiny"));
        }
        let folder = self.folder().join("models").join(model.name());
        if folder.exists() {
            return Ok(folder);
        }
        // Made beside its place: a folder that is there is whole.
        let part = folder.with_extension("part");
        crate::project::remove(&part)?;
        let mut make = Command::new(&self.bench);
        make.args(["make", model.name()]).arg(&part).envs(self.project.libtorch_environment());
        let title = format!("{} with random weights in .lab/bench", model.name());
        self.step("bench-model", &title, 120, &mut make)?;
        rename(&part, &folder)?;
        Ok(folder)
    }
}

fn rename(from: &Path, to: &Path) -> Result {
    fs::rename(from, to).map_err(|error| format!("could not make {}: {error}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_takes_part_when_its_versions_are_installed() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        let programs = Programs { project: &project, bench: "bench".into(), threads: 3 };
        let constraints = |version: &str| {
            let text = format!("torch==2.0\nopenvino=={version}\nopenvino-telemetry==9\n");
            write(&programs.constraints(), &text).unwrap();
        };
        constraints("1.0");
        let missing = programs.command(Peer::OpenVino).unwrap_err();
        assert!(missing.contains("--install"), "{missing}");
        write(&programs.python(), "").unwrap();
        write(&programs.stamp("diffusers"), "torch==2.0\n").unwrap();
        assert!(programs.command(Peer::Diffusers).is_ok());
        assert!(programs.command(Peer::OpenVino).is_err());
        write(&programs.stamp("openvino"), "openvino==1.0\n").unwrap();
        let command = programs.command(Peer::OpenVino).unwrap();
        let threads = command.get_envs().find(|(name, _)| *name == "OMP_NUM_THREADS");
        assert_eq!(threads.unwrap().1.unwrap(), "3");
        constraints("1.1");
        assert!(programs.command(Peer::OpenVino).is_err(), "another version is pinned");
    }

    #[test]
    fn the_plain_way_is_a_switch_of_the_same_program() {
        let project = Project { root: "/p".into() };
        let programs = Programs { project: &project, bench: "/p/bench".into(), threads: 1 };
        let plain = |peer| {
            let command = programs.command(peer).unwrap();
            assert_eq!(command.get_program(), "/p/bench");
            let found = command.get_envs().find(|(name, _)| *name == "DIFFUSCOPE_PLAIN");
            found.and_then(|(_, value)| value.map(|value| value.to_owned()))
        };
        assert_eq!(plain(Peer::Ours), None);
        assert_eq!(plain(Peer::Plain), Some("1".into()));
        assert!(Peer::of_name("tensorflow").unwrap_err().contains("diffusers, torch.compile"));
    }
}
