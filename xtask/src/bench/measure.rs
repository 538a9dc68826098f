//! A work, measured: all contestants ready at once, and then round by round in alternation.

use super::peers::Programs;
use super::running::Running;
use super::statistics::{Spread, median, order_of};
use super::works::{Model, Side, Work};
use crate::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Threads that wait for more work by looping are given this time to stop.
const CALM: Duration = Duration::from_millis(120);
/// At most so many times as many.
const MORE_ROUNDS: usize = 4;

/// What all works of a run have in common.
pub struct Setting<'a> {
    pub programs: &'a Programs<'a>,
    pub device: String,
    pub rounds: usize,
    /// Short works get more rounds, until they have taken this long.
    pub long_enough: Duration,
    /// An empty folder.
    pub scratch: PathBuf,
    /// The command-line program.
    pub program: PathBuf,
}

/// What a contestant came to in a work.
pub struct SideResult {
    pub name: String,
    /// Of every round.
    pub seconds: Vec<f64>,
    /// Ours in the same rounds.
    pub ours: Vec<f64>,
    /// Bytes: the most while it ran, and those before.
    pub peak: Option<u64>,
    pub rest: Option<u64>,
    /// How far its answer is from ours.
    pub gap: Option<f64>,
    /// Why it did not run.
    pub missing: Option<String>,
}

impl SideResult {
    fn new(side: &Side) -> Self {
        Self {
            name: side.name.clone(),
            seconds: Vec::new(),
            ours: Vec::new(),
            peak: None,
            rest: None,
            gap: None,
            missing: None,
        }
    }

    pub fn median(&self) -> Option<f64> {
        median(&self.seconds)
    }

    /// How many times as long as ours.
    pub fn ratio(&self) -> Option<Spread> {
        Spread::of_rounds(&self.ours, &self.seconds)
    }
}

/// A work in a dtype, and what everybody came to.
pub struct WorkResult {
    pub work: Work,
    pub dtype: String,
    pub sides: Vec<SideResult>,
    /// 10^9 multiplications and additions of one run.
    pub gflop: f64,
    /// The seconds that they take at the machine's best.
    pub best_seconds: f64,
}

/// Measures a work. What a contestant cannot do is in its result.
pub fn measure(
    setting: &Setting,
    work: &Work,
    dtype: &str,
    running: &mut Running<'_>,
) -> Result<WorkResult> {
    let folder = setting.programs.model(work.model)?;
    let mut result = WorkResult {
        work: work.clone(),
        dtype: dtype.to_owned(),
        sides: work.sides.iter().map(SideResult::new).collect(),
        gflop: 0.,
        best_seconds: 0.,
    };
    // A process whose memory matters, or that cannot end what it began, does nothing before and after.
    let alone = work.model != Model::Tiny || work.task.starts_with("train");
    if alone {
        running.end();
    }
    let need = |i: usize| work.gigabytes * work.sides[i].peer.memory(dtype);
    let mut present = Vec::new();
    for (i, side) in work.sides.iter().enumerate().skip(1) {
        match setting.programs.command(side.peer) {
            Ok(_) => present.push((i, need(i))),
            Err(reason) => result.sides[i].missing = Some(reason),
        }
    }
    for group in groups(&present, need(0), available_gigabytes()) {
        match group {
            Group::Together(sides) => {
                round_after_round(setting, &folder, &mut result, &sides, running)?;
                if alone {
                    running.end();
                }
            }
            Group::TooLarge(i, reason) => result.sides[i].missing = Some(reason),
        }
    }
    Ok(result)
}

/// Contestants that run in alternation with ours.
#[derive(Debug, PartialEq)]
enum Group {
    Together(Vec<usize>),
    /// There is no room for it beside ours, as the sentence says.
    TooLarge(usize, String),
}

/// As many at once as fit into the memory beside ours; each comes with what it needs, in GB.
fn groups(sides: &[(usize, f64)], ours: f64, free: Option<f64>) -> Vec<Group> {
    let free = free.unwrap_or(f64::INFINITY);
    let (mut groups, mut together, mut taken) = (Vec::new(), Vec::new(), ours);
    for &(i, need) in sides {
        if ours + need > free {
            let needed = ours + need;
            let reason =
                format!("with ours it needs {needed:.0} GB of memory, and {free:.0} are free");
            groups.push(Group::TooLarge(i, reason));
            continue;
        }
        if taken + need > free {
            groups.push(Group::Together(std::mem::take(&mut together)));
            taken = ours;
        }
        together.push(i);
        taken += need;
    }
    let alone = !groups.iter().any(|group| matches!(group, Group::Together(_)));
    if ours > free {
        let reason = format!("it needs {ours:.0} GB of memory, and {free:.0} are free");
        groups.push(Group::TooLarge(0, reason));
    } else if alone || !together.is_empty() {
        groups.push(Group::Together(together));
    }
    groups
}

fn available_gigabytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024. / 1e9)
}

