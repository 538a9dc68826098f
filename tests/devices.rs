//! Tensors of two devices, on a machine that has one: the other is torch's `meta`, which has shapes and no numbers.
//! libtorch refuses to compute with both, as it does with those of a CPU and a GPU, and the bindings panic on that.

mod golden;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diffuscope::denoiser::{Denoiser, ExactDenoiser};
use diffuscope::eval::distances::{frechet_distance, nearest_distances, psnr};
use diffuscope::eval::validity::Validity;
use diffuscope::forward::{add_noise, noise_one_step};
use diffuscope::guidance::{Guidance, Projection, guide, guide_projected, rescale};
use diffuscope::models::unet::{UNet, UNetConfig};
use diffuscope::models::vae::VaeConfig;
use diffuscope::noise::{slerp, standard_normal};
use diffuscope::pipeline::{KnownRegion, Request, StableDiffusion};
use diffuscope::prediction::{
    Prediction, epsilon_from_v, epsilon_from_x_0, v_from_epsilon, x_0_from_epsilon, x_0_from_v,
};
use diffuscope::prompt::apply_weights;
use diffuscope::rates::Rates;
use diffuscope::sampler::{
    Clip, Plan, PlanSettings, Position, Sampler, Sampling, ddim_inverse_step, ddim_step,
    ddim_step_eta, ddpm_step, dpm_sde_step, dpm2_ancestral_step, dpm2_step, dpm2s_ancestral_step,
    euler_ancestral_step, euler_step, heun_step, lcm_step,
};
use diffuscope::schedule::{Schedule, Step};
use diffuscope::timesteps::Timesteps;
use diffuscope::train::diffusion::{DiffusionSettings, FrozenParts, train_diffusion};
use diffuscope::train::losses::denoising_loss;
use diffuscope::train::vae::{VaeLossWeights, train_vae};
use diffuscope::train::{CaptionedLatents, OptimizerConfig, TrainSettings};
use diffuscope::{Error, Result};
use tch::{CModule, Device, Kind, Tensor};

/// The same tensor on another device. The bindings do not know `meta` and call it MPS.
fn elsewhere(x: &Tensor) -> Tensor {
    let module = CModule::load(golden::path("devices/elsewhere.pt")).unwrap();
    let there = module.forward_ts(&[x]).unwrap();
    assert!(there.device() != x.device() && there.size() == x.size());
    there
}

struct Nothing;

impl Denoiser for Nothing {
    fn predict(&self, x_t: &Tensor, _: &Timesteps, _: Option<&Tensor>) -> Result<Tensor> {
        Ok(x_t.shallow_clone())
    }
}

const PROJECTION: Projection = Projection { eta: 0., norm_threshold: 15., momentum: -0.5 };

type Call = Box<dyn Fn(&Tensor, &Tensor) -> Result<()>>;

const STEP: Step = Step { t: 500, t_prev: Some(400) };

fn s() -> Schedule {
    Schedule::stable_diffusion()
}

fn rates() -> Rates {
    Rates::new(0.6, 0.8)
}

fn plan() -> Plan {
    Plan::new("ddpm".parse().unwrap(), &s(), 2, &PlanSettings::default()).unwrap()
}

/// Sampling that begins with contexts.
fn sampling(a: &Tensor, b: &Tensor) -> Result<Sampling<'static, Nothing>> {
    let noises = vec![same(a), same(a)];
    Sampling::new(&Nothing, plan(), same(a), Some((a, b)), 2., noises)
}

fn here() -> Tensor {
    standard_normal(&[2, 3, 4, 4], 1).unwrap()
}

fn same(x: &Tensor) -> Tensor {
    x.shallow_clone()
}

fn rows(x: &Tensor) -> Tensor {
    x.flatten(1, -1)
}

/// One number a row.
fn first(x: &Tensor) -> Tensor {
    rows(x).select(1, 0)
}

fn valid() -> Result<Validity> {
    let x = here();
    Validity::of(&rows(&x), &rows(&x), &first(&x))
}

/// A model that answers with this.
fn answer(x: &Tensor) -> impl FnMut(&Tensor, f64) -> Result<Tensor> {
    let x = same(x);
    move |_, _| Ok(same(&x))
}

fn call<T>(f: impl Fn(&Tensor, &Tensor) -> Result<T> + 'static) -> Call {
    Box::new(move |a, b| f(a, b).map(|_| ()))
}

