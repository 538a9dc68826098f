//! The options of `diffuscope generate`, and the request that they make.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use diffuscope::checkpoint::OpenOptions;
use diffuscope::guidance::{Guidance, Projection};
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::prediction::Prediction;
use diffuscope::{Error, Result};

use crate::image_inputs::ImageInputs;
use crate::options::{ComputeArgs, SamplingArgs, Seed};

/// Most pictures of one call.
const MOST: usize = 1024;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    /// What the picture shows; several prompts are drawn together as one batch
    #[arg(required = true, value_name = "PROMPT")]
    pub prompts: Vec<String>,
    /// What the picture should not show; one text for all prompts
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,
    /// The model: a folder with a model_index.json, as diffusers saves it, a .safetensors or .ckpt file, or an id of the
    /// Hugging Face hub, which is fetched once: OWNER/NAME, OWNER/NAME@REVISION, OWNER/NAME/FILE.safetensors
    /// [default: the embedded model]
    #[arg(long, value_name = "FOLDER|FILE|ID")]
    pub model: Option<PathBuf>,
    /// What the model predicts, if its file does not say: epsilon, v_prediction or sample
    #[arg(long, value_name = "TYPE", requires = "model")]
    pub prediction: Option<Prediction>,
    /// A diffusers folder with the configurations and the tokenizer of a single file, if its shapes do not tell them
    #[arg(long, value_name = "FOLDER", requires = "model")]
    pub configs: Option<PathBuf>,
    /// A LoRA, as a file or a folder, with its strength after a colon: 1 is as it was trained; may be given several
    /// times
    #[arg(long = "lora", value_name = "FILE[:S]")]
    pub loras: Vec<LoraFile>,
    /// Reverse steps from noise to picture, 1 to the schedule's length (1000)
    #[arg(long, value_name = "N", default_value_t = 30, allow_negative_numbers = true)]
    pub steps: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Bring guided predictions back to the spread of the conditional ones: 0 is not at all, 1 is all the way, 0.7 is
    /// usual
    #[arg(long, value_name = "PHI", default_value_t = 0., allow_negative_numbers = true)]
    pub guidance_rescale: f64,
    /// The part of the steps that is guided, such as 0.2,0.8; the other steps use the conditional prediction alone
    #[arg(long, value_name = "FROM,TO", value_delimiter = ',', num_args = 1)]
    pub guidance_interval: Vec<f64>,
    /// Adaptive projected guidance: leave out the part that only saturates colours
    #[arg(long)]
    pub projected: bool,
    /// Read weights, (word:1.3) and [word], and changes over the steps, [cat:dog:0.4], in the prompts
    #[arg(long)]
    pub weighted: bool,
    /// How much fresh noise every step of ddim adds: 0 is none, 1 is as much as ddpm
    #[arg(long, value_name = "E", default_value_t = 0., allow_negative_numbers = true)]
    pub eta: f64,
    /// The first picture's seed; the next picture has the next one
    #[arg(long, value_name = "S", default_value = "0", allow_negative_numbers = true)]
    pub seed: Seed,
    /// Pictures of each prompt
    #[arg(long, value_name = "K", default_value_t = 1, allow_negative_numbers = true)]
    pub count: usize,
    /// The width in pixels [default: what the model was trained on]
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    pub width: Option<i64>,
    /// The height in pixels [default: what the model was trained on]
    #[arg(long, value_name = "H", allow_negative_numbers = true)]
    pub height: Option<i64>,
    #[command(flatten)]
    pub inputs: ImageInputs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Keep the networks in the CPU's memory and move each to the device only while it is used
    #[arg(long)]
    pub offload: bool,
    /// FILE.png, or a folder, which is made if it does not exist. Several pictures become one labelled sheet in a
    /// file; in a folder they are files of their own beside a sheet [default: a file in this folder, named after the
    /// prompt]
    #[arg(long, value_name = "FILE.png|FOLDER")]
    pub out: Option<PathBuf>,
    /// Also write what happened in every step: timesteps, signal_rates, noise_rates, x_t, output_uncond,
    /// output_cond (both with the steps that have them: output_uncond_steps, output_cond_steps), output, noise_pred, x_0,
    /// coefficients, latents and image
    #[arg(long, value_name = "F.safetensors")]
    pub trace: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  diffuscope generate \"a red apple on the grass, flat\"
  diffuscope generate \"a cat at night, 3d\" --count 8 --seed 10 --out cats.png
  diffuscope generate \"a rocket at sunset, cartoon\" --guidance 0,1,3,7,15 --out guidance.png
  diffuscope generate \"a (red:1.4) [apple:pizza:0.5]\" --weighted --sampler dpm++2m-karras --steps 15
  diffuscope generate \"a blue fish on the sea, 3d\" --init photo.jpg --strength 0.6
  diffuscope generate \"a red ball on the sea, 3d\" --init photo.jpg --strength 1 --mask white-where-new.png
  diffuscope generate \"a cat at night, 3d\" --seed 7 --variation 8,0.2
  diffuscope generate \"a castle\" --model ~/stable-diffusion-v1-5 --guidance 7.5 --out castle.png
  diffuscope generate \"a castle\" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --guidance 7.5
  diffuscope generate \"a castle\" --model ~/stable-diffusion-v1-5 --lora watercolour.safetensors:0.8

