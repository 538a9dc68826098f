//! The checks: each a function of the bench, and the same on a GPU and on the CPU.

mod chapters;
mod devices;
mod families;
mod memory;
mod networks;
mod pictures;
mod speed;
mod training;

pub use memory::print_used_memory;

use diffuscope::Result;
use tch::Kind;

use crate::bench::Bench;
use crate::outcome::Outcome;

type CheckBody = Box<dyn Fn(&Bench) -> Result<Outcome>>;

/// One check: its name, whether it takes more than some seconds on a CPU, and what it does.
pub struct GpuCheck {
    pub name: String,
    pub slow: bool,
    pub run: CheckBody,
}

fn quick(name: impl Into<String>, run: impl Fn(&Bench) -> Result<Outcome> + 'static) -> GpuCheck {
    GpuCheck { name: name.into(), slow: false, run: Box::new(run) }
}

fn slow(name: impl Into<String>, run: impl Fn(&Bench) -> Result<Outcome> + 'static) -> GpuCheck {
    GpuCheck { slow: true, ..quick(name, run) }
}

/// The dtypes of the comparisons with the reference, and how far apart they may be.
const DTYPES: [(Kind, &str, f64); 2] = [(Kind::Float, "f32", 1e-3), (Kind::Half, "f16", 5e-2)];

/// How far apart the CPU and a GPU may be in f32.
const AS_ON_THE_CPU: f64 = 1e-3;

/// All checks, in the order in which they run.
pub fn all() -> Vec<GpuCheck> {
    let mut all = vec![
        quick("device: the one that is picked without a choice", devices::picked),
        quick("device: drawn noise first does not hide it", devices::picked_after_noise),
        quick("device: what doctor says of CUDA", devices::doctor),
        quick("device: GPUs that are not there are refused", devices::wrong_names),
        quick("device: none with an empty CUDA_VISIBLE_DEVICES", devices::none_visible),
    ];
    for (kind, dtype, bound) in DTYPES {
        for (name, check) in networks::ALL {
            all.push(quick(format!("parity: {name} in {dtype}"), move |bench| {
                check(bench, kind, bound)
            }));
        }
        for family in families::all() {
            all.push(quick(format!("parity: {} in {dtype}", family.name), move |bench| {
                families::parity(bench, &family, kind, bound)
            }));
        }
    }
    all.extend([
        quick("noise: initial latents bit for bit as on the CPU", pictures::initial_latents),
        quick("trace: the families', tensor by tensor, as on the CPU", pictures::traces),
        quick("trace: the embedded model's as on the CPU", pictures::trace_of_the_embedded_model),
        quick("samplers: each as on the CPU", pictures::samplers),
        quick("guidance: each rule as on the CPU", pictures::guidances),
        quick("tasks: known region, weights and inversion as on the CPU", pictures::tasks),
        quick("offload: the same latents", pictures::offloaded),
        quick("offload: the networks' own tensors stay as they are", pictures::home_copies),
        quick("tiles: as the reference's", pictures::tiles),
        quick("LoRA: merged weights as the reference's", pictures::lora_set),
        quick("LoRA: taken out bit for bit", pictures::lora_unset),
        quick("training: the diffusion model's loss as on the CPU", training::diffusion),
        quick("training: the autoencoder's loss as on the CPU", training::autoencoder),
        quick("training: the judge's loss as on the CPU", training::judge),
        quick("training: the diffusion model, resumed", training::diffusion_resumed),
        quick("training: the autoencoder, resumed", training::autoencoder_resumed),
        quick("training: the judge, resumed", training::judge_resumed),
        quick("training: in the device's own dtype, with Muon", training::own_dtype),
        quick("memory: a lack of it is an error, and the next picture is as before", memory::lack),
        slow("memory: given back after a run", memory::given_back),
        slow("chapters: their code runs to its end", chapters::run),
        slow("speed: 50 steps of SD 1.5 in f16", speed::own),
        slow("speed: 50 steps of SD 1.5 in f16 by diffusers", speed::of_diffusers),
    ]);
    all
}
