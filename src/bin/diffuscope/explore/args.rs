//! The options of `diffuscope explore`, and the request that they make.

use std::path::PathBuf;

use clap::Args;
use diffuscope::explore::{FILE_LIMIT, FULL_LIMIT};
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::sampler::Sampler;
use diffuscope::{Error, Result};

use crate::options::{ComputeArgs, Seed};

/// The guidance scales of a page whose numbers fit several times; of a larger model fewer are drawn.
const SCALES: [&[f64]; 3] = [&[0., 1., 3., 7., 15.], &[1., 7.], &[7.]];

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ExploreArgs {
    /// What the picture shows; a second prompt is drawn beside the first
    #[arg(required = true, num_args = 1..=2, value_names = ["PROMPT", "PROMPT_B"])]
    pub prompts: Vec<String>,
    /// What the picture should not show; one text for both prompts
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,
    /// The guidance scales that are drawn; on the page every step can be turned to any scale between
    /// [default: 0,1,3,7,15; of a model with large latents fewer]
    #[arg(long, value_name = "W[,W...]", value_delimiter = ',', allow_hyphen_values = true)]
    pub guidance: Vec<f64>,
    /// The seeds that are drawn
    #[arg(
        long,
        value_name = "S[,S...]",
        value_delimiter = ',',
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub seeds: Vec<Seed>,
    /// The sampler, such as ddim, euler-a or dpm++2m-karras; an unknown name lists all of them [default: the one in
    /// the model's folder]
    #[arg(long)]
    pub sampler: Option<Sampler>,
    /// Reverse steps from noise to picture, 1 to the schedule's length (1000)
    #[arg(long, value_name = "N", default_value_t = 30, allow_negative_numbers = true)]
    pub steps: usize,
    /// Also show where the picture looks in the prompt, word by word
    #[arg(long)]
    pub attention: bool,
    /// The model: a folder, a file or an id of the Hugging Face hub, as in generate [default: the embedded model]
    #[arg(long, value_name = "FOLDER|FILE|ID")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Allow a page of 25 MB in place of 8 MB: more pictures are decoded
    #[arg(long)]
    pub full: bool,
    /// The page [default: a new file in this folder, named after the prompt]
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  diffuscope explore \"a red apple on the grass, cartoon\"
  diffuscope explore \"a red apple on the grass, cartoon\" \"a blue apple on the grass, cartoon\" --attention
  diffuscope explore \"a cat at night, 3d\" --guidance 0,1,3,7,15 --seeds 0,1,2 --full --out cat.html
  diffuscope explore \"a castle\" --model ~/stable-diffusion-v1-5 --sampler dpm++2m-karras --steps 20

The page is one file that needs no network and no server. It holds the numbers of every step, so that it forms the
guided noise, the predicted picture and the next sample at any guidance scale by itself, and checks that the recorded
steps come out. Pictures are decoded as far as they fit; the page says which are not.

Ctrl-C stops without a page and exits with code 130.";

impl ExploreArgs {
    pub fn check(&self) -> Result<()> {
        if let Some(bad) = self.guidance.iter().find(|scale| !scale.is_finite()) {
            return Err(Error::argument("--guidance", "finite numbers", bad));
        }
        if let Some(path) = &self.out
            && !path.extension().is_some_and(|end| end.eq_ignore_ascii_case("html"))
        {
            return Err(Error::argument("--out", "FILE.html", path.display()));
        }
        Ok(())
    }

    pub fn limit(&self) -> usize {
        if self.full { FULL_LIMIT } else { FILE_LIMIT }
    }

    /// Every prompt with every seed.
    pub fn request(&self, model: &StableDiffusion) -> Request {
        let each = |prompt: &String| std::iter::repeat_n(prompt.clone(), self.seeds.len());
        let prompts: Vec<String> = self.prompts.iter().flat_map(each).collect();
        let seeds = self.seeds.iter().map(|seed| seed.signed());
        Request {
            negative_prompt: self.negative.clone(),
            sampler: Some(self.sampler.unwrap_or_else(|| model.scheduler.sampler())),
            num_inference_steps: self.steps,
            seeds: self.prompts.iter().flat_map(|_| seeds.clone()).collect(),
            ..Request::batch(prompts)
        }
    }

    /// The scales that are asked for, or as many of the usual ones as take half of the page.
    pub fn scales(&self, model: &StableDiffusion, request: &Request) -> Result<Vec<f64>> {
        if !self.guidance.is_empty() {
            return Ok(self.guidance.clone());
        }
        let (width, height) = model.size(request.width, request.height)?;
        let factor = model.vae.config().factor();
        let cells = (width / factor) * (height / factor) * model.vae.config().latent_channels;
        let steps = model.plan(request)?.steps.len();
        // A sample and two predictions of 2 bytes a number, in base64.
        let one = cells as usize * steps * request.prompts.len() * 8;
        let fits = |scales: &&&[f64]| one * scales.len() <= self.limit() / 2;
        Ok(SCALES.iter().find(fits).unwrap_or(&SCALES[2]).to_vec())
    }
}
