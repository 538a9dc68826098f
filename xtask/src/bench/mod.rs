//! `cargo xtask bench`: this library against the programs that people would take in its place, side by side.

mod contestant;
mod measure;
mod peers;
mod report;
mod running;
mod statistics;
mod works;

use crate::project::{Project, output, remove, run as run_command, write};
use crate::{Result, setup};
use measure::{Setting, WorkResult, measure};
use peers::{Peer, Programs};
use report::Machine;
use running::Running;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What `cargo xtask bench` is told.
pub struct Options {
    pub quick: bool,
    pub only: Vec<String>,
    /// The contestants besides ours; all of them if there is none.
    pub against: Vec<String>,
    pub dtypes: Vec<String>,
    pub device: String,
    pub threads: Option<usize>,
    pub rounds: usize,
    /// The folder of the report and the figures.
    pub out: Option<PathBuf>,
    pub install: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quick: false,
            only: Vec::new(),
            against: Vec::new(),
            dtypes: Vec::new(),
            device: "cpu".into(),
            threads: None,
            rounds: LEAST_ROUNDS,
            out: None,
            install: false,
        }
    }
}

const LEAST_ROUNDS: usize = 5;
/// What the works compute in, where the machine has instructions for it.
const DTYPES: [&str; 3] = ["f32", "bf16", "f16"];

impl Options {
    /// Refuses what cannot be met before anything is built.
    fn check(&self) -> Result<(Vec<works::Work>, Vec<Peer>)> {
        if self.rounds < LEAST_ROUNDS {
            return Err(format!("--rounds: expected {LEAST_ROUNDS} or more, got {}", self.rounds));
        }
        if self.threads == Some(0) {
            return Err("--threads: expected 1 or more, got 0".into());
        }
        if let Some(other) = self.dtypes.iter().find(|dtype| !DTYPES.contains(&dtype.as_str())) {
            return Err(format!("--dtype: expected {}, got {other}", DTYPES.join(", ")));
        }
        if self.device != "cpu" && !self.device.starts_with("cuda") {
            return Err(format!("--device: expected cpu or cuda:N, got {}", self.device));
        }
        let named = self.against.iter().map(|name| Peer::of_name(name));
        let peers = match &self.against[..] {
            [] if self.quick => vec![Peer::Diffusers],
            [] => peers::ALL.to_vec(),
            _ => named.collect::<Result<_>>()?,
        };
        let mut works = works::chosen(&self.only, self.quick)?;
        for work in &mut works {
            work.sides.retain(|side| side.peer == Peer::Ours || peers.contains(&side.peer));
        }
        works.retain(|work| work.sides.len() > 1);
        if works.is_empty() {
            return Err("none of these contestants does any of these works".into());
        }
        Ok((works, peers))
    }

    /// What is measured of all that is there goes into the documentation; a part only where it was asked for.
    fn folder(&self, project: &Project) -> Option<PathBuf> {
        let whole = !self.quick && self.only.is_empty() && self.against.is_empty();
        self.out.clone().or_else(|| whole.then(|| project.root.join("docs")))
    }

    fn dtypes(&self, facts: &str) -> Vec<String> {
        if !self.dtypes.is_empty() {
            return self.dtypes.clone();
        }
        let names: &[&str] = match (self.device.as_str(), has_bf16(facts)) {
            ("cpu", true) => &["f32", "bf16"],
            ("cpu", false) => &["f32"],
            _ => &["f16", "bf16"],
        };
        names.iter().map(ToString::to_string).collect()
    }
}

