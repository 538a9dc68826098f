//! Prompts, scheduler configurations and requests that nobody would write, drawn at random: they are met or refused, and
//! nothing else.

use std::fmt::Write as _;
use std::path::Path;

use diffuscope::checkpoint::SchedulerConfig;
use diffuscope::guidance::{Guidance, Projection};
use diffuscope::pipeline::{
    ClipSkip, DepthMap, ExtraChannels, ImageSizes, InitImage, LowResImage, Request, Sdxl,
    StableDiffusion, Variation,
};
use diffuscope::prompt::{at_step, parse_weights};
use diffuscope::sampler::{Clip, Plan, Sampler};
use tch::{Device, Kind, Tensor};

use crate::Random;

const WHOLE: [i64; 18] = [
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    64,
    65,
    999,
    1000,
    1001,
    -1,
    1 << 31,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
];
const REAL: [f64; 16] = [
    0.,
    0.5,
    1.,
    -1.,
    0.3,
    0.9999,
    1.0001,
    2.,
    7.5,
    1e-300,
    1e30,
    1e300,
    f64::MIN_POSITIVE,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

fn whole(random: &mut Random) -> i64 {
    WHOLE[random.below(WHOLE.len())]
}

fn real(random: &mut Random) -> f64 {
    REAL[random.below(REAL.len())]
}

/// Something, or more often nothing.
fn perhaps<T>(random: &mut Random, some: impl FnOnce(&mut Random) -> T) -> Option<T> {
    (random.below(4) == 0).then(|| some(random))
}

/// What prompts are made of.
const PIECES: [&str; 32] = [
    "a cat",
    " ",
    ",",
    "(",
    ")",
    "[",
    "]",
    "((",
    "))",
    "[[",
    ":",
    "|",
    "\\",
    ":0.5]",
    ":1.3)",
    ":inf)",
    ":1e9)",
    ":-3)",
    ":nan]",
    ":10]",
    "味",
    "é",
    "e\u{301}",
    "\u{1f3f0}",
    "\0",
    "\u{200d}",
    "<|endoftext|>",
    "<|startoftext|>",
    "!",
    "\n",
    "'s",
    "9999999999",
];

pub fn prompt(random: &mut Random) -> String {
    let mut prompt = String::new();
    for _ in 0..random.below(24) {
        let times = if random.below(40) == 0 { random.below(3000) } else { 1 };
        let piece = PIECES[random.below(PIECES.len())];
        prompt.extend(std::iter::repeat_n(piece, times));
        if random.below(8) == 0 {
            prompt.extend(char::from_u32(random.next() as u32 >> random.below(32)));
        }
    }
    prompt
}

/// Reads a prompt in every way; whether its weights could be read.
pub fn read_prompt(prompt: &str, model: &StableDiffusion, random: &mut Random) -> bool {
    let (i, n) = (whole(random) as usize, whole(random) as usize);
    if let Ok(now) = at_step(prompt, i, n) {
        assert!(now.len() <= prompt.len());
    }
    let encoding = model.tokenizer.encode(prompt).unwrap();
    assert_eq!((encoding.ids.len(), encoding.tokens.len()), (77, 77));
    let cut = encoding.cut.as_deref().unwrap_or_default();
    assert!(prompt.starts_with(&encoding.text) && prompt.contains(cut));
    for (word, ids) in model.tokenizer.words(prompt).unwrap() {
        assert!(prompt.contains(&word) && !ids.is_empty());
    }
    let weighted = Request { weighted_prompts: true, ..Request::new(prompt) };
    let _ = format!("{:?} {:?}", encoding, model.warnings(&weighted));
    match parse_weights(prompt) {
        Ok(pieces) => {
            assert!(pieces.iter().all(|piece| piece.weight.abs() <= 1000.));
            let weighted = model.encode_weighted_text(prompt, prompt, 0);
            weighted.is_ok_and(|text| text.context.isfinite().all().int64_value(&[]) == 1)
        }
        Err(_) => false,
    }
}

const KEYS: [&str; 32] = [
    "_class_name",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "final_sigmas_type",
    "skip_prk_steps",
    "solver_order",
    "algorithm_type",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
    "predict_x0",
    "original_inference_steps",
    "lambda_min_clipped",
    "variance_type",
    "sigma_min",
    "interpolation_type",
];
const TEXTS: [&str; 29] = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "linear",
    "scaled_linear",
    "squaredcos_cap_v2",
    "epsilon",
    "v_prediction",
    "sample",
    "leading",
    "linspace",
    "trailing",
    "dpmsolver",
    "sde-dpmsolver++",
    "bh1",
    "zero",
];