/// Every public function of two tensors, by the file that it stands in.
fn functions_of_two() -> Vec<(&'static str, Call)> {
    let mut all = vec![
        ("forward.rs add_noise", call(|a, b| add_noise(&s(), 5, a, b))),
        ("forward.rs noise_one_step", call(|a, b| noise_one_step(&s(), 5, a, b))),
        ("rates.rs noised", call(|a, b| rates().noised(a, b))),
        ("sampler/position.rs noised", call(|a, b| Position::of(&s(), 5)?.noised(a, b))),
        ("sampler/plan.rs noised", call(|a, b| plan().noised(0, a, b))),
        ("sampler/plan.rs interpret", call(|a, b| plan().interpret(0, a, b))),
        ("prediction.rs to_x_0", call(|a, b| Prediction::V.to_x_0(&s(), 5, a, b))),
        ("prediction.rs to_epsilon", call(|a, b| Prediction::V.to_epsilon(&s(), 5, a, b))),
        ("prediction.rs x_0_from_epsilon", call(|a, b| x_0_from_epsilon(&s(), 5, a, b))),
        ("prediction.rs epsilon_from_x_0", call(|a, b| epsilon_from_x_0(&s(), 5, a, b))),
        ("prediction.rs x_0_from_v", call(|a, b| x_0_from_v(&s(), 5, a, b))),
        ("prediction.rs epsilon_from_v", call(|a, b| epsilon_from_v(&s(), 5, a, b))),
        ("prediction.rs v_from_epsilon", call(|a, b| v_from_epsilon(&s(), 5, a, b))),
        ("guidance.rs guide", call(|a, b| guide(a, b, 2.))),
        ("guidance.rs rescale", call(|a, b| rescale(a, b, 0.5))),
        ("guidance.rs guide_projected", call(|a, b| guide_projected(a, b, 2., &PROJECTION, None))),
        (
            "guidance.rs guide_projected",
            call(|a, b| guide_projected(a, a, 2., &PROJECTION, Some(b))),
        ),
        ("noise.rs slerp", call(|a, b| slerp(a, b, 0.5))),
        ("eval/distances.rs frechet_distance", call(|a, b| frechet_distance(&rows(a), &rows(b)))),
        ("eval/distances.rs nearest_distances", call(|a, b| nearest_distances(&rows(a), &rows(b)))),
        ("eval/distances.rs psnr", call(psnr)),
        ("eval/validity.rs of", call(|a, b| Validity::of(&rows(a), &rows(b), &first(b)))),
        ("eval/validity.rs of", call(|a, b| Validity::of(&rows(a), &rows(a), &first(b)))),
        ("eval/validity.rs share", call(|a, b| valid()?.share(&rows(a), &first(b)))),
        ("train/losses.rs denoising_loss", call(denoising_loss)),
    ];
    for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
        all.push(("prediction.rs x_0", call(move |a, b| prediction.x_0(&rates(), a, b))));
        all.push(("prediction.rs noise", call(move |a, b| prediction.noise(&rates(), a, b))));
        all.push(("prediction.rs output", call(move |a, b| prediction.output(&rates(), a, b))));
    }
    all.extend(steps());
    all
}

fn steps() -> Vec<(&'static str, Call)> {
    let ancestral = "sampler/euler_ancestral.rs euler_ancestral_step";
    let dpm2s = "sampler/dpm2s_ancestral.rs dpm2s_ancestral_step";
    let dpm2 = "sampler/dpm2.rs dpm2_ancestral_step";
    let sde = "sampler/dpm_sde.rs dpm_sde_step";
    vec![
        ("sampler/ddim.rs ddim_step", call(|a, b| ddim_step(&s(), STEP, a, b))),
        ("sampler/ddim.rs ddim_inverse_step", call(|a, b| ddim_inverse_step(&s(), STEP, a, b))),
        ("sampler/ddim.rs ddim_step_eta", call(|a, b| ddim_step_eta(&s(), STEP, a, b, 0.5, a))),
        ("sampler/ddim.rs ddim_step_eta", call(|a, b| ddim_step_eta(&s(), STEP, a, a, 0.5, b))),
        ("sampler/ddpm.rs ddpm_step", call(|a, b| ddpm_step(&s(), STEP, a, b, a))),
        ("sampler/ddpm.rs ddpm_step", call(|a, b| ddpm_step(&s(), STEP, a, a, b))),
        ("sampler/lcm.rs lcm_step", call(|a, b| lcm_step(&s(), STEP, a, b, a))),
        ("sampler/lcm.rs lcm_step", call(|a, b| lcm_step(&s(), STEP, a, a, b))),
        ("sampler/euler.rs euler_step", call(|a, b| euler_step(2., 1., a, b))),
        (ancestral, call(|a, b| euler_ancestral_step(2., 1., a, b, a))),
        (ancestral, call(|a, b| euler_ancestral_step(2., 1., a, a, b))),
        ("sampler/heun.rs heun_step", call(|a, b| heun_step(2., 1., a, answer(b)))),
        ("sampler/dpm2.rs dpm2_step", call(|a, b| dpm2_step(2., 1., a, answer(b)))),
        (dpm2, call(|a, b| dpm2_ancestral_step(2., 1., a, answer(b), a))),
        (dpm2, call(|a, b| dpm2_ancestral_step(2., 1., a, answer(a), b))),
        (dpm2s, call(|a, b| dpm2s_ancestral_step(2., 1., a, answer(b), a))),
        (dpm2s, call(|a, b| dpm2s_ancestral_step(2., 1., a, answer(a), b))),
        (sde, call(|a, b| dpm_sde_step(2., 1., a, answer(b), [a, a]))),
        (sde, call(|a, b| dpm_sde_step(2., 1., a, answer(a), [b, a]))),
        (sde, call(|a, b| dpm_sde_step(2., 1., a, answer(a), [a, b]))),
        ("sampler/sampling.rs new", call(sampling)),
        (
            "sampler/sampling.rs set_contexts",
            call(|a, b| sampling(&here(), &here())?.set_contexts(a, b)),
        ),
    ]
}

