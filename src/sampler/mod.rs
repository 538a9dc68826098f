//! The reverse process: one file per sampler, each step a pure function.
//!
//! Every step ends on a weighted sum of what is known: the sample, the picture and the noise that the model saw in it, what
//! it saw in earlier samples, and fresh noise. Samplers differ only in the coefficients of this sum, see [`Coefficients`],
//! which are known before the first step: a [`Plan`] lists them.
//!
//! [`METHODS`] is the table of all samplers. A new one is a file with its coefficients, and a row here.

mod coefficients;
mod ddim;
mod ddpm;
mod deis;
mod dpm2;
mod dpm2s_ancestral;
mod dpm_sde;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod evaluation;
mod grid;
mod heun;
mod lcm;
mod lms;
mod method;
mod options;
mod plan;
mod pndm;
mod position;
mod sampling;
mod settings;
mod sigmas;
mod step;
mod two_stages;
mod unipc;

use std::str::FromStr;

pub use coefficients::{Coefficients, EARLIER, EvaluationCoefficients};
pub use ddim::{ddim_coefficients, ddim_inverse_step, ddim_step, ddim_step_eta};
pub use ddpm::{ddpm_coefficients, ddpm_step};
pub use deis::deis_coefficients;
pub use dpm_sde::dpm_sde_step;
pub use dpm_solver::{dpm_solver_multistep_coefficients, dpm_solver_singlestep_coefficients};
pub use dpm2::{dpm2_ancestral_step, dpm2_coefficients, dpm2_step};
pub use dpm2s_ancestral::dpm2s_ancestral_step;
pub use euler::{euler_coefficients, euler_step};
pub use euler_ancestral::{ancestral_sigmas, euler_ancestral_coefficients, euler_ancestral_step};
pub use evaluation::Evaluation;
pub use heun::{heun_coefficients, heun_step};
pub use lcm::{lcm_coefficients, lcm_step, lcm_timesteps};
pub use lms::lms_coefficients;
pub use method::{Method, Name, Sampler};
pub use options::{Deis, DpmSolver, Options, SolverForm, SolverType, UniPc};
pub use plan::Plan;
pub use pndm::plms_weights;
pub use position::Position;
pub use sampling::{Sampling, SamplingStep};
pub use settings::{Clip, PlanSettings};
pub use sigmas::{FinalSigma, Sigmas};
pub use step::{PlannedStep, StepOutput};
pub use unipc::{unipc_corrector, unipc_predictor};

use crate::{Error, Result};

