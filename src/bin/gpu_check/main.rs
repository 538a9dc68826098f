//! Everything that needs a GPU, in one program. The same checks run on the CPU, so that they are right when a GPU comes;
//! `docs/gpu.md` says how.

mod args;
mod bench;
mod checks;
mod machine;
mod outcome;
mod report;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use diffuscope::cores::SharedCores;
use diffuscope::{Error, Result, device, noise};
use tch::Device;

use args::CheckArgs;
use bench::Bench;
use checks::GpuCheck;
use machine::MachineFacts;
use outcome::{CheckedItem, Verdict};
use report::GpuReport;

/// NVIDIA's libraries round f32 to TF32's 10 bits in convolutions, unless this forbids it when they are loaded.
const NO_TF32: (&str, &str) = ("NVIDIA_TF32_OVERRIDE", "0");

fn main() -> ExitCode {
    let args = CheckArgs::parse();
    let _cores = SharedCores::watch();
    // A panic inside a check becomes its failure.
    std::panic::set_hook(Box::new(|_| ()));
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &CheckArgs) -> Result<ExitCode> {
    if args.list {
        checks::all().iter().for_each(|check| println!("{}", check.name));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(task) = &args.child {
        return child(task, args);
    }
    let device = args.device()?;
    let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let bench = args.bench(device, folder.path())?;
    if device != Device::Cpu && std::env::var_os(NO_TF32.0).is_none() {
        return again_without_tf32();
    }
    let out = args.out(device);
    if let Some(out) = &out {
        diffuscope::write_file::can_be_written(out)?;
    }
    let machine = MachineFacts::of(device);
    println!("{}\n", machine.lines());
    let checks = args.chosen(checks::all())?;
    let items: Vec<CheckedItem> = checks.iter().map(|check| checked(check, &bench)).collect();
    let report = GpuReport::new(machine, items);
    println!("\n{}", report.summary());
    if let Some(out) = out {
        report.write(&out)?;
        println!("{}", out.display());
    }
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Calls a check and says what came of it, whatever happens inside.
fn checked(check: &GpuCheck, bench: &Bench) -> CheckedItem {
    let started = Instant::now();
    let outcome = match catch_unwind(AssertUnwindSafe(|| (check.run)(bench))) {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            // libtorch appends its C++ stack.
            let first = said.split("\\n").next().unwrap_or(said).lines().next().unwrap_or(said);
            Err(format!("a panic: {first}"))
        }
    };
    let item = CheckedItem::new(&check.name, outcome, started.elapsed().as_secs_f64());
    println!("{}", item.line());
    debug_assert!(item.verdict != Verdict::NotRun || !item.note.is_empty());
    item
}

/// What a check asks of a process of its own: the device that is picked there, or how much memory is in use.
fn child(task: &str, args: &CheckArgs) -> Result<ExitCode> {
    // Nothing comes before the tasks: what is asked is what a program meets that begins with them.
    match task {
        "pick" => println!("{}", device::name(device::pick(None)?.device)),
        "pick-after-noise" => {
            let _ = noise::standard_normal(&[1], 0)?;
            println!("{}", device::name(device::pick(None)?.device));
        }
        "memory" => checks::print_used_memory(&args.bench(args.device()?, Path::new(""))?)?,
        other => return Err(Error::argument("--child", "a task that a check asks for", other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The variable has to be there before NVIDIA's libraries are.
fn again_without_tf32() -> Result<ExitCode> {
    let program = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).env(NO_TF32.0, NO_TF32.1);
    let status = command.status().map_err(|e| Error::io(&program, e))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
