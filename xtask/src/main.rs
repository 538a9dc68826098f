//! `cargo xtask`: set-up, tests, notebooks and a check-up, with plain cargo and no libtorch.

mod bench;
mod chapters;
mod doctor;
mod gpu_check;
mod interrupts;
mod kernel;
mod lab;
mod notebooks;
mod prerequisites;
mod progress;
mod project;
mod setup;
mod test;

use project::Project;
use std::process::ExitCode;

/// A task's result; the error is the one sentence that a person reads.
pub type Result<T = ()> = std::result::Result<T, String>;

const HELP: &str = "\
Diffuscope's tasks. Each sets up what it needs first, inside the project's folder `.lab`.

cargo xtask lab        [--no-browser] [--port N] [--cpu | --cuda]
                       open JupyterLab on the first chapter
cargo xtask test       [--cpu | --cuda]
                       format, lints, all tests, documentation, every notebook in a fresh kernel
cargo xtask notebooks  [NAME ...] [--check] [--time]
                       execute chapters and write their outputs back; --check executes without
                       writing and fails on an error; --time prints the seconds of each cell
cargo xtask gpu-check  [--device cuda:N | cpu] [--out FILE] [--pack FOLDER] [--python PROGRAM]
                       [--only WORDS ...] [--quick] [--list]
                       run all that needs a GPU on it and write docs/gpu.json; --device cpu is a
                       dry run; --pack builds it for a machine without Rust; docs/gpu.md says more
cargo xtask bench      [--quick] [--only NAME ...] [--against NAME ...] [--dtype NAME ...]
                       [--device cuda:N] [--threads N] [--rounds N] [--out FOLDER] [--install]
                       measure this library beside diffusers, OpenVINO and others, and write
                       docs/bench.json and its figures; --install installs the others first, into
                       .lab/bench; docs/bench.md says more
cargo xtask doctor     what is in place, what is not, and what to do about it

  --cpu, --cuda        which libtorch to install; without them CUDA if there is an NVIDIA driver
";

enum Task {
    Help,
    Lab(setup::Flavour, lab::Options),
    Test(setup::Flavour),
    Notebooks(notebooks::Options),
    GpuCheck(gpu_check::Options),
    Bench(bench::Options),
    Doctor,
    /// What JupyterLab starts as the kernel.
    Kernel {
        root: std::path::PathBuf,
        connection_file: std::path::PathBuf,
    },
    /// Tells a person when the server answers, while this process's parent is the server.
    Announce {
        port: u16,
        server: u32,
    },
}

fn main() -> ExitCode {
    match parse().and_then(run) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Task> {
    read_arguments(lexopt::Parser::from_env())
        .map_err(|error| format!("{error}; `cargo xtask help` lists the tasks"))
}

fn read_arguments(mut arguments: lexopt::Parser) -> std::result::Result<Task, lexopt::Error> {
    use lexopt::prelude::*;
    let task = match arguments.next()? {
        None | Some(Short('h') | Long("help")) => return Ok(Task::Help),
        Some(Value(task)) => task.string()?,
        Some(other) => return Err(other.unexpected()),
    };
    let mut flavour = setup::Flavour::Auto;
    let mut lab = lab::Options::default();
    let mut notebooks = notebooks::Options::default();
    let mut gpu_check = gpu_check::Options::default();
    let mut bench = bench::Options::default();
    let mut values = Vec::new();
    while let Some(argument) = arguments.next()? {
        match (task.as_str(), argument) {
            (_, Short('h') | Long("help")) => return Ok(Task::Help),
            ("lab" | "test", Long("cpu")) => flavour = flavour.ask(setup::Flavour::Cpu)?,
            ("lab" | "test", Long("cuda")) => flavour = flavour.ask(setup::Flavour::Cuda)?,
            ("lab", Long("no-browser")) => lab.browser = false,
            ("lab", Long("port")) => lab.port = Some(arguments.value()?.parse()?),
            ("notebooks", Long("check")) => notebooks.check = true,
            ("notebooks", Long("time")) => notebooks.time = true,
            ("notebooks", Value(name)) => notebooks.names.push(name.string()?),
            ("gpu-check", Long("pack")) => gpu_check.pack = Some(arguments.value()?.into()),
            ("gpu-check", Long(name @ ("device" | "out" | "python" | "only"))) => {
                let name = format!("--{name}").into();
                gpu_check.passed_on.extend([name, arguments.value()?]);
            }
            ("gpu-check", Long(name @ ("quick" | "list"))) => {
                gpu_check.passed_on.push(format!("--{name}").into());
            }
            ("bench", Long("quick")) => bench.quick = true,
            ("bench", Long("install")) => bench.install = true,
            ("bench", Long("only")) => bench.only.push(arguments.value()?.string()?),
            ("bench", Long("against")) => bench.against.push(arguments.value()?.string()?),
            ("bench", Long("dtype")) => bench.dtypes.push(arguments.value()?.string()?),
            ("bench", Long("device")) => bench.device = arguments.value()?.string()?,
            ("bench", Long("threads")) => bench.threads = Some(arguments.value()?.parse()?),
            ("bench", Long("rounds")) => bench.rounds = arguments.value()?.parse()?,
            ("bench", Long("out")) => bench.out = Some(arguments.value()?.into()),
            ("kernel" | "announce", Value(value)) => values.push(value),
            (_, other) => return Err(other.unexpected()),
        }
    }
    match task.as_str() {
        "help" => Ok(Task::Help),
        "lab" => Ok(Task::Lab(flavour, lab)),
        "test" => Ok(Task::Test(flavour)),
        "notebooks" => Ok(Task::Notebooks(notebooks)),
        "gpu-check" => Ok(Task::GpuCheck(gpu_check)),
        "bench" => Ok(Task::Bench(bench)),
        "doctor" => Ok(Task::Doctor),
        "kernel" if values.len() == 2 => {
            let connection_file = values.remove(1).into();
            Ok(Task::Kernel { root: values.remove(0).into(), connection_file })
        }
        "announce" if values.len() == 2 => {
            Ok(Task::Announce { port: values[0].parse()?, server: values[1].parse()? })
        }
        other => Err(format!("there is no task `{other}`").into()),
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Help => print!("{HELP}"),
        Task::Lab(flavour, options) => {
            let project = Project::find()?;
            setup::all(&project, flavour)?;
            lab::open(&project, &options)?;
        }
        Task::Test(flavour) => return test::run(&Project::find()?, flavour),
        Task::Notebooks(options) => {
            let project = Project::find()?;
            setup::all(&project, setup::Flavour::Auto)?;
            notebooks::run(&project, &options)?;
        }
        Task::GpuCheck(options) => return gpu_check::run(&Project::find()?, &options),
        Task::Bench(options) => return bench::run(&Project::find()?, &options),
        Task::Doctor => return doctor::run(&Project::find()?),
        Task::Kernel { root, connection_file } => {
            return kernel::launch(&Project { root }, &connection_file);
        }
        Task::Announce { port, server } => lab::announce(port, server)?,
    }
    Ok(ExitCode::SUCCESS)
}
