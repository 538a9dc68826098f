//! `diffuscope generate`: prompts in, pictures out.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::{Args, ValueEnum};
use diffuscope::guidance::{Guidance, Projection};
use diffuscope::pipeline::{Request, StableDiffusion, tiny_folder};
use diffuscope::plot::{self, Sheet};
use diffuscope::prediction::Prediction;
use diffuscope::sampler::{Method, Sampler};
use diffuscope::trace::Trace;
use diffuscope::weights::{Checkpoint, Lora, Stated};
use diffuscope::{Error, Result, picture};
use tch::{Device, Kind, Tensor};

use crate::out::{Out, check_place, slug};
use crate::tasks::Tasks;
use crate::{INTERRUPTED, bar, say};

/// Most pictures of one call.
const MOST: usize = 1024;
/// Most pictures in a row of a contact sheet.
const COLUMNS: usize = 6;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Generate {
    /// What the picture shows; several prompts are drawn together as one batch
    #[arg(required = true, value_name = "PROMPT")]
    prompts: Vec<String>,
    /// What the picture should not show; one text for all prompts
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    negative: String,
    /// A model: a folder with a model_index.json, as diffusers saves it, one .safetensors or .ckpt file, or what of
    /// the Hugging Face hub is fetched once: OWNER/NAME, OWNER/NAME@REVISION, OWNER/NAME/FILE.safetensors
    /// [default: the embedded one]
    #[arg(long, value_name = "FOLDER|FILE|ID")]
    model: Option<PathBuf>,
    /// What the model predicts, where its file does not say: epsilon, v_prediction or sample
    #[arg(long, value_name = "TYPE", requires = "model")]
    prediction: Option<Prediction>,
    /// A diffusers folder whose configurations and tokenizer a single file has, where its shapes do not tell them
    #[arg(long, value_name = "FOLDER", requires = "model")]
    configs: Option<PathBuf>,
    /// Low-rank changes to the model, a file or a folder, with a strength after a colon: 1 as it was trained; may be
    /// given several times
    #[arg(long = "lora", value_name = "FILE[:S]")]
    loras: Vec<LoraFile>,
    /// Such as ddim, euler-a or dpm++2m-karras; a wrong name lists all [default: the one that the model's folder names]
    #[arg(long)]
    sampler: Option<Sampler>,
    /// Reverse steps from noise to picture, 1 to the schedule's length (1000)
    #[arg(long, value_name = "N", default_value_t = 30, allow_negative_numbers = true)]
    steps: usize,
    /// How strongly to follow the prompt: 0 not at all, 1 as predicted, 5 to 8 is usual; several
    /// scales, separated by commas, give one sheet that compares them
    #[arg(
        long,
        value_name = "W[,W...]",
        value_delimiter = ',',
        default_value = "5",
        allow_hyphen_values = true
    )]
    guidance: Vec<f64>,
    /// Bring guided predictions back to the conditional ones' spread: 0 not, 1 all the way; 0.7 is usual
    #[arg(long, value_name = "PHI", default_value_t = 0., allow_negative_numbers = true)]
    guidance_rescale: f64,
    /// The part of the steps that is guided, such as 0.2,0.8; the others follow the conditional prediction
    #[arg(long, value_name = "FROM,TO", value_delimiter = ',', num_args = 1)]
    guidance_interval: Vec<f64>,
    /// Adaptive projected guidance: without what only saturates colours
    #[arg(long)]
    projected: bool,
    /// Read weights, (word:1.3) and [word], and changes over the steps, [cat:dog:0.4], in the prompts
    #[arg(long)]
    weighted: bool,
    /// Fresh noise in every step of ddim: 0 none, 1 as much as ddpm
    #[arg(long, value_name = "E", default_value_t = 0., allow_negative_numbers = true)]
    eta: f64,
    /// The first picture's seed; the next picture has the next one
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true)]
    seed: i64,
    /// Pictures of each prompt
    #[arg(long, value_name = "K", default_value_t = 1, allow_negative_numbers = true)]
    count: usize,
    /// Pixels [default: what the model was trained on]
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    width: Option<i64>,
    /// Pixels [default: what the model was trained on]
    #[arg(long, value_name = "H", allow_negative_numbers = true)]
    height: Option<i64>,
    #[command(flatten)]
    tasks: Tasks,
    /// What the networks compute in
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// cpu, cuda, cuda:N or mps [default: CUDA if it is there, else the CPU]
    #[arg(long, value_name = "D")]
    device: Option<String>,
    /// Keep the networks in the CPU's memory and move each to the device while it is used
    #[arg(long)]
    offload: bool,
    /// FILE.png, or a folder, which is made if it is not there. Several pictures become one labelled
    /// sheet in a file, and files of their own and a sheet in a folder [default: a file in this
    /// folder, named after the prompt]
    #[arg(long, value_name = "FILE.png|FOLDER")]
    out: Option<PathBuf>,
    /// Also writes what happened in every step: timesteps, x_t, noise_uncond, noise_cond, noise_pred,
    /// x_0, coefficients, latents and image
    #[arg(long, value_name = "F.safetensors")]
    trace: Option<PathBuf>,
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

