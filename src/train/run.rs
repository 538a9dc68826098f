//! The loop: draw a batch, take a step, log, and now and then write a checkpoint and a sheet.
//!
//! Everything that a step draws comes from the seed and the step's number, so a run that was
//! interrupted goes on as if nothing had happened.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use super::workers::at_once;
use super::{Optimizer, OptimizerConfig};
use crate::plot::loss_curve;
use crate::weights::{Params, TensorFile, weight_files, write_tensors};
use crate::{Error, Result};

/// How long, how fast and where a network is trained.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that gets the log, the checkpoint, the sheets and the network.
    pub out: PathBuf,
    /// The number of steps of the whole training, across interruptions.
    pub steps: u64,
    /// Pictures a step.
    pub batch: i64,
    /// The learning rate at its highest.
    pub learning_rate: f64,
    /// Steps during which the rate rises from 0; afterwards half a cosine brings it back to nearly 0.
    pub warmup: u64,
    /// The seed of everything that is drawn.
    pub seed: i64,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Steps between two sheets of samples.
    pub sheet_every: u64,
    /// Stop, with a checkpoint, after this step although the training is longer.
    pub stop_at: Option<u64>,
    /// Replicas of the network that learn at once, each on a core of its own from its share of a batch.
    pub workers: usize,
    /// Begin with the networks of this diffusers folder, and not with fresh ones. A checkpoint goes before.
    pub from: Option<PathBuf>,
    /// How a step is taken.
    pub optimizer: OptimizerConfig,
}

impl Settings {
    /// The learning rate of a step, counted from 1.
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.learning_rate * step as f64 / self.warmup.max(1) as f64;
        }
        let rest = (self.steps.saturating_sub(self.warmup)).max(1) as f64;
        let done = (step - self.warmup) as f64 / rest;
        self.learning_rate * (0.02 + 0.98 * 0.5 * (1. + (std::f64::consts::PI * done).cos()))
    }

    fn check(&self) -> Result<()> {
        if self.steps == 0 {
            return Err(Error::argument("steps", "1 and more", 0, ""));
        }
        if self.batch < 1 {
            return Err(Error::argument("batch", "1 and more", self.batch, ""));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.) {
            return Err(Error::argument("learning rate", "above 0", self.learning_rate, ""));
        }
        Ok(())
    }
}

/// The parts of a loss, by name.
pub type Parts = Vec<(&'static str, f64)>;

/// A network and its loss.
pub trait Learner: Send {
    /// The mean loss of some samples and what else the log is to say of them. Everything random comes with the
    /// samples.
    ///
    /// # Errors
    /// Samples that the network cannot take.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, Parts)>;
}

/// What is being trained.
pub trait Task {
    /// The network.
    type Network: Learner;

    /// Draws the samples of one step, a row of each tensor one sample. `seed` belongs to this step.
    ///
    /// # Errors
    /// Whatever stops a batch from being made.
    fn batch(&self, seed: i64) -> Result<Vec<Tensor>>;

    /// Draws what the network can do now, with the averaged weights in place.
    ///
    /// # Errors
    /// A picture that cannot be made or written.
    fn sheet(&self, network: &Self::Network, path: &Path) -> Result<()>;

    /// Writes the network with the averaged weights that `optimizer` has.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    fn export(&self, network: &Self::Network, optimizer: &Optimizer, folder: &Path) -> Result<()>;
}

/// How far a training is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The loss of this step.
    pub loss: f64,
    /// Pictures a second since the start or the resumption.
    pub samples_per_second: f64,
}

/// What must be the same for a checkpoint to be gone on with. A training may be made longer or
/// shorter: the learning rate then follows the new length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mark {
    step: u64,
    seed: i64,
    batch: i64,
    learning_rate: f64,
    muon: bool,
}

const MARK: &str = "training";

/// A replica and its share of a batch.
struct Worker<N> {
    network: N,
    samples: Vec<Tensor>,
    /// Of all samples of the batch.
    share: f64,
}

