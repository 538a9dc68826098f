//! `diffuscope eval`: how well a model draws what captions say, as numbers and as a figure.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diffuscope::models::judge::Judge;
use diffuscope::models::vae::Vae;
use diffuscope::noise::with_seed;
use diffuscope::pipeline::{Request, StableDiffusion, tiny_folder};
use diffuscope::plot::{Figure, figure, panel};
use diffuscope::sampler::Sampler;
use diffuscope::train::evaluate::{
    Composition, PromptMatch, Seen, Share, composition, diversity, frechet_distance,
    kolmogorov_smirnov, nearest_distances, prompt_match,
};
use diffuscope::train::judge::answers;
use diffuscope::train::scenes::{Form, HeldOut, Scenes, Split, Truth};
use diffuscope::weights::write_file;
use diffuscope::{Error, Result};
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use crate::bar;

/// Pictures drawn at once.
const BATCH: usize = 50;
/// Pictures of each prompt whose distances are the diversity.
const ALIKE: usize = 8;

#[derive(Args)]
#[command(after_help = "\
Examples:
  diffuscope train judge --out runs/judge --steps 3000
  diffuscope eval --judge runs/judge/model/judge --out scores
  diffuscope eval --judge runs/judge/model/judge --guidance 0,1,2,3,5,7,10,15 --count 500 --out curve
  diffuscope eval --judge runs/judge/model/judge --split held-out --out held-out

The folder gets scores.json and scores.png. Every share has its interval of 95 % (Wilson). The pictures
are judged by the judge, a classifier; \"scenes\" and \"reconstructed\" in scores.json say how often it is
right on true scenes, and on true scenes that went through the model's autoencoder: no drawn picture can
be expected to score higher.")]
pub struct Eval {
    /// A model for scenes: a diffusers folder [default: the embedded one]
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// The judge's folder, as `diffuscope train judge` leaves it
    #[arg(long, value_name = "FOLDER")]
    judge: PathBuf,
    /// The folder for the scores; it is made if it is not there
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Pictures, and true scenes to compare them with
    #[arg(long, value_name = "N", default_value_t = 2000, allow_negative_numbers = true)]
    count: usize,
    /// Seed of the prompts and of the noise; training uses others
    #[arg(long, value_name = "S", default_value_t = 1_000_003)]
    seed: u64,
    /// Which captions: those that training may have seen, those held out of it, or any
    #[arg(long, value_enum, default_value_t = Which::Any)]
    split: Which,
    /// ddim, ddpm or euler [default: the one that the model's folder names]
    #[arg(long)]
    sampler: Option<Sampler>,
    /// Reverse steps; several numbers, separated by commas, give a curve
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "30")]
    steps: Vec<usize>,
    /// Guidance scales; several, separated by commas, give a curve
    #[arg(
        long,
        value_name = "W[,W...]",
        value_delimiter = ',',
        default_value = "5",
        allow_hyphen_values = true
    )]
    guidance: Vec<f64>,
    /// Scenes of the training, by its --seed and --scenes, for the check that none is drawn from memory
    #[arg(long, value_name = "SEED,N", value_delimiter = ',')]
    training: Vec<u64>,
    /// cpu, cuda, cuda:N or mps [default: CUDA if it is there, else the CPU]
    #[arg(long, value_name = "D")]
    device: Option<String>,
}

#[derive(Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Which {
    Train,
    HeldOut,
    Any,
}

impl From<Which> for Split {
    fn from(which: Which) -> Self {
        match which {
            Which::Train => Self::Train,
            Which::HeldOut => Self::HeldOut,
            Which::Any => Self::Any,
        }
    }
}

