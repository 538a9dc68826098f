//! `scheduler/scheduler_config.json`: a checkpoint's noise schedule and sampler settings.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::prediction::Prediction;
use crate::sampler::{
    Clip, DpmSolver, FinalSigma, Options, PlanSettings, Sampler, Sigmas, SolverForm, SolverType,
    UniPc,
};
use crate::schedule::{BetaSchedule, Schedule, Spacing};
use crate::tensor_file::read_config;
use crate::{Error, Result};

/// `scheduler/scheduler_config.json`, whichever diffusers class wrote it.
///
/// A setting that the file leaves out has the default of diffusers' class for the sampler in use, as with `from_config`.
#[derive(Clone, Deserialize)]
pub struct SchedulerConfig {
    #[serde(rename = "_class_name", default)]
    class_name: String,
    num_train_timesteps: usize,
    beta_start: f64,
    beta_end: f64,
    beta_schedule: BetaSchedule,
    #[serde(default)]
    trained_betas: Option<Vec<f64>>,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    #[serde(default = "epsilon")]
    prediction_type: Prediction,
    #[serde(default)]
    timestep_spacing: Option<Spacing>,
    #[serde(default)]
    steps_offset: usize,
    #[serde(default)]
    set_alpha_to_one: Option<bool>,
    #[serde(default)]
    clip_sample: Option<bool>,
    #[serde(default = "one")]
    clip_sample_range: f64,
    #[serde(default)]
    thresholding: bool,
    #[serde(default = "ratio")]
    dynamic_thresholding_ratio: f64,
    #[serde(default = "one")]
    sample_max_value: f64,
    #[serde(default)]
    use_karras_sigmas: bool,
    #[serde(default)]
    use_exponential_sigmas: bool,
    #[serde(default)]
    use_beta_sigmas: bool,
    #[serde(default)]
    final_sigmas_type: Option<FinalSigma>,
    #[serde(default)]
    skip_prk_steps: bool,
    #[serde(default)]
    solver_order: Option<usize>,
    #[serde(default)]
    algorithm_type: Option<String>,
    #[serde(default)]
    solver_type: Option<String>,
    #[serde(default)]
    lower_order_final: Option<bool>,
    #[serde(default)]
    euler_at_final: bool,
    #[serde(default)]
    predict_x0: Option<bool>,
    #[serde(default)]
    original_inference_steps: Option<usize>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

impl fmt::Debug for SchedulerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulerConfig")
            .field("class", &self.class_name)
            .field("num_train_timesteps", &self.num_train_timesteps)
            .field("betas", &(self.beta_start, self.beta_end, self.beta_schedule))
            .field("prediction_type", &self.prediction_type)
            .field("timestep_spacing", &self.timestep_spacing)
            .finish_non_exhaustive()
    }
}

fn epsilon() -> Prediction {
    Prediction::Epsilon
}

fn one() -> f64 {
    1.
}

fn ratio() -> f64 {
    0.995
}

/// Settings that change the result and that no sampler here supports, with the values that change nothing.
const UNSUPPORTED: [(&str, &[&str]); 11] = [
    ("interpolation_type", &["\"linear\""]),
    ("timestep_type", &["\"discrete\""]),
    ("variance_type", &["\"fixed_small\"", "\"fixed_small_log\""]),
    ("use_lu_lambdas", &["false"]),
    ("use_flow_sigmas", &["false"]),
    ("use_dynamic_shifting", &["false"]),
    ("lambda_min_clipped", &["\"-inf\"", "-Infinity"]),
    ("disable_corrector", &["[]"]),
    ("timestep_scaling", &["10.0", "10"]),
    ("sigma_min", &[]),
    ("sigma_max", &[]),
];

