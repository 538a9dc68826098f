//! `diffuscope train`: scenes in, a diffusers folder out.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use diffuscope::device::training_kind;
use diffuscope::models::clip::{TextConfig, Tokenizer};
use diffuscope::models::unet::UNetConfig;
use diffuscope::models::vae::{Vae, VaeConfig};
use diffuscope::train::diffusion::{Captioned, Recipe, encode_once, train_diffusion};
use diffuscope::train::judge::{judge_config, train_judge};
use diffuscope::train::scenes::{Scenes, Split, Truth};
use diffuscope::train::vae::{Loss, train_vae};
use diffuscope::train::{OptimizerConfig, Progress, Settings};
use diffuscope::weights::{TensorFile, weight_files};
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::bar;

#[derive(Subcommand)]
pub enum Train {
    /// The autoencoder: pictures to latents and back. Do this first
    Vae(VaeArgs),
    /// Text encoder and U-Net together, on the latents of a trained autoencoder
    Diffusion(DiffusionArgs),
    /// The judge: a classifier that says what a scene shows, so that `diffuscope eval` can score pictures
    Judge(JudgeArgs),
}

#[derive(Args)]
struct Common {
    /// Folder for the log, the checkpoint, the sample sheets and the trained model; run the same
    /// command again to go on after an interruption
    #[arg(long)]
    out: PathBuf,
    /// Steps of the whole training
    #[arg(long)]
    steps: u64,
    /// Pictures a step
    #[arg(long, default_value_t = 32)]
    batch: i64,
    /// Learning rate at its highest
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
    /// Steps during which the learning rate rises
    #[arg(long, default_value_t = 200)]
    warmup: u64,
    /// Number of scenes to learn from
    #[arg(long, default_value_t = 40_000)]
    scenes: usize,
    /// Side of the pictures in pixels
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Seed of the weights and of everything that is drawn
    #[arg(long, default_value_t = 0)]
    seed: i64,
    /// What the network computes in; the weights are kept in f32 [default: bf16 where the device has instructions
    /// for it, else f32]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// cpu, cuda, cuda:N or mps; by default CUDA if it is there
    #[arg(long)]
    device: Option<String>,
    /// Replicas of the network that learn at once, a core each [default: one for each thread of libtorch on a
    /// CPU, else one]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// How slowly the averaged weights follow
    #[arg(long, default_value_t = 0.999)]
    ema: f64,
    /// Step the inner layers by Muon instead of AdamW
    #[arg(long)]
    muon: bool,
    /// Minutes between two checkpoints
    #[arg(long, default_value_t = 5.)]
    checkpoint_minutes: f64,
    /// Steps between two sample sheets
    #[arg(long, default_value_t = 1000)]
    sheet_every: u64,
    /// Diffusers folder of a trained model to begin with, instead of fresh weights
    #[arg(long)]
    from: Option<PathBuf>,
    /// Stop after this step with a checkpoint; the same command without it goes on
    #[arg(long)]
    stop_at: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

impl Dtype {
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

#[derive(Args)]
pub struct VaeArgs {
    #[command(flatten)]
    common: Common,
    /// Channels of each level; each level but the last halves the picture
    #[arg(long, value_delimiter = ',', default_values_t = [32, 64, 96])]
    widths: Vec<i64>,
    /// Residual blocks a level
    #[arg(long, default_value_t = 1)]
    layers: i64,
    /// Channels a group of the group norms
    #[arg(long, default_value_t = 16)]
    groups: i64,
    /// Weight of the edges in the loss
    #[arg(long, default_value_t = 1.)]
    edge: f64,
    /// Weight of the latents' distance from the standard normal distribution
    #[arg(long, default_value_t = 1e-4)]
    kl: f64,
    /// A judge's folder: how differently it sees a picture and its copy is then a part of the loss
    #[arg(long, value_name = "FOLDER")]
    judge: Option<PathBuf>,
    /// Weight of that part
    #[arg(long, default_value_t = 0.1)]
    perceptual: f64,
}

#[derive(Args)]
pub struct JudgeArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub struct DiffusionArgs {
    #[command(flatten)]
    common: Common,
    /// Folder with the `vae/` that `train vae` left
    #[arg(long)]
    vae: PathBuf,
    /// Folder of CLIP's tokenizer
    #[arg(long, default_value = "data/tokenizer")]
    tokenizer: PathBuf,
    /// Channels of each level of the U-Net
    #[arg(long, value_delimiter = ',', default_values_t = [64, 128, 192])]
    widths: Vec<i64>,
    /// Residual blocks a level
    #[arg(long, default_value_t = 2)]
    layers: i64,
    /// Attention heads
    #[arg(long, default_value_t = 4)]
    heads: i64,
    /// Width of the text encoder
    #[arg(long, default_value_t = 128)]
    text_width: i64,
    /// Layers of the text encoder
    #[arg(long, default_value_t = 2)]
    text_layers: i64,
    /// Share of captions that are dropped
    #[arg(long, default_value_t = 0.1)]
    caption_dropout: f64,
    /// Weigh a timestep by min(SNR, this) / SNR, so that nearly clean latents do not rule the loss;
    /// without it all timesteps weigh the same
    #[arg(long)]
    min_snr: Option<f64>,
    /// Guidance scale of the sample sheets
    #[arg(long, default_value_t = 5.)]
    guidance: f64,
}

pub fn run(command: Train) -> Result<()> {
    keep_memory();
    match command {
        Train::Vae(args) => vae(args),
        Train::Diffusion(args) => diffusion(args),
        Train::Judge(args) => judge(args),
    }
}

/// Every step asks for the same memory. Left alone, glibc gives it back to the system after each and
/// has to get it again.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets four numbers of the allocator, before the first thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 1 << 27);
    }
}

