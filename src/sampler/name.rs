//! The samplers, by the names that people and diffusers use.

use std::fmt;
use std::str::FromStr;

use super::{DpmSolver, Form, Sigmas, UniPc};
use crate::{Error, Result};

/// How one step follows from what is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Song et al. 2020; `eta` 0 is deterministic, 1 as noisy as DDPM.
    Ddim {
        /// How much fresh noise every step adds.
        eta: f64,
    },
    /// Ho et al. 2020.
    Ddpm,
    /// Pseudo numerical methods, Liu et al. 2022: linear multistep; it may begin with Runge-Kutta steps.
    Pndm {
        /// Whether the first three steps are Runge-Kutta's, of four looks each.
        runge_kutta: bool,
    },
    /// Linear multistep in sigma, of order 4.
    Lms,
    /// Karras et al. 2022, algorithm 2 without its second order.
    Euler,
    /// Euler's method to a lower sigma, and fresh noise back up.
    EulerAncestral,
    /// Karras et al. 2022, algorithm 2: two looks a step.
    Heun,
    /// DPM-Solver-2 as k-diffusion has it: the second look in the middle of log sigma.
    Dpm2,
    /// The same with fresh noise.
    Dpm2Ancestral,
    /// DPM-Solver and DPM-Solver++ of Lu et al. 2022, single- and multistep, with and without fresh noise.
    DpmSolver(DpmSolver),
    /// DPM-Solver++ with fresh noise in both of its stages, as k-diffusion has it.
    DpmSde,
    /// DPM-Solver++ 2S with fresh noise at the end of a step, as k-diffusion has it.
    Dpm2sAncestral,
    /// Zhao et al. 2023: a predictor and a corrector from the same looks.
    UniPc(UniPc),
    /// Zhang & Chen 2022, in log rho.
    Deis {
        /// 1 to 3.
        order: usize,
    },
    /// Latent consistency models, Luo et al. 2023.
    Lcm {
        /// The steps of the teacher's sampler that the model was distilled from.
        original_steps: usize,
    },
}

/// A sampler: a method, and the sigmas that it visits.
///
/// # Examples
/// ```
/// use diffuscope::sampler::{Sampler, Sigmas};
/// let sampler: Sampler = "dpm++2m-karras".parse()?;
/// assert_eq!(sampler, "DPM++ 2M Karras".parse()?);
/// assert_eq!(sampler.sigmas, Some(Sigmas::Karras));
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// How a step is taken.
    pub method: Method,
    /// The sigmas; `None` for those that the model's folder names.
    pub sigmas: Option<Sigmas>,
    /// Follow diffusers where it leaves its own equations, see [`super::Settings::as_diffusers`].
    pub as_diffusers: bool,
}

impl From<Method> for Sampler {
    fn from(method: Method) -> Self {
        Self { method, sigmas: None, as_diffusers: false }
    }
}

const fn multistep(order: usize, sde: bool) -> Method {
    Method::DpmSolver(DpmSolver { order, sde, ..DpmSolver::MULTISTEP })
}

const fn singlestep(order: usize, sde: bool) -> Method {
    Method::DpmSolver(DpmSolver { order, sde, ..DpmSolver::SINGLESTEP })
}

/// The name on the command line, the other names, the method.
const NAMES: [(&str, &[&str], Method); 27] = [
    ("ddim", &["DDIMScheduler"], Method::Ddim { eta: 0. }),
    ("ddpm", &["DDPMScheduler"], Method::Ddpm),
    ("pndm", &["PNDMScheduler", "plms"], Method::Pndm { runge_kutta: false }),
    ("pndm-rk", &["pndm-runge-kutta"], Method::Pndm { runge_kutta: true }),
    ("lms", &["LMSDiscreteScheduler", "k-lms"], Method::Lms),
    ("euler", &["EulerDiscreteScheduler", "k-euler"], Method::Euler),
    (
        "euler-a",
        &["EulerAncestralDiscreteScheduler", "k-euler-a", "euler-ancestral", "k-euler-ancestral"],
        Method::EulerAncestral,
    ),
    ("heun", &["HeunDiscreteScheduler", "k-heun"], Method::Heun),
    ("dpm2", &["KDPM2DiscreteScheduler", "k-dpm-2"], Method::Dpm2),
    (
        "dpm2-a",
        &["KDPM2AncestralDiscreteScheduler", "k-dpm-2-a", "dpm2-ancestral", "k-dpm-2-ancestral"],
        Method::Dpm2Ancestral,
    ),
    ("dpm++1s", &[], singlestep(1, false)),
    ("dpm++2s", &["DPMSolverSinglestepScheduler"], singlestep(2, false)),
    ("dpm++3s", &[], singlestep(3, false)),
    ("dpm++2s-sde", &[], singlestep(2, true)),
    ("dpm++1m", &[], multistep(1, false)),
    ("dpm++2m", &["DPMSolverMultistepScheduler"], multistep(2, false)),
    ("dpm++3m", &[], multistep(3, false)),
    ("dpm++1m-sde", &[], multistep(1, true)),
    ("dpm++2m-sde", &[], multistep(2, true)),
    ("dpm++3m-sde", &[], multistep(3, true)),
    (
        "dpm-solver",
        &["dpm-fast"],
        Method::DpmSolver(DpmSolver { form: Form::Noise, ..DpmSolver::MULTISTEP }),
    ),
    ("dpm++sde", &["DPMSolverSDEScheduler"], Method::DpmSde),
    ("dpm++2s-a", &["dpm++2s-ancestral"], Method::Dpm2sAncestral),
    ("unipc", &["UniPCMultistepScheduler", "uni-pc"], Method::UniPc(UniPc::DEFAULT)),
    ("unipc3", &[], Method::UniPc(UniPc { order: 3, ..UniPc::DEFAULT })),
    ("deis", &["DEISMultistepScheduler"], Method::Deis { order: 2 }),
    ("lcm", &["LCMScheduler"], Method::Lcm { original_steps: 50 }),
];