/// All samplers, in the order in which they are listed.
pub static METHODS: &[Method] = &[
    DDIM,
    // Ho et al. 2020.
    Method {
        names: &[name("ddpm", &["DDPMScheduler", "DDPMParallelScheduler"])],
        grid: grid::in_time_to_picture,
        plan: ddpm::plan,
        is_stochastic: always,
        ..ROW
    },
    // Pseudo numerical methods, Liu et al. 2022: linear multistep, which may begin with Runge-Kutta steps.
    Method {
        names: &[
            name("pndm", &["PNDMScheduler", "plms"]),
            Name {
                options: Options { runge_kutta: true, ..OPTIONS },
                ..name("pndm-rk", &["pndm-runge-kutta"])
            },
        ],
        grid: grid::in_time,
        plan: pndm::plan,
        ..ROW
    },
    // Linear multistep in sigma, of order 4.
    Method { names: &[name("lms", &["LMSDiscreteScheduler", "k-lms"])], plan: lms::plan, ..ROW },
    // Karras et al. 2022, algorithm 2 without its second order.
    Method {
        names: &[name("euler", &["EulerDiscreteScheduler", "k-euler"])],
        plan: euler::plan,
        ..ROW
    },
    // Euler's method to a lower sigma, and fresh noise back up.
    Method {
        names: &[name(
            "euler-a",
            &[
                "EulerAncestralDiscreteScheduler",
                "k-euler-a",
                "euler-ancestral",
                "k-euler-ancestral",
            ],
        )],
        plan: euler_ancestral::plan,
        is_stochastic: always,
        ..ROW
    },
    // Karras et al. 2022, algorithm 2: two evaluations per step.
    Method {
        names: &[name("heun", &["HeunDiscreteScheduler", "k-heun"])],
        plan: heun::plan,
        evaluations_per_step: 2,
        ..ROW
    },
    // DPM-Solver-2 as k-diffusion has it: the second evaluation in the middle of log sigma.
    Method {
        names: &[name("dpm2", &["KDPM2DiscreteScheduler", "k-dpm-2"])],
        grid: grid::in_sigma_whole_karras,
        plan: dpm2::plan,
        evaluations_per_step: 2,
        ..ROW
    },
    // The same with fresh noise.
    Method {
        names: &[name(
            "dpm2-a",
            &[
                "KDPM2AncestralDiscreteScheduler",
                "k-dpm-2-a",
                "dpm2-ancestral",
                "k-dpm-2-ancestral",
            ],
        )],
        grid: grid::in_sigma_whole_karras,
        plan: dpm2::plan_ancestral,
        is_stochastic: always,
        evaluations_per_step: 2,
        ..ROW
    },
    // DPM-Solver and DPM-Solver++ of Lu et al. 2022, single- and multistep, with and without fresh noise.
    Method {
        names: &[
            dpm("dpm++1s", &[], SINGLE, 1, false),
            dpm("dpm++2s", &["DPMSolverSinglestepScheduler"], SINGLE, 2, false),
            dpm("dpm++3s", &[], SINGLE, 3, false),
            dpm("dpm++2s-sde", &[], SINGLE, 2, true),
            dpm("dpm++1m", &[], MULTI, 1, false),
            dpm("dpm++2m", &["DPMSolverMultistepScheduler"], MULTI, 2, false),
            dpm("dpm++3m", &[], MULTI, 3, false),
            dpm("dpm++1m-sde", &[], MULTI, 1, true),
            dpm("dpm++2m-sde", &[], MULTI, 2, true),
            dpm("dpm++3m-sde", &[], MULTI, 3, true),
            dpm(
                "dpm-solver",
                &["dpm-fast"],
                DpmSolver { form: SolverForm::Noise, ..MULTI },
                2,
                false,
            ),
        ],
        grid: dpm_solver::grid,
        plan: dpm_solver::plan,
        is_stochastic: |options| options.dpm_solver.sde,
        ..ROW
    },
    // DPM-Solver++ with fresh noise in both of its stages, as k-diffusion has it.
    Method {
        names: &[name("dpm++sde", &["DPMSolverSDEScheduler"])],
        plan: dpm_sde::plan,
        is_stochastic: always,
        evaluations_per_step: 2,
        ..ROW
    },
    // DPM-Solver++ 2S with fresh noise at the end of a step, as k-diffusion has it.
    Method {
        names: &[name("dpm++2s-a", &["dpm++2s-ancestral"])],
        plan: dpm2s_ancestral::plan,
        is_stochastic: always,
        evaluations_per_step: 2,
        ..ROW
    },
    // Zhao et al. 2023: a predictor and a corrector from the same evaluations.
    Method {
        names: &[
            Name {
                options: Options { unipc: UniPc { order: 3, ..UniPc::DEFAULT }, ..OPTIONS },
                ..name("unipc3", &[])
            },
            name("unipc", &["UniPCMultistepScheduler", "uni-pc"]),
        ],
        grid: grid::in_lambda_of_unipc,
        plan: unipc::plan,
        ..ROW
    },
    // Zhang & Chen 2022, in log rho.
    Method {
        names: &[name("deis", &["DEISMultistepScheduler"])],
        grid: grid::in_lambda_to_sigma_min,
        plan: deis::plan,
        ..ROW
    },
    // Latent consistency models, Luo et al. 2023.
    Method {
        names: &[name("lcm", &["LCMScheduler"])],
        grid: lcm::grid,
        plan: lcm::plan,
        is_stochastic: always,
        ..ROW
    },
];

/// Song et al. 2020.
const DDIM: Method = Method {
    names: &[name("ddim", &["DDIMScheduler", "DDIMParallelScheduler"])],
    grid: grid::in_time,
    plan: ddim::plan,
    is_stochastic: |options| options.eta != 0.,
    keeps_noise_when_clipped: true,
    ..ROW
};

/// What holds for most rows: deterministic, in sigma, one evaluation per step.
const ROW: Method = Method {
    names: &[],
    grid: grid::in_sigma,
    plan: euler::plan,
    is_stochastic: |_| false,
    evaluations_per_step: 1,
    keeps_noise_when_clipped: false,
};

const OPTIONS: Options = Options::DEFAULT;
const SINGLE: DpmSolver = DpmSolver::SINGLESTEP;
const MULTI: DpmSolver = DpmSolver::MULTISTEP;

const fn name(name: &'static str, aliases: &'static [&'static str]) -> Name {
    Name { name, aliases, options: OPTIONS }
}

const fn dpm(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: DpmSolver,
    order: usize,
    sde: bool,
) -> Name {
    let dpm_solver = DpmSolver { order, sde, ..kind };
    Name { name, aliases, options: Options { dpm_solver, ..OPTIONS } }
}

fn always(_: &Options) -> bool {
    true
}

impl Sampler {
    /// DDIM; `eta` 0 is deterministic, 1 as noisy as DDPM.
    pub fn ddim(eta: f64) -> Self {
        let options = Options { eta, ..OPTIONS };
        Self { method: &DDIM, options, sigmas: None, as_diffusers: false }
    }

    /// The names on the command line.
    pub fn names() -> impl Iterator<Item = &'static str> {
        METHODS.iter().flat_map(|method| method.names).map(|name| name.name)
    }
}