Ctrl-C ends after the step under way, writes what there is, and the exit code is 130; a second one ends at once.

A PNG carries what it was made with, as text: prompt, negative_prompt, seed, guidance_scale, sampler,
num_inference_steps, eta, width, height, dtype, model, Software and, where they were given, init,
strength, mask, depth, small, noise_level, initial_latents, variation, clip_skip, lora, guidance_rescale,
guidance_interval, projected, weighted. A sheet has the lists prompts, seeds and guidance_scales. A
prompt that is longer than 75 tokens is cut, with a warning; another one names words that the model was
never taught.";

#[derive(Clone, Copy, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

impl Dtype {
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Low-rank changes and how strong they are.
#[derive(Clone)]
struct LoraFile {
    path: PathBuf,
    strength: f64,
}

impl FromStr for LoraFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.rsplit_once(':').and_then(|(path, s)| Some((path, s.parse().ok()?)));
        let (path, strength) = number.unwrap_or((text, 1.));
        if path.is_empty() {
            return Err(Error::argument("--lora", "FILE or FILE:STRENGTH", text, ""));
        }
        Ok(Self { path: path.into(), strength })
    }
}

/// One picture and what is its own: prompt, seed, guidance scale.
struct Drawn {
    image: Tensor,
    prompt: String,
    seed: i64,
    guidance_scale: f64,
}