impl<N: Learner> Worker<N> {
    /// Adds the gradient of its share of the loss to the replica's; returns the share.
    fn learn(&self) -> Result<(f64, Parts)> {
        let (loss, mut parts) = self.network.loss(&self.samples)?;
        let loss = loss * self.share;
        loss.backward();
        parts.iter_mut().for_each(|(_, value)| *value *= self.share);
        Ok((loss.double_value(&[]), parts))
    }
}

/// Hands out a batch in shares that differ by at most one sample.
fn share_batch<N>(workers: &mut [Worker<N>], batch: &[Tensor]) {
    let total = batch.first().map_or(0, |tensor| tensor.size()[0]);
    let count = workers.len() as i64;
    for (i, worker) in workers.iter_mut().enumerate() {
        let (from, to) = (total * i as i64 / count, total * (i as i64 + 1) / count);
        worker.samples = batch.iter().map(|tensor| tensor.narrow(0, from, to - from)).collect();
        worker.share = (to - from) as f64 / total as f64;
    }
}

/// All workers learn at once: the loss of the batch and its parts.
fn learn<N: Learner>(workers: &mut [Worker<N>]) -> Result<(f64, Parts)> {
    let mut all = at_once(workers, |worker| worker.learn()).into_iter();
    let (mut loss, mut parts) = all.next().unwrap_or_else(|| Ok((0., Vec::new())))?;
    for one in all {
        let (more, others) = one?;
        loss += more;
        parts.iter_mut().zip(others).for_each(|((_, sum), (_, value))| *sum += value);
    }
    Ok((loss, parts))
}

/// Trains until `settings.steps`, going on from the checkpoint in `settings.out` if there is one. `build` makes
/// the network with the tensors that are to be trained, once for every worker.
///
/// # Errors
/// A loss that is not finite; a folder that cannot be written to; a checkpoint of other settings.
pub fn run<T: Task>(
    build: impl Fn() -> Result<(Params, T::Network)>,
    settings: &Settings,
    task: &T,
    mut progress: impl FnMut(&Progress),
) -> Result<()> {
    settings.check()?;
    let out = &settings.out;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    let count = settings.workers.clamp(1, settings.batch as usize);
    let (mut workers, mut variables) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (params, network) = build()?;
        variables.push(params.variables());
        workers.push(Worker { network, samples: Vec::new(), share: 1. });
    }
    let mut optimizer = Optimizer::new(variables, settings.optimizer)?;
    let checkpoint = out.join("checkpoint.safetensors");
    if checkpoint.is_file() {
        resume(&mut optimizer, &checkpoint, settings)?;
    }
    let mut log = Log::open(&out.join("loss.csv"), optimizer.step)?;
    let save = |network: &T::Network, optimizer: &Optimizer, log: &Log| {
        task.export(network, optimizer, &out.join("model"))?;
        let losses = log.losses()?;
        if !losses.is_empty() {
            loss_curve(&[("", losses)], 100)?.save(out.join("loss.png"))?;
        }
        let mark = settings.mark(optimizer.step);
        let text = serde_json::to_string(&mark).map_err(|e| Error::config(&checkpoint, e))?;
        write_tensors(&checkpoint, &optimizer.state(), &[(MARK.into(), text)])
    };

    let (first, started) = (optimizer.step, Instant::now());
    let mut saved = Instant::now();
    let last = settings.stop_at.map_or(settings.steps, |stop| stop.min(settings.steps));
    while optimizer.step < last {
        let step = optimizer.step + 1;
        share_batch(&mut workers, &task.batch(step_seed(settings.seed, step))?);
        optimizer.zero_grad();
        let (loss, parts) = learn(&mut workers)?;
        let rate = settings.rate(step);
        let grad_norm = optimizer.step(rate)?;
        log.line(step, loss, rate, grad_norm, &parts)?;
        let samples = (step - first) as f64 * settings.batch as f64;
        progress(&Progress {
            step,
            steps: settings.steps,
            loss,
            samples_per_second: samples / started.elapsed().as_secs_f64(),
        });
        let network = &workers[0].network;
        if step.is_multiple_of(settings.sheet_every.max(1)) || step == last {
            let path = out.join(format!("sheet-{step:06}.png"));
            optimizer.with_average(|| task.sheet(network, &path))?;
        }
        if saved.elapsed() >= settings.checkpoint_every || step == last {
            save(network, &optimizer, &log)?;
            saved = Instant::now();
        }
    }
    Ok(())
}

