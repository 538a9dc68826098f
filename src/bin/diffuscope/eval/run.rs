//! The evaluation: what judge and autoencoder achieve on true scenes, then the scores of every setting.

use std::path::{Path, PathBuf};

use diffuscope::checkpoint::hub::locate;
use diffuscope::device::check_memory;
use diffuscope::eval::accuracy::{JudgedPicture, prompt_match};
use diffuscope::eval::distances::psnr;
use diffuscope::eval::questions::judge_folder;
use diffuscope::eval::score_curves;
use diffuscope::eval::scores::{PromptMatch, Scores};
use diffuscope::models::judge::Judge;
use diffuscope::models::vae::Vae;
use diffuscope::pipeline::{StableDiffusion, tiny_folder};
use diffuscope::scenes::Scenes;
use diffuscope::write_file::write_file;
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::args::EvalArgs;
use super::judging::{judge_pictures, relative_frechet};
use super::latents::reconstruct;
use super::scorer::Scorer;
use super::summary;
use super::true_scenes::{TrueScenes, read_captions};
use crate::out::{check_apart, check_place};

/// The files of an evaluation.
const SCORES: &str = "scores.json";
const CURVES: &str = "scores.png";
const SHEET: &str = "sheet.png";

pub fn run(args: EvalArgs) -> Result<()> {
    args.check()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, e))?;
    let scores_path = args.out.join(SCORES);
    check_place(&scores_path)?;
    let device = args.compute.device()?;
    let folder = args.model.clone().unwrap_or_else(tiny_folder);
    let judge_folder = args.judge.clone().unwrap_or_else(judge_folder);
    let written = [SCORES, CURVES, SHEET].map(|name| args.out.join(name));
    let written = written.each_ref().map(|path| ("--out", path.as_path()));
    // Folders that are read hold none of these.
    let read = [("model", folder.as_path()), ("judge", judge_folder.as_path())];
    let read = read.into_iter().chain(args.captions.as_deref().map(|path| ("captions", path)));
    check_apart(&written, &read.filter(|(_, path)| path.is_file()).collect::<Vec<_>>())?;
    let judge = Judge::open(&judge_folder, Kind::Float, device)?;
    let model = ScoredModel::open(&args, &folder, device)?;
    let scenes = Scenes::new(model.picture_size(&judge)?)?;
    let own = args.captions.as_deref().map(read_captions).transpose()?;
    let count = own.as_ref().map_or(args.count, Vec::len);
    // The true scenes twice, what is made of them, and what is drawn, in f32.
    let bytes = 6. * 12. * (count * scenes.size() * scenes.size()) as f64;
    check_memory(Device::Cpu, format!("{count} pictures"), bytes)
        .map_err(|e| e.hint("score fewer pictures: --count"))?;
    let compose = |seed| TrueScenes::compose(&scenes, count, seed, args.split.into());
    let truth = match &own {
        Some(own) => TrueScenes::of(&scenes, own, args.seed.unsigned())?,
        None => compose(args.seed.unsigned())?,
    };
    let judged = judge_pictures(&judge, &truth.images)?;
    let others = judge_pictures(&judge, &compose(args.seed.after(1).unsigned())?.images)?;
    let reconstructed = reconstruct(model.vae(), &truth.images)?;
    let judged_reconstructed = judge_pictures(&judge, &reconstructed)?;
    let matched = |answers: &Tensor| -> Result<PromptMatch> {
        Ok(prompt_match(&JudgedPicture::from_answers(&truth.truths, answers)?))
    };
    let mut scores = Scores {
        model: from_project_root(&folder),
        judge: from_project_root(&judge_folder),
        split: args.split.name(),
        captions: args.captions.as_deref().map(from_project_root),
        count,
        seed: args.seed.unsigned(),
        dtype: args.compute.dtype.name().into(),
        scenes: matched(&judged.answers)?,
        reconstructed: matched(&judged_reconstructed.answers)?,
        psnr: psnr(&truth.images, &reconstructed)?.double_value(&[]),
        frechet_floor: relative_frechet(&others.features, &judged.features)?,
        drawn: Vec::new(),
    };
    eprintln!("{}", summary::ceiling(&scores));
    let mut files = vec![scores_path.clone()];
    match &model {
        ScoredModel::Autoencoder(_) => write(&scores, &scores_path)?,
        ScoredModel::Whole(model) => {
            let scorer = Scorer::new(&args, model, &judge, &scenes, &truth, &judged, &others)?;
            files.extend(score_settings(&args, &scorer, &mut scores, &scores_path)?);
        }
    }
    for file in files {
        println!("{}", file.display());
    }
    Ok(())
}

/// Scores every number of steps with every guidance scale; returns the pictures that it wrote.
fn score_settings(
    args: &EvalArgs,
    scorer: &Scorer,
    scores: &mut Scores,
    scores_path: &Path,
) -> Result<[PathBuf; 2]> {
    let [curves, sheet_path] = [CURVES, SHEET].map(|name| args.out.join(name));
    'settings: for &steps in &args.steps {
        for &scale in &args.sampling.guidance {
            let (setting, sheet) = match scorer.score(steps, scale) {
                // What is scored by then is kept.
                Err(Error::Interrupted(_)) if !scores.drawn.is_empty() => break 'settings,
                scored => scored?,
            };
            eprintln!("{}", summary::setting(&setting));
            if scores.drawn.is_empty() {
                sheet.save(&sheet_path)?;
            }
            scores.drawn.push(setting);
            write(scores, scores_path)?;
        }
    }
    score_curves(scores)?.save(&curves)?;
    Ok([curves, sheet_path])
}

/// What is scored: a model, or its autoencoder alone.
enum ScoredModel {
    Whole(Box<StableDiffusion>),
    Autoencoder(Box<Vae>),
}

impl ScoredModel {
    fn open(args: &EvalArgs, folder: &Path, device: Device) -> Result<Self> {
        let kind = args.compute.dtype.kind();
        Ok(if args.autoencoder {
            Self::Autoencoder(Box::new(Vae::open(locate(folder)?.join("vae"), kind, device)?))
        } else {
            Self::Whole(Box::new(StableDiffusion::open(folder, kind, device)?))
        })
    }

    fn vae(&self) -> &Vae {
        match self {
            Self::Whole(model) => &model.vae,
            Self::Autoencoder(vae) => vae,
        }
    }

    /// The side of its pictures, which the judge's must divide.
    fn picture_size(&self, judge: &Judge) -> Result<usize> {
        let (width, height) = match self {
            Self::Whole(model) => model.size(None, None)?,
            Self::Autoencoder(vae) => (vae.config().sample_size, vae.config().sample_size),
        };
        let side = judge.config().sample_size;
        if width != height || width % side != 0 || width == 0 {
            let expected = format!(
                "a model for pictures of {side}×{side}, as the judge's, or 2, 3, ... times as large"
            );
            return Err(Error::argument("--model", expected, format!("{width}×{height}")));
        }
        Ok(width as usize)
    }
}

/// A folder as the scores name it: relative to the project's root if it is inside.
fn from_project_root(folder: &Path) -> String {
    folder.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(folder).display().to_string()
}

fn write(scores: &Scores, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(scores).map_err(|e| Error::config(path, e))?;
    write_file(path, format!("{json}\n").as_bytes())
}
