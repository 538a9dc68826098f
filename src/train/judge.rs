//! The judge's training: scenes in, what is true of them out.

use std::path::Path;

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::run::begin_from;
use super::scenes::{Background, Colour, Object, Relation, Style, Thing, Truth};
use super::vae::{to_range, write_component};
use super::{Optimizer, Progress, Settings, Task, run};
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

/// The mean of the questions' cross-entropies, of those scenes for which a question has an answer.
pub fn judging_loss(verdict: &Verdict, labels: &Tensor) -> Tensor {
    let none = None::<&Tensor>;
    let one = |(logits, truth): (&Tensor, Tensor)| {
        let known = truth.ne(NOTHING).sum(Kind::Float).clamp_min(1.);
        let truth = truth.to_device(logits.device());
        let sum = logits.cross_entropy_loss(&truth, none, Reduction::Sum, NOTHING, 0.);
        sum / known.to_device(logits.device())
    };
    let all: Vec<Tensor> = verdict.logits.iter().zip(labels.unbind(1)).map(one).collect();
    Tensor::stack(&all, 0).mean(Kind::Float)
}

struct Judging<'a> {
    judge: Judge,
    batch: i64,
    pictures: &'a Tensor,
    labels: &'a Tensor,
}

impl Task for Judging<'_> {
    fn loss(&self, seed: i64) -> Result<(Tensor, Vec<(&'static str, f64)>)> {
        let size = self.pictures.size();
        let (index, noise, strength) = with_seed(seed, || {
            let index = Tensor::randint(size[0], [self.batch], (Kind::Int64, Device::Cpu));
            let shape = [self.batch, size[1], size[2], size[3]];
            let noise = Tensor::randn(shape, (Kind::Float, Device::Cpu));
            (index, noise, Tensor::rand([self.batch, 1, 1, 1], (Kind::Float, Device::Cpu)))
        });
        // A little noise, so that the judge does not cling to single pixels that a drawing model misses.
        let image = to_range(&self.pictures.index_select(0, &index)) + noise * strength * 0.1;
        let labels = self.labels.index_select(0, &index);
        let verdict = self.judge.look(&image)?;
        let right = answers(&verdict).eq_tensor(&labels).logical_or(&labels.eq(NOTHING));
        let all = right.all_dim(1, false).to_kind(Kind::Float).mean(Kind::Float);
        Ok((judging_loss(&verdict, &labels), vec![("all_right", all.double_value(&[]))]))
    }

    /// The pictures of which it is least sure: what is left to learn.
    fn sheet(&self, path: &Path) -> Result<()> {
        let count = self.pictures.size()[0].min(256);
        let image = to_range(&self.pictures.narrow(0, 0, count));
        let verdict = no_grad(|| self.judge.look(&image))?;
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

    fn export(&self, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let folder = folder.join("judge");
        write_component(&folder, "Judge", self.judge.config(), optimizer.average(), "")
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
    let params = Params::fresh(kind, device);
    let judge = with_seed(settings.seed, || Judge::new(&params, config))?;
    if let Some(folder) = &settings.from {
        begin_from(&params, "", &folder.join("judge"), None)?;
    }
    let task = Judging { judge, batch: settings.batch, pictures, labels: &labels(truths) };
    run(&params, settings, &task, progress)
}