/// Ours and these contestants: ready, once without the clock, and then in alternation.
fn round_after_round(
    setting: &Setting,
    folder: &Path,
    result: &mut WorkResult,
    sides: &[usize],
    running: &mut Running<'_>,
) -> Result {
    let work = result.work.clone();
    let answer = |i: usize| setting.scratch.join(format!("{}-{}-{i}", work.name, result.dtype));
    let mut ready = Vec::new();
    for &i in [0].iter().chain(sides) {
        let side = &work.sides[i];
        let prepare = json!({
            "do": "prepare", "work": work.task, "variant": side.variant, "folder": folder,
            "dtype": result.dtype, "device": setting.device, "batch": work.batch, "side": work.side,
            "steps": work.steps, "threads": setting.programs.threads,
            "inputs": setting.scratch.join(format!("{}-inputs", work.name)), "answer": answer(i),
            "scratch": setting.scratch, "program": setting.program,
        });
        let first =
            running.ask(side, &prepare).and_then(|_| running.ask(side, &json!({ "do": "run" })));
        match first {
            // What it took to get ready, as to compile, is not counted.
            Ok(_) => ready.push(i),
            Err(reason) => result.sides[i].missing = Some(reason),
        }
    }
    if ready.first() != Some(&0) {
        // Nothing to compare with: the others say so, too.
        let reason = "ours did not run".to_owned();
        ready.iter().for_each(|&i| result.sides[i].missing = Some(reason.clone()));
        return Ok(());
    }
    let answers: Vec<PathBuf> = (0..work.sides.len()).map(answer).collect();
    compare(&work, &ready, &answers, result, running);
    ready.retain(|i| result.sides[*i].missing.is_none());
    alternate(setting, &work, ready, result, running);
    if result.gflop == 0. {
        let said = running.ask(&work.sides[0], &json!({ "do": "roofline" }));
        let number = |said: &Value, name: &str| said[name].as_f64().unwrap_or_default();
        if let Ok(said) = said {
            (result.gflop, result.best_seconds) =
                (number(&said, "gflop"), number(&said, "best_seconds"));
        }
    }
    Ok(())
}

fn alternate(
    setting: &Setting,
    work: &Work,
    mut ready: Vec<usize>,
    result: &mut WorkResult,
    running: &mut Running<'_>,
) {
    let (mut round, started) = (0, Instant::now());
    let short =
        |round| round < MORE_ROUNDS * setting.rounds && started.elapsed() < setting.long_enough;
    while round < setting.rounds || short(round) {
        let mut seconds = BTreeMap::new();
        for at in order_of(round, ready.len()) {
            let i = ready[at];
            std::thread::sleep(CALM);
            match running.ask(&work.sides[i], &json!({ "do": "run" })) {
                Ok(said) => {
                    note_memory(work, &mut result.sides[i], &said);
                    seconds.insert(i, said["seconds"].as_f64().unwrap_or(f64::NAN));
                }
                Err(reason) => result.sides[i].missing = Some(reason),
            }
        }
        // Who ended in the middle has no ratio, and ours is needed for any.
        ready.retain(|i| result.sides[*i].missing.is_none());
        let Some(&ours) = seconds.get(&0) else { return };
        for (i, seconds) in seconds {
            result.sides[i].seconds.push(seconds);
            if i != 0 {
                result.sides[i].ours.push(ours);
            }
        }
        round += 1;
    }
}

/// Of a program that it starts itself, a contestant does not know the memory.
fn note_memory(work: &Work, side: &mut SideResult, said: &Value) {
    if work.task == "process" {
        return;
    }
    side.peak = side.peak.max(said["peak"].as_u64());
    side.rest = said["rest"].as_u64();
}

/// How far the answers are from ours, where there are any.
fn compare(
    work: &Work,
    ready: &[usize],
    answers: &[PathBuf],
    result: &mut WorkResult,
    running: &mut Running<'_>,
) {
    for &i in ready.iter().filter(|&&i| i != 0) {
        let same = work.sides[i].variant == work.sides[0].variant;
        if same && answers[0].exists() && answers[i].exists() {
            let order = json!({ "do": "compare", "ours": answers[0], "theirs": answers[i] });
            match running.ask(&work.sides[0], &order) {
                Ok(said) => result.sides[i].gap = said["gap"].as_f64(),
                Err(reason) => result.sides[i].missing = Some(format!("its answer: {reason}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_run_at_once_as_fit_into_memory() {
        let together = |sides: &[usize]| Group::Together(sides.to_vec());
        let three = [(1, 8.), (2, 4.), (3, 8.)];
        assert_eq!(groups(&three, 8., None), [together(&[1, 2, 3])]);
        assert_eq!(groups(&three, 8., Some(28.)), [together(&[1, 2, 3])]);
        assert_eq!(groups(&three, 8., Some(25.)), [together(&[1, 2]), together(&[3])]);
        let tight = groups(&three, 8., Some(13.));
        let [Group::TooLarge(1, reason), Group::TooLarge(3, _), last] = &tight[..] else {
            panic!("{tight:?}")
        };
        assert_eq!(reason, "with ours it needs 16 GB of memory, and 13 are free");
        assert_eq!(last, &together(&[2]));
        // Ours is measured also where nobody is beside it.
        assert_eq!(groups(&[], 8., Some(17.)), [together(&[])]);
        assert_eq!(groups(&[(1, 4.)], 8., Some(9.))[1], together(&[]));
        assert!(matches!(&groups(&[(1, 4.)], 8., Some(7.))[..], [_, Group::TooLarge(0, _)]));
    }
}