/// `scores.json`.
#[derive(Serialize)]
struct Scores {
    model: String,
    judge: String,
    split: Which,
    count: usize,
    seed: u64,
    /// The judge on true scenes.
    scenes: PromptMatch,
    /// The judge on true scenes that went through the autoencoder.
    reconstructed: PromptMatch,
    /// Of the autoencoder on true scenes, in dB: the mean over pictures.
    psnr: f64,
    /// Of the true scenes of the same captions: what a perfect model would score.
    frechet_floor: f64,
    drawn: Vec<Drawn>,
}

/// The pictures of one guidance scale and number of steps.
#[derive(Serialize)]
struct Drawn {
    sampler: String,
    num_inference_steps: usize,
    guidance_scale: f64,
    prompt_match: PromptMatch,
    composition: Composition,
    /// Between the judge's features of drawn pictures and of true scenes of other captions, and its standard deviation over
    /// ten resamplings.
    frechet_distance: f64,
    frechet_deviation: f64,
    /// Mean distance of features of pictures of one prompt, over that of true scenes of one caption.
    diversity: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memorisation: Option<Memorisation>,
}

/// Distances to the nearest training latents.
#[derive(Serialize)]
struct Memorisation {
    /// The 5th, 50th and 95th hundredth of drawn pictures.
    drawn: [f64; 3],
    /// The same of fresh true scenes.
    fresh: [f64; 3],
    /// 0: one distribution; 1: apart.
    kolmogorov_smirnov: f64,
}

/// What is asked for, and the true scenes.
struct Asked {
    captions: Vec<String>,
    truths: Vec<(Truth, Form)>,
    /// In [-1, 1].
    images: Tensor,
}

pub fn run(args: Eval) -> Result<()> {
    args.check()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, e))?;
    crate::out::check_place(&args.out.join("scores.json"))?;
    let picked = diffuscope::device::pick(args.device.as_deref())?;
    eprintln!("device: {picked}");
    let folder = args.model.clone().unwrap_or_else(tiny_folder);
    let sd = StableDiffusion::open(&folder, Kind::Float, picked.device)?;
    let judge = Judge::open(&args.judge, Kind::Float, picked.device)?;
    let (width, height) = sd.size(None, None)?;
    let side = judge.config().sample_size;
    if (width, height) != (side, side) {
        let expected = format!("a model for pictures of {side}×{side}, as the judge knows them");
        return Err(Error::argument("--model", expected, format!("{width}×{height}"), ""));
    }
    let scenes = Scenes::new(side as usize)?;
    let asked = args.asked(&scenes, args.seed)?;
    let (features, truth_answers) = look(&judge, &asked.images)?;
    let (others, _) = look(&judge, &args.asked(&scenes, args.seed.wrapping_add(1))?.images)?;
    let again = through(&sd.vae, &asked.images)?;
    let (_, again_answers) = look(&judge, &again)?;
    let matched = |answers: &Tensor| -> Result<PromptMatch> {
        Ok(prompt_match(&Seen::all(&asked.truths, answers)?))
    };
    let mut scores = Scores {
        model: folder.display().to_string(),
        judge: args.judge.display().to_string(),
        split: args.split,
        count: args.count,
        seed: args.seed,
        scenes: matched(&truth_answers)?,
        reconstructed: matched(&again_answers)?,
        psnr: psnr(&asked.images, &again),
        frechet_floor: frechet_distance(&others, &features)?,
        drawn: Vec::new(),
    };
    let spread = args.true_spread(&scenes, &judge, &asked)?;
    let memory = args.memory(&scenes, &sd.vae, &asked)?;
    for &steps in &args.steps {
        for &scale in &args.guidance {
            let drawn =
                args.draw(&sd, &judge, &asked, &others, spread, memory.as_ref(), steps, scale)?;
            eprintln!("{}", summary(&drawn));
            scores.drawn.push(drawn);
        }
    }
    let json = serde_json::to_string_pretty(&scores)
        .map_err(|e| Error::config(args.out.join("scores.json"), e))?;
    write_file(&args.out.join("scores.json"), format!("{json}\n").as_bytes())?;
    chart(&scores)?.save(args.out.join("scores.png"))?;
    println!("{}", args.out.join("scores.json").display());
    println!("{}", args.out.join("scores.png").display());
    Ok(())
}

