//! `scores.json`: what `diffuscope eval` measures of a model.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::short::{Digits, Start};
use crate::{Error, Result};

/// The share of trials that succeeded.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many trials succeeded.
    pub right: u64,
    /// How many there were.
    pub of: u64,
    /// `right / of`; 0 if there were no trials.
    pub share: f64,
    /// The lower end of its 95 % confidence interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [share, low, high] = [self.share, self.low, self.high].map(Digits);
        write!(f, "{} of {} ({share}, {low} to {high})", self.right, self.of)
    }
}

impl Share {
    /// The share of true `trials`, with the interval of Wilson 1927:
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
#[derive(Clone, Serialize, Deserialize)]
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
    /// Pairs: both objects, in either order.
    pub pair_objects: Share,
    /// Pairs with a named colour: every colour on its object.
    pub pair_colours: Share,
    /// Pairs with both objects right: left of, or above, in the right order.
    pub relation: Share,
    /// Pairs: everything at once.
    pub pair: Share,
    /// All pictures: everything at once.
    pub caption: Share,
}

impl fmt::Debug for PromptMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PromptMatch {{ caption: {:?}, single: {:?}, pair: {:?}, .. }}",
            self.caption, self.single, self.pair
        )
    }
}

/// Held-out combinations, compared with trained ones in the same kinds of captions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Composition {
    /// Object and colour both right, of single things in a held-out colour.
    pub held_out_colour: Share,
    /// The same, in a trained colour.
    pub trained_colour: Share,
    /// Both objects right, of held-out pairs.
    pub held_out_pair: Share,
    /// The same, of trained pairs.
    pub trained_pair: Share,
}

/// Whether pictures are copies of training pictures: distances to the nearest training latents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memorisation {
    /// The 5th, 50th and 95th percentile for drawn pictures.
    pub drawn: [f64; 3],
    /// The same for fresh true scenes.
    pub fresh: [f64; 3],
    /// 0: both have one distribution; 1: they do not overlap.
    pub kolmogorov_smirnov: f64,
}

/// The scores of the pictures of one guidance scale and one number of steps.
#[derive(Clone, Serialize, Deserialize)]
pub struct SettingScores {
    /// The sampler.
    pub sampler: String,
    /// The number of steps.
    pub num_inference_steps: usize,
    /// The guidance scale.
    pub guidance_scale: f64,
    /// Prompt match, by the judge's answers.
    pub prompt_match: PromptMatch,
    /// Prompt match of held-out and of trained combinations.
    pub composition: Composition,
    /// The Fréchet distance between the judge's features of drawn pictures and of true scenes with other
    /// captions, divided by the total variance of the latter.
    pub frechet_distance: f64,
    /// Its standard deviation over ten resamplings.
    pub frechet_deviation: f64,
    /// The mean distance between the features of one prompt's pictures, divided by that of one caption's true
    /// scenes.
    pub diversity: f64,
    /// The share of pictures that are some scene, whatever the caption says: see [`super::validity::Validity`]. `None` in
    /// files that are older than this measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Share>,
    /// Whether pictures are copies of training pictures, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memorisation: Option<Memorisation>,
}

impl fmt::Debug for SettingScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sampler, num_inference_steps: steps, guidance_scale: scale, .. } = self;
        let [distance, diversity] = [self.frechet_distance, self.diversity].map(Digits);
        write!(
            f,
            "SettingScores {{ {sampler}, {steps} steps, guidance {scale}: {:?}, Fréchet {distance}, diversity {diversity} }}",
            self.prompt_match.caption
        )
    }
}

/// `scores.json`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Scores {
    /// The model's folder.
    pub model: String,
    /// The judge's.
    pub judge: String,
    /// Which captions: `train`, `held-out` or `any`.
    pub split: String,
    /// The file that the captions are from, if they are not the grammar's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<String>,
    /// The number of pictures of each of [`Scores::drawn`].
    pub count: usize,
    /// The seed of the captions and of the noise.
    pub seed: u64,
    /// The dtype that the model computed in.
    pub dtype: String,
    /// Prompt match of true scenes: what the judge can tell.
    pub scenes: PromptMatch,
    /// Prompt match of true scenes that went through the autoencoder: the best that drawn pictures can score.
    pub reconstructed: PromptMatch,
    /// PSNR of the autoencoder on true scenes, in dB: the mean over pictures.
    pub psnr: f64,
    /// The Fréchet distance of true scenes with the same captions: what a perfect model would score.
    pub frechet_floor: f64,
    /// One entry for each guidance scale and number of steps.
    pub drawn: Vec<SettingScores>,
}

impl fmt::Debug for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, count, settings) = (Start(&self.model), self.count, self.drawn.len());
        write!(f, "Scores {{ {model:?}, {count} pictures of each of {settings} settings }}")
    }
}

impl Scores {
    /// Reads a `scores.json`.
    ///
    /// # Errors
    /// A file that cannot be read or that has other contents.
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
