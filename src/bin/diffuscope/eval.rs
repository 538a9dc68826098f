//! `diffuscope eval`: how well a model draws what captions say, as numbers and as a figure.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use diffuscope::models::judge::Judge;
use diffuscope::models::vae::Vae;
use diffuscope::noise::with_seed;
use diffuscope::pipeline::{Request, StableDiffusion, tiny_folder};
use diffuscope::plot::{Sheet, Tile, score_curves};
use diffuscope::sampler::Sampler;
use diffuscope::train::evaluate::{
    Seen, composition, diversity, frechet_distance, kolmogorov_smirnov, nearest_distances,
    prompt_match,
};
use diffuscope::train::judge::{answers, judge_folder};
use diffuscope::train::scenes::{Form, HeldOut, Scenes, Split, Truth};
use diffuscope::train::scores::{Drawn, Memorisation, PromptMatch, Scores};
use diffuscope::train::vae::psnr;
use diffuscope::weights::hub::locate;
use diffuscope::weights::write_file;
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor, no_grad};

use crate::bar;
use crate::generate::Dtype;

/// Pictures drawn at once.
const BATCH: usize = 50;
/// Pictures of each prompt whose distances are the diversity.
const ALIKE: usize = 4;
/// Pictures of the sheet.
const SHOWN: usize = 64;

#[derive(Args)]
#[command(after_help = "\
Examples:
  diffuscope eval --out scores
  diffuscope eval --guidance 0,1,2,3,5,7,10,15 --count 500 --out curve
  diffuscope eval --split held-out --out held-out
  diffuscope eval --autoencoder --model runs/vae/model --out scores
  diffuscope eval --model runs/diffusion/model --count 200 --dtype bf16 --out scores

