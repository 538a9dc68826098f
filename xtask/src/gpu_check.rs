//! Builds the program that checks what needs a GPU, and runs it here, or packs it for a machine without Rust.

use crate::project::{Project, run as run_command};
use crate::{Result, chapters, setup};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The program's name.
const NAME: &str = "gpu-check";

#[derive(Default)]
pub struct Options {
    /// Where the programs go instead of being run.
    pub pack: Option<PathBuf>,
    /// What the program itself is told.
    pub passed_on: Vec<OsString>,
}

pub fn run(project: &Project, options: &Options) -> Result<ExitCode> {
    let libtorch = Libtorch::find(project);
    if libtorch == Libtorch::Own {
        setup::all(project, setup::Flavour::Auto)?;
    }
    let [program, chapters] = build(project, &libtorch)?;
    if let Some(folder) = &options.pack {
        pack(folder, &[&program, &chapters])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = Command::new(&program);
    if libtorch == Libtorch::Own {
        command.envs(project.libtorch_environment());
    }
    command.arg("--root").arg(&project.root).arg("--chapters").arg(&chapters);
    let status = command
        .args(&options.passed_on)
        .status()
        .map_err(|error| format!("could not run {}: {error}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compiles the chapters as a program, without building it.
pub fn check_chapters(project: &Project) -> Result {
    let manifest = chapters::make(project)?;
    let mut cargo = project.cargo();
    cargo.args(["check", "--quiet", "--manifest-path"]).arg(manifest);
    cargo.arg("--target-dir").arg(project.root.join("target"));
    run_command(&mut cargo, "the chapters do not compile as a program")
}

/// Which libtorch the programs are built with.
#[derive(PartialEq, Eq)]
enum Libtorch {
    /// That of the set-up.
    Own,
    /// That of LIBTORCH, for another machine.
    OfAnotherMachine,
}

impl Libtorch {
    /// Cargo itself sets LIBTORCH to that of the set-up.
    fn find(project: &Project) -> Self {
        match std::env::var_os("LIBTORCH") {
            Some(folder) if Path::new(&folder) != project.libtorch() => Self::OfAnotherMachine,
            _ => Self::Own,
        }
    }
}

/// Builds both programs; returns where they are.
fn build(project: &Project, libtorch: &Libtorch) -> Result<[PathBuf; 2]> {
    // What is built with another libtorch would be built again by the next command.
    let target = match (std::env::var_os("CARGO_TARGET_DIR"), libtorch) {
        (Some(folder), _) => folder.into(),
        (None, Libtorch::Own) => project.root.join("target"),
        (None, Libtorch::OfAnotherMachine) => project.lab("gpu/target"),
    };
    let cargo = || {
        let mut cargo = match libtorch {
            Libtorch::Own => project.cargo(),
            Libtorch::OfAnotherMachine => project.plain_cargo(),
        };
        cargo.args(["build", "--release", "--target-dir"]).arg(&target);
        cargo
    };
    println!("building {NAME}; the first time takes some minutes");
    let mut program = cargo();
    program.args(["--package", "diffuscope", "--features", NAME, "--bin", NAME, "--locked"]);
    run_command(&mut program, "the program was not built")?;
    println!("building the chapters as a program");
    let manifest = chapters::make(project)?;
    let mut chapters = cargo();
    run_command(chapters.arg("--manifest-path").arg(manifest), "the chapters were not built")?;
    Ok([NAME, chapters::NAME].map(|name| target.join("release").join(name)))
}

/// Copies the programs, and says how they are run there.
fn pack(folder: &Path, programs: &[&Path]) -> Result {
    let failed = |error| format!("could not write to {}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        std::fs::copy(program, folder.join(name)).map_err(failed)?;
    }
    let here = folder.display();
    println!(
        "\nOn the other machine, in a checkout of the same commit, with the same torch in its Python:\n\n  \
         LIB=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')\n  \
         export LIBTORCH=$LIB LD_LIBRARY_PATH=$LIB/lib:$LD_LIBRARY_PATH\n  \
         {here}/{NAME} --chapters {here}/{} --python python3",
        chapters::NAME
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_programs_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("gpu-check");
        std::fs::copy("/bin/true", &program).unwrap();
        let there = folder.path().join("new/gpu");
        pack(&there, &[&program]).unwrap();
        assert!(Command::new(there.join("gpu-check")).status().unwrap().success());
        assert!(pack(&program, &[&program]).unwrap_err().starts_with("could not write to "));
    }
}