/// A scheduler's file: a common one with some other values, now and then not even JSON.
pub fn scheduler(random: &mut Random) -> String {
    let mut json = r#"{"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#.to_owned();
    for _ in 0..random.below(5) {
        let value = match random.below(8) {
            0 => whole(random).to_string(),
            1 => {
                ["NaN", "Infinity", "-Infinity", "18446744073709551615"][random.below(4)].to_owned()
            }
            2 => format!("{:e}", [0.5, 1e-300, 1e300, 7.][random.below(4)]),
            3 => ["true", "false", "null"][random.below(3)].to_owned(),
            4 => format!(
                "[{}]",
                ["", "0.1", "0.1, 0.2, 0.3", "0.5, 0.5", "1, -1", "0.9999999"][random.below(6)]
            ),
            _ => format!("{:?}", TEXTS[random.below(TEXTS.len())]),
        };
        // The last of two values of one key counts.
        let _ = write!(json, ", {:?}: {value}", KEYS[random.below(KEYS.len())]);
    }
    json.push('}');
    if random.below(50) == 0 {
        let at = random.below(json.len());
        json.replace_range(at..at + 1, ["", "[[[[", "\\", "\"", "{}"][random.below(5)]);
    }
    json
}

/// Opens a scheduler's file and plans with it; whether that could be done.
pub fn plan_with(path: &Path, random: &mut Random) -> bool {
    let Ok(config) = SchedulerConfig::open(path) else { return false };
    let _ = format!("{config:?}");
    let Ok(schedule) = config.schedule() else { return false };
    let names: Vec<&str> = Sampler::names().collect();
    let sampler = match random.below(2) {
        0 => config.sampler(),
        _ => names[random.below(names.len())].parse().unwrap(),
    };
    let Ok(mut settings) = config.settings(sampler) else { return false };
    settings.timesteps =
        perhaps(random, |random| (0..random.below(5)).map(|_| whole(random) as usize).collect());
    let steps = if random.below(4) == 0 { whole(random) as usize } else { 1 + random.below(8) };
    let skipped = if random.below(4) == 0 { whole(random) as usize } else { 0 };
    let Ok(plan) = Plan::starting_at(sampler, &schedule, steps, &settings, skipped) else {
        return false;
    };
    assert!(plan.steps.len() <= 4 * plan.num_inference_steps + 16, "{plan:?}");
    for i in 0..plan.steps.len() {
        assert!(plan.step_of(i) < plan.num_inference_steps, "{plan:?}");
    }
    let x = Tensor::ones([1, 4, 2, 2], (Kind::Float, Device::Cpu));
    let _ = plan.noised(0, &x, &x).and_then(|x_t| plan.interpret(0, &x_t, &x));
    true
}

/// A tensor of any shape and kind, more often one that could be meant.
fn tensor(random: &mut Random, channels: i64) -> Tensor {
    let side = |random: &mut Random| [0, 1, 2, 4, 8, 16, 32, 5][random.below(8)];
    let shape: Vec<i64> = match random.below(4) {
        0 => (0..random.below(6)).map(|_| side(random)).collect(),
        _ => {
            let side = side(random);
            vec![1 + random.below(2) as i64, channels, side, side]
        }
    };
    let kinds = [
        Kind::Float,
        Kind::Half,
        Kind::Double,
        Kind::Int64,
        Kind::Uint8,
        Kind::Bool,
        Kind::BFloat16,
    ];
    let kind = if random.below(2) == 0 { Kind::Float } else { kinds[random.below(kinds.len())] };
    let floating = matches!(kind, Kind::Float | Kind::Half | Kind::Double | Kind::BFloat16);
    let value =
        if random.below(4) == 0 && floating { real(random) } else { random.below(2) as f64 };
    let full = Tensor::full(&shape, value, (Kind::Double, Device::Cpu)).to_kind(kind);
    // Not the same everywhere.
    if full.numel() > 1 && kind == Kind::Float {
        let _ = full.flatten(0, -1).get(0).fill_(0.25);
    }
    full
}

/// A request that could be met by a model, with up to three parts that are odd.
pub fn request(model: &StableDiffusion, random: &mut Random) -> Request {
    let side = 8 * (1 + random.below(4)) as i64;
    let plain = |channels| Tensor::zeros([1, channels, side, side], (Kind::Float, Device::Cpu));
    let mut request = Request::batch(["a cat", "a dog"].iter().take(1 + random.below(2)).copied());
    request.num_inference_steps = 1 + random.below(3);
    (request.width, request.height) = (Some(side), Some(side));
    match model.extra_channels() {
        Some(ExtraChannels::MaskedImage) => {
            let mask = Some(plain(1) + 1.);
            request.init = Some(InitImage { mask, ..InitImage::new(plain(3), 1.) });
        }
        Some(ExtraChannels::DepthMap) => {
            let slope = Tensor::arange(side, (Kind::Float, Device::Cpu));
            request.depth = Some(DepthMap(slope.expand([1, 1, side, side], false)));
        }
        Some(ExtraChannels::LowResImage) => {
            request.low_res = Some(LowResImage::new(plain(3)));
            (request.width, request.height) = (None, None);
        }
        _ => {}
    }
    for _ in 0..random.below(4) {
        match random.below(3) {
            0 => change_text(&mut request, random),
            1 => change_steps(&mut request, random),
            _ => change_inputs(&mut request, random),
        }
    }
    request
}

