//! No public type of the library says more than a few lines when it ends a notebook cell, and none is forgotten.
#![cfg(feature = "cli")]

mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffuscope::checkpoint::hub::{Hub, HubId};
use diffuscope::checkpoint::{Checkpoint, Lora, OpenOptions, examine};
use diffuscope::cores::SharedCores;
use diffuscope::denoiser::ExactDenoiser;
use diffuscope::eval::accuracy::JudgedPicture;
use diffuscope::eval::scores::Scores;
use diffuscope::eval::validity::Validity;
use diffuscope::models::judge::Judge;
use diffuscope::models::params::Params;
use diffuscope::models::unet::Conditions;
use diffuscope::models::vae::Tiling;
use diffuscope::noise::standard_normal;
use diffuscope::pipeline::{
    DepthMap, ImageSizes, InitImage, LowResImage, Request, Sdxl, StableDiffusion, Variation,
    tiny_folder,
};
use diffuscope::plot::Tile;
use diffuscope::sampler::{METHODS, Plan, PlanSettings, Sampler, Sampling, ddim_step};
use diffuscope::scenes::{Scenes, Split};
use diffuscope::schedule::Schedule;
use diffuscope::tensor_file::{NamedTensors, TensorFile};
use diffuscope::timesteps::Timesteps;
use diffuscope::train::diffusion::{DiffusionSettings, FrozenParts};
use diffuscope::train::vae::VaeLossWeights;
use diffuscope::train::{
    CaptionedLatents, LossCurve, Optimizer, OptimizerConfig, TrainProgress, TrainSettings, Trained,
};
use diffuscope::{
    Result, environment, explore, figures, guidance, measure, notebook, plot, prompt,
};
use tch::{Device, Kind, Tensor};

/// What a person ends a cell with shows itself: each has the kernel's method. A value without it would print `{:?}`.
#[test]
fn what_ends_a_cell_shows_itself() {
    macro_rules! shown {
        ($($name:ty),* $(,)?) => {{
            $(let _ = <$name>::evcxr_display;)*
        }};
    }
    use diffuscope::{
        checkpoint::{NetworkReport, Report, SchedulerConfig},
        environment::Environment,
        eval::scores::{PromptMatch, SettingScores},
        explore::Page,
        guidance::Guidance,
        models::clip::{Encoding, TextConfig},
        models::judge::JudgeConfig,
        models::unet::UNetConfig,
        models::vae::{Posterior, VaeConfig},
        picture::Rgb8,
        pipeline::{EncodedText, Generation, Prepared, Trace},
        plot::{Figure, LatentsView, Panel, Picture, Sheet},
        sampler::SamplingStep,
        scenes::Scene,
    };
    shown!(Generation, Trace, Request, InitImage, LowResImage, DepthMap, Rgb8, Posterior, Scene);
    shown!(Schedule, Plan, Sampling<'_, ExactDenoiser>, SamplingStep, Prepared<'_>, Guidance);
    shown!(Encoding, EncodedText, StableDiffusion, Checkpoint, Report, NetworkReport, Lora);
    shown!(UNetConfig, VaeConfig, TextConfig, JudgeConfig, SchedulerConfig, Environment);
    shown!(LossCurve, TrainProgress, Trained, TrainSettings, CaptionedLatents);
    shown!(notebook::LastError);
    shown!(Scores, SettingScores, PromptMatch);
    shown!(Figure, Sheet, Picture, LatentsView, Panel, Page);
}

/// Types that are `pub` in the source and that nobody outside can name.
const INSIDE: [(&str, &str); 2] =
    [("Canvas", "plot's drawing surface"), ("Style", "plot's style of a text")];

/// The most characters of a look in plain text.
const LONGEST: usize = 300;

/// What every type says, by the type's name.
#[derive(Default)]
struct Said(BTreeMap<String, String>);

impl Said {
    fn add<T: Debug>(&mut self, value: &T) {
        let name = std::any::type_name::<T>();
        let name = name.split('<').next().unwrap_or(name);
        let name = name.rsplit("::").next().unwrap_or(name).to_owned();
        self.0.insert(name, format!("{value:?}"));
    }
}

