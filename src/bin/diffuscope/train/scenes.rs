//! The scenes that are trained on.

use diffuscope::device::check_memory;
use diffuscope::scenes::{Scenes, Split, Truth};
use diffuscope::{Error, Result, interrupt};
use tch::{Device, Tensor};

use super::args::TrainArgs;
use crate::terminal::bar;

/// The most scenes of one training, or one evaluation of it.
pub const MOST_SCENES: usize = 10_000_000;

/// Pictures, with their captions and truths. None of them shows a held-out combination.
pub struct TrainingScenes {
    /// u8 [N, 3, size, size]
    pub pictures: Tensor,
    pub captions: Vec<String>,
    pub truths: Vec<Truth>,
}

impl TrainingScenes {
    pub fn compose(args: &TrainArgs) -> Result<Self> {
        let &TrainArgs { scenes: count, size, seed, .. } = args;
        if !(1..=MOST_SCENES).contains(&count) {
            return Err(Error::argument("--scenes", format!("1 to {MOST_SCENES}"), count));
        }
        // Large sprites take a minute: memory comes first.
        if size <= Scenes::LARGEST {
            // The pixels, and their copies in another order.
            let bytes = 9. * count as f64 * (size as f64).powi(2);
            check_memory(Device::Cpu, format!("{count} scenes of {size} pixels"), bytes)
                .map_err(|e| e.hint("train on fewer scenes, or on smaller ones"))?;
        }
        let scenes = Scenes::new(size)?;
        let bar = bar(count as u64, "composing scenes {bar:30} {pos}/{len} {eta}");
        let mut pixels = Vec::with_capacity(count * size * size * 3);
        let (mut captions, mut truths) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for i in 0..count {
            interrupt::check(|| format!("after {i} of {count} scenes"))?;
            let seed = seed.unsigned().wrapping_mul(1 << 32).wrapping_add(i as u64);
            let scene = scenes.scene(seed, Split::Train)?;
            pixels.extend_from_slice(&scene.picture.pixels);
            captions.push(scene.caption);
            truths.push(scene.truth);
            bar.inc(1);
        }
        bar.finish();
        let (n, side) = (count as i64, size as i64);
        let pictures = Tensor::from_slice(&pixels).view([n, side, side, 3]).permute([0, 3, 1, 2]);
        Ok(Self { pictures: pictures.contiguous(), captions, truths })
    }
}