#[test]
fn every_function_of_two_tensors_refuses_those_of_two_devices() -> Result<()> {
    let here = here();
    let there = elsewhere(&here);
    for (name, call) in functions_of_two() {
        assert!(call(&here, &here).is_ok(), "{name}: {:?}", call(&here, &here));
        for (a, b) in [(&here, &there), (&there, &here)] {
            match call(a, b) {
                Err(error @ Error::Argument { .. }) => {
                    let said = error.to_string();
                    assert!(said.contains("a tensor on") && said.contains("to_device"), "{said}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    Ok(())
}

/// Where tensors of any device are taken, because they are moved first.
const MOVED: [(&str, &str); 5] = [
    ("kernels/", "layers call it with what is on the CPU"),
    ("models/", "a network moves its inputs to its weights; its layers are inside"),
    ("measure/", "what is measured is measured on the CPU"),
    ("train/losses.rs perceptual_loss", "the judge moves both pictures"),
    ("train/vocabulary.rs of", "reads token ids from any device"),
];

/// A function of two tensors that is new has to be added above, or to the list of those that move them.
#[test]
fn every_function_of_two_tensors_is_tried() {
    let tried: BTreeSet<&str> = functions_of_two().iter().map(|(name, _)| *name).collect();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for path in files_below(&source) {
        let file = path.strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/");
        for name in public_functions_of_two(&code_of(&path)) {
            found.insert(format!("{file} {name}"));
        }
    }
    found.retain(|name| !name.starts_with("bin/"));
    let moved = |name: &str| MOVED.iter().any(|(start, _)| name.starts_with(start));
    let missing: Vec<_> =
        found.iter().filter(|name| !moved(name) && !tried.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "not tried with tensors of two devices: {missing:?}");
    let gone: Vec<_> = tried.iter().filter(|name| !found.contains(**name)).collect();
    assert!(gone.is_empty(), "not found in the code: {gone:?}");
}

/// A file's code without its comments and its tests.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines: Vec<&str> =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    lines.join("\n")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files_below(&path)),
            false if path.extension().is_some_and(|e| e == "rs") => all.push(path),
            false => (),
        }
    }
    all
}

/// The names of the public functions whose parameters speak of two tensors or more.
fn public_functions_of_two(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for part in code.split("pub fn ").skip(1) {
        let Some((name, rest)) = part.split_once(['(', '<']) else { continue };
        let signature = rest.split(" {\n").next().unwrap_or_default();
        // Without the result, and without those of closures.
        let end = signature.rfind(") -> ").map_or(signature.len(), |end| end);
        let words = signature[..end].replace("-> Result<Tensor>", "");
        let words = words.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.filter(|word| ["Tensor", "Conditions"].contains(word)).count() >= 2 {
            names.push(name);
        }
    }
    names
}

#[test]
fn two_tensors_are_found_in_a_signature() {
    let code = "pub fn one(a: &Tensor) -> Result<Tensor> {\n}\npub fn two(\n    a: &Tensor,\n    b: Option<&Tensor>,\n) \
                -> Tensor {\n}\npub fn three<T>(a: Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) {\n}\nfn no(a: Tensor, b: \
                Tensor) {\n}\npub fn drawn(f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {\n}";
    assert_eq!(public_functions_of_two(code), ["two", "three"]);
}

/// What needs f64 takes its numbers to the CPU first where the device may have none: `meta`, which passes for MPS here,
/// refuses that because it has no numbers, and would compute in f64 otherwise.
#[test]
fn f64_is_not_asked_of_a_device_that_may_not_have_it() -> Result<()> {
    let x = standard_normal(&[2, 3, 4], 1)?;
    let there = elsewhere(&x);
    let exact = ExactDenoiser::new(Schedule::stable_diffusion(), &x)?;
    let rows = there.flatten(1, -1);
    let refused = [
        slerp(&there, &there, 0.5).map(|_| ()),
        apply_weights(&there.narrow(0, 0, 1), &[1., 2., 1.]).map(|_| ()),
        exact.x_0(&there, 5).map(|_| ()),
        ExactDenoiser::new(Schedule::stable_diffusion(), &there).map(|_| ()),
        frechet_distance(&rows, &rows).map(|_| ()),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        let said = result.unwrap_err().to_string();
        assert!(said.contains("Cannot copy out of meta tensor"), "{i}: {said}");
    }
    Ok(())
}

/// A step that read a number, or met a tensor that was left on the CPU, would fail here: `meta` has no numbers. On a GPU it
/// would wait, or fail.
#[test]
fn a_step_reads_nothing_and_moves_nothing() -> Result<()> {
    let here = here();
    let there = elsewhere(&here);
    let range = Clip::Range(2.);
    let plain = Guidance::from(3.);
    let guidances = [plain.clone(), Guidance { projection: Some(PROJECTION), ..plain }];
    for name in Sampler::names() {
        let sampler: Sampler = name.parse()?;
        for (clip, guidance) in [(Clip::Off, &guidances[0]), (range, &guidances[1])] {
            let settings = PlanSettings { clip, ..PlanSettings::default() };
            let plan = Plan::new(sampler, &s(), 6, &settings)?;
            let noises: Vec<Tensor> = plan.steps.iter().map(|_| same(&here)).collect();
            let contexts = Some((&here, &here));
            let mut sampling =
                Sampling::new(&Nothing, plan, same(&here), contexts, guidance.clone(), noises)?;
            sampling.set_sample(same(&there));
            if sampler.is_stochastic() {
                // Its noises stayed with the sample that it began with.
                assert!(sampling.any(|step| step.is_err()), "{name}");
                continue;
            }
            let steps = sampling.collect::<Result<Vec<_>>>()?;
            assert!(steps.iter().all(|step| step.prev_sample.device() == there.device()), "{name}");
        }
    }
    let mask = elsewhere(&here.narrow(1, 0, 1));
    let known = KnownRegion { mask, x_0: same(&there), noise: same(&there) };
    assert_eq!(known.restore(&plan(), 1, &there)?.device(), there.device());
    Ok(())
}

/// Numbers become f64 in one place, which knows where that can be computed.
#[test]
fn one_function_converts_to_f64() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in files_below(&source) {
        let file = path.strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/");
        let converts = code_of(&path).contains("to_kind(Kind::Double)")
            || code_of(&path).contains("to_kind(tch::Kind::Double)");
        // The program has its judge's features on the CPU.
        assert!(!converts || file == "device.rs" || file.starts_with("bin/"), "{file}");
    }
}

/// What runs in every step of a sampling or a training asks no tensor for its numbers: on a GPU that waits.
#[test]
fn nothing_in_a_step_asks_for_numbers() {
    const IN_A_STEP: [&str; 19] = [
        "forward.rs",
        "guidance.rs",
        "models/layers.rs",
        "models/unet/attention.rs",
        "models/unet/blocks.rs",
        "models/unet/conditioned.rs",
        "models/unet/conditions.rs",
        "models/unet/network.rs",
        "models/vae/autoencoder.rs",
        "pipeline/known_region.rs",
        "pipeline/run.rs",
        "prediction.rs",
        "rates.rs",
        "sampler/coefficients.rs",
        "sampler/sampling.rs",
        "sampler/settings.rs",
        "train/muon.rs",
        "train/optimizer.rs",
        "train/replica.rs",
    ];
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in IN_A_STEP {
        let code = code_of(&source.join(file));
        for reading in ["double_value(", "int64_value(", "f64::try_from(", "Vec::<f64>::try_from("]
        {
            assert!(!code.contains(reading), "{file}: {reading}");
        }
    }
}

/// Two steps on the CPU.
fn settings(out: &Path) -> TrainSettings {
    TrainSettings {
        out: out.to_owned(),
        steps: 2,
        batch: 2,
        learning_rate: 1e-3,
        warmup: 1,
        seed: 1,
        checkpoint_every: Duration::from_secs(3600),
        sheet_every: 100,
        stop_at: None,
        workers: 1,
        from: None,
        kind: Kind::Float,
        device: Device::Cpu,
        optimizer: OptimizerConfig::default(),
    }
}

/// A program may name a GPU without asking whether it is there: `pick` is not the only way to a device.
#[test]
fn a_gpu_that_is_not_there_is_refused_wherever_it_is_named() -> Result<()> {
    let folder = golden::path("pipeline/sd1");
    let gone = Device::Cuda(99);
    let refused = |error: Option<Error>| match error {
        Some(Error::Device { asked, .. }) => assert_eq!(asked, "cuda:99"),
        other => panic!("{other:?}"),
    };
    refused(StableDiffusion::open(&folder, Kind::Float, gone).err());
    refused(UNet::open(folder.join("unet"), Kind::Float, gone).err());
    let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?.offloaded(gone);
    refused(model.generate(&Request::new("a cat")).err());
    refused(model.decode(&Tensor::zeros([1, 4, 2, 2], tch::kind::FLOAT_CPU)).err());
    let pictures = Tensor::zeros([2, 3, 16, 16], (Kind::Uint8, Device::Cpu));
    let out = tempfile::tempdir().unwrap();
    let settings = TrainSettings { device: gone, ..settings(out.path()) };
    let weights = VaeLossWeights { edge: 0., kl: 0., perceptual: 0., judge: None };
    let config = VaeConfig::default();
    refused(train_vae(&pictures, &config, &weights, &settings, |_| ()).err());
    Ok(())
}

/// libtorch looks for its CUDA library when it first seeds its generators, and never again: whoever seeds them loads it.
#[test]
fn nothing_is_seeded_before_the_cuda_library_is_loaded() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in files_below(&source) {
        let code = code_of(&path);
        if !path.ends_with("noise.rs") {
            assert!(!code.contains("manual_seed("), "{}: seed with `noise`", path.display());
            continue;
        }
        let functions: Vec<&str> = code.split("\nfn ").flat_map(|f| f.split("\npub fn ")).collect();
        for function in functions {
            if let Some((before, _)) = function.split_once("manual_seed(") {
                assert!(before.contains("lock()"), "{function}");
            }
            if let Some(lock) = function.strip_prefix("lock()") {
                let (load, take) = (lock.find("load_cuda_once()"), lock.find("GENERATOR.lock()"));
                assert!(load.is_some() && load < take, "{function}");
            }
        }
    }
}