#[test]
fn no_public_type_is_without_a_short_look() -> Result<()> {
    let mut said = Said::default();
    mathematics(&mut said)?;
    model(&mut said)?;
    files(&mut said)?;
    training(&mut said)?;

    let long: Vec<_> = said.0.iter().filter(|(_, text)| text.chars().count() > LONGEST).collect();
    assert!(long.is_empty(), "too long: {long:#?}");
    let lines: Vec<_> = said.0.iter().filter(|(_, text)| text.lines().count() > 1).collect();
    assert!(lines.is_empty(), "more than a line: {lines:#?}");

    let inside = INSIDE.map(|(name, _)| name.to_owned());
    let known: BTreeSet<String> = said.0.into_keys().chain(inside).collect();
    let all = public_structs();
    let forgotten: Vec<_> = all.difference(&known).collect();
    assert!(forgotten.is_empty(), "add a value of each to this test: {forgotten:?}");
    Ok(())
}

fn mathematics(said: &mut Said) -> Result<()> {
    let s = Schedule::stable_diffusion();
    let plan = Plan::new("unipc".parse()?, &s, 50, &PlanSettings::default())?;
    let x = standard_normal(&[1, 4, 8, 8], 0)?;
    let long = "a red apple on the grass, cartoon ".repeat(20);
    said.add(&s);
    said.add(&s.rates(vec![5i64; 64])?);
    said.add(&Timesteps::from(vec![5i64; 64]));
    said.add(&plan);
    let step = plan.steps[3];
    said.add(&step);
    said.add(&step.position);
    said.add(&step.pair());
    said.add(&step.coefficients);
    said.add(&step.coefficients.earlier[0]);
    said.add(&plan.sampler);
    said.add(&plan.sampler.options);
    said.add(&plan.sampler.options.dpm_solver);
    said.add(&plan.sampler.options.unipc);
    said.add(&plan.sampler.options.deis);
    said.add(&METHODS[0]);
    said.add(&METHODS[0].names[0]);
    let listed = PlanSettings { timesteps: Some((0..900).collect()), ..PlanSettings::default() };
    said.add(&listed);
    let exact = ExactDenoiser::new(s.clone(), &x)?;
    let mut sampling = Sampling::new(&exact, plan.clone(), x.copy(), None, 1., Vec::new())?;
    said.add(&sampling);
    if let Some(step) = sampling.next() {
        said.add(&step?);
    }
    said.add(&exact);
    said.add(&plan.interpret(0, &x, &x)?);
    let ddim = Plan::new(Sampler::ddim(0.), &s, 2, &PlanSettings::default())?;
    said.add(&ddim_step(&s, ddim.steps[0].pair(), &x, &x)?);
    let projected = Some(guidance::Projection::default());
    said.add(&guidance::Projection::default());
    let scales = vec![7.5; 50];
    said.add(&guidance::Guidance { scales, projection: projected, ..5.0.into() });
    said.add(&prompt::parse_weights(&long[..90])?[0]);
    said.add(&measure::moments(&x)?);
    Ok(())
}

