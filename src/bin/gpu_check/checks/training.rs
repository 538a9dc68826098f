//! Trainings of a few steps: their losses on the device and on the CPU, and resumed or in one go.

use std::path::Path;
use std::time::Duration;

use diffuscope::device::training_kind;
use diffuscope::eval::questions::judge_config;
use diffuscope::models::unet::UNetConfig;
use diffuscope::models::vae::{Vae, VaeConfig};
use diffuscope::noise::standard_normal;
use diffuscope::scenes::{Scenes, Split, Truth};
use diffuscope::train::diffusion::{DiffusionSettings, FrozenParts, train_diffusion};
use diffuscope::train::judge::train_judge;
use diffuscope::train::vae::{VaeLossWeights, train_vae};
use diffuscope::train::{CaptionedLatents, OptimizerConfig, TrainSettings, Trained};
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::bench::{Bench, WorstGap};
use crate::outcome::Outcome;

const STEPS: u64 = 6;
/// Where a training that is resumed was stopped.
const STOP: u64 = 3;
/// The share of a loss by which it may differ.
const BOUND: f64 = 1e-3;

/// A training into a folder with these settings.
type Training = fn(&Bench, &TrainSettings) -> Result<Trained>;

fn settings(out: &Path, device: Device) -> TrainSettings {
    TrainSettings {
        out: out.to_owned(),
        steps: STEPS,
        batch: 3,
        learning_rate: 1e-3,
        warmup: 2,
        seed: 3,
        checkpoint_every: Duration::from_secs(3600),
        sheet_every: STEPS,
        stop_at: None,
        workers: 1,
        from: None,
        kind: Kind::Float,
        device,
        optimizer: OptimizerConfig::default(),
    }
}

/// The loss of every step of a training into a new folder; `change` changes its settings, and it is called once for each.
fn losses(
    bench: &Bench,
    training: Training,
    device: Device,
    sittings: &[&dyn Fn(&mut TrainSettings)],
) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir_in(&bench.scratch).map_err(|e| Error::io(&bench.scratch, e))?;
    let mut losses = Vec::new();
    for change in sittings {
        let mut settings = settings(&folder.path().join("out"), device);
        change(&mut settings);
        let curve = training(bench, &settings)?.losses()?;
        losses = curve.losses.into_iter().map(|(_, loss)| loss).collect();
    }
    Ok(losses)
}

const WHOLE: &dyn Fn(&mut TrainSettings) = &|_| ();
const STOPPED: &dyn Fn(&mut TrainSettings) = &|settings| settings.stop_at = Some(STOP);

/// The largest difference of two losses of the same step, as a share of it.
fn compare(got: &[f64], expected: &[f64], bound: f64) -> Outcome {
    if got.len() != expected.len() || got.len() as u64 != STEPS {
        let fault = format!("{} and {} losses of {STEPS} steps", got.len(), expected.len());
        return Outcome::faults(&[fault]);
    }
    let mut worst = WorstGap::default();
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        worst.take_number(&format!("step {}", i + 1), (got / expected - 1.).abs());
    }
    let range = format!("loss {:.4} to {:.4}", expected[0], expected[expected.len() - 1]);
    Outcome::within(worst.gap, bound).note(range).note(worst.place)
}

fn as_on_the_cpu(bench: &Bench, training: Training) -> Result<Outcome> {
    let got = losses(bench, training, bench.device, &[WHOLE])?;
    Ok(compare(&got, &losses(bench, training, Device::Cpu, &[WHOLE])?, BOUND))
}

fn resumed(bench: &Bench, training: Training) -> Result<Outcome> {
    let got = losses(bench, training, bench.device, &[STOPPED, WHOLE])?;
    Ok(compare(&got, &losses(bench, training, bench.device, &[WHOLE])?, BOUND))
}

pub fn diffusion(bench: &Bench) -> Result<Outcome> {
    as_on_the_cpu(bench, train_a_diffusion_model)
}

pub fn autoencoder(bench: &Bench) -> Result<Outcome> {
    as_on_the_cpu(bench, train_an_autoencoder)
}

pub fn judge(bench: &Bench) -> Result<Outcome> {
    as_on_the_cpu(bench, train_a_judge)
}

pub fn diffusion_resumed(bench: &Bench) -> Result<Outcome> {
    resumed(bench, train_a_diffusion_model)
}