impl Common {
    fn settings(&self, device: Device) -> Settings {
        let cores = if device == Device::Cpu { tch::get_num_threads().max(1) as usize } else { 1 };
        Settings {
            out: self.out.clone(),
            steps: self.steps,
            batch: self.batch,
            learning_rate: self.rate,
            warmup: self.warmup,
            seed: self.seed,
            checkpoint_every: Duration::from_secs_f64(self.checkpoint_minutes.clamp(0., 1e6) * 60.),
            sheet_every: self.sheet_every,
            stop_at: self.stop_at,
            workers: self.workers.map_or(cores, NonZeroUsize::get),
            from: self.from.clone(),
            optimizer: OptimizerConfig {
                ema_decay: self.ema,
                muon: self.muon,
                ..OptimizerConfig::default()
            },
        }
    }

    /// Where the networks learn, and in what they compute.
    fn device(&self) -> Result<(Device, Kind)> {
        let picked = diffuscope::device::pick(self.device.as_deref())?;
        let kind = self.dtype.map_or_else(|| training_kind(picked.device), Dtype::kind);
        let dtype = if kind == Kind::Float { "f32" } else { "bf16" };
        eprintln!("device: {picked}; the network computes in {dtype}");
        Ok((picked.device, kind))
    }

    /// u8 [N, 3, size, size], and for each its caption and what is true of it; no held-out combination is
    /// among them.
    fn scenes(&self) -> Result<(Tensor, Vec<(String, Truth)>)> {
        if self.scenes == 0 {
            return Err(Error::argument("--scenes", "1 and more", 0, ""));
        }
        let scenes = Scenes::new(self.size)?;
        let bar = bar(self.scenes as u64, "composing scenes {bar:30} {pos}/{len} {eta}");
        let mut pixels = Vec::with_capacity(self.scenes * self.size * self.size * 3);
        let mut captions = Vec::with_capacity(self.scenes);
        for i in 0..self.scenes {
            let seed = (self.seed as u64).wrapping_mul(1 << 32).wrapping_add(i as u64);
            let scene = scenes.scene(seed, Split::Train)?;
            pixels.extend_from_slice(&scene.picture.pixels);
            captions.push((scene.caption, scene.truth));
            bar.inc(1);
        }
        bar.finish();
        let (n, side) = (self.scenes as i64, self.size as i64);
        let pictures = Tensor::from_slice(&pixels).view([n, side, side, 3]).permute([0, 3, 1, 2]);
        Ok((pictures.contiguous(), captions))
    }
}

/// A bar on a terminal; a line now and then where the output is a file.
fn shower(steps: u64) -> impl FnMut(&Progress) {
    let bar = bar(steps, "{bar:30} {pos}/{len} {msg} {eta} left");
    let mut smooth = None;
    move |p: &Progress| {
        let average = smooth.map_or(p.loss, |old: f64| old * 0.98 + p.loss * 0.02);
        smooth = Some(average);
        let text = format!("loss {average:.4}, {:.1} samples/s", p.samples_per_second);
        if bar.is_hidden() && (p.step.is_multiple_of(100) || p.step == p.steps) {
            eprintln!("step {}/{}: {text}", p.step, p.steps);
        }
        bar.set_message(text);
        bar.set_position(p.step);
        if p.step == p.steps {
            bar.finish();
        }
    }
}