pub fn run(project: &Project, options: &Options) -> Result<ExitCode> {
    let (works, peers) = options.check()?;
    let _alone = lock(project)?;
    setup::libtorch(project)?;
    let [bench, program] = build(project)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores);
    let programs = Programs { project, bench, threads };
    if options.install {
        programs.install(&peers)?;
    }
    let scratch = project.lab("bench/scratch");
    remove(&scratch)?;
    std::fs::create_dir_all(&scratch)
        .map_err(|error| format!("could not make {}: {error}", scratch.display()))?;
    let (device, rounds) = (options.device.clone(), options.rounds);
    let long_enough = Duration::from_secs(if options.quick { 4 } else { 12 });
    let folder = scratch.clone();
    let setting =
        Setting { programs: &programs, device, rounds, long_enough, scratch: folder, program };

    let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut machine = Machine {
        name: machine_name(&options.device, &facts),
        device: options.device.clone(),
        threads,
        date: output(Command::new("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default(),
        versions: BTreeMap::new(),
        rates: BTreeMap::new(),
    };
    println!("{}, {threads} threads, {}", machine.name, machine.date);
    let results = measure_all(&setting, &works, &options.dtypes(&facts), &mut machine)?;
    remove(&scratch)?;
    if let Some(folder) = options.folder(project) {
        write_report(&programs, &folder, &report::json(&machine, &results))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Two at once would measure each other.
fn lock(project: &Project) -> Result<File> {
    let path = project.lab("bench/lock");
    let problem = |error| format!("could not write {}: {error}", path.display());
    std::fs::create_dir_all(project.lab("bench")).map_err(problem)?;
    let file = File::create(&path).map_err(problem)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err("another bench is running; wait for its end".into()),
        // Where the system has no locks, there is nothing to wait for.
        _ => Ok(file),
    }
}

fn measure_all(
    setting: &Setting,
    works: &[works::Work],
    dtypes: &[String],
    machine: &mut Machine,
) -> Result<Vec<WorkResult>> {
    let mut running = Running::new(setting.programs);
    let mut results = Vec::new();
    for work in works {
        for dtype in dtypes {
            if work.dtype.is_some_and(|only| only != dtype) {
                continue;
            }
            let result = measure(setting, work, dtype, &mut running)?;
            println!("{}", report::lines(&result));
            results.push(result);
        }
    }
    for dtype in dtypes {
        let order = json!({ "do": "rates", "dtype": dtype, "device": setting.device });
        let rates = running.ask(&works[0].sides[0], &order)?;
        let rate = |name: &str| rates[name].as_f64().unwrap_or_default();
        let (matmul, convolution) = (rate("matmul"), rate("convolution"));
        println!(
            "this machine in {dtype}: products {matmul:.0}, convolutions {convolution:.0} GFLOP/s"
        );
        machine.rates.insert(dtype.clone(), rates);
    }
    machine.versions = running.versions.clone();
    Ok(results)
}

/// Builds this library's programs as the README's commands do; returns where `bench` and `diffuscope` are.
fn build(project: &Project) -> Result<[PathBuf; 2]> {
    println!("building bench and diffuscope");
    let mut cargo = project.cargo();
    cargo.args(["build", "--quiet", "--package", "diffuscope", "--features", "cli", "--locked"]);
    cargo.args(["--bin", "bench", "--bin", "diffuscope"]);
    run_command(&mut cargo, "the programs were not built")?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| project.root.join("target"), PathBuf::from);
    Ok(["bench", "diffuscope"].map(|name| target.join("debug").join(name)))
}

fn write_report(programs: &Programs, folder: &Path, json: &str) -> Result {
    let report = folder.join("bench.json");
    write(&report, json)?;
    let mut draw = Command::new(&programs.bench);
    draw.arg("draw").arg(&report).arg(folder).envs(programs.project.libtorch_environment());
    run_command(&mut draw, "the figures were not drawn")?;
    println!("written: {}", report.display());
    Ok(())
}

fn machine_name(device: &str, facts: &str) -> String {
    let cpu = facts.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cpu = cpu.map(|(_, name)| name.trim().to_owned());
    let mac = || output(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]));
    let index = device.strip_prefix("cuda").map(|rest| rest.trim_start_matches(':'));
    let gpu = index.and_then(|index| {
        let index = if index.is_empty() { "0" } else { index };
        let query = ["--query-gpu=name", "--format=csv,noheader", "-i", index];
        output(Command::new("nvidia-smi").args(query))
    });
    gpu.or(cpu).or_else(mac).unwrap_or_else(|| "a processor of unknown name".into())
}

/// Whether the processor has instructions for bf16.
fn has_bf16(facts: &str) -> bool {
    let flags = |line: &str| line.starts_with("flags") || line.starts_with("Features");
    let has =
        |line: &str| line.split_whitespace().any(|flag| ["avx512_bf16", "bf16"].contains(&flag));
    facts.lines().any(|line| flags(line) && has(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(options: &Options) -> String {
        options.check().err().unwrap()
    }

    #[test]
    fn what_cannot_be_met_is_refused_before_anything_is_built() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(error(&Options { rounds: 2, ..Options::default() }).contains("5 or more, got 2"));
        assert!(error(&Options { threads: Some(0), ..Options::default() }).contains("--threads"));
        let int8 = Options { dtypes: names(&["int8"]), ..Options::default() };
        assert!(error(&int8).contains("f32, bf16, f16, got int8"));
        assert!(error(&Options { device: "gpu".into(), ..Options::default() }).contains("cuda:N"));
        assert!(
            error(&Options { only: names(&["x"]), ..Options::default() }).contains("no work `x`")
        );
        let unknown = Options { against: names(&["jax"]), ..Options::default() };
        assert!(error(&unknown).contains("no contestant `jax`"));
        let neither = Options {
            only: names(&["train-vae"]),
            against: names(&["openvino"]),
            ..Options::default()
        };
        assert!(error(&neither).contains("none of these contestants"));
    }

    #[test]
    fn two_benches_do_not_run_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        let first = lock(&project).unwrap();
        assert!(lock(&project).unwrap_err().contains("another bench is running"));
        drop(first);
        assert!(lock(&project).is_ok());
    }

    #[test]
    fn a_part_is_not_written_over_the_whole() {
        let project = Project { root: "/p".into() };
        let folder = |options: Options| options.folder(&project);
        assert_eq!(folder(Options::default()), Some("/p/docs".into()));
        assert_eq!(folder(Options { quick: true, ..Options::default() }), None);
        assert_eq!(folder(Options { only: vec!["step".into()], ..Options::default() }), None);
        let out = Options { quick: true, out: Some("there".into()), ..Options::default() };
        assert_eq!(folder(out), Some("there".into()));
        let (works, _) = Options { quick: true, ..Options::default() }.check().unwrap();
        assert!(works.iter().all(|work| work.sides.len() == 2));
    }

    #[test]
    fn bf16_is_measured_where_the_processor_has_it() {
        let facts = "model name\t: A CPU\nflags\t\t: fpu avx512_bf16 sse\n";
        assert!(has_bf16(facts) && !has_bf16("flags: fpu\n") && !has_bf16("bf16\n"));
        assert_eq!(machine_name("cpu", facts), "A CPU");
        assert_eq!(Options::default().dtypes(facts), ["f32", "bf16"]);
        assert_eq!(
            Options { device: "cuda:0".into(), ..Options::default() }.dtypes(""),
            ["f16", "bf16"]
        );
    }
}
