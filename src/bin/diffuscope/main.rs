//! The command-line program: each command composes the library's stages.

mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Step inside Stable Diffusion.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a small Stable Diffusion of your own on scenes
    #[command(subcommand)]
    Train(train::Train),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Train(command) => train::run(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
