//! What came of a check, in a line and for the report.

use serde::Serialize;

/// What a check found, if it ran.
pub enum Outcome {
    /// A figure, the bound that it must not pass where there is one, and what a person should know besides.
    Measured { figure: f64, bound: Option<f64>, note: String },
    /// Why it cannot run here.
    NotRun(String),
}

impl Outcome {
    pub fn within(figure: f64, bound: f64) -> Self {
        Self::Measured { figure, bound: Some(bound), note: String::new() }
    }

    /// The number of faults, of which there may be none; they are named.
    pub fn faults(faults: &[String]) -> Self {
        Self::within(faults.len() as f64, 0.).note(faults.join("; "))
    }

    /// A time, which has no bound.
    pub fn seconds(seconds: f64) -> Self {
        Self::Measured { figure: seconds, bound: None, note: "seconds".into() }
    }

    pub fn note(self, more: impl Into<String>) -> Self {
        let join = |a: String, b: String| match (a.is_empty(), b.is_empty()) {
            (true, _) => b,
            (_, true) => a,
            _ => format!("{a}, {b}"),
        };
        match self {
            Self::Measured { figure, bound, note } => {
                Self::Measured { figure, bound, note: join(note, more.into()) }
            }
            Self::NotRun(why) => Self::NotRun(join(why, more.into())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed,
    NotRun,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotRun => "not run here",
        }
    }
}

/// A check that was called, as the report has it.
#[derive(Debug, Serialize)]
pub struct CheckedItem {
    pub name: String,
    pub verdict: Verdict,
    /// Null where there is none, or where it is no number.
    pub figure: Option<f64>,
    /// What the figure must not pass.
    pub bound: Option<f64>,
    pub note: String,
    pub seconds: f64,
}

impl CheckedItem {
    /// `outcome`: what was found, or the words of what went wrong.
    pub fn new(name: &str, outcome: Result<Outcome, String>, seconds: f64) -> Self {
        let name = name.to_owned();
        let seconds = (seconds * 1e3).round() / 1e3;
        let (verdict, figure, bound, note) = match outcome {
            Ok(Outcome::Measured { figure, bound, note }) => {
                // Also false for NaN.
                let good = bound.map_or(figure.is_finite(), |bound| figure <= bound);
                (if good { Verdict::Passed } else { Verdict::Failed }, Some(figure), bound, note)
            }
            Ok(Outcome::NotRun(why)) => (Verdict::NotRun, None, None, why),
            Err(said) => (Verdict::Failed, None, None, said),
        };
        Self { name, verdict, figure, bound, note, seconds }
    }

    pub fn line(&self) -> String {
        let figure = match (self.figure, self.bound) {
            (Some(figure), Some(bound)) => {
                format!(": {} of at most {}", short(figure), short(bound))
            }
            (Some(figure), None) => format!(": {}", short(figure)),
            _ => String::new(),
        };
        let note = match self.note.as_str() {
            "" => String::new(),
            note => format!(" ({note})"),
        };
        let (words, seconds) = (self.verdict.words(), self.seconds);
        format!("{words:<12} {seconds:>6.1} s  {}{figure}{note}", self.name)
    }
}

/// A count as it is, a share in two digits, a time in four.
fn short(number: f64) -> String {
    match number {
        n if n.fract() == 0. && n.abs() < 1e9 => format!("{n}"),
        n if n.abs() >= 1. => format!("{n:.3}"),
        n => format!("{n:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(outcome: Result<Outcome, String>) -> String {
        CheckedItem::new("parity", outcome, 1.25).line()
    }

    #[test]
    fn a_line_says_verdict_figure_and_bound() {
        let good = Outcome::within(2.5e-6, 1e-3).note("worst in vae");
        assert_eq!(
            line(Ok(good)),
            "passed          1.2 s  parity: 2.5e-6 of at most 1.0e-3 (worst in vae)"
        );
        for bad in [2e-3, f64::NAN, f64::INFINITY] {
            assert!(line(Ok(Outcome::within(bad, 1e-3))).starts_with("FAILED "), "{bad}");
        }
        assert!(line(Ok(Outcome::seconds(f64::NAN))).starts_with("FAILED "));
        let faults = ["no word".to_owned(), "no picture".to_owned()];
        assert!(
            line(Ok(Outcome::faults(&faults))).ends_with("2 of at most 0 (no word; no picture)")
        );
        assert!(line(Ok(Outcome::faults(&[]))).starts_with("passed "));
        let not_run = Outcome::NotRun("no Python".into());
        assert_eq!(line(Ok(not_run)), "not run here    1.2 s  parity (no Python)");
        assert!(line(Err("it broke".into())).ends_with("parity (it broke)"));
    }
}
