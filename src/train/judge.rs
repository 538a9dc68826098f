//! The judge's training: scenes in, what is true of them out.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::run::begin_from;
use super::scenes::{Background, Colour, Object, Relation, Style, Thing, Truth};
use super::vae::{to_range, write_component};
use super::{Learner, Optimizer, Parts, Progress, Settings, Task, run};
use crate::models::judge::{Judge, JudgeConfig, Verdict};
use crate::noise::with_seed;
use crate::weights::Params;
use crate::{Error, Result};

/// How many things stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// One thing.
    One,
    /// One small thing.
    Small,
    /// Two of a kind.
    Two,
    /// Three of a kind.
    Three,
    /// One thing left of another.
    LeftOf,
    /// One thing above another.
    Above,
}

impl Layout {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::One, Self::Small, Self::Two, Self::Three, Self::LeftOf, Self::Above];

    /// The layout of a scene.
    pub fn of(truth: &Truth) -> Self {
        match (truth.relation, truth.count, truth.small) {
            (Some(Relation::LeftOf), ..) => Self::LeftOf,
            (Some(Relation::Above), ..) => Self::Above,
            (None, 2, _) => Self::Two,
            (None, 3, _) => Self::Three,
            (None, _, true) => Self::Small,
            (None, _, false) => Self::One,
        }
    }
}

/// The questions that a judge answers, in the order of its answers. First is what stands further left or
/// further up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// How many things stand where?
    Layout,
    /// What is the first thing?
    First,
    /// What is the second thing?
    Second,
    /// What colour was the first thing given?
    FirstColour,
    /// What colour was the second thing given?
    SecondColour,
    /// Where is it?
    Background,
    /// How is it drawn?
    Style,
}

impl Question {
    /// Every one, in the order of a judge's answers.
    pub const ALL: [Self; 7] = [
        Self::Layout,
        Self::First,
        Self::Second,
        Self::FirstColour,
        Self::SecondColour,
        Self::Background,
        Self::Style,
    ];

    /// The word for it, as a table has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::First => "object",
            Self::Second => "second object",
            Self::FirstColour => "colour",
            Self::SecondColour => "second colour",
            Self::Background => "background",
            Self::Style => "style",
        }
    }

    /// The number of possible answers.
    pub fn answers(self) -> usize {
        match self {
            Self::Layout => Layout::ALL.len(),
            Self::First | Self::Second => Object::ALL.len(),
            Self::FirstColour | Self::SecondColour => Colour::ALL.len(),
            Self::Background => Background::all().len(),
            Self::Style => Style::ALL.len(),
        }
    }

    /// The right answer for a scene; `None` where there is none: a lone thing has no second beside it, and
    /// what kept its own colours was given none.
    pub fn truth(self, truth: &Truth) -> Option<usize> {
        let thing = |i: usize| truth.objects.get(i);
        let object = |thing: &Thing| thing.object as usize;
        let colour = |thing: &Thing| thing.colour.map(|colour| colour as usize);
        match self {
            Self::Layout => Some(Layout::of(truth) as usize),
            Self::First => thing(0).map(object),
            Self::Second => thing(1).map(object),
            Self::FirstColour => thing(0).and_then(colour),
            Self::SecondColour => thing(1).and_then(colour),
            Self::Background => Background::all().iter().position(|&b| b == truth.background),
            Self::Style => Some(truth.style as usize),
        }
    }
}

/// What torch's cross-entropy passes over.
const NOTHING: i64 = -100;

/// The right answers of scenes [N, 7] int64, -100 where there is none.
pub fn labels(truths: &[Truth]) -> Tensor {
    let all: Vec<i64> = truths
        .iter()
        .flat_map(|truth| Question::ALL.map(|q| q.truth(truth).map_or(NOTHING, |i| i as i64)))
        .collect();
    Tensor::from_slice(&all).view([truths.len() as i64, Question::ALL.len() as i64])
}

/// What a judge answers most likely, [B, 7] int64.
pub fn answers(verdict: &Verdict) -> Tensor {
    let best: Vec<Tensor> = verdict.logits.iter().map(|l| l.argmax(-1, false)).collect();
    Tensor::stack(&best, 1).to_device(Device::Cpu)
}

