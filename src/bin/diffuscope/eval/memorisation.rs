//! Whether pictures are copies of the training's scenes: distances to the nearest training latents.

use diffuscope::Result;
use diffuscope::device::check_memory;
use diffuscope::eval::distances::{kolmogorov_smirnov, nearest_distances};
use diffuscope::eval::scores::Memorisation;
use diffuscope::models::vae::Vae;
use diffuscope::scenes::{Scenes, Split};
use tch::{Device, Kind, Tensor, no_grad};

use super::latents::{encode, flatten};
use super::true_scenes::scene_seed;
use crate::terminal::bar;

/// Scenes encoded at once.
const BATCH: u64 = 50;

/// The latents of the training's scenes, and the distances of fresh true scenes to them.
pub struct TrainingLatents {
    latents: Tensor,
    fresh_distances: Tensor,
}

impl TrainingLatents {
    /// Encodes the `count` scenes of the training with the seed `seed`. `fresh` are pictures of other scenes.
    pub fn encode(
        scenes: &Scenes,
        vae: &Vae,
        seed: u64,
        count: u64,
        fresh: &Tensor,
    ) -> Result<Self> {
        let bytes =
            8. * count as f64 * flatten(&encode(vae, &fresh.narrow(0, 0, 1))?).numel() as f64;
        check_memory(Device::Cpu, format!("the latents of {count} scenes"), bytes)?;
        let bar = bar(count, "training scenes {bar:30} {pos}/{len} {eta}");
        let mut latents = Vec::new();
        for start in (0..count).step_by(BATCH as usize) {
            let mut images = Vec::new();
            for i in start..count.min(start + BATCH) {
                let scene = scenes.scene(scene_seed(seed, i), Split::Train)?;
                images.push(scene.picture.to_tensor()?);
                bar.inc(1);
            }
            latents.push(flatten(&no_grad(|| vae.encode(&Tensor::cat(&images, 0)))?));
        }
        bar.finish_and_clear();
        let latents = Tensor::cat(&latents, 0);
        let fresh_distances = nearest_distances(&flatten(&encode(vae, fresh)?), &latents)?;
        Ok(Self { latents, fresh_distances })
    }

    /// Compares drawn latents [N, d] with fresh ones.
    pub fn compare(&self, drawn: &Tensor) -> Result<Memorisation> {
        let drawn = numbers(&nearest_distances(drawn, &self.latents)?)?;
        let fresh = numbers(&self.fresh_distances)?;
        let kolmogorov_smirnov = kolmogorov_smirnov(&drawn, &fresh)?;
        Ok(Memorisation {
            drawn: percentiles(drawn),
            fresh: percentiles(fresh),
            kolmogorov_smirnov,
        })
    }
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(x.to_kind(Kind::Double))?)
}

/// The 5th, 50th and 95th.
fn percentiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [5, 50, 95].map(|k| values[(values.len() - 1) * k / 100])
}