impl SchedulerConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing or lacks a key; a setting that would change the result and is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_json(read_config(&path)?, path.as_ref())
    }

    /// As [`SchedulerConfig::open`], from JSON that was read from `path` or inferred for it.
    pub(crate) fn from_json(json: serde_json::Value, path: &Path) -> Result<Self> {
        let config: Self = serde_json::from_value(json).map_err(|e| Error::config(path, e))?;
        for (name, known) in UNSUPPORTED {
            let got = config.others.get(name).map(ToString::to_string);
            if let Some(got) = got.filter(|got| got != "null" && !known.contains(&got.as_str())) {
                let only = match known {
                    [] => "no value of it".to_owned(),
                    _ => format!("only {}", known.join(" or ")),
                };
                return Err(Error::config(path, format!("{name} is {got}; {only} is supported")));
            }
        }
        let kinds =
            [config.use_karras_sigmas, config.use_exponential_sigmas, config.use_beta_sigmas];
        if kinds.iter().filter(|on| **on).count() > 1 {
            let message = "more than one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas is true";
            return Err(Error::config(path, message));
        }
        config.solver().map_err(|e| e.in_config(path))?;
        Ok(config)
    }

    /// The noise schedule.
    ///
    /// # Errors
    /// Betas outside (0, 1).
    pub fn schedule(&self) -> Result<Schedule> {
        let schedule = match &self.trained_betas {
            Some(betas) => Schedule::from_betas(betas.clone()),
            None => Schedule::new(
                self.beta_schedule,
                self.beta_start,
                self.beta_end,
                self.num_train_timesteps,
            ),
        }?;
        if self.rescale_betas_zero_snr { schedule.rescale_zero_snr() } else { Ok(schedule) }
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction_type
    }

    /// diffusers' class that the file names, where no sampler here is that class: [`SchedulerConfig::sampler`] is DDIM.
    pub fn unsupported_class(&self) -> Option<&str> {
        let known = self.class_name.is_empty() || self.class_name.parse::<Sampler>().is_ok();
        (!known).then_some(self.class_name.as_str())
    }

    /// The sampler that the file names, with its options; DDIM if that sampler is not supported.
    pub fn sampler(&self) -> Sampler {
        let named: Sampler = self.class_name.parse().unwrap_or(Sampler::ddim(0.));
        let (method, usual) = (named.method, named.options);
        let options = if method.is("pndm") {
            Options { runge_kutta: !self.skip_prk_steps, ..usual }
        } else if let (true, Ok(solver)) = (method.is("dpm-solver"), self.solver()) {
            let DpmSolver { single, lower_order_final, .. } = usual.dpm_solver;
            let lower_order_final = self.lower_order_final.unwrap_or(lower_order_final);
            Options { dpm_solver: DpmSolver { single, lower_order_final, ..solver }, ..usual }
        } else if method.is("unipc") {
            let unipc = UniPc {
                order: self.solver_order.unwrap_or(2),
                bh2: self.solver_type.as_deref() != Some("bh1"),
                predict_x0: self.predict_x0.unwrap_or(true),
                lower_order_final: self.lower_order_final.unwrap_or(usual.unipc.lower_order_final),
            };
            Options { unipc, ..usual }
        } else if method.is("deis") {
            Options { deis_order: self.solver_order.unwrap_or(usual.deis_order), ..usual }
        } else if method.is("lcm") {
            let original_steps = self.original_inference_steps.unwrap_or(usual.original_steps);
            Options { original_steps, ..usual }
        } else {
            usual
        };
        Sampler { method, options, sigmas: None, as_diffusers: false }
    }

    /// The DPM-Solver that `algorithm_type`, `solver_type` and the like describe.
    fn solver(&self) -> Result<DpmSolver> {
        let kind = self.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        let (form, sde) = match kind {
            // DEIS writes its own name here; diffusers reads it as dpmsolver++.
            "dpmsolver++" | "deis" => (SolverForm::Data, false),
            "sde-dpmsolver++" => (SolverForm::Data, true),
            "dpmsolver" => (SolverForm::Noise, false),
            "sde-dpmsolver" => (SolverForm::Noise, true),
            other => {
                let expected = "dpmsolver++, sde-dpmsolver++, dpmsolver or sde-dpmsolver";
                return Err(Error::argument("algorithm_type", expected, other));
            }
        };
        let order = self.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
            return Err(Error::argument("solver_order", "1 to 3", order));
        }
        Ok(DpmSolver {
            order,
            form,
            sde,
            solver_type: match self.solver_type.as_deref() {
                Some("heun") => SolverType::Heun,
                _ => SolverType::Midpoint,
            },
            euler_at_final: self.euler_at_final,
            ..DpmSolver::MULTISTEP
        })
    }

    /// The settings for a sampler, whether or not it is the one that the file names.
    pub fn settings(&self, sampler: Sampler) -> PlanSettings {
        let class = sampler.method.class_defaults;
        PlanSettings {
            prediction: self.prediction_type,
            spacing: self.timestep_spacing.unwrap_or(class.spacing),
            steps_offset: self.steps_offset,
            timesteps: None,
            sigmas: match (
                self.use_karras_sigmas,
                self.use_exponential_sigmas,
                self.use_beta_sigmas,
            ) {
                (true, ..) => Sigmas::Karras,
                (_, true, _) => Sigmas::Exponential,
                (.., true) => Sigmas::Beta,
                _ => Sigmas::Own,
            },
            set_alpha_to_one: self.set_alpha_to_one.unwrap_or(class.set_alpha_to_one),
            final_sigma: self.final_sigmas_type.filter(|_| class.final_sigmas_type),
            clip: match class.clip_sample {
                _ if class.thresholding && self.thresholding => Clip::Dynamic {
                    ratio: self.dynamic_thresholding_ratio,
                    max: self.sample_max_value,
                },
                Some(usual) if self.clip_sample.unwrap_or(usual) => {
                    Clip::Range(self.clip_sample_range)
                }
                _ => Clip::Off,
            },
            as_diffusers: false,
        }
    }
}