/// Letters, digits and + alone, so that "DPM++ 2M", "dpm++_2m" and "dpmpp-2m" are one name.
fn bare(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace("dpmpp", "dpm++");
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '+').collect()
}

impl FromStr for Sampler {
    type Err = Error;

    /// Common names and diffusers' class names. `-karras`, `-exponential` or `-beta` at the end says which sigmas, and
    /// `-diffusers` after it asks for diffusers' behaviour where it differs from the equation.
    fn from_str(name: &str) -> Result<Self> {
        let asked = bare(name);
        let (asked, as_diffusers) = match asked.strip_suffix(&bare(method::AS_DIFFUSERS)) {
            Some(rest) => (rest.to_owned(), true),
            None => (asked, false),
        };
        let ends = [
            ("karras", Sigmas::Karras),
            ("exponential", Sigmas::Exponential),
            ("beta", Sigmas::Beta),
            ("own", Sigmas::Own),
        ];
        let (stem, sigmas) = ends
            .iter()
            .find_map(|(end, sigmas)| Some((asked.strip_suffix(end)?, Some(*sigmas))))
            .unwrap_or((&asked, None));
        let is_asked =
            |known: &&Name| known.aliases.iter().chain([&known.name]).any(|n| bare(n) == stem);
        for method in METHODS {
            if let Some(Name { options, .. }) = method.names.iter().find(is_asked) {
                return Ok(Self { method, options: *options, sigmas, as_diffusers });
            }
        }
        let names: Vec<&str> = Self::names().collect();
        let expected = format!("one of {}", names.join(", "));
        let advice = "-karras, -exponential or -beta at the end says which sigmas";
        Err(Error::argument("sampler", expected, name).hint(advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_and_those_of_diffusers_are_known() {
        let same = [
            ("DPM++ 2M Karras", "dpm++2m-karras"),
            ("dpmpp_2m_sde", "dpm++2m-sde"),
            ("DPM++ 3M SDE Exponential", "dpm++3m-sde-exponential"),
            ("Euler a", "EulerAncestralDiscreteScheduler"),
            ("k_lms", "lms"),
            ("DPM2 a Karras", "dpm2-a-karras"),
            ("DPM++ SDE", "DPMSolverSDEScheduler"),
            ("PLMS", "PNDMScheduler"),
            ("UniPC", "UniPCMultistepScheduler"),
        ];
        for (a, b) in same {
            assert_eq!(a.parse::<Sampler>().unwrap(), b.parse::<Sampler>().unwrap(), "{a}");
        }
        for method in METHODS {
            for &Name { name, aliases, options } in method.names {
                for alias in aliases.iter().chain([&name]) {
                    let sampler = alias.parse::<Sampler>().unwrap();
                    assert_eq!((sampler.method, sampler.options), (method, options), "{alias}");
                }
                let sigmas = Some(Sigmas::Karras);
                let sampler = Sampler { method, options, sigmas, as_diffusers: true };
                assert_eq!(sampler.name(), name);
                assert_eq!(sampler.to_string().parse::<Sampler>().unwrap(), sampler);
            }
        }
        assert!("dpm+++2m".parse::<Sampler>().is_err());
        let said = "foo".parse::<Sampler>().unwrap_err().to_string();
        assert!(said.contains("dpm++2m") && said.contains("-karras"), "{said}");
    }

    #[test]
    fn samplers_are_named_and_compared_by_what_they_do() {
        let ddim: Sampler = "ddim".parse().unwrap();
        assert_eq!(ddim, Sampler::ddim(0.));
        assert_ne!(ddim, Sampler::ddim(0.5));
        assert!(Sampler::ddim(0.5).is_stochastic() && !ddim.is_stochastic());
        assert_eq!(Sampler::ddim(0.5).to_string(), "ddim");
        let mut dpm: Sampler = "dpm++2m".parse().unwrap();
        dpm.options.dpm_solver.sde = true;
        dpm.options.dpm_solver.euler_at_final = true;
        assert_eq!(dpm.to_string(), "dpm++2m-sde");
        assert!(format!("{dpm:?}").contains("euler_at_final: true"), "{dpm:?}");
        assert!(dpm.method.is("dpm-solver") && !dpm.method.is("unipc"));
    }
}