/// The folder of the embedded judge.
pub fn judge_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/judge")
}

/// A judge for scenes of `sample_size` x `sample_size` pixels.
pub fn judge_config(sample_size: i64) -> JudgeConfig {
    JudgeConfig {
        sample_size,
        block_out_channels: vec![32, 64, 128, 160],
        norm_num_groups: 16,
        features: 256,
        answers: Question::ALL.map(|q| q.answers() as i64).to_vec(),
    }
}

/// How often a question has an answer, over scenes' [`labels`]: the inverse of its weight in the loss, so that
/// questions that only pairs have an answer to count as much as the others.
fn shares(labels: &Tensor) -> Result<Vec<f64>> {
    let known = labels.ne(NOTHING).to_kind(Kind::Double);
    Ok(Vec::try_from(known.mean_dim([0i64].as_slice(), false, Kind::Double))?)
}

/// The mean of the questions' cross-entropies, over those scenes for which a question has an answer; `shares`
/// says of how many it has one.
fn judging_loss(verdict: &Verdict, labels: &Tensor, shares: &[f64]) -> Tensor {
    let none = None::<&Tensor>;
    let labels = labels.to_device(verdict.features.device());
    let one = |((logits, truth), share): ((&Tensor, Tensor), &f64)| {
        let sum = logits.cross_entropy_loss(&truth, none, Reduction::Sum, NOTHING, 0.);
        sum / (share.max(1e-3) * truth.size()[0] as f64)
    };
    let all = verdict.logits.iter().zip(labels.unbind(1)).zip(shares);
    Tensor::stack(&all.map(one).collect::<Vec<_>>(), 0).mean(Kind::Float)
}

/// Turns the colours [B, 3, H, W] around the grey axis by `angle` [B, 1, 1, 1], in radians; what leaves [-1, 1]
/// is cut off.
///
/// ```text
/// x = g + cos a (x - g) + sin a / sqrt(3) (1, 1, 1) cross x,   g the mean of x, for each channel
/// ```
/// Rodrigues 1840.
fn turn_hues(image: &Tensor, angle: &Tensor) -> Tensor {
    let grey = image.mean_dim([1i64].as_slice(), true, Kind::Float);
    let channel = |i: i64| image.narrow(1, i % 3, 1);
    let crossed: Vec<Tensor> = (0..3).map(|i| channel(i + 2) - channel(i + 1)).collect();
    let crossed = Tensor::cat(&crossed, 1) / 3f64.sqrt();
    let turned = (image - &grey) * angle.cos() + crossed * angle.sin();
    (grey + turned).clamp(-1., 1.)
}

struct Judging<'a> {
    batch: i64,
    pictures: &'a Tensor,
    labels: Tensor,
}

struct Pupil {
    judge: Judge,
    shares: Vec<f64>,
}

impl Learner for Pupil {
    /// Of pictures in [-1, 1] and what is true of them.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, Parts)> {
        let labels = &batch[1];
        let verdict = self.judge.look(&batch[0])?;
        let right = answers(&verdict).eq_tensor(labels).logical_or(&labels.eq(NOTHING));
        let all = right.all_dim(1, false).to_kind(Kind::Float).mean(Kind::Float);
        let loss = judging_loss(&verdict, labels, &self.shares);
        Ok((loss, vec![("all_right", all.double_value(&[]))]))
    }
}