/// One of the parts that say what is drawn.
fn change_text(request: &mut Request, random: &mut Random) {
    match random.below(7) {
        0 => request.prompts = (0..random.below(4)).map(|_| prompt(random)).collect(),
        1 => request.negative_prompt = prompt(random),
        2 => {
            request.prompts = vec![prompt(random)];
            request.weighted_prompts = true;
        }
        3 => {
            let (prompt, negative) = (whole(random) as usize, whole(random) as usize);
            request.clip_skip = ClipSkip { prompt, negative };
        }
        4 => request.seed = whole(random),
        5 => request.seeds = (0..random.below(4)).map(|_| whole(random)).collect(),
        _ => {
            request.variation = Some(Variation { seed: whole(random), weight: real(random) });
        }
    }
}

/// One of the parts that say how it is drawn.
fn change_steps(request: &mut Request, random: &mut Random) {
    match random.below(5) {
        0 => request.num_inference_steps = whole(random) as usize,
        1 => {
            let names: Vec<&str> = Sampler::names().collect();
            request.sampler = Some(names[random.below(names.len())].parse().unwrap());
        }
        2 => {
            let names: Vec<&str> = Sampler::names().collect();
            let mut sampler: Sampler = names[random.below(names.len())].parse().unwrap();
            let options = &mut sampler.options;
            options.eta = real(random);
            options.deis.order = whole(random) as usize;
            options.unipc.order = whole(random) as usize;
            options.dpm_solver.order = whole(random) as usize;
            options.original_steps = whole(random) as usize;
            request.sampler = Some(sampler);
        }
        3 => {
            request.guidance = Guidance {
                interval: perhaps(random, |random| (real(random), real(random))),
                rescale: if random.below(2) == 0 { 0. } else { real(random) },
                projection: perhaps(random, |random| Projection {
                    eta: real(random),
                    norm_threshold: real(random),
                    momentum: real(random),
                }),
                scales: (0..random.below(4)).map(|_| real(random)).collect(),
                ..real(random).into()
            };
        }
        _ => {
            request.clip = Some(match random.below(2) {
                0 => Clip::Range(real(random)),
                _ => Clip::Dynamic { ratio: real(random), max: real(random) },
            });
        }
    }
}

/// One of the sizes and pictures.
fn change_inputs(request: &mut Request, random: &mut Random) {
    match random.below(7) {
        0 => request.width = perhaps(random, whole),
        1 => request.height = perhaps(random, whole),
        2 => request.initial_latents = Some(tensor(random, 4)),
        3 => {
            request.init = Some(InitImage {
                image: tensor(random, 3),
                strength: real(random),
                mask: perhaps(random, |random| tensor(random, 1)),
                sample_posterior: random.below(2) == 0,
            });
            (request.width, request.height) = (None, None);
        }
        4 => request.depth = Some(DepthMap(tensor(random, 1))),
        5 => {
            let noise_level = whole(random) as usize;
            request.low_res = Some(LowResImage { image: tensor(random, 3), noise_level });
        }
        _ => {
            request.sdxl = Some(Sdxl {
                prompts_2: (0..random.below(3)).map(|_| prompt(random)).collect(),
                negative_prompt_2: perhaps(random, prompt),
                sizes: perhaps(random, |random| ImageSizes {
                    original_size: (whole(random), whole(random)),
                    crops_coords_top_left: (whole(random), whole(random)),
                    target_size: (whole(random), whole(random)),
                }),
            });
        }
    }
}

/// Meets a request, where that does not take long; whether a picture came of it.
pub fn meet(request: &Request, model: &StableDiffusion) -> bool {
    let _ = format!("{request:?} {:?}", model.warnings(request));
    let Ok(prepared) = model.prepare(request) else { return false };
    let _ = format!("{prepared:?}");
    if prepared.plan.steps.len() > 8 || prepared.x_t.numel() > 4 * 32 * 32 * 3 {
        return false;
    }
    let drawn = model.trace(request);
    drawn.is_ok_and(|trace| trace.latents.isfinite().all().int64_value(&[]) == 1)
}
