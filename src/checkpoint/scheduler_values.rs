//! What a scheduler's class reads from `scheduler_config.json`, as values.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::prediction::Prediction;
use crate::sampler::{
    Clip, Deis, DpmSolver, FinalSigma, Options, PlanSettings, Sampler, Sigmas, SolverForm,
    SolverType, UniPc,
};
use crate::schedule::{BetaSchedule, Spacing};
use crate::tensor_file::json::{Number, truth};
use crate::{Error, Result};

/// What a class reads. Keys that it does not have are off; null is Python's None.
#[derive(Clone, Deserialize)]
pub(super) struct SchedulerValues {
    pub num_train_timesteps: usize,
    pub beta_start: Number,
    pub beta_end: Number,
    pub beta_schedule: BetaSchedule,
    pub trained_betas: Option<Vec<Number>>,
    #[serde(default, deserialize_with = "truth")]
    pub rescale_betas_zero_snr: bool,
    pub prediction_type: Prediction,
    #[serde(default = "linspace")]
    pub timestep_spacing: Spacing,
    #[serde(default)]
    steps_offset: Option<usize>,
    #[serde(default, deserialize_with = "truth")]
    set_alpha_to_one: bool,
    #[serde(default, deserialize_with = "truth")]
    clip_sample: bool,
    #[serde(default)]
    clip_sample_range: Option<Number>,
    #[serde(default, deserialize_with = "truth")]
    thresholding: bool,
    #[serde(default)]
    dynamic_thresholding_ratio: Option<Number>,
    #[serde(default)]
    sample_max_value: Option<Number>,
    #[serde(default, deserialize_with = "truth")]
    use_karras_sigmas: bool,
    #[serde(default, deserialize_with = "truth")]
    use_exponential_sigmas: bool,
    #[serde(default, deserialize_with = "truth")]
    use_beta_sigmas: bool,
    #[serde(default = "zero")]
    final_sigmas_type: FinalSigma,
    #[serde(default, deserialize_with = "truth")]
    skip_prk_steps: bool,
    #[serde(default = "two")]
    solver_order: usize,
    #[serde(default = "data")]
    algorithm_type: String,
    #[serde(default = "midpoint")]
    solver_type: String,
    #[serde(default, deserialize_with = "truth")]
    lower_order_final: bool,
    #[serde(default, deserialize_with = "truth")]
    euler_at_final: bool,
    #[serde(default, deserialize_with = "truth")]
    predict_x0: bool,
    #[serde(default = "fifty")]
    original_inference_steps: usize,
}

fn linspace() -> Spacing {
    Spacing::Linspace
}

fn zero() -> FinalSigma {
    FinalSigma::Zero
}

fn two() -> usize {
    2
}

fn fifty() -> usize {
    50
}

fn data() -> String {
    "dpmsolver++".into()
}

fn midpoint() -> String {
    "midpoint".into()
}

/// Settings that change the result and that no sampler here supports, with the values that change nothing.
const UNSUPPORTED: [(&str, &[&str]); 14] = [
    ("interpolation_type", &["\"linear\""]),
    ("timestep_type", &["\"discrete\"", "null"]),
    ("variance_type", &["\"fixed_small\"", "\"fixed_small_log\"", "null"]),
    ("use_lu_lambdas", &["false", "null"]),
    ("use_flow_sigmas", &["false", "null"]),
    ("use_dynamic_shifting", &["false", "null"]),
    ("lambda_min_clipped", &["\"-Infinity\"", "\"-inf\"", "null"]),
    ("disable_corrector", &["[]", "null"]),
    ("timestep_scaling", &["10.0", "10"]),
    ("sigma_min", &["null"]),
    ("sigma_max", &["null"]),
    ("solver_p", &["null"]),
    ("shift_terminal", &["null"]),
    ("noise_sampler_seed", &["null"]),
];