fn model(said: &mut Said) -> Result<()> {
    let sd = StableDiffusion::tiny()?;
    let long = "a red apple on the grass, cartoon ".repeat(20);
    let image = Tensor::zeros([1, 3, 64, 64], (Kind::Float, Device::Cpu));
    let mask = Some(image.narrow(1, 0, 1));
    let init = InitImage { mask, ..InitImage::new(image.copy(), 0.5) };
    let sdxl = Sdxl { prompts_2: vec![long.clone(); 9], ..Sdxl::default() };
    let request = Request { num_inference_steps: 2, ..Request::batch(vec![long.clone(); 9]) };
    said.add(&sd);
    said.add(&sd.encode_texts(&request)?.1);
    let filled = Request {
        negative_prompt: long.clone(),
        init: Some(init.clone()),
        sdxl: Some(sdxl.clone()),
        ..request.clone()
    };
    said.add(&filled);
    said.add(&request.clip_skip);
    said.add(&init);
    said.add(&DepthMap(image.copy()));
    said.add(&LowResImage::new(image.copy()));
    said.add(&Sdxl { sizes: Some(ImageSizes::whole(64, 64)), ..sdxl });
    said.add(&ImageSizes::whole(64, 64));
    said.add(&Variation { seed: 1, weight: 0.5 });
    let masked = Request { init: Some(init), ..Request::new("a cat") };
    let prepared = sd.prepare(&masked)?;
    said.add(&prepared);
    said.add(&prepared.denoiser);
    let changing = Request { weighted_prompts: true, ..Request::new("[a cat:a red star:0.5]") };
    said.add(&sd.prepare(&changing)?.later_texts[0]);
    said.add(prepared.known_region.as_ref().expect("a mask"));
    let generation = sd.generate(&request)?;
    said.add(&generation);
    let trace = sd.trace(&Request { num_inference_steps: 2, ..Request::new(long.clone()) })?;
    if let Some(made) = &trace.making {
        said.add(made);
        said.add(&explore::replay(&trace, &made.guidance)?);
    }
    said.add(&explore::page(&trace)?);
    said.add(&measure::latent_rgb(&trace.latents, &trace.image)?);
    said.add(&explore::Recording::new(vec![trace.shallow_clone()])?);
    said.add(&trace);
    said.add(&sd.tokenizer);
    let encoding = sd.tokenizer.encode(&long)?;
    said.add(&encoding);
    said.add(&sd.text_encoder);
    said.add(sd.text_encoder.config());
    said.add(&sd.text_encoder.forward(&encoding.tensor())?);
    said.add(&sd.unet);
    said.add(sd.unet.config());
    said.add(&sd.vae);
    said.add(sd.vae.config());
    said.add(&Tiling::of(sd.vae.config()));
    said.add(&sd.vae.posterior(&image)?);
    said.add(&sd.scheduler);
    let context = sd.context("a cat")?;
    said.add(&Conditions::from(&context));
    let (_, maps) =
        sd.unet.forward_with_attention(&generation.latents.narrow(0, 0, 1), 9, &context)?;
    said.add(&maps[0]);
    said.add(&plot::picture(&image)?.caption("a cat"));
    said.add(&plot::pictures(&image)?);
    said.add(&plot::latents(&generation.latents.get(0))?);
    said.add(&Tile::picture(&image)?);
    let line = (0..900).map(|i| (f64::from(i), f64::from(i))).collect();
    said.add(&plot::panel(long).line("a", line));
    said.add(&figures::schedule_figure(&[("", &sd.schedule)])?);
    Ok(())
}

fn files(said: &mut Said) -> Result<()> {
    let folder = tiny_folder();
    let checkpoint = Checkpoint::open(&folder)?;
    let report = examine(&checkpoint);
    said.add(&report);
    said.add(&report.networks[0]);
    said.add(&checkpoint.prediction);
    said.add(checkpoint.network("unet")?);
    said.add(&checkpoint.params("unet", Kind::Float, Device::Cpu)?);
    said.add(&OpenOptions { configs: Some(folder.clone()), prediction: None });
    said.add(&checkpoint);
    said.add(&Lora::open(golden::path("lora/sd1_kohya.safetensors"))?);
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    said.add(&TensorFile::open(&weights)?);
    said.add(&NamedTensors::open(&[weights])?);
    let hub =
        Hub::from_vars(|name| ["HOME", "HF_TOKEN"].contains(&name).then(|| "/secret".to_owned()))?;
    said.add(&hub);
    assert!(!said.0["Hub"].contains("secret"), "{}", said.0["Hub"]);
    said.add(&"owner/name@fp16/unet/config.json".parse::<HubId>()?);
    let here = environment::environment()?;
    said.add(&here.device);
    said.add(&here);
    said.add(&here.ways);
    Ok(())
}

