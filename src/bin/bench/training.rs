//! The work of training: steps of the embedded model's networks, taken by the loop of `diffuscope train`.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diffuscope::models::params::Params;
use diffuscope::models::unet::{UNet, UNetConfig};
use diffuscope::models::vae::{Vae, VaeConfig};
use diffuscope::tensor_file::{NamedTensors, read_config, weight_files};
use diffuscope::train::{
    LossParts, Optimizer, OptimizerConfig, TrainSettings, Trainable, TrainingTask, run,
};
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor, no_grad};

use crate::networks::inputs;
use crate::operations::{OperationCounts, TOKENS, unet_operations, vae_operations};
use crate::order::{ReadyWork, WorkOrder, WorkRun};

/// So many steps are one run, and the time is that of one of them.
const STEPS_OF_A_RUN: usize = 2;
/// A step computes what a pass does, and twice as much for the gradients.
const PASSES_OF_A_STEP: f64 = 3.;
/// So small that all steps compute with about the same weights.
const LEARNING_RATE: f64 = 1e-6;
/// The weight of the divergence in the autoencoder's loss.
const KL: f64 = 1e-6;

/// The U-Net's mean squared error.
pub fn unet(order: &WorkOrder) -> Result<ReadyWork> {
    let folder = order.folder.join("unet");
    let config: UNetConfig = read_config(folder.join("config.json"))?;
    let latents = vec![order.batch, config.in_channels, order.side, order.side];
    let context = vec![order.batch, TOKENS, config.cross_attention_dim];
    let shapes = [("sample", latents.clone()), ("context", context), ("noise", latents)];
    let samples = inputs(order, &shapes)?;
    let operations = unet_operations(&folder, order.batch, order.side)?;
    let (kind, device) = (order.kind()?, order.device()?);
    let build = move || {
        let params = Params::fresh(kind, device);
        let unet = UNet::new(&params, &config)?;
        copy_weights(&folder, &params)?;
        Ok((params, TrainedUNet(unet)))
    };
    ready(order, &operations, samples, build)
}

struct TrainedUNet(UNet);

impl Trainable for TrainedUNet {
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, LossParts)> {
        let [sample, context, noise] = batch else {
            return Err(Error::argument("batch", "sample, context and noise", batch.len()));
        };
        let output = self.0.forward(sample, 501, context)?;
        Ok(((output - noise).square().mean(Kind::Float), Vec::new()))
    }
}

/// The autoencoder's absolute error and the divergence of its latents.
pub fn vae(order: &WorkOrder) -> Result<ReadyWork> {
    let folder = order.folder.join("vae");
    let config: VaeConfig = read_config(folder.join("config.json"))?;
    let pixels = order.side * config.factor();
    let image = vec![order.batch, config.in_channels, pixels, pixels];
    let noise = vec![order.batch, config.latent_channels, order.side, order.side];
    let samples = inputs(order, &[("image", image), ("noise", noise)])?;
    let half = |encode| vae_operations(&folder, order.batch, order.side, encode);
    let operations = half(true)?.and(&half(false)?, 1.);
    let (kind, device) = (order.kind()?, order.device()?);
    let build = move || {
        let params = Params::fresh(kind, device);
        let vae = Vae::new(&params, &config)?;
        copy_weights(&folder, &params)?;
        Ok((params, TrainedVae(vae)))
    };
    ready(order, &operations, samples, build)
}

struct TrainedVae(Vae);

impl Trainable for TrainedVae {
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, LossParts)> {
        let [image, noise] = batch else {
            return Err(Error::argument("batch", "image and noise", batch.len()));
        };
        let posterior = self.0.posterior(image)?;
        let decoded = self.0.decode(&self.0.scale(&posterior.sample(noise)?))?;
        let loss = (decoded - image).abs().mean(Kind::Float) + posterior.kl() * KL;
        Ok((loss, Vec::new()))
    }
}

/// A fresh network's weights become those of the folder.
fn copy_weights(folder: &Path, params: &Params) -> Result<()> {
    let weights = NamedTensors::open(&weight_files(folder)?)?;
    for (name, variable) in params.variables() {
        let weight = weights.tensor(&name)?;
        no_grad(|| variable.detach().f_copy_(&weight))?;
    }
    Ok(())
}

/// The same samples in every step; nothing is drawn and nothing is kept.
struct SameSamples<N> {
    samples: Vec<Tensor>,
    network: std::marker::PhantomData<fn() -> N>,
}

impl<N: Trainable> TrainingTask for SameSamples<N> {
    type Network = N;

    fn batch(&self, _: i64) -> Result<Vec<Tensor>> {
        Ok(self.samples.iter().map(Tensor::shallow_clone).collect())
    }

    fn sheet(&self, _: &N, _: &Path) -> Result<()> {
        Ok(())
    }

    fn export(&self, _: &N, _: &Optimizer, _: &Path) -> Result<()> {
        Ok(())
    }
}

/// A training on a thread of its own, which waits after every step until it is asked for the next one.
struct WaitingTraining {
    go: SyncSender<()>,
    losses: Receiver<f64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl WaitingTraining {
    fn loss(&mut self) -> Result<f64> {
        if let Ok(loss) = self.losses.recv() {
            return Ok(loss);
        }
        let ended = self.thread.take().and_then(|thread| thread.join().ok());
        let early = || Error::argument("a training", "one that goes on", "one that ended");
        Err(ended.and_then(Result::err).unwrap_or_else(early))
    }

    fn step(&mut self) -> Result<f64> {
        // If the thread has ended, `loss` says why.
        let _ = self.go.send(());
        self.loss()
    }
}

fn ready<N: Trainable + 'static>(
    order: &WorkOrder,
    operations: &OperationCounts,
    samples: Vec<Tensor>,
    build: impl Fn() -> Result<(Params, N)> + Send + 'static,
) -> Result<ReadyWork> {
    let (kind, device) = (order.kind()?, order.device()?);
    let samples = samples.into_iter().map(|x| x.to_device(device)).collect();
    let settings = TrainSettings {
        out: order.scratch.join(format!("{}-{}", order.work, order.dtype)),
        steps: u64::MAX,
        batch: order.batch,
        learning_rate: LEARNING_RATE,
        warmup: 0,
        seed: 0,
        checkpoint_every: Duration::MAX,
        sheet_every: u64::MAX,
        stop_at: None,
        workers: if device == Device::Cpu { order.threads } else { 1 },
        from: None,
        kind,
        device,
        optimizer: OptimizerConfig::default(),
    };
    let (go, wait) = sync_channel(1);
    let (say, losses) = sync_channel(1);
    let thread = std::thread::spawn(move || {
        let task = SameSamples { samples, network: std::marker::PhantomData };
        run(build, &settings, &task, |progress| {
            let told = say.send(progress.loss).is_ok();
            // Nobody asks any more: the process is about to end.
            while !told || wait.recv().is_err() {
                std::thread::park();
            }
        })?;
        Ok(())
    });
    let mut training = WaitingTraining { go, losses, thread: Some(thread) };
    let first = training.loss()?;
    let run = move || {
        let started = Instant::now();
        for _ in 0..STEPS_OF_A_RUN {
            training.step()?;
        }
        let seconds = started.elapsed().as_secs_f64() / STEPS_OF_A_RUN as f64;
        Ok(WorkRun { seconds, answer: Some(Tensor::from_slice(&[first])) })
    };
    let operations = OperationCounts::default().and(operations, PASSES_OF_A_STEP);
    Ok(ReadyWork { run: Box::new(run), operations })
}
