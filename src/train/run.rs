//! The training loop: draw a batch, take a step, log it, and now and then write a checkpoint and a sheet.
//!
//! All random numbers of a step come from the seed and the step's number, so a training that was interrupted
//! continues as if it had not been.

use std::time::Instant;

use super::loss_log::{LOSSES, LossLog};
use super::optimizer::Optimizer;
use super::replica::{Replica, backward, share_batch};
use super::resume::{checkpoint_path, resume, save};
use super::settings::TrainSettings;
use super::task::{Trainable, TrainingTask};
use super::trained::Trained;
use crate::cores::SharedCores;
use crate::memory::guarded;
use crate::models::params::Params;
use crate::{Error, Result, interrupt};

/// How far a training is.
#[derive(Debug, Clone)]
pub struct TrainProgress {
    /// Steps taken.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The loss of this step.
    pub loss: f64,
    /// Pictures per second since the start or the resumption.
    pub samples_per_second: f64,
}

/// Trains until `settings.steps`, resuming from the checkpoint in `settings.out` if there is one. `build` makes
/// the network and its trainable tensors, once for every replica. After an [`interrupt`] it ends with a checkpoint, from
/// which the same call goes on.
///
/// # Errors
/// A loss that is not finite; a folder that cannot be written to; a checkpoint of other settings.
pub fn run<T: TrainingTask>(
    build: impl Fn() -> Result<(Params, T::Network)>,
    settings: &TrainSettings,
    task: &T,
    mut progress: impl FnMut(&TrainProgress),
) -> Result<Trained> {
    settings.check()?;
    let _cores = SharedCores::watch();
    let (mut replicas, mut optimizer) = build_replicas(build, settings)?;
    let out = &settings.out;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    let checkpoint = checkpoint_path(settings);
    if checkpoint.is_file() {
        resume(&mut optimizer, &checkpoint, settings)?;
    }
    let mut log = LossLog::open(&out.join(LOSSES), optimizer.step)?;

    let (first, started) = (optimizer.step, Instant::now());
    let mut saved = Instant::now();
    let until = settings.stop_at.map_or(settings.steps, |stop| stop.min(settings.steps));
    let mut stopped = false;
    while optimizer.step < until && !stopped {
        let step = optimizer.step + 1;
        let rate = settings.rate(step);
        let doing = || format!("a training step with batches of {}", settings.batch);
        let advice = "train with smaller batches, smaller pictures or a smaller network";
        let (losses, (grad_norm, numbers)) = guarded(doing, advice, || {
            share_batch(&mut replicas, &task.batch(step_seed(settings.seed, step))?);
            optimizer.zero_grad();
            let losses = backward(&mut replicas)?;
            let read = optimizer.step_and_read(rate, &losses.tensors())?;
            Ok((losses, read))
        })?;
        let (loss, parts) = losses.sums(&numbers);
        log.append(step, loss, rate, grad_norm, &parts)?;
        let samples = (step - first) as f64 * settings.batch as f64;
        progress(&TrainProgress {
            step,
            steps: settings.steps,
            loss,
            samples_per_second: samples / started.elapsed().as_secs_f64(),
        });
        stopped = interrupt::requested();
        let last = step == until || stopped;
        let network = &replicas[0].network;
        if step.is_multiple_of(settings.sheet_every.max(1)) || last {
            let path = out.join(format!("sheet-{step:06}.png"));
            let doing = || "a sheet of samples".to_owned();
            let sheet = || optimizer.with_average(|| task.sheet(network, &path));
            guarded(doing, advice, sheet)?;
        }
        if saved.elapsed() >= settings.checkpoint_every || last {
            task.export(network, &optimizer, &out.join("model"))?;
            let losses = log.losses()?;
            if !losses.losses.is_empty() {
                losses.figure()?.save(out.join("loss.png"))?;
            }
            save(&optimizer, &checkpoint, settings)?;
            saved = Instant::now();
        }
    }
    Ok(Trained { out: out.clone(), step: optimizer.step, steps: settings.steps })
}

/// The replicas of the network, and the optimizer of their tensors.
fn build_replicas<N: Trainable>(
    build: impl Fn() -> Result<(Params, N)>,
    settings: &TrainSettings,
) -> Result<(Vec<Replica<N>>, Optimizer)> {
    let (mut replicas, mut variables) = (Vec::new(), Vec::new());
    for _ in 0..settings.workers.clamp(1, settings.batch as usize) {
        let (params, network) = build()?;
        variables.push(params.variables());
        replicas.push(Replica::new(network));
    }
    Ok((replicas, Optimizer::new(variables, settings.optimizer)?))
}

/// Neighbouring seeds of torch's generator give unrelated numbers, so consecutive steps may have consecutive
/// seeds.
fn step_seed(seed: i64, step: u64) -> i64 {
    seed.wrapping_mul(1_000_003).wrapping_add(step as i64)
}