/// Latents that a GPU encoded are gathered with indices that are drawn on the CPU: they are brought there first, and no
/// start of a training panics on them. `meta` has nothing to bring.
#[test]
fn training_brings_its_data_to_where_it_draws() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let model = StableDiffusion::open(golden::path("pipeline/sd1"), Kind::Float, Device::Cpu)?;
    let ids = model.tokenizer.encode("a cat")?.tensor().repeat([6, 1]);
    let latents = Tensor::ones([6, 4, 8, 8], tch::kind::FLOAT_CPU);
    let settings = settings(&folder.path().join("out"));
    let diffusion = DiffusionSettings {
        text: model.text_encoder.config().clone(),
        unet: UNetConfig::narrow(
            &[32, 32],
            &[false, true],
            1,
            2,
            model.text_encoder.config().hidden_size,
            8,
        ),
        caption_dropout: 0.1,
        min_snr: Some(5.),
        prompts: Vec::new(),
        guidance_scale: 3.,
    };
    let (tiny, vae) = (diffuscope::pipeline::tiny_folder(), &model.vae);
    let frozen = FrozenParts {
        tokenizer: &model.tokenizer,
        tokenizer_folder: &tiny.join("tokenizer"),
        vae,
        vae_folder: &tiny,
    };
    let train = |latents: &Tensor, ids: &Tensor| {
        let data = CaptionedLatents { latents: same(latents), ids: same(ids) };
        train_diffusion(&data, &frozen, &diffusion, &settings, |_| ())
    };
    for data in [(&elsewhere(&latents), &ids), (&latents, &elsewhere(&ids))] {
        let said = train(data.0, data.1).unwrap_err().to_string();
        assert!(said.contains("Cannot copy out of meta tensor"), "{said}");
    }
    train(&latents, &ids)?;
    Ok(())
}
