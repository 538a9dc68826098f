//! What `diffuscope eval` found out about a model: `scores.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A share of a number of trials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many trials succeeded.
    pub right: u64,
    /// How many there were.
    pub of: u64,
    /// `right / of`; 0 where there was none.
    pub share: f64,
    /// The lower end of its interval of 95 %.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Share {
    /// Counts, with the interval of Wilson 1927:
    ///
    /// ```text
    /// (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   z = 1.96
    /// ```
    pub fn of(trials: impl IntoIterator<Item = bool>) -> Self {
        let (mut right, mut of) = (0, 0);
        for trial in trials {
            right += u64::from(trial);
            of += 1;
        }
        if of == 0 {
            return Self { high: 1., ..Self::default() };
        }
        let (n, z) = (of as f64, 1.96);
        let p = right as f64 / n;
        let middle = p + z * z / (2. * n);
        let half = z * (p * (1. - p) / n + z * z / (4. * n * n)).sqrt();
        let scale = 1. + z * z / n;
        let low = ((middle - half) / scale).max(0.);
        Self { right, of, share: p, low, high: ((middle + half) / scale).min(1.) }
    }
}

/// Prompt match: the shares of pictures that show what their captions say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PromptMatch {
    /// Single things: the object.
    pub object: Share,
    /// Single things of a named colour: the colour.
    pub colour: Share,
    /// All pictures: the background.
    pub background: Share,
    /// Captions that name the style: the style.
    pub style: Share,
    /// Single things: everything at once.
    pub single: Share,
    /// Two or three of a kind: the count.
    pub count: Share,
    /// Pairs: both objects, wherever they stand.
    pub pair_objects: Share,
    /// Pairs with a named colour: every colour on its object.
    pub pair_colours: Share,
    /// Pairs with both objects there: left of, or above, in the right order.
    pub relation: Share,
    /// Pairs: everything at once.
    pub pair: Share,
    /// All pictures: everything at once.
    pub caption: Share,
}

/// Held-out combinations against the same kind of caption with trained ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Composition {
    /// Object and colour both right, of single things in a held-out colour.
    pub held_out_colour: Share,
    /// The same, in a trained colour.
    pub trained_colour: Share,
    /// Both objects there, of held-out pairs.
    pub held_out_pair: Share,
    /// The same, of trained pairs.
    pub trained_pair: Share,
}

/// Distances to the nearest training latents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memorisation {
    /// The 5th, 50th and 95th hundredth of drawn pictures.
    pub drawn: [f64; 3],
    /// The same of fresh true scenes.
    pub fresh: [f64; 3],
    /// 0: one distribution; 1: apart.
    pub kolmogorov_smirnov: f64,
}

/// The pictures of one guidance scale and number of steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drawn {
    /// How they were drawn.
    pub sampler: String,
    /// In how many steps.
    pub num_inference_steps: usize,
    /// At which guidance scale.
    pub guidance_scale: f64,
    /// What the judge says of them.
    pub prompt_match: PromptMatch,
    /// What it says of held-out combinations.
    pub composition: Composition,
    /// Between the judge's features of drawn pictures and of true scenes of other captions, in parts of the
    /// variance of the latter in all directions together.
    pub frechet_distance: f64,
    /// Its standard deviation, over ten resamplings.
    pub frechet_deviation: f64,
    /// Mean distance of features of pictures of one prompt, over that of true scenes of one caption.
    pub diversity: f64,
    /// Whether pictures are drawn from memory, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memorisation: Option<Memorisation>,
}

/// `scores.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scores {
    /// The model's folder.
    pub model: String,
    /// The judge's.
    pub judge: String,
    /// Which captions: `train`, `held-out` or `any`.
    pub split: String,
    /// The number of pictures of each of [`Scores::drawn`].
    pub count: usize,
    /// The seed of the captions and of the noise.
    pub seed: u64,
    /// What the model computed in.
    pub dtype: String,
    /// The judge on true scenes.
    pub scenes: PromptMatch,
    /// The judge on true scenes that went through the autoencoder: what drawn pictures could score at best.
    pub reconstructed: PromptMatch,
    /// Of the autoencoder on true scenes, in dB: the mean over pictures.
    pub psnr: f64,
    /// Of the true scenes of the same captions: what a perfect model would score.
    pub frechet_floor: f64,
    /// One entry for each guidance scale and number of steps.
    pub drawn: Vec<Drawn>,
}

impl Scores {
    /// Reads a `scores.json`.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_str(&text).map_err(|e| Error::config(path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_s_interval_is_the_textbook_s() {
        let share = Share::of((0..10).map(|i| i < 8));
        assert_eq!((share.right, share.of, share.share), (8, 10, 0.8));
        assert!(
            (share.low - 0.4902).abs() < 1e-3 && (share.high - 0.9433).abs() < 1e-3,
            "{share:?}"
        );
        let none = Share::of([]);
        assert_eq!((none.of, none.low, none.high), (0, 0., 1.));
    }
}
