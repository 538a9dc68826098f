//! The questions that a judge answers about a scene, and the right answers.

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use crate::models::judge::{JudgeConfig, JudgeOutput};
use crate::scenes::{Background, Colour, Object, Relation, SpriteStyle, Thing, Truth};

/// How many things there are, and where.
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
    /// All of them.
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

/// The questions that a judge answers, in the order of its answers. The first thing is the one further left
/// or further up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// How many things are there, and where?
    Layout,
    /// What is the first thing?
    First,
    /// What is the second thing?
    Second,
    /// What colour was the first thing given?
    FirstColour,
    /// What colour was the second thing given?
    SecondColour,
    /// What is the background?
    Background,
    /// What is the drawing style?
    Style,
}

impl Question {
    /// All of them, in the order of a judge's answers.
    pub const ALL: [Self; 7] = [
        Self::Layout,
        Self::First,
        Self::Second,
        Self::FirstColour,
        Self::SecondColour,
        Self::Background,
        Self::Style,
    ];

    /// The word for it in tables.
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
            Self::Style => SpriteStyle::ALL.len(),
        }
    }

    /// The right answer for a scene. `None` if there is none: a single thing has no second thing, and a thing
    /// in its own colours was not given a colour.
    pub fn right_answer(self, truth: &Truth) -> Option<usize> {
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

/// The label that torch's cross-entropy ignores.
pub(crate) const NO_ANSWER: i64 = -100;

/// The right answers for scenes, [N, 7] int64; -100 where there is none.
pub fn labels(truths: &[Truth]) -> Tensor {
    let all: Vec<i64> = truths
        .iter()
        .flat_map(|truth| {
            Question::ALL.map(|q| q.right_answer(truth).map_or(NO_ANSWER, |i| i as i64))
        })
        .collect();
    Tensor::from_slice(&all).view([truths.len() as i64, Question::ALL.len() as i64])
}

/// A judge's most likely answers, [B, 7] int64.
pub fn answers(output: &JudgeOutput) -> Tensor {
    best_answers(output).to_device(Device::Cpu)
}

/// The same, on the judge's device.
pub(crate) fn best_answers(output: &JudgeOutput) -> Tensor {
    let best: Vec<Tensor> = output.logits.iter().map(|l| l.argmax(-1, false)).collect();
    Tensor::stack(&best, 1)
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
