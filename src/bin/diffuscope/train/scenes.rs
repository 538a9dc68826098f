//! The scenes that are trained on.

use std::ops::Range;
use std::thread;

use diffuscope::device::check_memory;
use diffuscope::picture::Rgb8;
use diffuscope::scenes::{CaptionForm, Scenes, Split, Truth, paraphrase};
use diffuscope::{Error, Result, interrupt};
use indicatif::ProgressBar;
use tch::{Device, Tensor};

use super::args::TrainArgs;
use crate::terminal::bar;

/// The most scenes of one training, or one evaluation of it.
pub const MOST_SCENES: usize = 10_000_000;

/// Composes pictures, with their captions and truths. None of them shows a held-out combination.
pub struct Composer {
    scenes: Scenes,
    count: usize,
    most: usize,
    seed: u64,
    bar: ProgressBar,
}

/// Some of them.
pub struct TrainingScenes {
    /// u8 [N, 3, size, size]
    pub pictures: Tensor,
    /// Half of them in the grammar's own words, half as other people would say it.
    pub captions: Vec<String>,
    pub truths: Vec<Truth>,
}

impl Composer {
    /// For up to `most` scenes at a time.
    pub fn new(args: &TrainArgs, most: usize) -> Result<Self> {
        let &TrainArgs { scenes: count, size, seed, .. } = args;
        if !(1..=MOST_SCENES).contains(&count) {
            return Err(Error::argument("--scenes", format!("1 to {MOST_SCENES}"), count));
        }
        // Large sprites take a minute: memory comes first.
        let most = most.clamp(1, count);
        if size <= Scenes::LARGEST {
            // The pixels, and their copies in another order.
            let bytes = 9. * most as f64 * (size as f64).powi(2);
            check_memory(Device::Cpu, format!("{most} scenes of {size} pixels"), bytes)
                .map_err(|e| e.hint("train on fewer scenes, or on smaller ones"))?;
        }
        let bar = bar(count as u64, "composing scenes {bar:30} {pos}/{len} {eta}");
        Ok(Self { scenes: Scenes::new(size)?, count, most, seed: seed.unsigned(), bar })
    }

    /// All of them, a part at a time.
    pub fn parts(&self) -> impl Iterator<Item = Result<TrainingScenes>> {
        let part = |start| self.compose(start..self.count.min(start + self.most));
        (0..self.count).step_by(self.most).map(part)
    }

    /// Composes these, on all cores.
    fn compose(&self, range: Range<usize>) -> Result<TrainingScenes> {
        interrupt::check(|| format!("after {} of {} scenes", range.start, self.count))?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let each = range.len().div_ceil(cores).max(1);
        let shares = range.clone().step_by(each).map(|start| start..range.end.min(start + each));
        let shares: Vec<Result<Vec<_>>> = thread::scope(|scope| {
            let composed: Vec<_> = shares
                .map(|share| scope.spawn(move || share.map(|i| self.scene(i)).collect()))
                .collect();
            composed
                .into_iter()
                .map(|core| core.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let (mut pixels, mut captions, mut truths) = (Vec::new(), Vec::new(), Vec::new());
        for share in shares {
            for (picture, caption, truth) in share? {
                pixels.extend_from_slice(&picture.pixels);
                captions.push(caption);
                truths.push(truth);
            }
        }
        let (n, side) = (truths.len() as i64, self.scenes.size() as i64);
        let pictures = Tensor::from_slice(&pixels).view([n, side, side, 3]).permute([0, 3, 1, 2]);
        Ok(TrainingScenes { pictures: pictures.contiguous(), captions, truths })
    }

    fn scene(&self, i: usize) -> Result<(Rgb8, String, Truth)> {
        interrupt::check(|| format!("while {} scenes were composed", self.count))?;
        let seed = self.seed.wrapping_mul(1 << 32).wrapping_add(i as u64);
        let scene = self.scenes.scene(seed, Split::Train)?;
        let caption = match i % 2 {
            0 => scene.caption,
            _ => {
                let (.., form) = self.scenes.describe(seed, Split::Train)?;
                // Of a pair, one caption in six says only that both are there.
                let form = CaptionForm { relation: i % 12 != 1, ..form };
                paraphrase(&scene.truth, form, seed)
            }
        };
        self.bar.inc(1);
        Ok((scene.picture, caption, scene.truth))
    }
}

impl TrainingScenes {
    /// All scenes at once.
    pub fn compose(args: &TrainArgs) -> Result<Self> {
        let composer = Composer::new(args, args.scenes)?;
        composer.compose(0..composer.count)
    }
}

impl Drop for Composer {
    fn drop(&mut self) {
        self.bar.finish();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: TrainArgs,
    }

    /// Whatever the number of cores, and of the scenes in a part.
    #[test]
    fn parts_are_all_scenes_in_their_order() -> Result<()> {
        let words = "x --out x --steps 1 --scenes 11 --size 16 --seed 3".split(' ');
        let args = Alone::parse_from(words).args;
        let whole = TrainingScenes::compose(&args)?;
        assert_eq!((whole.pictures.size()[0], whole.captions.len()), (11, 11));
        for most in [1, 4, 11, 100] {
            let composer = Composer::new(&args, most)?;
            let parts = composer.parts().collect::<Result<Vec<_>>>()?;
            let pictures: Vec<&Tensor> = parts.iter().map(|part| &part.pictures).collect();
            assert!(Tensor::cat(&pictures, 0).equal(&whole.pictures), "{most}");
            let captions = parts.iter().flat_map(|part| &part.captions);
            assert!(captions.eq(&whole.captions), "{most}");
            assert!(parts.iter().flat_map(|part| &part.truths).eq(&whole.truths), "{most}");
        }
        let scenes = Scenes::new(16)?;
        for (i, caption) in (0..).zip(&whole.captions) {
            let own = scenes.describe((3 << 32) + i, Split::Train)?.0;
            assert_eq!(*caption == own, i % 2 == 0, "{caption} for {own}");
        }
        Ok(())
    }
}