The folder gets scores.json, scores.png and sheet.png: the first pictures of the first guidance scale, with
their captions and what the judge finds wrong. Every share has its interval of 95 % (Wilson). The judge is a
classifier, trained by `diffuscope train judge`; \"scenes\" and \"reconstructed\" in scores.json say how
often it is right on true scenes, and on true scenes that went through the model's autoencoder: no drawn
picture can be expected to score higher. A model for pictures two or more times as large as the judge's is judged
by its pictures made smaller.")]
pub struct Eval {
    /// A model for scenes: a diffusers folder, or OWNER/NAME of the Hugging Face hub [default: the embedded one]
    #[arg(long, value_name = "FOLDER|ID")]
    model: Option<PathBuf>,
    /// A judge's folder [default: the embedded one]
    #[arg(long, value_name = "FOLDER")]
    judge: Option<PathBuf>,
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
    /// Such as ddim, euler-a or dpm++2m-karras; a wrong name lists all [default: the one that the model's folder names]
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
    /// Score the autoencoder alone: draw nothing. The model's folder then needs no more than `vae/`
    #[arg(long)]
    autoencoder: bool,
    /// What the model computes in
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// cpu, cuda, cuda:N or mps [default: CUDA if it is there, else the CPU]
    #[arg(long, value_name = "D")]
    device: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
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
    let judge_folder = args.judge.clone().unwrap_or_else(judge_folder);
    let judge = Judge::open(&judge_folder, Kind::Float, picked.device)?;
    let kind = args.dtype.kind();
    let mut sd = None;
    let alone;
    let (vae, size) = if args.autoencoder {
        alone = Vae::open(locate(&folder)?.join("vae"), kind, picked.device)?;
        let side = alone.config().sample_size;
        (&alone, (side, side))
    } else {
        let opened = sd.insert(StableDiffusion::open(&folder, kind, picked.device)?);
        (&opened.vae, opened.size(None, None)?)
    };
    let side = judge.config().sample_size;
    if size.0 != size.1 || size.0 % side != 0 || size.0 == 0 {
        let expected = format!(
            "a model for pictures of {side}×{side}, as the judge knows them, or 2, 3 ... times that"
        );
        return Err(Error::argument("--model", expected, format!("{}×{}", size.0, size.1), ""));
    }
    let scenes = Scenes::new(size.0 as usize)?;
    let asked = args.asked(&scenes, args.seed)?;
    let (features, truth_answers) = look(&judge, &asked.images)?;
    let (others, _) = look(&judge, &args.asked(&scenes, args.seed.wrapping_add(1))?.images)?;
    let again = through(vae, &asked.images)?;
    let (_, again_answers) = look(&judge, &again)?;
    let matched = |answers: &Tensor| -> Result<PromptMatch> {
        Ok(prompt_match(&Seen::all(&asked.truths, answers)?))
    };
    let mut scores = Scores {
        model: shown(&folder),
        judge: shown(&judge_folder),
        split: args.split.to_possible_value().map_or_else(String::new, |v| v.get_name().into()),
        count: args.count,
        seed: args.seed,
        dtype: args.dtype.name().into(),
        scenes: matched(&truth_answers)?,
        reconstructed: matched(&again_answers)?,
        psnr: psnr(&asked.images, &again).double_value(&[]),
        frechet_floor: apart(&others, &features)?,
        drawn: Vec::new(),
    };
    eprintln!("{}", ceiling(&scores));
    let path = |name: &str| args.out.join(name);
    let write = |scores: &Scores| {
        let json = serde_json::to_string_pretty(scores)
            .map_err(|e| Error::config(path("scores.json"), e))?;
        write_file(&path("scores.json"), format!("{json}\n").as_bytes())?;
        Ok::<_, Error>(())
    };
    let Some(sd) = &sd else {
        write(&scores)?;
        println!("{}", path("scores.json").display());
        return Ok(());
    };
    let spread = args.true_spread(&scenes, &judge, &asked)?;
    let memory = args.memory(&scenes, &sd.vae, &asked)?;
    for &steps in &args.steps {
        for &scale in &args.guidance {
            let (drawn, sheet) =
                args.draw(sd, &judge, &asked, &others, spread, memory.as_ref(), steps, scale)?;
            eprintln!("{}", summary(&drawn));
            if scores.drawn.is_empty() {
                sheet.save(path("sheet.png"))?;
            }
            scores.drawn.push(drawn);
            write(&scores)?;
        }
    }
    score_curves(&scores)?.save(path("scores.png"))?;
    for file in ["scores.json", "scores.png", "sheet.png"] {
        println!("{}", path(file).display());
    }
    Ok(())
}

/// A folder as the scores name it: from the project's root, wherever that lies.
fn shown(folder: &Path) -> String {
    folder.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(folder).display().to_string()
}

fn parts(m: &PromptMatch) -> String {
    let all = [
        ("whole caption", &m.caption),
        ("single", &m.single),
        ("object", &m.object),
        ("colour", &m.colour),
        ("background", &m.background),
        ("style", &m.style),
        ("count", &m.count),
        ("pair objects", &m.pair_objects),
        ("pair colours", &m.pair_colours),
        ("relation", &m.relation),
    ];
    all.map(|(name, share)| format!("{name} {:.1} %", 100. * share.share)).join(", ")
}

/// What the judge and the autoencoder can do.
fn ceiling(scores: &Scores) -> String {
    format!(
        "the judge on true scenes: {}\nafter the autoencoder, {:.1} dB: {}",
        parts(&scores.scenes),
        scores.psnr,
        parts(&scores.reconstructed)
    )
}

