//! Everything that must hold before a change is taken.

use crate::project::{Project, run as run_command};
use crate::{Result, gpu_check, notebooks, setup};
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Check = (&'static str, fn(&Project) -> Result);

const CHECKS: [Check; 9] = [
    ("format", |project| cargo(project, &["fmt", "--all", "--", "--check"], &[])),
    ("lints", |project| {
        let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked"];
        cargo(project, &clippy, &["--", "-D", "warnings"])
    }),
    // evcxr takes a warning of the library, built as notebooks have it, for a cell's error.
    ("lints of the library alone", |project| {
        cargo(
            project,
            &["clippy", "--package", "diffuscope", "--lib", "--locked"],
            &["--", "-D", "warnings"],
        )
    }),
    ("unit, golden, integration and command-line tests", |project| {
        cargo(project, &["test", "--workspace", "--all-targets", "--all-features", "--locked"], &[])
    }),
    ("examples in the documentation", |project| {
        cargo(
            project,
            &["test", "--package", "diffuscope", "--doc", "--all-features", "--locked"],
            &[],
        )
    }),
    ("documentation and its links", |project| {
        let doc = ["doc", "--workspace", "--no-deps", "--all-features", "--locked"];
        run_command(
            project.cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"),
            "cargo doc failed",
        )
    }),
    ("the chapters as a program, for a GPU machine", gpu_check::check_chapters),
    ("every notebook in a fresh kernel", |project| {
        let check = notebooks::Options { check: true, ..Default::default() };
        notebooks::run(project, &check)
    }),
    ("a new user's first cells", notebooks::run_first_cells),
];

/// Runs every check, also after one that failed, and says at the end which did.
pub fn run(project: &Project, flavour: setup::Flavour) -> Result<ExitCode> {
    let total = CHECKS.len() + 1;
    let started = Instant::now();
    println!("== [1/{total}] set-up");
    setup::all(project, flavour)?;
    let mut results = vec![("set-up", true, started.elapsed())];
    for (number, (name, check)) in CHECKS.into_iter().enumerate() {
        println!("== [{}/{total}] {name}", number + 2);
        let started = Instant::now();
        let result = check(project);
        if let Err(message) = &result {
            eprintln!("error: {message}");
        }
        results.push((name, result.is_ok(), started.elapsed()));
    }
    println!("\n{}", summary(&results, started.elapsed()));
    let passed = results.iter().all(|(_, passed, _)| *passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo(project: &Project, arguments: &[&str], rest: &[&str]) -> Result {
    println!("   cargo {}", [arguments, rest].concat().join(" "));
    let problem = format!("cargo {} failed", arguments[0]);
    run_command(project.cargo().args(arguments).args(rest), &problem)
}

fn summary(results: &[(&str, bool, Duration)], total: Duration) -> String {
    let mut lines: Vec<String> = results
        .iter()
        .map(|(name, passed, time)| {
            let word = if *passed { "ok    " } else { "FAILED" };
            format!("{word} {:>7.1} s  {name}", time.as_secs_f64())
        })
        .collect();
    let passed = results.iter().filter(|(_, passed, _)| *passed).count();
    lines.push(format!(
        "{passed} passed, {} failed, in {:.1} minutes",
        results.len() - passed,
        total.as_secs_f64() / 60.0
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_and_names_what_failed() {
        let second = Duration::from_secs(1);
        let text = summary(&[("a", true, second), ("b", false, second)], 2 * second);
        assert!(text.contains("FAILED     1.0 s  b"), "{text}");
        assert!(text.ends_with("1 passed, 1 failed, in 0.0 minutes"), "{text}");
    }
}
