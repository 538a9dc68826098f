//! Draws and scores the pictures of one setting: a number of steps and a guidance scale.

use diffuscope::eval::accuracy::{JudgedPicture, composition, prompt_match};
use diffuscope::eval::scores::SettingScores;
use diffuscope::eval::validity::Validity;
use diffuscope::models::judge::Judge;
use diffuscope::pipeline::{Generation, Request, StableDiffusion};
use diffuscope::plot::{Sheet, Tile};
use diffuscope::scenes::{HeldOut, Scenes};
use diffuscope::{Result, interrupt};
use tch::Tensor;

use super::args::EvalArgs;
use super::judging::{
    Judged, PER_PROMPT, frechet_deviation, judge_pictures, picture_diversity, relative_frechet,
};
use super::latents::flatten;
use super::memorisation::TrainingLatents;
use super::true_scenes::TrueScenes;
use crate::options::Seed;
use crate::terminal::bar;

/// Pictures drawn at once.
const BATCH: usize = 50;
/// Pictures on the sheet.
const ON_SHEET: usize = 64;

/// What all settings are scored with.
pub struct Scorer<'a> {
    args: &'a EvalArgs,
    model: &'a StableDiffusion,
    judge: &'a Judge,
    truth: &'a TrueScenes,
    /// The features of true scenes with other captions.
    other_features: &'a Tensor,
    validity: Validity,
    /// The diversity of true scenes with one caption.
    true_diversity: f64,
    /// `None` without `--training`.
    training: Option<TrainingLatents>,
}

/// The pictures of one setting.
struct SettingPictures {
    judged: Judged,
    /// [N, d]
    latents: Tensor,
    /// [`PER_PROMPT`] pictures of each of the first prompts.
    of_same_prompts: Tensor,
    /// The first ones.
    tiles: Vec<Tile>,
}

impl<'a> Scorer<'a> {
    pub fn new(
        args: &'a EvalArgs,
        model: &'a StableDiffusion,
        judge: &'a Judge,
        scenes: &Scenes,
        truth: &'a TrueScenes,
        of_truth: &Judged,
        others: &'a Judged,
    ) -> Result<Self> {
        let mut images = Vec::new();
        for (truth, _) in truth.truths.iter().take(repeated_prompts(truth)) {
            for jitter in 0..PER_PROMPT {
                images.push(scenes.render(truth, args.seed.after(jitter).unsigned())?.to_tensor()?);
            }
        }
        let true_diversity = picture_diversity(judge, &Tensor::cat(&images, 0))?;
        let training = match args.training[..] {
            [seed, count] => {
                Some(TrainingLatents::encode(scenes, &model.vae, seed, count, &truth.images)?)
            }
            _ => None,
        };
        let validity = Validity::of(&of_truth.features, &others.features, &others.certainty)?;
        let other_features = &others.features;
        Ok(Self { args, model, judge, truth, other_features, validity, true_diversity, training })
    }

    /// The scores of a setting, and a sheet of its first pictures.
    pub fn score(&self, steps: usize, guidance_scale: f64) -> Result<(SettingScores, Sheet)> {
        let SettingPictures { judged, latents, of_same_prompts, tiles } =
            self.draw(steps, guidance_scale)?;
        let pictures = JudgedPicture::from_answers(&self.truth.truths, &judged.answers)?;
        let memorisation = self.training.as_ref().map(|t| t.compare(&latents)).transpose()?;
        let note = format!(
            "guidance scale {guidance_scale}, {steps} steps; brackets: what the judge finds wrong"
        );
        let sheet = sheet(tiles, &self.truth.captions, &pictures)?.note(note).title(
            match &self.args.captions {
                Some(path) => format!("The first pictures of {}", path.display()),
                None => format!("The first pictures of seed {}", self.args.seed),
            },
        );
        let sampler = self.args.sampling.sampler;
        let scores = SettingScores {
            sampler: sampler.unwrap_or_else(|| self.model.scheduler.sampler()).to_string(),
            num_inference_steps: steps,
            guidance_scale,
            prompt_match: prompt_match(&pictures),
            composition: composition(&pictures, &HeldOut::fixed()?),
            frechet_distance: relative_frechet(&judged.features, self.other_features)?,
            frechet_deviation: frechet_deviation(&judged.features, self.other_features)?,
            diversity: picture_diversity(self.judge, &of_same_prompts)? / self.true_diversity,
            valid: Some(self.validity.share(&judged.features, &judged.certainty)?),
            memorisation,
        };
        Ok((scores, sheet))
    }

    fn draw(&self, steps: usize, guidance_scale: f64) -> Result<SettingPictures> {
        let repeated = repeated_prompts(self.truth);
        let all = self.truth.captions.len() + repeated * PER_PROMPT;
        let bar = bar(all as u64, "drawing {bar:30} {pos}/{len} {eta} left");
        let draw = |prompts: Vec<String>, seed: Seed| -> Result<Generation> {
            let count = prompts.len() as u64;
            let request = Request {
                sampler: self.args.sampling.sampler,
                num_inference_steps: steps,
                guidance: guidance_scale.into(),
                seed: seed.signed(),
                ..Request::batch(prompts)
            };
            let made = self.model.generate(&request)?;
            // Half-drawn pictures would be scored as bad ones.
            interrupt::check(|| format!("at guidance {guidance_scale}, {steps} steps"))?;
            bar.inc(count);
            Ok(made)
        };
        let seed = self.args.seed;
        let (mut features, mut answers, mut certainty) = (vec![], vec![], vec![]);
        let (mut latents, mut tiles) = (vec![], vec![]);
        for (i, prompts) in self.truth.captions.chunks(BATCH).enumerate() {
            let made = draw(prompts.to_vec(), seed.after(i * BATCH))?;
            let judged = judge_pictures(self.judge, &made.image.clamp(-1., 1.))?;
            features.push(judged.features);
            answers.push(judged.answers);
            certainty.push(judged.certainty);
            latents.push(flatten(&made.latents));
            for b in 0..(ON_SHEET.saturating_sub(tiles.len()).min(prompts.len()) as i64) {
                tiles.push(Tile::picture(&made.image.get(b))?);
            }
        }
        let mut of_same_prompts = Vec::new();
        for caption in self.truth.captions.iter().take(repeated) {
            let made = draw(vec![caption.clone(); PER_PROMPT], seed)?;
            of_same_prompts.push(made.image.clamp(-1., 1.));
        }
        bar.finish_and_clear();
        Ok(SettingPictures {
            judged: Judged {
                features: Tensor::cat(&features, 0),
                answers: Tensor::cat(&answers, 0),
                certainty: Tensor::cat(&certainty, 0),
            },
            latents: Tensor::cat(&latents, 0),
            of_same_prompts: Tensor::cat(&of_same_prompts, 0),
            tiles,
        })
    }
}

/// The number of prompts that are drawn several times, for the diversity.
fn repeated_prompts(truth: &TrueScenes) -> usize {
    (truth.captions.len() / PER_PROMPT).clamp(1, 32)
}

/// Pictures in rows of eight, each with its caption and what of it is wrong.
fn sheet(tiles: Vec<Tile>, captions: &[String], pictures: &[JudgedPicture]) -> Result<Sheet> {
    let captions: Vec<String> = captions
        .iter()
        .zip(pictures)
        .take(tiles.len())
        .map(|(caption, picture)| match &picture.mistakes()[..] {
            [] => caption.clone(),
            mistakes => format!("{caption} [{}]", mistakes.join(", ")),
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