fn summary(drawn: &Drawn) -> String {
    format!(
        "{} steps, guidance {}: {}; Fréchet distance {:.4} ± {:.4}, diversity {:.2}",
        drawn.num_inference_steps,
        drawn.guidance_scale,
        parts(&drawn.prompt_match),
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
        (self.count / ALIKE).clamp(1, 32)
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
    ) -> Result<(Drawn, Sheet)> {
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
        let (mut features, mut said, mut latents, mut tiles) = (vec![], vec![], vec![], vec![]);
        for (i, prompts) in asked.captions.chunks(BATCH).enumerate() {
            let made = draw(prompts.to_vec(), self.seed as i64 + (i * BATCH) as i64)?;
            let (f, a) = look(judge, &made.image.clamp(-1., 1.))?;
            features.push(f);
            said.push(a);
            latents.push(flat(&made.latents));
            for b in 0..(SHOWN.saturating_sub(tiles.len()).min(prompts.len()) as i64) {
                tiles.push(Tile::picture(&made.image.get(b))?);
            }
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
        let sheet = show(tiles, &asked.captions, &seen)?.note(format!(
            "guidance scale {guidance_scale}, {steps} steps; brackets: what the judge finds wrong"
        ));
        let drawn = Drawn {
            sampler: self.sampler.unwrap_or_else(|| sd.scheduler.sampler()).to_string(),
            num_inference_steps: steps,
            guidance_scale,
            prompt_match: prompt_match(&seen),
            composition: composition(&seen, &HeldOut::fixed()?),
            frechet_distance: apart(&features, truth)?,
            frechet_deviation: deviation(&features, truth)?,
            diversity: spread(judge, &Tensor::cat(&alike, 0))? / true_spread,
            memorisation,
        };
        Ok((drawn, sheet.title(format!("The first pictures of seed {}", self.seed))))
    }
}

/// Pictures in rows of eight, each with its caption and what of it the judge does not find.
fn show(tiles: Vec<Tile>, captions: &[String], seen: &[Seen]) -> Result<Sheet> {
    let captions: Vec<String> = captions
        .iter()
        .zip(seen)
        .take(tiles.len())
        .map(|(caption, seen)| match &seen.wrong()[..] {
            [] => caption.clone(),
            wrong => format!("{caption} [{}]", wrong.join(", ")),
        })
        .collect();
    let mut rows: Vec<Vec<Tile>> = Vec::new();
    for tile in tiles {
        match rows.last_mut().filter(|row| row.len() < 8) {
            Some(row) => row.push(tile),
            None => rows.push(vec![tile]),
        }
    }
    Sheet::new(rows)?.captions(captions)
}

/// Features [N, d] and answers [N, 7] for pictures.
fn look(judge: &Judge, images: &Tensor) -> Result<(Tensor, Tensor)> {
    let (mut features, mut said) = (Vec::new(), Vec::new());
    let times = images.size()[2] / judge.config().sample_size;
    for some in images.split(256, 0) {
        let sides = [times, times];
        let some = some.avg_pool2d(sides, sides, [0, 0], false, true, None::<i64>);
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

fn flat(latents: &Tensor) -> Tensor {
    latents.to_device(Device::Cpu).to_kind(Kind::Float).flatten(1, -1)
}

fn spread(judge: &Judge, images: &Tensor) -> Result<f64> {
    let (features, _) = look(judge, images)?;
    diversity(&features.view([-1, ALIKE as i64, features.size()[1]]))
}

/// The Fréchet distance of features, in parts of the variance of the true scenes' in all directions together:
/// a judge's features have no unit.
fn apart(features: &Tensor, truth: &Tensor) -> Result<f64> {
    let variance = truth.to_kind(Kind::Double).var_dim([0i64].as_slice(), true, false);
    Ok(frechet_distance(features, truth)? / variance.sum(Kind::Double).double_value(&[]))
}

/// Of the Fréchet distance, over ten resamplings of the drawn pictures.
fn deviation(features: &Tensor, truth: &Tensor) -> Result<f64> {
    let n = features.size()[0];
    let mut all = Vec::new();
    for k in 0..10 {
        let index = with_seed(k, || Tensor::randint(n, [n], (Kind::Int64, Device::Cpu)));
        all.push(apart(&features.index_select(0, &index), truth)?);
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