fn summary(drawn: &Drawn) -> String {
    let share = |share: &Share| format!("{:.1} %", 100. * share.share);
    let m = &drawn.prompt_match;
    format!(
        "{} steps, guidance {}: whole caption {}, single {}, object {}, colour {}, background {}, style {}, \
         count {}, pair objects {}, pair colours {}, relation {}; Fréchet distance {:.2} ± {:.2}, \
         diversity {:.2}",
        drawn.num_inference_steps,
        drawn.guidance_scale,
        share(&m.caption),
        share(&m.single),
        share(&m.object),
        share(&m.colour),
        share(&m.background),
        share(&m.style),
        share(&m.count),
        share(&m.pair_objects),
        share(&m.pair_colours),
        share(&m.relation),
        drawn.frechet_distance,
        drawn.frechet_deviation,
        drawn.diversity
    )
}

impl Eval {
    fn check(&self) -> Result<()> {
        if !(16..=100_000).contains(&self.count) {
            return Err(Error::argument("--count", "16 to 100000", self.count, ""));
        }
        if let Some(scale) = self.guidance.iter().find(|scale| !scale.is_finite()) {
            return Err(Error::argument("--guidance", "finite numbers", scale, ""));
        }
        match self.training[..] {
            [] | [_, 1..=1_000_000] => Ok(()),
            _ => {
                let got = format!("{:?}", self.training);
                Err(Error::argument("--training", "SEED,N with 1 to 1000000 scenes", got, ""))
            }
        }
    }

