//! The options of `diffuscope eval`.

use std::path::PathBuf;

use clap::Args;
use diffuscope::{Error, Result};

use crate::options::{ComputeArgs, SamplingArgs, Seed, SplitOption};

#[derive(Args)]
#[command(after_help = "\
Examples:
  diffuscope eval --out scores
  diffuscope eval --guidance 0,1,2,3,5,7,10,15 --count 500 --out curve
  diffuscope eval --split held-out --out held-out
  diffuscope eval --captions data/next/typed.jsonl --out typed
  diffuscope eval --autoencoder --model runs/vae/model --out scores
  diffuscope eval --model runs/diffusion/model --count 200 --dtype bf16 --out scores

Writes scores.json, scores.png and sheet.png: the first pictures of the first guidance scale, with their captions
and what is wrong by the judge's answers. Every share has its 95 % confidence interval (Wilson). The judge is a
classifier trained by `diffuscope train judge`. \"scenes\" and \"reconstructed\" in scores.json tell how often its
answers are right for true scenes, and for true scenes that went through the model's autoencoder: generated pictures
cannot be expected to score higher. If the model's pictures are two or more times as large as the judge's, they are
reduced before they are judged.")]
pub struct EvalArgs {
    /// The model, which must have been trained on scenes: a diffusers folder, or OWNER/NAME on the Hugging Face hub
    /// [default: the embedded model]
    #[arg(long, value_name = "FOLDER|ID")]
    pub model: Option<PathBuf>,
    /// The judge's folder [default: the embedded judge]
    #[arg(long, value_name = "FOLDER")]
    pub judge: Option<PathBuf>,
    /// The folder for the scores, which is created if necessary
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Number of pictures, and of true scenes to compare them with
    #[arg(long, value_name = "N", default_value_t = 2000, allow_negative_numbers = true)]
    pub count: usize,
    /// Seed of the prompts and of the noise; that of the training should be another
    #[arg(long, value_name = "S", default_value = "1000003", allow_negative_numbers = true)]
    pub seed: Seed,
    /// Which captions to use: those the training may have had, those held out of it, or any
    #[arg(long, value_enum, default_value_t = SplitOption::Any)]
    pub split: SplitOption,
    /// Captions of your own instead of the grammar's: a file with a line {"caption", "truth", "form"} for each, as
    /// `diffuscope scenes` writes captions.jsonl. "form" says what the caption says: {"style", "white", "relation"}, all
    /// true where it is missing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "split"])]
    pub captions: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Reverse steps; several numbers, separated by commas, are compared
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "30")]
    pub steps: Vec<usize>,
    /// The training's --seed and --scenes, to check that pictures are not copies of its scenes
    #[arg(long, value_name = "SEED,N", value_delimiter = ',')]
    pub training: Vec<u64>,
    /// Score only the autoencoder and generate nothing; the model's folder then needs only `vae/`
    #[arg(long)]
    pub autoencoder: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

impl EvalArgs {
    /// Refuses what can be refused before a model is opened.
    pub fn check(&self) -> Result<()> {
        if !(16..=100_000).contains(&self.count) {
            return Err(Error::argument("--count", "16 to 100000", self.count));
        }
        self.sampling.check()?;
        match self.training[..] {
            [] | [_, 1..=1_000_000] => Ok(()),
            _ => {
                let got = format!("{:?}", self.training);
                Err(Error::argument("--training", "SEED,N with 1 to 1000000 scenes", got))
            }
        }
    }
}