fn training(said: &mut Said) -> Result<()> {
    let sd = StableDiffusion::tiny()?;
    let scenes = Scenes::new(64)?;
    let scene = scenes.scene(3, Split::Any)?;
    let (_, truth, form) = scenes.describe(3, Split::Any)?;
    said.add(&scene);
    said.add(&scene.picture);
    said.add(&truth);
    said.add(&truth.objects[0]);
    said.add(&form);
    said.add(scenes.held_out());
    said.add(&scenes);
    let answers = vec![0; 7];
    said.add(&JudgedPicture { truth, form, answers });
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/judge");
    let judge = Judge::open(judge, Kind::Float, Device::Cpu)?;
    said.add(judge.config());
    let judged = judge.forward(&scene.picture.to_tensor()?)?;
    let sure = diffuscope::eval::validity::certainty(&judged);
    said.add(&Validity::of(&judged.features, &judged.features, &sure)?);
    said.add(&judged);
    said.add(&judge);
    let scores = Scores::open(tiny_folder().join("scores/steps.json"))?;
    said.add(&scores.drawn[0]);
    said.add(&scores.drawn[0].prompt_match);
    said.add(&scores.drawn[0].prompt_match.caption);
    said.add(&scores.drawn[0].composition);
    said.add(&scores);
    said.add(&diffuscope::eval::scores::Memorisation {
        drawn: [1. / 3.; 3],
        fresh: [1. / 3.; 3],
        kolmogorov_smirnov: 1. / 3.,
    });
    let pictures = Tensor::zeros([1, 3, 64, 64], (Kind::Uint8, Device::Cpu));
    let captions = [scene.caption.clone()];
    said.add(&CaptionedLatents::encode(&pictures, &captions, &sd.vae, &sd.tokenizer)?);
    said.add(&LossCurve { losses: (1..900).map(|i| (i, 1.)).collect() });
    said.add(&Trained { out: "runs/judge".into(), step: 1, steps: 900 });
    said.add(&notebook::last_error());
    said.add(&SharedCores::watch());
    said.add(&TrainProgress { step: 1, steps: 900, loss: 0.1, samples_per_second: 1. / 3. });
    let optimizer = OptimizerConfig::default();
    said.add(&optimizer);
    let params = Params::fresh(Kind::Float, Device::Cpu);
    let weight = params.tensor("weight", &[4, 4], diffuscope::models::params::Init::Ones);
    said.add(&Optimizer::new(vec![vec![("weight".to_owned(), weight)]], optimizer)?);
    said.add(&TrainSettings {
        out: PathBuf::from("runs/unet"),
        steps: 900,
        batch: 64,
        learning_rate: 1e-3,
        warmup: 9,
        seed: 0,
        checkpoint_every: Duration::from_secs(900),
        sheet_every: 900,
        stop_at: None,
        workers: 2,
        from: None,
        kind: Kind::Float,
        device: Device::Cpu,
        optimizer,
    });
    said.add(&DiffusionSettings {
        text: sd.text_encoder.config().clone(),
        unet: sd.unet.config().clone(),
        caption_dropout: 0.1,
        min_snr: Some(5.),
        prompts: vec!["a cat".repeat(50); 9],
        guidance_scale: 5.,
    });
    said.add(&FrozenParts {
        tokenizer: &sd.tokenizer,
        tokenizer_folder: Path::new("runs/tiny/tokenizer"),
        vae: &sd.vae,
        vae_folder: Path::new("runs/tiny"),
    });
    said.add(&VaeLossWeights { edge: 1., kl: 1e-6, perceptual: 0.1, judge: None });
    Ok(())
}

/// The names of all structs that the library's source makes public.
fn public_structs() -> BTreeSet<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != src.join("bin") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let structs = text.lines().filter_map(|l| l.trim().strip_prefix("pub struct "));
                let name = |rest: &str| -> String {
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
                };
                names.extend(structs.map(name));
            }
        }
    }
    assert!(names.len() > 80, "{names:?}");
    names
}