What a call reads is never written over: --out and --trace are refused where they name such a file.

Ctrl-C stops after the step under way, writes what there is and exits with code 130; a second Ctrl-C stops at once.

A PNG carries as text what it was made with: prompt, negative_prompt, seed, guidance_scale, sampler,
num_inference_steps, eta, width, height, dtype, model, Software and, where they were given, init,
strength, mask, depth, small, noise_level, initial_latents, variation, clip_skip, lora, guidance_rescale,
guidance_interval, projected, weighted. A sheet has the lists prompts, seeds and guidance_scales.

A prompt of more than 75 tokens is cut, with a warning. Words that the model was never taught are named.";

/// Low-rank changes and how strong they are.
#[derive(Clone)]
pub struct LoraFile {
    pub path: PathBuf,
    pub strength: f64,
}

impl FromStr for LoraFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.rsplit_once(':').and_then(|(path, s)| Some((path, s.parse().ok()?)));
        let (path, strength) = number.unwrap_or((text, 1.));
        if path.is_empty() {
            return Err(Error::argument("--lora", "FILE or FILE:STRENGTH", text));
        }
        Ok(Self { path: path.into(), strength })
    }
}

impl GenerateArgs {
    /// What can be said before a model is opened.
    pub fn check(&self) -> Result<()> {
        self.sampling.check()?;
        if self.trace.is_some() && self.sampling.guidance.len() != 1 {
            let got = self.sampling.guidance.len();
            return Err(Error::argument("--guidance with --trace", "one scale", got)
                .hint("a trace records one generation"));
        }
        let all = self.prompts.len().checked_mul(self.count);
        if !all.is_some_and(|all| (1..=MOST).contains(&all)) {
            let expected = format!("1 or more, and at most {MOST} pictures in all");
            return Err(Error::argument("--count", expected, self.count));
        }
        if !(0. ..=1.).contains(&self.eta) {
            let expected = "0 (deterministic) to 1 (as ddpm)";
            return Err(Error::argument("--eta", expected, self.eta));
        }
        self.rule(self.sampling.guidance[0])?;
        self.inputs.check()
    }

    /// What is stated of the checkpoint that it may not say itself.
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions { prediction: self.prediction, configs: self.configs.clone() }
    }

    /// How two predictions become one at this scale.
    pub fn rule(&self, scale: f64) -> Result<Guidance> {
        let interval = match self.guidance_interval[..] {
            [] => None,
            [from, to] => Some((from, to)),
            _ => {
                let got = self.guidance_interval.len();
                return Err(Error::argument("--guidance-interval", "two numbers: FROM,TO", got));
            }
        };
        let guidance = Guidance {
            interval,
            rescale: self.guidance_rescale,
            projection: self.projected.then(Projection::default),
            ..scale.into()
        };
        guidance.check(self.steps)?;
        Ok(guidance)
    }

    /// The request, each prompt once.
    pub fn request(&self, model: &StableDiffusion) -> Result<Request> {
        let mut sampler = self.sampling.sampler.unwrap_or_else(|| model.scheduler.sampler());
        match (sampler.method.is("ddim"), self.eta) {
            (true, eta) => sampler.options.eta = eta,
            (_, 0.) => (),
            (_, eta) => {
                let todo = format!("{sampler} has no eta: add --sampler ddim");
                return Err(Error::argument("--eta", "0, or the sampler ddim", eta).hint(todo));
            }
        }
        let request = Request {
            negative_prompt: self.negative.clone(),
            sampler: Some(sampler),
            num_inference_steps: self.steps,
            guidance: self.rule(self.sampling.guidance[0])?,
            weighted_prompts: self.weighted,
            seed: self.seed.signed(),
            width: self.width,
            height: self.height,
            ..Request::batch(&self.prompts)
        };
        self.inputs.fill(request, model)
    }
}
