//! The command-line program: each command composes the library's stages.

mod device;
mod eval;
mod generate;
mod inspect;
mod out;
mod scenes;
mod schedule;
mod tasks;
mod train;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

/// Step inside Stable Diffusion: draw pictures from text, look at every step of it, train a small
/// model of your own.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "\
Examples:
  diffuscope generate \"a red apple on the grass, flat\"
  diffuscope generate --help

All of it can also be done step by step in the notebooks: cargo xtask lab"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw pictures from text
    Generate(Box<generate::Generate>),
    /// Plot a model's noise schedule: betas, alphas_cumprod, signal-to-noise ratio
    Schedule(schedule::Schedule),
    /// Compose training pictures, with captions that are true of them
    Scenes(scenes::Scenes),
    /// Train a small Stable Diffusion of your own on scenes
    #[command(subcommand)]
    Train(Box<train::Train>),
    /// Score a model's pictures: do they show what their captions say?
    Eval(Box<eval::Eval>),
    /// Say what a checkpoint is, and whether all of it is there
    Inspect(inspect::Inspect),
    /// Say what the networks would run on, and why
    Device(device::Device),
}

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // A device that runs out of memory in the middle of a network is a panic of the bindings; to a
    // person it is an error like any other.
    std::panic::set_hook(Box::new(|_| ()));
    let done = catch_unwind(AssertUnwindSafe(|| match command {
        Command::Generate(args) => generate::run(*args),
        Command::Schedule(args) => schedule::run(args).map(|()| true),
        Command::Scenes(args) => scenes::run(args).map(|()| true),
        Command::Train(command) => train::run(*command).map(|()| true),
        Command::Eval(args) => eval::run(*args).map(|()| true),
        Command::Inspect(args) => inspect::run(args).map(|()| true),
        Command::Device(args) => device::run(args).map(|()| true),
    }));
    let message = match done {
        Ok(Ok(true)) => return ExitCode::SUCCESS,
        Ok(Ok(false)) => return ExitCode::from(INTERRUPTED as u8),
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

/// A line for a person. What a prompt holds must not steer the terminal.
fn say(message: &str) {
    let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    eprintln!("{}", message.chars().map(plain).collect::<String>());
}

/// A progress bar; nothing where the output is no terminal.
fn bar(length: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}