/// Gives a network the weights of a component's folder. `known_as` says what one of its tensors is called there;
/// those that have no name there stay fresh. Of a token embedding it takes the rows that are trained.
///
/// # Errors
/// Weights that cannot be read, that lack a tensor or have one of another shape.
pub(super) fn begin_from(
    params: &Params,
    folder: &Path,
    known_as: impl Fn(&str) -> Option<String>,
    rows: Option<&[i64]>,
) -> Result<()> {
    let files: Vec<TensorFile> =
        weight_files(folder)?.iter().map(TensorFile::open).collect::<Result<_>>()?;
    for (name, variable) in params.variables() {
        let Some(name) = known_as(&name) else { continue };
        let name = name.as_str();
        let wrong = |got: String| {
            let expected = format!("{name} {:?}, as the network to be trained", variable.size());
            let todo = "give the options that it was trained with";
            Error::argument(folder.display().to_string(), expected, got, todo)
        };
        let file = files.iter().find(|file| file.shape(name).is_some());
        let mut tensor = file.ok_or_else(|| wrong("none".into()))?.tensor(name)?;
        if let (Some(rows), true) = (rows, name.contains("token_embedding")) {
            if rows.last().is_some_and(|&last| last >= tensor.size()[0]) {
                return Err(wrong(format!("{:?}", tensor.size())));
            }
            tensor = tensor.index_select(0, &Tensor::from_slice(rows));
        }
        if tensor.size() != variable.size() {
            return Err(wrong(format!("{:?}", tensor.size())));
        }
        no_grad(|| variable.detach().copy_(&tensor));
    }
    Ok(())
}

impl Settings {
    fn mark(&self, step: u64) -> Mark {
        let Self { seed, batch, learning_rate, optimizer: OptimizerConfig { muon, .. }, .. } =
            *self;
        Mark { step, seed, batch, learning_rate, muon }
    }
}

/// Neighbouring seeds of torch's generator give unrelated numbers, so a step's seed may be near the
/// next one's.
fn step_seed(seed: i64, step: u64) -> i64 {
    seed.wrapping_mul(1_000_003).wrapping_add(step as i64)
}

fn resume(optimizer: &mut Optimizer, path: &Path, settings: &Settings) -> Result<()> {
    let file = TensorFile::open(path)?;
    let text = file.metadata().get(MARK).cloned().unwrap_or_default();
    let mark: Mark = serde_json::from_str(&text)
        .map_err(|_| Error::weights(path, "is no checkpoint of a training"))?;
    let expected = settings.mark(mark.step);
    if mark != expected {
        return Err(Error::argument(
            "the checkpoint's settings",
            format!("{expected:?}"),
            format!("{mark:?}"),
            format!("repeat the settings it was begun with, or remove {}", path.display()),
        ));
    }
    optimizer.restore(&file, mark.step)
}

/// `loss.csv`: one line a step.
struct Log {
    path: PathBuf,
    file: std::fs::File,
    empty: bool,
}

impl Log {
    /// Opens the log and drops the lines after `step`: they are about to be made again.
    fn open(path: &Path, step: u64) -> Result<Self> {
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
        let kept: String = kept.iter().take(step as usize + 1).map(|l| format!("{l}\n")).collect();
        crate::weights::write_file(path, kept.as_bytes())?;
        let file = std::fs::OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, empty: kept.is_empty() })
    }

    /// Every step with its loss, where a logarithmic axis can show it.
    fn losses(&self) -> Result<Vec<(usize, f64)>> {
        let text = std::fs::read_to_string(&self.path).map_err(|e| Error::io(&self.path, e))?;
        let line = |line: &str| {
            let (step, rest) = line.split_once(',')?;
            Some((step.parse().ok()?, rest.split(',').next()?.parse().ok()?))
        };
        Ok(text.lines().skip(1).filter_map(line).filter(|&(_, loss)| loss > 0.).collect())
    }

    fn line(
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
