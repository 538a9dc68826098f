//! Executes chapters, one after another, each in a fresh kernel.

use crate::Result;
use crate::lab::SCRATCH;
use crate::project::{Project, run as run_command};
use std::path::PathBuf;

#[derive(Default)]
pub struct Options {
    pub names: Vec<String>,
    pub check: bool,
    pub time: bool,
}

pub fn run(project: &Project, options: &Options) -> Result {
    let chapters = find(project, &options.names)?;
    let mut command = project.python_command();
    command.arg(project.root.join("xtask/python/notebooks.py"));
    command.arg(if options.check { "check" } else { "run" });
    if options.time {
        command.arg("--time");
    }
    command.arg(&project.root).args(&chapters);
    run_command(&mut command, "not every notebook ran to its end (the cell is shown above)")
}

/// Runs what a new user types first, and an interrupt, in a kernel.
pub fn run_first_cells(project: &Project) -> Result {
    let mut command = project.python_command();
    command.arg(project.root.join("xtask/python/first_cells.py")).arg(&project.root);
    run_command(&mut command, "a cell did not show what it should (it is shown above)")
}

/// All chapters, in order.
pub fn all(project: &Project) -> Result<Vec<PathBuf>> {
    let folder = project.notebooks();
    let mut all: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|error| format!("could not read {}: {error}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|end| end == "ipynb") && !path.ends_with(SCRATCH)
        })
        .collect();
    all.sort();
    Ok(all)
}

/// The chapters named, by file name with or without its end, or by their number; or all.
fn find(project: &Project, names: &[String]) -> Result<Vec<PathBuf>> {
    let all = all(project)?;
    if names.is_empty() {
        return Ok(all);
    }
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let chosen = |name: &String| {
        let wanted = name.trim_end_matches(".ipynb").trim_start_matches("notebooks/");
        all.iter()
            .find(|path| stem(path) == wanted || stem(path).split('_').next() == Some(wanted))
            .cloned()
            .ok_or_else(|| {
                let there: Vec<String> = all.iter().map(stem).collect();
                format!("there is no notebook `{name}`; there are: {}", there.join(", "))
            })
    };
    names.iter().map(chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_are_found_by_name_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        std::fs::create_dir(project.notebooks()).unwrap();
        for file in ["01_b.ipynb", "00_a.ipynb", "evcxr.toml", SCRATCH] {
            std::fs::write(project.notebooks().join(file), "").unwrap();
        }
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            find(&project, &names).map(|paths| {
                paths
                    .iter()
                    .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(names(&[]).unwrap(), ["00_a.ipynb", "01_b.ipynb"]);
        assert_eq!(names(&["01"]).unwrap(), ["01_b.ipynb"]);
        assert_eq!(names(&["notebooks/00_a.ipynb"]).unwrap(), ["00_a.ipynb"]);
        assert!(names(&["02"]).unwrap_err().contains("00_a, 01_b"));
    }
}