impl SchedulerValues {
    /// Refuses what would change the result and is not supported.
    pub fn check(read: &Map<String, Value>) -> std::result::Result<(), String> {
        for (name, known) in UNSUPPORTED {
            let Some(got) = read.get(name).map(ToString::to_string) else { continue };
            if !known.contains(&got.as_str()) {
                let only = known.join(" or ");
                return Err(format!("{name} is {got}; only {only} is supported"));
            }
        }
        let kinds = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"];
        let on = |name: &&str| read.get(*name).is_some_and(|on| truth(on).is_ok_and(|on| on));
        if kinds.iter().filter(|name| on(name)).count() > 1 {
            return Err(format!("more than one of {} is true", kinds.join(", ")));
        }
        Ok(())
    }

    /// The options of a sampler of this class.
    pub fn options(&self, named: Sampler) -> Result<Options> {
        let (method, usual) = (named.method, named.options);
        let (order, lower_order_final) = (self.solver_order, self.lower_order_final);
        let solver = self.solver()?;
        if method.is("deis") && solver.sde {
            let expected = "deis, dpmsolver or dpmsolver++";
            return Err(Error::argument("algorithm_type", expected, &self.algorithm_type));
        }
        Ok(if method.is("pndm") {
            Options { runge_kutta: !self.skip_prk_steps, ..usual }
        } else if method.is("dpm-solver") {
            let single = usual.dpm_solver.single;
            let dpm_solver = DpmSolver { single, lower_order_final, ..solver };
            Options { dpm_solver, ..usual }
        } else if method.is("unipc") {
            let bh2 = self.solver_type != "bh1";
            let unipc = UniPc { order, bh2, predict_x0: self.predict_x0, lower_order_final };
            Options { unipc, ..usual }
        } else if method.is("deis") {
            Options { deis: Deis { order, lower_order_final }, ..usual }
        } else if method.is("lcm") {
            Options { original_steps: self.original_inference_steps, ..usual }
        } else {
            usual
        })
    }

    /// The DPM-Solver that `algorithm_type`, `solver_type` and the like describe.
    fn solver(&self) -> Result<DpmSolver> {
        let (form, sde) = match self.algorithm_type.as_str() {
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
        let solver_type = match self.solver_type.as_str() {
            "heun" => SolverType::Heun,
            // The classes name each other's; what is not their own is their default.
            "midpoint" | "logrho" | "bh1" | "bh2" => SolverType::Midpoint,
            other => {
                let expected = "midpoint, heun, logrho, bh1 or bh2";
                return Err(Error::argument("solver_type", expected, other));
            }
        };
        let order = self.solver_order;
        if !(1..=3).contains(&order) {
            return Err(Error::argument("solver_order", "1 to 3", order));
        }
        let euler_at_final = self.euler_at_final;
        Ok(DpmSolver { order, form, sde, solver_type, euler_at_final, ..DpmSolver::MULTISTEP })
    }

    /// The settings of a plan, but for what the model predicts.
    pub fn settings(
        &self,
        prediction: Prediction,
        final_sigma_is_said: bool,
    ) -> Result<PlanSettings> {
        let sigmas = [
            (self.use_karras_sigmas, Sigmas::Karras),
            (self.use_exponential_sigmas, Sigmas::Exponential),
            (self.use_beta_sigmas, Sigmas::Beta),
        ];
        let sigmas = sigmas.into_iter().find(|(on, _)| *on).map_or(Sigmas::Own, |(_, kind)| kind);
        let steps_offset = match self.timestep_spacing {
            Spacing::Leading => needed("steps_offset", self.steps_offset)?,
            _ => self.steps_offset.unwrap_or(0),
        };
        let number = |key, value: Option<Number>| Ok::<_, Error>(needed(key, value)?.0);
        let clip = if self.thresholding {
            Clip::Dynamic {
                ratio: number("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio)?,
                max: number("sample_max_value", self.sample_max_value)?,
            }
        } else if self.clip_sample {
            Clip::Range(number("clip_sample_range", self.clip_sample_range)?)
        } else {
            Clip::Off
        };
        Ok(PlanSettings {
            prediction,
            spacing: self.timestep_spacing,
            steps_offset,
            timesteps: None,
            sigmas,
            set_alpha_to_one: self.set_alpha_to_one,
            final_sigma: final_sigma_is_said.then_some(self.final_sigmas_type),
            clip,
            as_diffusers: false,
        })
    }
}

/// A value that null does not stand for.
fn needed<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::argument(key, "a number", "null"))
}
