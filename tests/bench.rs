//! The program of `cargo xtask bench` does what a line of JSON asks, on the embedded model. No time is judged here.
#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use diffuscope::pipeline::tiny_folder;
use serde_json::{Value, json};

/// What it answers to these lines.
fn serve(orders: &[Value]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers = Vec::new();
    for order in orders {
        writeln!(stdin, "{order}").unwrap();
        answers.push(serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    answers
}

fn prepare(work: &str, variant: &str, batch: i64, scratch: &Path) -> Value {
    json!({
        "do": "prepare", "work": work, "variant": variant, "folder": tiny_folder(), "dtype": "f32",
        "device": "cpu", "batch": batch, "side": 16, "steps": 2, "threads": 2,
        "inputs": scratch.join(format!("{work}{batch}-inputs")),
        "answer": scratch.join(format!("{work}{variant}-answer")),
        "scratch": scratch, "program": env!("CARGO_BIN_EXE_diffuscope"),
    })
}

#[test]
fn every_work_of_the_embedded_model_runs() {
    let folder = tempfile::tempdir().unwrap();
    let run = json!({ "do": "run" });
    let works = [
        ("unet", "", 2),
        ("vae-encode", "", 1),
        ("vae-decode", "", 1),
        ("generate", "", 1),
        ("generate", "scale-1", 1),
        ("generate", "half-interval", 1),
        ("generate", "single-runs", 1),
        ("generate", "one-call", 1),
        ("step", "", 1),
        ("first-step", "", 1),
        ("load", "", 1),
        ("process", "", 1),
        ("train-vae", "", 2),
    ];
    let mut orders = Vec::new();
    for (work, variant, batch) in works {
        orders.extend([prepare(work, variant, batch, folder.path()), run.clone(), run.clone()]);
    }
    // The last work of a process goes on until it ends.
    orders.extend([prepare("train-unet", "", 2, folder.path()), run.clone()]);
    let answers = serve(&orders);
    for (order, answer) in orders.iter().zip(&answers) {
        assert!(answer["error"].is_null(), "{order}: {answer}");
        if order["do"] == "run" {
            assert!(answer["seconds"].as_f64().unwrap() > 0., "{answer}");
            let known = answer["peak"].as_u64().is_some_and(|peak| peak > 0);
            assert_eq!(known, cfg!(target_os = "linux"), "{answer}");
        }
    }
    for answer in
        ["unet", "vae-encode", "vae-decode", "generate", "step", "first-step", "train-unet"]
    {
        assert!(folder.path().join(format!("{answer}-answer")).is_file(), "{answer}");
    }
}

#[test]
fn what_a_work_counts_is_told_and_answers_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let answer = folder.path().join("unet-answer");
    let orders = [
        prepare("unet", "", 1, folder.path()),
        json!({ "do": "run" }),
        json!({ "do": "roofline" }),
        json!({ "do": "compare", "ours": answer, "theirs": answer }),
        prepare("sing", "", 1, folder.path()),
    ];
    let answers = serve(&orders);
    assert!(answers[2]["gflop"].as_f64().unwrap() > 0.1, "{}", answers[2]);
    assert!(answers[2]["best_seconds"].as_f64().unwrap() > 0., "{}", answers[2]);
    assert_eq!(answers[3]["gap"], 0.);
    assert!(answers[4]["error"].as_str().unwrap().contains("sing"), "{}", answers[4]);
}

/// As the task writes it: a work of the figure, and two of a curve.
#[test]
fn a_report_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let side = |name: &str, seconds: f64, ratio: Option<f64>| {
        let ratio =
            ratio.map(|median| json!({ "median": median, "least": median, "most": median }));
        json!({ "name": name, "median": seconds, "ratio": ratio })
    };
    let work = |name: &str, curve: Value| {
        let sides = [side("diffuscope", 1., None), side("diffusers", 1.4, Some(1.4))];
        json!({ "work": name, "dtype": "f32", "curve": curve, "contestants": sides })
    };
    let works = [
        work("step", Value::Null),
        work("curve-side-8", json!(["side", 8])),
        work("curve-side-16", json!(["side", 16])),
    ];
    let report = folder.path().join("bench.json");
    let json = json!({ "machine": { "name": "a CPU", "threads": 2 }, "works": works });
    std::fs::write(&report, json.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    let done = command.arg("draw").arg(&report).arg(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for name in ["bench.png", "bench-growth.png"] {
        let picture = image::open(folder.path().join(name)).unwrap();
        assert_eq!(picture.width(), 1100, "{name}");
    }
    // A report that is none is told by its name.
    std::fs::write(&report, "{}").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    let done = command.arg("draw").arg(&report).arg(folder.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&done.stderr).contains("bench.json"), "{done:?}");
}
