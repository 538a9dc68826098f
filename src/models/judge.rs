//! The judge: a small classifier of scenes, whose answers score pictures.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::layers::{Conv2d, GroupNorm, Linear, ResnetBlock};
use crate::device::{self, put};
use crate::memory::guarded;
use crate::models::params::{Params, channels_last};
use crate::short::Few;
use crate::tensor_file::{read_config, weight_files};
use crate::{Error, Result};

const EPS: f64 = 1e-5;

/// The judge's `config.json`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeConfig {
    /// The side of the pictures, in pixels.
    pub sample_size: i64,
    /// Channels of each level; every level halves the picture first.
    pub block_out_channels: Vec<i64>,
    /// The number of groups of the group norms.
    pub norm_num_groups: i64,
    /// Length of the feature vector that every answer is computed from.
    pub features: i64,
    /// The number of possible answers to each question.
    pub answers: Vec<i64>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Judge of {:?}", self.config)
    }
}

impl fmt::Debug for JudgeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JudgeConfig")
            .field("sample_size", &self.sample_size)
            .field("block_out_channels", &Few(&self.block_out_channels))
            .field("features", &self.features)
            .field("answers", &Few(&self.answers))
            .finish_non_exhaustive()
    }
}

impl JudgeConfig {
    /// The side of the last level's feature map.
    fn cells(&self) -> i64 {
        self.sample_size >> self.block_out_channels.len()
    }

    fn check(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        let fits = (1..=8).contains(&levels) && self.cells() << levels == self.sample_size;
        if !fits || !(2..=4096).contains(&self.sample_size) {
            let expected = format!("a multiple of 2^{levels} up to 4096, with 1 to 8 levels");
            return Err(Error::argument("sample_size", expected, self.sample_size));
        }
        let groups = self.norm_num_groups.max(1);
        let counts = [("features", self.features), ("norm_num_groups", self.norm_num_groups)];
        let widths = self.block_out_channels.iter().map(|&n| ("block_out_channels", n));
        let answers = self.answers.iter().map(|&n| ("answers", n));
        for (name, value) in counts.into_iter().chain(widths.clone()).chain(answers) {
            if !(1..=1 << 14).contains(&value) {
                return Err(Error::argument(name, "a count of 1 or more", value));
            }
        }
        match widths.map(|(_, n)| n).find(|n| n % groups != 0) {
            Some(n) => Err(Error::argument(
                "block_out_channels",
                format!("multiples of norm_num_groups {groups}"),
                n,
            )),
            None => Ok(()),
        }
    }
}

/// What the judge computes from pictures.
pub struct JudgeOutput {
    /// The vector that the answers are computed from, [B, features], in f32.
    pub features: Tensor,
    /// The logits of each question's answers, [B, n], in f32.
    pub logits: Vec<Tensor>,
}

impl fmt::Debug for JudgeOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (features, questions) = (self.features.size(), self.logits.len());
        write!(f, "JudgeOutput {{ features: {features:?}, {questions} questions }}")
    }
}

struct JudgeLevel {
    down: Conv2d,
    resnet: ResnetBlock,
}

/// The classifier: a strided convolution and a residual block at every level, then one feature vector of the
/// whole picture, and a linear layer from it to the answers of every question.
pub struct Judge {
    config: JudgeConfig,
    levels: Vec<JudgeLevel>,
    norm: GroupNorm,
    features: Linear,
    answers: Vec<Linear>,
    kind: Kind,
    device: Device,
}

impl Judge {
    /// Builds the judge from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built, or weights that do not fit it.
    pub fn new(params: &Params, config: &JudgeConfig) -> Result<Self> {
        config.check()?;
        let groups = config.norm_num_groups;
        let mut inputs = 3;
        let level = |(i, &width): (usize, &i64)| {
            let params = params / "levels" / i;
            let from = std::mem::replace(&mut inputs, width);
            JudgeLevel {
                down: Conv2d::strided(&(&params / "down"), from, width, 3, 2, 1),
                resnet: ResnetBlock::new(&(&params / "resnet"), width, width, None, groups, EPS),
            }
        };
        let levels = config.block_out_channels.iter().enumerate().map(level).collect();
        let (last, side) = (inputs, config.cells());
        let answer =
            |(i, &n): (usize, &i64)| Linear::new(&(params / "answers" / i), config.features, n);
        let judge = Self {
            levels,
            norm: GroupNorm::new(&(params / "norm"), groups, last, EPS),
            features: Linear::new(&(params / "features"), last * side * side, config.features),
            answers: config.answers.iter().enumerate().map(answer).collect(),
            config: config.clone(),
            kind: params.kind(),
            device: params.device(),
        };
        params.finish()?;
        Ok(judge)
    }

    /// Opens a folder with `config.json` and weights.
    ///
    /// # Errors
    /// As [`Judge::new`], and files that cannot be read.
    pub fn open(folder: impl AsRef<Path>, kind: Kind, device: Device) -> Result<Self> {
        let path = folder.as_ref().join("config.json");
        let config = read_config(&path)?;
        let params = Params::open(&weight_files(&folder)?, kind, device)?;
        Self::new(&params, &config).map_err(|e| e.in_config(&path))
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &JudgeConfig {
        &self.config
    }

    /// The feature map of every level: `[B, widths[i], H / 2^(i + 1), W / 2^(i + 1)]` for level i.
    ///
    /// # Shapes
    /// `image` [B, 3, H, W] in [-1, 1]; the levels are convolutions, so sides may be any multiple of 2^levels.
    /// # Errors
    /// Sides that the levels cannot halve.
    pub fn feature_maps(&self, image: &Tensor) -> Result<Vec<Tensor>> {
        let (size, whole) = (image.size(), 1 << self.levels.len());
        let halves = |side: &i64| *side > 0 && side % whole == 0;
        if size.len() != 4 || size[1] != 3 || !size[2..].iter().all(halves) {
            let expected = format!("[B, 3, H, W] with sides that are multiples of {whole}");
            return Err(Error::shape("image", expected, &size));
        }
        let doing = || format!("judging {} pictures on {}", size[0], device::name(self.device));
        guarded(doing, "judge fewer pictures at once", || {
            let mut h = channels_last(&put(image, self.kind, self.device));
            let mut all = Vec::new();
            for level in &self.levels {
                h = level.resnet.forward(&level.down.forward(&h), None);
                all.push(h.shallow_clone());
            }
            Ok(all)
        })
    }

    /// The features of pictures, and the logits of every question's answers.
    ///
    /// # Shapes
    /// `image` [B, 3, H, W] in [-1, 1], with H and W equal to the configuration's `sample_size`.
    /// # Errors
    /// Pictures of another size.
    pub fn forward(&self, image: &Tensor) -> Result<JudgeOutput> {
        let (size, side) = (image.size(), self.config.sample_size);
        if size.len() != 4 || size[1..] != [3, side, side] {
            return Err(Error::shape("image", format!("[B, 3, {side}, {side}]"), &size));
        }
        let h = self.feature_maps(image)?.pop().unwrap_or_else(|| image.shallow_clone());
        let h = self.norm.forward(&h).silu().flatten(1, -1);
        let features = self.features.forward(&h).silu();
        let wide = |x: &Tensor| x.to_kind(Kind::Float);
        let logits = self.answers.iter().map(|answer| wide(&answer.forward(&features))).collect();
        Ok(JudgeOutput { features: wide(&features), logits })
    }
}