/// Set by the first Ctrl-C: the step under way is the last one.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether all steps were taken: a run that is interrupted ends early and writes what it has.
pub fn run(mut args: Generate) -> Result<bool> {
    args.check()?;
    let handler = || {
        // The second one does not wait.
        if STOP.swap(true, Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::argument("Ctrl-C", "a handler", e, ""))?;
    let several = args.guidance.len() * args.prompts.len() * args.count > 1;
    let out = Out::new(args.out.as_deref(), &args.prompts[0])?;
    if let Some(path) = &args.trace {
        check_place(path)?;
    }
    let picked = diffuscope::device::pick(args.device.as_deref())?;
    say(&format!("device: {picked}"));
    let folder = args.model.clone().unwrap_or_else(tiny_folder);
    let stated = Stated { prediction: args.prediction, configs: args.configs.clone() };
    let checkpoint = Checkpoint::open_as(&folder, &stated)?;
    let home = if args.offload { Device::Cpu } else { picked.device };
    let mut model = StableDiffusion::from_checkpoint(&checkpoint, args.dtype.kind(), home)?;
    if args.offload {
        model = model.offloaded(picked.device);
    }
    let mut loras = Vec::new();
    for LoraFile { path, strength } in &args.loras {
        let lora = Lora::open(path)?;
        let layers = lora.networks();
        let layers: Vec<_> =
            layers.iter().map(|(name, n)| format!("{n} layers of {name}")).collect();
        say(&format!(
            "lora: {} changes {}, strength {strength}",
            path.display(),
            layers.join(", ")
        ));
        loras.push((lora, *strength));
    }
    model.set_loras(&loras)?;
    model.tiling = args.tasks.tiling(&model)?;
    let mut request = args.request(&model)?;
    for warning in model.warnings(&request)? {
        say(&format!("warning: {warning}"));
    }
    request.prompts =
        request.prompts.iter().flat_map(|p| std::iter::repeat_n(p.clone(), args.count)).collect();
    let settings = args.settings(&model, &request, &folder);

    let steps = model.plan(&request)?.steps.len() * args.guidance.len();
    let bar = bar(steps as u64, "{bar:30} step {pos}/{len} {msg} {eta} left");
    let mut drawn = Vec::new();
    let (mut trace, mut stopped) = (None, None);
    for scale in args.guidance.clone() {
        request.guidance_scale = scale;
        request.guidance = args.rule(scale)?;
        bar.set_message(format!("guidance {scale}"));
        let mut records = Vec::new();
        let generation = model.generate_with(&request, |step| {
            bar.inc(1);
            if args.trace.is_some() {
                records.push(step);
            }
            match STOP.load(Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        let finished = generation.finished;
        for (i, prompt) in request.prompts.iter().enumerate() {
            drawn.push(Drawn {
                image: generation.image.get(i as i64),
                prompt: prompt.clone(),
                seed: request.seed.wrapping_add(i as i64),
                guidance_scale: scale,
            });
        }
        if args.trace.is_some() {
            trace = Some(Trace::new(&records, generation)?);
        }
        if !finished {
            let (done, all) = (bar.position(), steps);
            stopped = Some(format!(
                "stopped after {done} of {all} steps: pictures as they looked from there"
            ));
            break;
        }
    }
    bar.finish_and_clear();
    if let Some(stopped) = &stopped {
        say(stopped);
        // What was not reached is in no sheet.
        args.guidance.truncate(drawn.len() / request.prompts.len());
    }

    let texts_of_all = sheet_texts(&args, &drawn, &settings);
    let mut files = Vec::new();
    if !several || out.is_folder() {
        for (i, one) in drawn.iter().enumerate() {
            let Drawn { seed, guidance_scale, .. } = one;
            let mut name = format!("{i:03}-{}-seed-{seed}", slug(&one.prompt));
            if args.guidance.len() > 1 {
                name += &format!("-guidance-{guidance_scale}");
            }
            files.push((out.place(&name)?, one.image.shallow_clone(), texts(one, &settings)));
        }
    }
    if several {
        let sheet = sheet(&args, &drawn, &settings)?.rgb8()?.to_tensor()?;
        files.push((out.place("sheet")?, sheet, texts_of_all.clone()));
    }
    let mut written = Vec::new();
    for (path, image, texts) in files {
        picture::write_png(&path, &image, &texts)?;
        written.push(path);
    }
    if let (Some(path), Some(trace)) = (&args.trace, trace) {
        trace.save(path, &texts_of_all)?;
        written.push(path.clone());
    }
    for path in written {
        println!("{}", path.display());
    }
    Ok(stopped.is_none())
}

impl Generate {
    /// What can be said before a model is opened.
    fn check(&self) -> Result<()> {
        if let Some(bad) = self.guidance.iter().find(|w| !w.is_finite()) {
            return Err(Error::argument("--guidance", "finite numbers", bad, ""));
        }
        if self.trace.is_some() && self.guidance.len() != 1 {
            let todo = "a trace is of one generation: give one scale";
            let got = self.guidance.len();
            return Err(Error::argument("--guidance with --trace", "one scale", got, todo));
        }
        let all = self.prompts.len().checked_mul(self.count);
        if !all.is_some_and(|all| (1..=MOST).contains(&all)) {
            let expected = format!("1 and more, at most {MOST} pictures in all");
            return Err(Error::argument("--count", expected, self.count, ""));
        }
        if !(0. ..=1.).contains(&self.eta) {
            let expected = "0 (deterministic) to 1 (as ddpm)";
            return Err(Error::argument("--eta", expected, self.eta, ""));
        }
        self.rule(self.guidance[0])?;
        self.tasks.check()
    }

    /// How two predictions become one at this scale, where that is not the plain rule.
    fn rule(&self, scale: f64) -> Result<Option<Guidance>> {
        let interval = match self.guidance_interval[..] {
            [] => None,
            [from, to] => Some((from, to)),
            _ => {
                let got = self.guidance_interval.len();
                return Err(Error::argument(
                    "--guidance-interval",
                    "two numbers: FROM,TO",
                    got,
                    "",
                ));
            }
        };
        let guidance = Guidance {
            interval,
            rescale: self.guidance_rescale,
            projection: self.projected.then(Projection::default),
            ..scale.into()
        };
        guidance.check(self.steps)?;
        Ok((guidance != scale.into()).then_some(guidance))
    }

    /// The request, each prompt once.
    fn request(&self, model: &StableDiffusion) -> Result<Request> {
        let mut sampler = self.sampler.unwrap_or_else(|| model.scheduler.sampler());
        match (&mut sampler.method, self.eta) {
            (Method::Ddim { eta }, asked) => *eta = asked,
            (_, 0.) => (),
            (_, eta) => {
                let todo = format!("{sampler} has no eta: add --sampler ddim");
                return Err(Error::argument("--eta", "0, or the sampler ddim", eta, todo));
            }
        }
        let request = Request {
            prompts: self.prompts.clone(),
            negative_prompt: self.negative.clone(),
            sampler: Some(sampler),
            num_inference_steps: self.steps,
            guidance_scale: self.guidance[0],
            weighted_prompts: self.weighted,
            seed: self.seed,
            width: self.width,
            height: self.height,
            ..Request::new("")
        };
        self.tasks.fill(request, model)
    }

    /// What all pictures of this call have in common.
    fn settings(&self, model: &StableDiffusion, request: &Request, folder: &Path) -> Texts {
        let sampler = request.sampler.unwrap_or_else(|| model.scheduler.sampler());
        let mut texts = vec![
            ("negative_prompt", self.negative.clone()),
            ("sampler", sampler.to_string()),
            ("num_inference_steps", self.steps.to_string()),
            ("eta", self.eta.to_string()),
            ("dtype", self.dtype.name().to_owned()),
            ("model", folder.display().to_string()),
            ("Software", concat!("diffuscope ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        texts.extend(self.tasks.texts());
        if !self.loras.is_empty() {
            let each = |lora: &LoraFile| format!("{}:{}", lora.path.display(), lora.strength);
            texts.push(("lora", self.loras.iter().map(each).collect::<Vec<_>>().join(", ")));
        }
        if self.guidance_rescale != 0. {
            texts.push(("guidance_rescale", self.guidance_rescale.to_string()));
        }
        if let [from, to] = self.guidance_interval[..] {
            texts.push(("guidance_interval", format!("{from}, {to}")));
        }
        for (key, on) in [("projected", self.projected), ("weighted", self.weighted)] {
            texts.extend(on.then(|| (key, "true".to_owned())));
        }
        texts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

type Texts = Vec<(String, String)>;

fn texts(one: &Drawn, settings: &Texts) -> Texts {
    let size = one.image.size();
    let own = [
        ("prompt", one.prompt.clone()),
        ("seed", one.seed.to_string()),
        ("guidance_scale", one.guidance_scale.to_string()),
        ("width", size[2].to_string()),
        ("height", size[1].to_string()),
    ];
    own.into_iter().map(|(k, v)| (k.to_owned(), v)).chain(settings.iter().cloned()).collect()
}

fn sheet_texts(args: &Generate, drawn: &[Drawn], settings: &Texts) -> Texts {
    let size = drawn[0].image.size();
    let of_one_scale = &drawn[..drawn.len() / args.guidance.len()];
    let seeds: Vec<String> = of_one_scale.iter().map(|one| one.seed.to_string()).collect();
    let scales: Vec<String> = args.guidance.iter().map(ToString::to_string).collect();
    let own = [
        ("prompts", format!("{:?}", args.prompts)),
        ("seeds", seeds.join(", ")),
        ("guidance_scales", scales.join(", ")),
        ("width", size[2].to_string()),
        ("height", size[1].to_string()),
    ];
    own.into_iter().map(|(k, v)| (k.to_owned(), v)).chain(settings.iter().cloned()).collect()
}

/// The pictures with what differs between them: guidance scales in columns, or one after another.
fn sheet(args: &Generate, drawn: &[Drawn], settings: &Texts) -> Result<Sheet> {
    let (scales, per_scale) = (args.guidance.len(), drawn.len() / args.guidance.len());
    let setting = |key: &str| settings.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v);
    let mut note = format!("{}, {} steps", setting("sampler"), args.steps);
    if !args.negative.is_empty() {
        note += &format!(", negative prompt: {}", args.negative);
    }
    let image = |one: &Drawn| one.image.shallow_clone();
    let one_prompt = args.prompts.len() == 1;
    let title = if one_prompt { args.prompts[0].as_str() } else { "" };
    if scales > 1 {
        let rows: Vec<Vec<Tensor>> = (0..per_scale)
            .map(|i| (0..scales).map(|k| image(&drawn[k * per_scale + i])).collect())
            .collect();
        let labels = drawn[..per_scale].iter().map(|one| match one_prompt {
            true => format!("seed {}", one.seed),
            false if one.prompt.trim().is_empty() => format!("(no text), seed {}", one.seed),
            false => format!("{}, seed {}", one.prompt, one.seed),
        });
        let columns = args.guidance.iter().map(|scale| format!("guidance {scale}"));
        return Ok(plot::sheet(&rows)?
            .row_labels(labels)?
            .column_labels(columns)?
            .title(title)
            .note(note));
    }
    note += &format!(", guidance {}", args.guidance[0]);
    let columns = if one_prompt || args.count == 1 { drawn.len().min(COLUMNS) } else { args.count };
    let rows: Vec<Vec<Tensor>> =
        drawn.chunks(columns.min(COLUMNS)).map(|row| row.iter().map(image).collect()).collect();
    let captions = drawn.iter().map(|one| match one_prompt {
        true => format!("seed {}", one.seed),
        false if one.prompt.trim().is_empty() => format!("(no text), seed {}", one.seed),
        false => format!("{}, seed {}", one.prompt, one.seed),
    });
    Ok(plot::sheet(&rows)?.captions(captions)?.title(title).note(note))
}
