//! What came of it: lines for a person, JSON for everything else.

use super::measure::{SideResult, WorkResult};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What all of it ran on.
pub struct Machine {
    pub name: String,
    pub device: String,
    pub threads: usize,
    pub date: String,
    pub versions: BTreeMap<String, Value>,
    /// By dtype: GFLOP/s of a large product and of a large convolution.
    pub rates: BTreeMap<String, Value>,
}

impl Machine {
    fn json(&self) -> Value {
        json!({
            "name": self.name, "device": self.device, "threads": self.threads, "date": self.date,
            "versions": self.versions, "gflops": self.rates,
        })
    }
}

/// The whole report.
pub fn json(machine: &Machine, works: &[WorkResult]) -> String {
    let works: Vec<Value> = works.iter().map(work_json).collect();
    format!("{:#}\n", json!({ "machine": machine.json(), "works": works }))
}

fn work_json(result: &WorkResult) -> Value {
    let sides: Vec<Value> = result
        .sides
        .iter()
        .map(|side| {
            json!({
                "name": side.name, "seconds": side.seconds, "median": side.median(),
                "ours_beside": side.ours, "ratio": side.ratio().map(|spread| spread.json()),
                "peak_bytes": side.peak, "bytes_before": side.rest, "answer_apart": side.gap,
                "missing": side.missing,
            })
        })
        .collect();
    let work = &result.work;
    json!({
        "work": work.name, "what": work.what, "dtype": result.dtype, "model": work.model.name(),
        "batch": work.batch, "side": work.side, "steps": work.steps,
        "curve": work.curve.map(|(name, at)| json!([name, at])),
        "gflop": result.gflop, "seconds_at_best": result.best_seconds, "contestants": sides,
    })
}

/// A work's lines.
pub fn lines(result: &WorkResult) -> String {
    let work = &result.work;
    let mut text = format!("{}, {}: {}", work.name, result.dtype, work.what);
    if work.batch > 1 && work.task == "generate" {
        let each = result.sides[0].median().map(|seconds| work.batch as f64 / seconds);
        text += &each.map_or(String::new(), |rate| format!(", {rate:.3} pictures a second"));
    }
    text.push('\n');
    for side in &result.sides {
        text += &format!("  {:<26} {}\n", side.name, words(result, side));
    }
    text
}

fn words(result: &WorkResult, side: &SideResult) -> String {
    let mut words = Vec::new();
    if let Some(seconds) = side.median() {
        words.push(format!("{:>9}", time(seconds)));
        words.push(match side.ratio() {
            Some(ratio) => {
                format!("{:>5.2} x ours ({:.2} to {:.2})", ratio.median, ratio.least, ratio.most)
            }
            None => format!("{:>24}", format!("{} rounds", side.seconds.len())),
        });
        if result.gflop > 0. {
            let share = 100. * result.best_seconds / seconds;
            words
                .push(format!("{:>6.0} GFLOP/s, {share:.0} % of the best", result.gflop / seconds));
        }
        if let (Some(peak), Some(rest)) = (side.peak, side.rest) {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            words.push(format!("{:.2} + {:.2} GB", gb(rest), gb(peak.saturating_sub(rest))));
        }
        words.extend(side.gap.map(|gap| match gap {
            0. => "equal".to_owned(),
            gap => format!("{gap:.0e} apart"),
        }));
    }
    words.extend(side.missing.as_ref().map(|reason| format!("not measured: {reason}")));
    words.join("  ")
}

fn time(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.9995 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::works;

    fn result() -> WorkResult {
        let work = works::all().swap_remove(0);
        let side = |name: &str, seconds: &[f64], ours: &[f64]| SideResult {
            name: name.into(),
            seconds: seconds.to_vec(),
            ours: ours.to_vec(),
            peak: Some(3_000_000_000),
            rest: Some(1_000_000_000),
            gap: (!ours.is_empty()).then_some(2e-6),
            missing: None,
        };
        let mut gone = side("openvino", &[], &[]);
        gone.missing = Some("it died, signal: 9".into());
        let sides =
            vec![side("diffuscope", &[1., 2.], &[]), side("diffusers", &[2., 3.], &[1., 2.]), gone];
        WorkResult { work, dtype: "f32".into(), sides, gflop: 150., best_seconds: 0.75 }
    }

    #[test]
    fn a_person_reads_ratios_and_who_is_missing() {
        let text = lines(&result());
        assert!(text.starts_with("step, f32: a guided step"), "{text}");
        let [_, ours, theirs, gone] = text.lines().collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        assert!(
            ours.contains("1.50 s") && ours.contains("100 GFLOP/s, 50 % of the best"),
            "{ours}"
        );
        assert!(
            theirs.contains("1.75 x ours (1.50 to 2.00)") && theirs.contains("2e-6 apart"),
            "{theirs}"
        );
        assert!(theirs.contains("1.00 + 2.00 GB"), "{theirs}");
        assert!(
            gone.ends_with("openvino                   not measured: it died, signal: 9"),
            "{gone}"
        );
    }

    #[test]
    fn the_json_has_every_round() {
        let machine = Machine {
            name: "a CPU".into(),
            device: "cpu".into(),
            threads: 2,
            date: "2026-01-01".into(),
            versions: BTreeMap::new(),
            rates: BTreeMap::new(),
        };
        let read: Value = serde_json::from_str(&json(&machine, &[result()])).unwrap();
        let work = &read["works"][0];
        assert_eq!(work["contestants"][0]["seconds"], json!([1., 2.]));
        assert_eq!(work["contestants"][1]["ratio"]["median"], 1.75);
        assert_eq!(work["contestants"][1]["ours_beside"], json!([1., 2.]));
        assert_eq!(work["contestants"][2]["missing"], "it died, signal: 9");
        assert_eq!(read["machine"]["threads"], 2);
    }
}
