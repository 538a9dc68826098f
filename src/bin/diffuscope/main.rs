//! The command-line program: each command composes the library's stages.

mod device;
mod eval;
mod explore;
mod generate;
mod image_inputs;
mod inspect;
mod options;
mod out;
mod scenes;
mod schedule;
mod terminal;
mod train;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use diffuscope::cores::SharedCores;
use diffuscope::{Error, interrupt};
use terminal::say;

/// The exit code of a run that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Step inside Stable Diffusion: draw pictures from text, see what happens in every step, and train a small
/// model of your own.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  diffuscope generate \"a red apple on the grass, flat\"
  diffuscope generate --help

The notebooks do all of this step by step: cargo xtask lab"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw pictures from text
    Generate(Box<generate::GenerateArgs>),
    /// Make an interactive page: every step of a picture, at any guidance scale
    Explore(Box<explore::ExploreArgs>),
    /// Plot a model's noise schedule: betas, alphas_cumprod, signal-to-noise ratio
    Schedule(schedule::ScheduleArgs),
    /// Compose training pictures and their captions
    Scenes(scenes::ScenesArgs),
    /// Train a small Stable Diffusion of your own on scenes
    #[command(subcommand)]
    Train(Box<train::TrainCommand>),
    /// Score a model: do its pictures show what their captions say?
    Eval(Box<eval::EvalArgs>),
    /// Identify a checkpoint, and check that it is complete
    Inspect(inspect::Inspect),
    /// Show the device that the networks would run on, and why
    Device(device::DeviceArgs),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let _cores = SharedCores::watch();
    stop_at_interrupt(&command);
    // When a device runs out of memory inside a network, the bindings panic. To a user it is an error like any
    // other.
    std::panic::set_hook(Box::new(|_| ()));
    let done = catch_unwind(AssertUnwindSafe(|| match command {
        Command::Generate(args) => generate::run(*args),
        Command::Explore(args) => explore::run(*args),
        Command::Schedule(args) => schedule::run(args),
        Command::Scenes(args) => scenes::run(args),
        Command::Train(command) => train::run(*command),
        Command::Eval(args) => eval::run(*args),
        Command::Inspect(args) => inspect::run(args),
        Command::Device(args) => device::run(args),
    }));
    let message = match done {
        Ok(Ok(())) if interrupt::requested() => return ExitCode::from(INTERRUPTED),
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(Error::Interrupted(when))) => {
            say(&format!("interrupted {when}"));
            return ExitCode::from(INTERRUPTED);
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            // libtorch appends its C++ stack.
            let first = said.split("\\n").next().unwrap_or(said).lines().next().unwrap_or(said);
            format!("the program cannot go on: {first}")
        }
    };
    say(&format!("error: {message}"));
    ExitCode::FAILURE
}

/// A long run ends after its step at the first Ctrl-C, and at once at the second.
fn stop_at_interrupt(command: &Command) {
    use Command::{Eval, Explore, Generate, Train};
    if matches!(command, Generate(_) | Explore(_) | Train(_) | Eval(_)) {
        let stop = || {
            if interrupt::request() {
                std::process::exit(INTERRUPTED.into());
            }
        };
        // Without a handler Ctrl-C ends the program at once.
        let _ = ctrlc::set_handler(stop);
    }
}
