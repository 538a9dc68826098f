//! The chapters' code as a program. `cargo xtask gpu-check` makes it of the notebooks.

use std::process::Command;
use std::time::Instant;

use diffuscope::{Result, device};

use crate::bench::{Bench, said_by};
use crate::outcome::Outcome;

/// The chapters pick their device themselves, and are told by the variable.
pub fn run(bench: &Bench) -> Result<Outcome> {
    let Some(program) = &bench.chapters else {
        let why =
            "no program of the chapters; `cargo xtask gpu-check` makes one, --chapters names it";
        return Ok(Outcome::NotRun(why.into()));
    };
    let name = device::name(bench.device);
    let mut command = Command::new(program);
    command.current_dir(bench.root.join("notebooks"));
    command.env(device::VARIABLE, &name).env("DIFFUSCOPE_TINY", bench.tiny());
    let started = Instant::now();
    let said = said_by(&mut command)?;
    let took = format!("{:.1} seconds", started.elapsed().as_secs_f64());
    let chapters = said.lines().filter(|line| line.starts_with("== ")).count();
    let mut faults = Vec::new();
    if !said.lines().any(|line| line == format!("device: {name}")) {
        faults.push(format!("they did not run on {name}"));
    }
    // A figure is a picture and its words; one that cannot be drawn, words alone.
    let blocks = |mime: &str| said.lines().filter(|line| line.ends_with(mime)).count();
    let (pictures, words) = (
        blocks("_CONTENT image/png") + blocks("_CONTENT text/html"),
        blocks("_CONTENT text/plain"),
    );
    if pictures != words {
        faults.push(format!("{pictures} of {words} figures were drawn"));
    }
    Ok(Outcome::faults(&faults).note(format!("{chapters} chapters, {pictures} figures")).note(took))
}