fn vae(args: VaeArgs) -> Result<()> {
    let levels = args.widths.len();
    let config = VaeConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: args.widths.clone(),
        down_block_types: vec!["DownEncoderBlock2D".into(); levels],
        up_block_types: vec!["UpDecoderBlock2D".into(); levels],
        layers_per_block: args.layers,
        norm_num_groups: args.groups,
        act_fn: "silu".into(),
        sample_size: args.common.size as i64,
        scaling_factor: 1.,
        shift_factor: None,
        use_quant_conv: true,
        use_post_quant_conv: true,
        mid_block_add_attention: true,
        force_upcast: false,
        latents_mean: None,
    };
    let (device, kind) = args.common.device()?;
    let (pictures, _) = args.common.scenes()?;
    let settings = args.common.settings(device);
    let VaeArgs { edge, kl, perceptual, judge, .. } = args;
    let loss = Loss { edge, kl, perceptual, judge };
    train_vae(&pictures, &config, &loss, &settings, kind, device, shower(settings.steps))
}

fn judge(args: JudgeArgs) -> Result<()> {
    let common = &args.common;
    let config = judge_config(common.size as i64);
    let (device, kind) = common.device()?;
    let (pictures, said) = common.scenes()?;
    let truths: Vec<Truth> = said.into_iter().map(|(_, truth)| truth).collect();
    let settings = common.settings(device);
    let shower = shower(settings.steps);
    train_judge(&pictures, &truths, &config, &settings, kind, device, shower)
}

fn diffusion(args: DiffusionArgs) -> Result<()> {
    let common = &args.common;
    let (device, kind) = common.device()?;
    let vae = Vae::open(args.vae.join("vae"), Kind::Float, device)?;
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let data = captioned(
        common,
        &args.vae,
        &Vae::open(args.vae.join("vae"), kind, device)?,
        kind,
        &tokenizer,
    )?;
    let attends: Vec<bool> = (0..args.widths.len()).map(|i| i > 0).collect();
    let cells = common.size as i64 / vae.config().factor();
    let recipe = Recipe {
        text: TextConfig {
            vocab_size: 49408,
            hidden_size: args.text_width,
            intermediate_size: 4 * args.text_width,
            num_hidden_layers: args.text_layers,
            num_attention_heads: args.heads,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            projection_dim: args.text_width,
        },
        unet: UNetConfig::narrow(
            &args.widths,
            &attends,
            args.layers,
            args.heads,
            args.text_width,
            cells,
        ),
        caption_dropout: args.caption_dropout,
        min_snr: args.min_snr,
        prompts: PROMPTS.map(str::to_owned).to_vec(),
        guidance_scale: args.guidance,
    };
    let settings = common.settings(device);
    train_diffusion(
        &data,
        &recipe,
        &args.tokenizer,
        args.vae.as_path(),
        &tokenizer,
        &vae,
        &settings,
        kind,
        device,
        shower(settings.steps),
    )
}

/// The scenes' latents and token ids: encoded once, and kept for the next start in the out folder.
fn captioned(
    common: &Common,
    vae_folder: &Path,
    vae: &Vae,
    kind: Kind,
    tokenizer: &Tokenizer,
) -> Result<Captioned> {
    let weights = weight_files(vae_folder.join("vae"))?.remove(0);
    let sum = TensorFile::open(&weights)?.metadata().get("crc32").cloned().unwrap_or_default();
    let Common { scenes, size, seed, .. } = common;
    let source = format!("{scenes} scenes of {size} pixels, seed {seed}, VAE {sum}, {kind:?}");
    let path = common.out.join("latents.safetensors");
    if let Some(data) = Captioned::load(&path, &source)? {
        return Ok(data);
    }
    let (pictures, said) = common.scenes()?;
    let captions: Vec<String> = said.into_iter().map(|(caption, _)| caption).collect();
    eprintln!("encoding {} scenes", captions.len());
    let data = encode_once(&pictures, &captions, vae, tokenizer)?;
    std::fs::create_dir_all(&common.out).map_err(|e| Error::io(&common.out, e))?;
    data.save(&path, &source)?;
    Ok(data)
}

/// What the sample sheets show: each part of the grammar at least once.
const PROMPTS: [&str; 16] = [
    "a red apple on the grass, flat",
    "a cat on the beach, cartoon",
    "a blue fish on the sea, 3d",
    "a rocket at night, flat",
    "a snowman in the snow, cartoon",
    "a house at sunset, 3d",
    "a yellow star on a blue background, flat",
    "a green umbrella on a pink background, 3d",
    "two strawberries on the grass, cartoon",
    "three donuts on a yellow background, flat",
    "a small purple mushroom in the snow, 3d",
    "a dog left of a ball on the grass, cartoon",
    "a pink cake left of a blue key, flat",
    "a crown above a green diamond at night, 3d",
    "a butterfly above a rose on the grass, flat",
    "an orange fox in the snow, cartoon",
];
