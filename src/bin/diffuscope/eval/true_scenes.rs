//! The true scenes that a model's pictures are compared with.

use diffuscope::Result;
use diffuscope::scenes::{CaptionForm, Scenes, Split, Truth};
use tch::Tensor;

use crate::terminal::bar;

/// Scenes: their captions are the prompts.
pub struct TrueScenes {
    pub captions: Vec<String>,
    pub truths: Vec<(Truth, CaptionForm)>,
    /// In [-1, 1].
    pub images: Tensor,
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
}