pub fn autoencoder_resumed(bench: &Bench) -> Result<Outcome> {
    resumed(bench, train_an_autoencoder)
}

pub fn judge_resumed(bench: &Bench) -> Result<Outcome> {
    resumed(bench, train_a_judge)
}

/// bf16 on a GPU, and Muon's iterations in it.
pub fn own_dtype(bench: &Bench) -> Result<Outcome> {
    let kind = training_kind(bench.device);
    let own = |settings: &mut TrainSettings| {
        settings.kind = training_kind(settings.device);
        settings.optimizer.muon = true;
    };
    let muon = |settings: &mut TrainSettings| settings.optimizer.muon = true;
    let got = losses(bench, train_a_diffusion_model, bench.device, &[&own])?;
    let expected = losses(bench, train_a_diffusion_model, Device::Cpu, &[&muon])?;
    Ok(compare(&got, &expected, 5e-2).note(format!("{kind:?}")))
}

/// On random latents, with a sheet that is drawn on the device.
fn train_a_diffusion_model(bench: &Bench, settings: &TrainSettings) -> Result<Trained> {
    let model = bench.model_on_cpu("pipeline/sd1")?;
    let vae = Vae::open(bench.golden("pipeline/sd1/vae"), Kind::Float, settings.device)?;
    let captions = ["a cat", "a red star", "two fish", "a boat", "", "a red cat"];
    let ids = captions.map(|caption| model.tokenizer.encode(caption).map(|read| read.tensor()));
    let ids = Tensor::cat(&ids.into_iter().collect::<Result<Vec<_>>>()?, 0);
    let data = CaptionedLatents { latents: standard_normal(&[6, 4, 8, 8], 7)?, ids };
    let text = model.text_encoder.config().clone();
    let width = text.hidden_size;
    let diffusion = DiffusionSettings {
        text,
        unet: UNetConfig::narrow(&[32, 32], &[false, true], 1, 2, width, 8),
        caption_dropout: 0.1,
        min_snr: Some(5.),
        prompts: vec!["a red cat".into()],
        guidance_scale: 3.,
    };
    let tiny = bench.tiny();
    let frozen = FrozenParts {
        tokenizer: &model.tokenizer,
        tokenizer_folder: &tiny.join("tokenizer"),
        vae: &vae,
        vae_folder: &tiny,
    };
    train_diffusion(&data, &frozen, &diffusion, settings, |_| ())
}

const SIDE: i64 = 16;

/// Some scenes: u8 [N, 3, 16, 16], and what is true of them.
fn scenes() -> Result<(Tensor, Vec<Truth>)> {
    let scenes = Scenes::new(SIDE as usize)?;
    let (mut pixels, mut truths) = (Vec::new(), Vec::new());
    for seed in 0..6 {
        let scene = scenes.scene(seed, Split::Train)?;
        pixels.extend_from_slice(&scene.picture.pixels);
        truths.push(scene.truth);
    }
    let pictures = Tensor::from_slice(&pixels).view([-1, SIDE, SIDE, 3]).permute([0, 3, 1, 2]);
    Ok((pictures.contiguous(), truths))
}

fn train_a_judge(_: &Bench, settings: &TrainSettings) -> Result<Trained> {
    let (pictures, truths) = scenes()?;
    train_judge(&pictures, &truths, &judge_config(SIDE), settings, |_| ())
}

/// With all parts of its loss: a judge is trained for it first, on the CPU, where it is the same for all.
fn train_an_autoencoder(bench: &Bench, settings: &TrainSettings) -> Result<Trained> {
    let folder = bench.scratch.join("judge");
    if !folder.exists() {
        let settings = TrainSettings { steps: 1, ..self::settings(&folder, Device::Cpu) };
        train_a_judge(bench, &settings)?;
    }
    let config = VaeConfig {
        block_out_channels: vec![8, 16],
        down_block_types: vec!["DownEncoderBlock2D".into(); 2],
        up_block_types: vec!["UpDecoderBlock2D".into(); 2],
        norm_num_groups: 4,
        sample_size: SIDE,
        scaling_factor: 1.,
        ..VaeConfig::default()
    };
    let judge = Some(folder.join("model/judge"));
    let weights = VaeLossWeights { edge: 1., kl: 1e-4, perceptual: 0.1, judge };
    train_vae(&scenes()?.0, &config, &weights, settings, |_| ())
}
