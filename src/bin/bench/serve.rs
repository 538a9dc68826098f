//! The protocol: a line of JSON asks, a line of JSON answers.

use std::io::{BufRead, Write};
use std::path::Path;

use diffuscope::environment::environment;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use diffuscope::{Error, Result};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::order::{BenchOrder, ReadyWork, WorkOrder, kind};
use crate::rates::{BestTimes, machine_rates};
use crate::{memory, networks, opening, runs, training, whole_process};

/// The name of the answer in its file.
const ANSWER: &str = "answer";

/// A work that is ready, and what is known of it.
struct ServedWork {
    ready: ReadyWork,
    order: WorkOrder,
    /// The memory that it had before the first run.
    rest: Option<u64>,
    ran: bool,
}

/// Answers every line until there is no other. What cannot be done is an answer, too.
pub fn serve(lines: impl BufRead, mut answers: impl Write) -> Result<()> {
    let mut work = None;
    let mut best = BestTimes::default();
    let failed = |e| Error::io("the pipe to the bench", e);
    for line in lines.lines() {
        let line = line.map_err(failed)?;
        let answer = answer(&line, &mut work, &mut best)
            .unwrap_or_else(|error| json!({ "error": error.to_string() }));
        writeln!(answers, "{answer}").and_then(|()| answers.flush()).map_err(failed)?;
    }
    Ok(())
}

fn answer(line: &str, work: &mut Option<ServedWork>, best: &mut BestTimes) -> Result<Value> {
    let order = serde_json::from_str(line)
        .map_err(|e| Error::argument("an order", "one of those in docs/bench.md", e))?;
    match order {
        BenchOrder::Hello => {
            let found = environment()?;
            Ok(json!({ "versions": {
                "diffuscope": found.diffuscope,
                "libtorch": found.libtorch,
            }}))
        }
        BenchOrder::Prepare(order) => {
            // The memory of the one before is free first.
            *work = None;
            let ready = prepared(&order)?;
            let rest = memory::taken();
            *work = Some(ServedWork { ready, order: *order, rest, ran: false });
            Ok(json!({ "ready": true }))
        }
        BenchOrder::Run => run(work.as_mut().ok_or_else(nothing_prepared)?),
        BenchOrder::Roofline => {
            let work = work.as_ref().ok_or_else(nothing_prepared)?;
            let (kind, device) = (work.order.kind()?, work.order.device()?);
            let operations = &work.ready.operations;
            let seconds = no_grad(|| best.of(operations, kind, device))?;
            Ok(json!({ "gflop": operations.gflop(), "best_seconds": seconds }))
        }
        BenchOrder::Rates { dtype, device } => {
            let device = diffuscope::device::pick(Some(&device))?.device;
            let (matmul, convolution) = no_grad(|| machine_rates(kind(&dtype)?, device))?;
            Ok(json!({ "matmul": matmul, "convolution": convolution }))
        }
        BenchOrder::Compare { ours, theirs } => {
            let read = |path: &Path| TensorFile::open(path)?.tensor(ANSWER);
            let gap = gap(&read(&theirs)?, &read(&ours)?)?;
            if !gap.is_finite() {
                return Err(Error::argument("an answer", "finite numbers", gap));
            }
            Ok(json!({ "gap": gap }))
        }
    }
}

fn nothing_prepared() -> Error {
    Error::argument("an order", "prepare, before any other", "none")
}

/// Makes a work ready.
fn prepared(order: &WorkOrder) -> Result<ReadyWork> {
    match order.work.as_str() {
        "unet" => networks::unet(order),
        "vae-encode" => networks::vae(order, true),
        "vae-decode" => networks::vae(order, false),
        "generate" => runs::generate(order),
        "step" => runs::steps(order),
        "first-step" => runs::first_step(order),
        "load" => opening::load(order),
        "train-unet" => training::unet(order),
        "train-vae" => training::vae(order),
        "process" => whole_process::generate(order),
        other => Err(Error::argument("work", "one of those in docs/bench.md", other)),
    }
}

fn run(work: &mut ServedWork) -> Result<Value> {
    memory::forget_peak();
    let done = (work.ready.run)()?;
    let peak = memory::peak();
    let first = !std::mem::replace(&mut work.ran, true);
    if let Some(answer) = done.answer.filter(|_| first) {
        let answer = answer.to_device(Device::Cpu).to_kind(Kind::Float);
        write_tensors(&work.order.answer, &[(ANSWER.to_owned(), answer)], &[])?;
    }
    Ok(json!({ "seconds": done.seconds, "peak": peak, "rest": work.rest }))
}

/// The largest difference of two elements, as a share of the largest magnitude that is expected.
fn gap(got: &Tensor, expected: &Tensor) -> Result<f64> {
    if got.size() != expected.size() {
        return Err(Error::shape("an answer", format!("{:?}", expected.size()), &got.size()));
    }
    let [got, expected] = [got, expected].map(|x| x.to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]);
    let difference = (got - expected).abs().max().double_value(&[]);
    Ok(if difference == 0. { 0. } else { difference / largest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> Vec<Value> {
        let mut answers = Vec::new();
        serve(lines.as_bytes(), &mut answers).unwrap();
        let text = String::from_utf8(answers).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn what_cannot_be_done_is_an_answer_and_the_next_line_is_read() {
        let all = said("what?\n{\"do\":\"run\"}\n{\"do\":\"dance\"}\n{\"do\":\"hello\"}\n");
        assert!(all[0]["error"].as_str().unwrap().contains("an order: expected"));
        assert!(all[1]["error"].as_str().unwrap().contains("prepare"));
        assert!(all[2]["error"].as_str().unwrap().contains("dance"));
        assert_eq!(all[3]["versions"]["diffuscope"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn answers_that_differ_are_told_apart() {
        let x = Tensor::from_slice(&[1f32, -4.]);
        assert_eq!(gap(&x, &x).unwrap(), 0.);
        assert_eq!(gap(&(&x + 1.), &x).unwrap(), 0.25);
        assert!(gap(&(&x * f64::NAN), &x).unwrap().is_nan());
        assert!(gap(&x.get(0), &x).is_err());
    }
}
