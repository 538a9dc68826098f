//! What `cargo xtask bench` asks of this library: works that are prepared once and run as often as it says, the models
//! with random weights that they need, and the figures of what came of it. `docs/bench.md` says how to run it.

mod drawing;
mod memory;
mod models;
mod networks;
mod opening;
mod operations;
mod order;
mod rates;
mod runs;
mod serve;
mod training;
mod whole_process;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use diffuscope::Result;

/// The program of `cargo xtask bench`: it does what one line of JSON after another asks of it.
#[derive(Parser)]
#[command(name = "bench", version)]
struct BenchArgs {
    #[command(subcommand)]
    task: BenchTask,
}

#[derive(Subcommand)]
enum BenchTask {
    /// Read orders, one JSON object a line, and answer each with a line
    Serve,
    /// Write a model of published size with random weights, in f16: sd15 or sdxl
    Make {
        /// Which model
        name: models::RandomModel,
        /// Its folder
        folder: PathBuf,
    },
    /// Draw the figures of a report
    Draw {
        /// The report, as JSON
        report: PathBuf,
        /// Where the figures go
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let done: Result<()> = match BenchArgs::parse().task {
        BenchTask::Serve => serve::serve(std::io::stdin().lock(), std::io::stdout().lock()),
        BenchTask::Make { name, folder } => models::make(name, &folder),
        BenchTask::Draw { report, folder } => drawing::draw(&report, &folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
