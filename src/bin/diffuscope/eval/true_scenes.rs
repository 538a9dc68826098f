//! The true scenes that a model's pictures are compared with.

use std::path::Path;

use diffuscope::scenes::{CaptionForm, Scenes, Split, Truth};
use diffuscope::{Error, Result};
use serde::Deserialize;
use tch::Tensor;

use crate::terminal::bar;

/// Scenes: their captions are the prompts.
pub struct TrueScenes {
    pub captions: Vec<String>,
    pub truths: Vec<(Truth, CaptionForm)>,
    /// In [-1, 1].
    pub images: Tensor,
}

/// A caption that somebody wrote, and a scene that it is true of.
#[derive(Deserialize)]
struct OwnCaption {
    caption: String,
    truth: Truth,
    #[serde(default = "says_all")]
    form: CaptionForm,
}

fn says_all() -> CaptionForm {
    CaptionForm { style: true, white: true, relation: true }
}

/// The captions and truths of a file with one of them a line.
pub fn read_captions(path: &Path) -> Result<Vec<(String, Truth, CaptionForm)>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(i, line): (usize, &str)| {
        let line: std::result::Result<OwnCaption, _> = serde_json::from_str(line);
        let OwnCaption { caption, truth, form } =
            line.map_err(|e| Error::config(path, format!("line {}: {e}", i + 1)))?;
        Ok((caption, truth, form))
    };
    let all: Vec<_> = lines.map(read).collect::<Result<_>>()?;
    match all.len() {
        16..=100_000 => Ok(all),
        n => Err(Error::argument("--captions", "a file of 16 to 100000 captions", n)),
    }
}

/// The seed of scene `i` of a training or an evaluation with the seed `seed`. No scene belongs to two of them.
pub fn scene_seed(seed: u64, i: u64) -> u64 {
    seed.wrapping_mul(1 << 32).wrapping_add(i)
}

impl TrueScenes {
    pub fn compose(scenes: &Scenes, count: usize, seed: u64, split: Split) -> Result<Self> {
        let bar = bar(count as u64, "composing scenes {bar:30} {pos}/{len} {eta}");
        let (mut captions, mut truths, mut images) = (vec![], vec![], vec![]);
        for i in 0..count as u64 {
            let seed = scene_seed(seed, i);
            let scene = scenes.scene(seed, split)?;
            let (_, truth, form) = scenes.describe(seed, split)?;
            captions.push(scene.caption);
            truths.push((truth, form));
            images.push(scene.picture.to_tensor()?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self { captions, truths, images: Tensor::cat(&images, 0) })
    }

    /// Scenes of given truths, with the captions that somebody wrote for them.
    pub fn of(scenes: &Scenes, all: &[(String, Truth, CaptionForm)], seed: u64) -> Result<Self> {
        let (mut captions, mut truths, mut images) = (vec![], vec![], vec![]);
        for ((caption, truth, form), i) in all.iter().zip(0..) {
            captions.push(caption.clone());
            truths.push((truth.clone(), *form));
            images.push(scenes.render(truth, scene_seed(seed, i))?.to_tensor()?);
        }
        Ok(Self { captions, truths, images: Tensor::cat(&images, 0) })
    }
}