    /// The scenes of a seed. A training with the seed S has the scenes S 2^32 and on, and so has this: no
    /// other seed shares one with it.
    fn asked(&self, scenes: &Scenes, seed: u64) -> Result<Asked> {
        let bar = bar(self.count as u64, "composing scenes {bar:30} {pos}/{len} {eta}");
        let (mut captions, mut truths, mut images) = (vec![], vec![], vec![]);
        for i in 0..self.count as u64 {
            let seed = seed.wrapping_mul(1 << 32).wrapping_add(i);
            let scene = scenes.scene(seed, self.split.into())?;
            let (_, truth, form) = scenes.describe(seed, self.split.into())?;
            captions.push(scene.caption);
            truths.push((truth, form));
            images.push(scene.picture.to_tensor()?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Asked { captions, truths, images: Tensor::cat(&images, 0) })
    }

    /// The number of prompts that are drawn several times.
    fn repeated(&self) -> usize {
        (self.count / ALIKE).clamp(1, 50)
    }

    /// The diversity of true scenes of one caption.
    fn true_spread(&self, scenes: &Scenes, judge: &Judge, asked: &Asked) -> Result<f64> {
        let mut images = Vec::new();
        for (truth, _) in asked.truths.iter().take(self.repeated()) {
            for jitter in 0..ALIKE as u64 {
                images.push(scenes.render(truth, self.seed.wrapping_add(jitter))?.to_tensor()?);
            }
        }
        spread(judge, &Tensor::cat(&images, 0))
    }

    /// The training's latents, and the distances of fresh true scenes to them.
    fn memory(
        &self,
        scenes: &Scenes,
        vae: &Vae,
        asked: &Asked,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let [seed, count] = self.training[..] else { return Ok(None) };
        let bar = bar(count, "training scenes {bar:30} {pos}/{len} {eta}");
        let mut latents = Vec::new();
        for start in (0..count).step_by(BATCH) {
            let mut images = Vec::new();
            for i in start..count.min(start + BATCH as u64) {
                let seed = seed.wrapping_mul(1 << 32).wrapping_add(i);
                images.push(scenes.scene(seed, Split::Train)?.picture.to_tensor()?);
                bar.inc(1);
            }
            latents.push(flat(&no_grad(|| vae.encode(&Tensor::cat(&images, 0)))?));
        }
        bar.finish_and_clear();
        let training = Tensor::cat(&latents, 0);
        let fresh = nearest_distances(&flat(&encode(vae, &asked.images)?), &training)?;
        Ok(Some((training, fresh)))
    }

    #[allow(clippy::too_many_arguments)]
    fn draw(
        &self,
        sd: &StableDiffusion,
        judge: &Judge,
        asked: &Asked,
        truth: &Tensor,
        true_spread: f64,
        memory: Option<&(Tensor, Tensor)>,
        steps: usize,
        guidance_scale: f64,
    ) -> Result<Drawn> {
        let bar = bar(
            (self.count + self.repeated() * ALIKE) as u64,
            "drawing {bar:30} {pos}/{len} {eta} left",
        );
        let draw = |prompts: Vec<String>, seed: i64| {
            let count = prompts.len() as u64;
            let request = Request {
                prompts,
                sampler: self.sampler,
                num_inference_steps: steps,
                guidance_scale,
                seed,
                ..Request::new("")
            };
            let made = sd.generate(&request);
            bar.inc(count);
            made
        };
        let (mut features, mut said, mut latents) = (vec![], vec![], vec![]);
        for (i, prompts) in asked.captions.chunks(BATCH).enumerate() {
            let made = draw(prompts.to_vec(), self.seed as i64 + (i * BATCH) as i64)?;
            let (f, a) = look(judge, &made.image.clamp(-1., 1.))?;
            features.push(f);
            said.push(a);
            latents.push(flat(&made.latents));
        }
        let mut alike = Vec::new();
        for caption in asked.captions.iter().take(self.repeated()) {
            alike.push(draw(vec![caption.clone(); ALIKE], self.seed as i64)?.image.clamp(-1., 1.));
        }
        bar.finish_and_clear();
        let (features, said) = (Tensor::cat(&features, 0), Tensor::cat(&said, 0));
        let seen = Seen::all(&asked.truths, &said)?;
        let memorisation = memory
            .map(|(training, fresh)| {
                let drawn = numbers(&nearest_distances(&Tensor::cat(&latents, 0), training)?)?;
                let fresh = numbers(fresh)?;
                let kolmogorov_smirnov = kolmogorov_smirnov(&drawn, &fresh)?;
                Ok::<_, Error>(Memorisation {
                    drawn: hundredths(drawn),
                    fresh: hundredths(fresh),
                    kolmogorov_smirnov,
                })
            })
            .transpose()?;
        Ok(Drawn {
            sampler: self.sampler.unwrap_or_else(|| sd.scheduler.sampler()).name().into(),
            num_inference_steps: steps,
            guidance_scale,
            prompt_match: prompt_match(&seen),
            composition: composition(&seen, &HeldOut::fixed()?),
            frechet_distance: frechet_distance(&features, truth)?,
            frechet_deviation: deviation(&features, truth)?,
            diversity: spread(judge, &Tensor::cat(&alike, 0))? / true_spread,
            memorisation,
        })
    }
}

/// Features [N, d] and answers [N, 7] for pictures.
fn look(judge: &Judge, images: &Tensor) -> Result<(Tensor, Tensor)> {
    let (mut features, mut said) = (Vec::new(), Vec::new());
    for some in images.split(256, 0) {
        let verdict = no_grad(|| judge.look(&some))?;
        said.push(answers(&verdict));
        features.push(verdict.features.to_device(Device::Cpu));
    }
    Ok((Tensor::cat(&features, 0), Tensor::cat(&said, 0)))
}

fn encode(vae: &Vae, images: &Tensor) -> Result<Tensor> {
    let all: Result<Vec<Tensor>> =
        images.split(256, 0).iter().map(|some| no_grad(|| vae.encode(some))).collect();
    Ok(Tensor::cat(&all?, 0))
}

fn through(vae: &Vae, images: &Tensor) -> Result<Tensor> {
    let all: Result<Vec<Tensor>> = encode(vae, images)?
        .split(256, 0)
        .iter()
        .map(|some| Ok(no_grad(|| vae.decode(some))?.clamp(-1., 1.).to_device(Device::Cpu)))
        .collect();
    Ok(Tensor::cat(&all?, 0))
}

/// `10 log10(2^2 / mse)`: the range [-1, 1] is 2 wide. The mean over pictures.
fn psnr(a: &Tensor, b: &Tensor) -> f64 {
    let mse = (a - b).square().flatten(1, -1).mean_dim(-1, false, Kind::Double).clamp_min(1e-10);
    ((mse.reciprocal() * 4.).log10() * 10.).mean(Kind::Double).double_value(&[])
}

fn flat(latents: &Tensor) -> Tensor {
    latents.to_device(Device::Cpu).to_kind(Kind::Float).flatten(1, -1)
}

fn spread(judge: &Judge, images: &Tensor) -> Result<f64> {
    let (features, _) = look(judge, images)?;
    diversity(&features.view([-1, ALIKE as i64, features.size()[1]]))
}

/// Of the Fréchet distance, over ten resamplings of the drawn pictures.
fn deviation(features: &Tensor, truth: &Tensor) -> Result<f64> {
    let n = features.size()[0];
    let mut all = Vec::new();
    for k in 0..10 {
        let index = with_seed(k, || Tensor::randint(n, [n], (Kind::Int64, Device::Cpu)));
        all.push(frechet_distance(&features.index_select(0, &index), truth)?);
    }
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (all.len() - 1) as f64;
    Ok(variance.sqrt())
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(x.to_kind(Kind::Double))?)
}