impl Method {
    /// Whether a name for it differs in numbers alone.
    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Ddim { .. }, Self::Ddim { .. }) | (Self::Lcm { .. }, Self::Lcm { .. }) => true,
            (Self::Deis { .. }, Self::Deis { .. }) => true,
            (Self::UniPc(a), Self::UniPc(b)) => a.order == b.order,
            (Self::DpmSolver(a), Self::DpmSolver(b)) => {
                (a.order, a.single, a.form, a.sde) == (b.order, b.single, b.form, b.sde)
            }
            (a, b) => a == b,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(.., method)| self.is_like(*method));
        found.map_or("dpm-solver", |(name, ..)| *name)
    }

    /// Whether its steps add fresh noise.
    pub fn is_stochastic(self) -> bool {
        match self {
            Self::Ddim { eta } => eta != 0.,
            Self::DpmSolver(solver) => solver.sde,
            Self::Ddpm
            | Self::EulerAncestral
            | Self::Dpm2Ancestral
            | Self::DpmSde
            | Self::Dpm2sAncestral
            | Self::Lcm { .. } => true,
            _ => false,
        }
    }

    /// Looks at the model in one of its steps.
    pub fn looks_per_step(self) -> usize {
        match self {
            Self::Heun | Self::Dpm2 | Self::Dpm2Ancestral | Self::DpmSde | Self::Dpm2sAncestral => {
                2
            }
            _ => 1,
        }
    }
}

impl Sampler {
    /// DDIM; `eta` 0 is deterministic, 1 as noisy as DDPM.
    pub fn ddim(eta: f64) -> Self {
        Method::Ddim { eta }.into()
    }

    /// The names on the command line.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, ..)| *name)
    }

    /// Whether its steps add fresh noise.
    pub fn is_stochastic(self) -> bool {
        self.method.is_stochastic()
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.name())?;
        f.write_str(match self.sigmas {
            None => "",
            Some(Sigmas::Own) => "-own",
            Some(Sigmas::Karras) => "-karras",
            Some(Sigmas::Exponential) => "-exponential",
            Some(Sigmas::Beta) => "-beta",
        })?;
        f.write_str(if self.as_diffusers { AS_DIFFUSERS } else { "" })
    }
}

/// The end of a name that asks for the reference's behaviour.
const AS_DIFFUSERS: &str = "-diffusers";

/// Letters, digits and + alone, so that "DPM++ 2M", "dpm++_2m" and "dpmpp-2m" are one name.
fn bare(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace("dpmpp", "dpm++");
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '+').collect()
}

impl FromStr for Sampler {
    type Err = Error;

    /// People's names and diffusers' class names; `-karras`, `-exponential` or `-beta` at the end says which sigmas, and
    /// `-diffusers` after it asks for the reference's behaviour where that is not the equation's.
    fn from_str(name: &str) -> Result<Self> {
        let asked = bare(name);
        let (asked, as_diffusers) = match asked.strip_suffix(&bare(AS_DIFFUSERS)) {
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
        let found = NAMES
            .iter()
            .find(|(name, others, _)| bare(name) == stem || others.iter().any(|n| bare(n) == stem));
        match found {
            Some((.., method)) => Ok(Self { method: *method, sigmas, as_diffusers }),
            None => {
                let names: Vec<&str> = Self::names().collect();
                let expected = format!("one of {}", names.join(", "));
                let todo = "-karras, -exponential or -beta at its end says which sigmas";
                Err(Error::argument("sampler", expected, name, todo))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_and_of_diffusers_are_known() {
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
        for (name, others, method) in NAMES {
            for name in others.iter().chain([&name]) {
                assert_eq!(name.parse::<Sampler>().unwrap().method, method, "{name}");
            }
            let sampler = Sampler { method, sigmas: Some(Sigmas::Karras), as_diffusers: true };
            assert_eq!(sampler.to_string().parse::<Sampler>().unwrap(), sampler);
        }
        assert!("dpm+++2m".parse::<Sampler>().is_err());
        let said = "foo".parse::<Sampler>().unwrap_err().to_string();
        assert!(said.contains("dpm++2m") && said.contains("-karras"), "{said}");
    }
}