impl Task for Judging<'_> {
    type Network = Pupil;

    fn batch(&self, seed: i64) -> Result<Vec<Tensor>> {
        let size = self.pictures.size();
        let (float, shape) = ((Kind::Float, Device::Cpu), [self.batch, size[1], size[2], size[3]]);
        let (index, noise, strength, blur, turned, angle) = with_seed(seed, || {
            let index = Tensor::randint(size[0], [self.batch], (Kind::Int64, Device::Cpu));
            let each = || Tensor::rand([self.batch, 1, 1, 1], float);
            (index, Tensor::randn(shape, float), each(), each(), each().lt(0.5), each())
        });
        let [pictures, labels] = [self.pictures, &self.labels].map(|t| t.index_select(0, &index));
        // A little noise and up to half the sharpness lost, so that the judge does not cling to single pixels
        // that a drawing model misses.
        let image = to_range(&pictures);
        let soft = image
            .avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)
            .upsample_bilinear2d(&size[2..], false, None, None);
        let image = &image + (soft - &image) * blur + noise * strength * 0.1;
        // Half of them in other hues and not asked for colours, so that it knows objects by their shape: those
        // in colours that no training scene has must look as familiar as the others.
        let image = turn_hues(&image, &(angle * std::f64::consts::TAU)).where_self(&turned, &image);
        let asked = [Question::FirstColour, Question::SecondColour, Question::Background];
        let colours: Vec<bool> = Question::ALL.iter().map(|q| asked.contains(q)).collect();
        let hidden = turned.view([-1, 1]).logical_and(&Tensor::from_slice(&colours));
        Ok(vec![image, labels.masked_fill(&hidden, NOTHING)])
    }

    /// The pictures of which it is least sure: what is left to learn.
    fn sheet(&self, network: &Pupil, path: &Path) -> Result<()> {
        let count = self.pictures.size()[0].min(256);
        let image = to_range(&self.pictures.narrow(0, 0, count));
        let verdict = no_grad(|| network.judge.look(&image))?;
        let sure: Vec<Tensor> = verdict
            .logits
            .iter()
            .map(|l| l.softmax(-1, Kind::Float).amax([-1i64].as_slice(), false).log())
            .collect();
        let sure = Tensor::stack(&sure, 0).sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
        let shown = count.min(16);
        let (_, order) = sure.to_device(Device::Cpu).topk(shown, 0, false, true);
        super::vae::write_sheet(path, &image.index_select(0, &order), shown.min(8))
    }

    fn export(&self, network: &Pupil, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let (folder, config) = (folder.join("judge"), network.judge.config());
        write_component(&folder, "Judge", config, optimizer.average(), "")
    }
}

/// Trains a judge on u8 pictures [N, 3, H, W] of which `truths` says what is true, and leaves it in
/// `settings.out/model/judge/`.
///
/// # Errors
/// Truths that are not one a picture; whatever [`run`] refuses.
pub fn train_judge(
    pictures: &Tensor,
    truths: &[Truth],
    config: &JudgeConfig,
    settings: &Settings,
    kind: Kind,
    device: Device,
    progress: impl FnMut(&Progress),
) -> Result<()> {
    if pictures.kind() != Kind::Uint8 || pictures.dim() != 4 || pictures.size()[1] != 3 {
        return Err(Error::shape("pictures", "u8 [N, 3, H, W]", &pictures.size()));
    }
    if pictures.size()[0] != truths.len() as i64 {
        let expected = format!("{}, one a picture", pictures.size()[0]);
        return Err(Error::argument("truths", expected, truths.len(), ""));
    }
    let labels = labels(truths);
    let shares = shares(&labels)?;
    let build = || {
        let params = Params::fresh(kind, device);
        let judge = with_seed(settings.seed, || Judge::new(&params, config))?;
        if let Some(folder) = &settings.from {
            begin_from(&params, &folder.join("judge"), |name| Some(name.to_owned()), None)?;
        }
        Ok((params, Pupil { judge, shares: shares.clone() }))
    };
    run(build, settings, &Judging { batch: settings.batch, pictures, labels }, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_a_turn_moves_red_to_green_and_leaves_grey() {
        let colours = Tensor::from_slice(&[1f32, -1., -1., 0.3, 0.3, 0.3]).view([2, 3, 1, 1]);
        let third =
            Tensor::full([2, 1, 1, 1], std::f64::consts::TAU / 3., (Kind::Float, Device::Cpu));
        let turned = Vec::<f32>::try_from(turn_hues(&colours, &third).reshape([-1])).unwrap();
        for (got, expected) in turned.iter().zip([-1f32, 1., -1., 0.3, 0.3, 0.3]) {
            assert!((got - expected).abs() < 1e-5, "{turned:?}");
        }
    }
}
