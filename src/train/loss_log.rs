//! `loss.csv`: the loss of every step.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::figures::loss_curve;
use crate::plot::Figure;
use crate::write_file::write_file;
use crate::{Error, Result};

/// The loss of every step of a training. It shows itself as a curve when it ends a notebook cell.
#[derive(Clone, PartialEq)]
pub struct LossCurve {
    /// Step and loss, except losses that a logarithmic axis cannot show.
    pub losses: Vec<(usize, f64)>,
}

impl LossCurve {
    /// Reads the losses so far of a training into the folder [`TrainSettings::out`](super::TrainSettings::out).
    ///
    /// # Errors
    /// A folder without `loss.csv`.
    pub fn open(out: impl AsRef<Path>) -> Result<Self> {
        Self::read(&out.as_ref().join(LOSSES))
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let line = |line: &str| {
            let (step, rest) = line.split_once(',')?;
            Some((step.parse().ok()?, rest.split(',').next()?.parse().ok()?))
        };
        let losses = text.lines().skip(1).filter_map(line).filter(|&(_, loss)| loss > 0.).collect();
        Ok(Self { losses })
    }

    /// The curve, smoothed over 100 steps.
    ///
    /// # Errors
    /// No loss yet.
    pub fn figure(&self) -> Result<Figure> {
        loss_curve(&[("", self.losses.clone())], 100)
    }
}

impl fmt::Debug for LossCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.losses.last() {
            Some((step, loss)) => {
                write!(f, "LossCurve of {} steps: {loss} at step {step}", self.losses.len())
            }
            None => f.write_str("LossCurve without a step"),
        }
    }
}

/// The log's name in the folder of a training.
pub(super) const LOSSES: &str = "loss.csv";

/// `loss.csv`, with one line per step.
pub(super) struct LossLog {
    path: PathBuf,
    file: std::fs::File,
    empty: bool,
}

impl LossLog {
    /// Opens the log and drops the lines after `step`: those steps are about to be repeated.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let failed = |e| Error::io(path, e);
        let text = if path.is_file() {
            std::fs::read_to_string(path).map_err(failed)?
        } else {
            String::new()
        };
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| match line.split(',').next().map(str::parse::<u64>) {
                Some(Ok(n)) => n <= step,
                _ => line.starts_with("step,"),
            })
            .collect();
        let kept: String =
            kept.iter().take((step as usize).saturating_add(1)).map(|l| format!("{l}\n")).collect();
        write_file(path, kept.as_bytes())?;
        let file = std::fs::OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, empty: kept.is_empty() })
    }

    /// The losses so far.
    pub fn losses(&self) -> Result<LossCurve> {
        LossCurve::read(&self.path)
    }

    /// Appends the line of a step.
    pub fn append(
        &mut self,
        step: u64,
        loss: f64,
        rate: f64,
        grad_norm: f64,
        parts: &[(&str, f64)],
    ) -> Result<()> {
        let mut text = String::new();
        if std::mem::take(&mut self.empty) {
            text += "step,loss,learning_rate,grad_norm";
            parts.iter().for_each(|(name, _)| text += &format!(",{name}"));
            text.push('\n');
        }
        text += &format!("{step},{loss},{rate},{grad_norm}");
        parts.iter().for_each(|(_, value)| text += &format!(",{value}"));
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}