fn hundredths(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [5, 50, 95].map(|k| values[(values.len() - 1) * k / 100])
}

/// Prompt match and Fréchet distance over what varies: the guidance scale, else the number of steps.
fn chart(scores: &Scores) -> Result<Figure> {
    let over_steps =
        scores.drawn.windows(2).any(|w| w[0].num_inference_steps != w[1].num_inference_steps);
    let x = |d: &Drawn| if over_steps { d.num_inference_steps as f64 } else { d.guidance_scale };
    let label = if over_steps { "number of steps" } else { "guidance scale" };
    let mut matched = panel("Prompt match").x(label).y("share of pictures").y_range(0., 1.);
    type Part = (&'static str, fn(&PromptMatch) -> Share);
    let parts: [Part; 5] = [
        ("whole caption", |m| m.caption),
        ("object", |m| m.object),
        ("colour", |m| m.colour),
        ("background", |m| m.background),
        ("relation", |m| m.relation),
    ];
    for (i, (name, part)) in parts.into_iter().enumerate() {
        let of = |d: &Drawn| (x(d), part(&d.prompt_match));
        let band = scores.drawn.iter().map(of).map(|(x, s)| (x, s.low, s.high)).collect();
        let line = scores.drawn.iter().map(of).map(|(x, s)| (x, s.share)).collect();
        matched = matched.band("", band).color(i).dotted_line(name, line).color(i);
    }
    let distance = |d: &Drawn, k: f64| (d.frechet_distance + k * d.frechet_deviation).max(0.);
    let line = scores.drawn.iter().map(|d| (x(d), distance(d, 0.))).collect();
    let band = scores.drawn.iter().map(|d| (x(d), distance(d, -2.), distance(d, 2.))).collect();
    let apart = panel("Fréchet distance")
        .x(label)
        .y("distance to true scenes")
        .band("", band)
        .color(5)
        .dotted_line("", line)
        .color(5)
        .rule("two sets of true scenes", scores.frechet_floor);
    let title = format!("{} pictures, seed {}", scores.count, scores.seed);
    figure(title, vec![matched, apart])
}
