//! A sampling before it starts: where the model will look, and the weights of every step.

use tch::{Kind, Tensor};

use super::position::{in_lambda, in_sigma, time_list, timestep_of};
use super::{
    Coefficients, FinalSigma, Form, Look, Method, Position, Sampler, Sigmas, ddim, ddpm, deis,
    dpm_solver, euler, heun, lcm, lms, pndm, unipc,
};
use crate::prediction::Prediction;
use crate::schedule::{Schedule, Spacing, Step};
use crate::{Error, Result};

/// What keeps the predicted picture within its range.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Clip {
    /// Nothing, as models of latents want it.
    #[default]
    Off,
    /// Clipped to ± this value, as models of pixels want it.
    Range(f64),
    /// Dynamic thresholding, Saharia et al. 2022, section 2.3: every picture is clipped at a quantile of its magnitudes
    /// and divided by it.
    Dynamic {
        /// The quantile.
        ratio: f64,
        /// The largest threshold; the smallest is 1.
        max: f64,
    },
}

impl Clip {
    fn apply(self, x_0: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Off => x_0,
            Self::Range(range) => x_0.clamp(-range, range),
            Self::Dynamic { ratio, max } => {
                let wide = if x_0.kind() == Kind::Double { Kind::Double } else { Kind::Float };
                let magnitudes = x_0.to_kind(wide).abs().flatten(1, -1);
                let s = magnitudes.f_quantile_scalar(ratio, 1, true, "linear")?.clamp(1., max);
                let s = s
                    .view([&[-1], &vec![1; x_0.dim() - 1][..]].concat().as_slice())
                    .to_kind(x_0.kind());
                x_0.clamp_tensor(Some(&-&s), Some(&s)) / s
            }
        })
    }

    fn check(self) -> Result<()> {
        let good = match self {
            Self::Off => true,
            Self::Range(range) => range > 0. && range.is_finite(),
            Self::Dynamic { ratio, max } => (0. ..=1.).contains(&ratio) && max >= 1.,
        };
        let expected = "a range above 0; a ratio of 0 to 1 and a largest threshold of 1 and more";
        if good { Ok(()) } else { Err(Error::argument("clip", expected, format!("{self:?}"), "")) }
    }
}

/// All that a plan depends on beside the sampler, the schedule and the number of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What the model predicts.
    pub prediction: Prediction,
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// Added to the timesteps of leading spacing.
    pub steps_offset: usize,
    /// The timesteps themselves, downwards, in place of a number of steps and a spacing.
    pub timesteps: Option<Vec<usize>>,
    /// The sigmas, where the sampler names none.
    pub sigmas: Sigmas,
    /// Whether DDIM and PNDM end on the picture; else on timestep 0, as Stable Diffusion's do.
    pub set_alpha_to_one: bool,
    /// Where the samplers in sigma end; `None` for what is usual for each.
    pub final_sigma: Option<FinalSigma>,
    /// What keeps the predicted picture within its range.
    pub clip: Clip,
    /// Follow diffusers where it leaves its own equations:
    ///
    /// - DDIM and PNDM end a step on `t - T / N`, rounded down. Under linspace, and under trailing where N does not divide
    ///   T, that is not the next timestep that is visited, where they end otherwise.
    /// - The stochastic DPM-Solver++ of order 3 has another sign in its second difference.
    pub as_diffusers: bool,
}

impl Default for Settings {
    /// Stable Diffusion 1.x's.
    fn default() -> Self {
        Self {
            prediction: Prediction::Epsilon,
            spacing: Spacing::Leading,
            steps_offset: 1,
            timesteps: None,
            sigmas: Sigmas::Own,
            set_alpha_to_one: false,
            final_sigma: None,
            clip: Clip::Off,
            as_diffusers: false,
        }
    }
}

/// One look of the model and the weights of the step that follows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedStep {
    /// Where the sample stands.
    pub position: Position,
    /// Where the step ends.
    pub next: Position,
    /// A corrector's weights: the sample is replaced by their sum before the step.
    pub correction: Option<Coefficients>,
    /// The step's weights.
    pub coefficients: Coefficients,
    /// How many of the newest looks the steps after this one know nothing of.
    pub forget: usize,
}

impl PlannedStep {
    pub(super) fn new(position: Position, next: Position, coefficients: Coefficients) -> Self {
        Self { position, next, correction: None, coefficients, forget: 0 }
    }

    /// The timestep that the model is told.
    pub fn timestep(&self) -> f64 {
        self.position.t
    }

    /// The step as [`super::ddim_step`] and [`super::ddpm_step`] take it.
    pub fn pair(&self) -> Step {
        let t_prev = (self.next.sigma > 0.).then_some(self.next.t as usize);
        Step { t: self.position.t as usize, t_prev }
    }
}

/// All that is known of a sampling before it starts.
///
/// # Examples
/// ```
/// use diffuscope::sampler::{Plan, Settings};
/// use diffuscope::schedule::Schedule;
/// let plan = Plan::new("dpm++2m".parse()?, &Schedule::stable_diffusion(), 20, &Settings::default())?;
/// for step in &plan.steps {
///     println!("at t = {}: {:?}", step.timestep(), step.coefficients);
/// }
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    /// The sampler.
    pub sampler: Sampler,
    /// What the model predicts.
    pub prediction: Prediction,
    /// What keeps the predicted picture within its range.
    pub clip: Clip,
    /// The steps that are taken.
    pub num_inference_steps: usize,
    /// The looks of the model, from the noisiest on: samplers of two stages look twice in every step but the last, PNDM
    /// twice in its first.
    pub steps: Vec<PlannedStep>,
    /// What standard noise is multiplied with to be the first sample.
    pub init_noise_sigma: f64,
}

impl Plan {
    /// Plans `num_inference_steps` steps on a schedule.
    ///
    /// # Errors
    /// Steps that the schedule does not have; settings that the sampler cannot follow.
    pub fn new(
        sampler: Sampler,
        schedule: &Schedule,
        num_inference_steps: usize,
        settings: &Settings,
    ) -> Result<Self> {
        Self::starting_at(sampler, schedule, num_inference_steps, settings, 0)
    }

    /// The same without its first `skipped` steps: image to image starts later. Multistep samplers then have nothing to
    /// remember in their first steps.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn starting_at(
        sampler: Sampler,
        s: &Schedule,
        num_inference_steps: usize,
        settings: &Settings,
        skipped: usize,
    ) -> Result<Self> {
        settings.clip.check()?;
        let settings = &Settings {
            sigmas: sampler.sigmas.unwrap_or(settings.sigmas),
            as_diffusers: settings.as_diffusers || sampler.as_diffusers,
            ..settings.clone()
        };
        let n = settings.timesteps.as_ref().map_or(num_inference_steps, Vec::len);
        if skipped > n {
            return Err(Error::argument("skipped steps", format!("0 to {n}"), skipped, ""));
        }
        let (steps, init_noise_sigma) = match sampler.method {
            Method::Ddim { .. } | Method::Ddpm | Method::Pndm { .. } | Method::Lcm { .. } => {
                (in_time_steps(sampler.method, s, n, settings, skipped)?, 1.)
            }
            Method::DpmSolver(_) | Method::UniPc(_) | Method::Deis { .. } => {
                (in_lambda_steps(sampler.method, s, n, settings, skipped)?, 1.)
            }
            method => in_sigma_steps(method, s, n, settings, skipped)?,
        };
        let (prediction, clip) = (settings.prediction, settings.clip);
        let num_inference_steps = n - skipped;
        Ok(Self { sampler, prediction, clip, num_inference_steps, steps, init_noise_sigma })
    }

    /// The step, counted from 0, that look `i` belongs to.
    pub fn step_of(&self, i: usize) -> usize {
        i * self.num_inference_steps / self.steps.len().max(1)
    }

    /// The first sample, from standard noise.
    pub fn start(&self, noise: &Tensor) -> Tensor {
        noise * self.init_noise_sigma
    }

    /// A picture's latents as noisy as the sample is before step `i`: the start of image to image for 0, the picture
    /// itself after the last step.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn noised(&self, i: usize, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let position = self.steps.get(i).map_or(Position::PICTURE, |step| step.position);
        position.noised(x_0, noise)
    }

    /// What a model's output at step `i` says of the sample `x_t`.
    ///
    /// # Errors
    /// A step that the plan does not have; shapes that differ.
    pub fn look(&self, i: usize, x_t: &Tensor, model_output: &Tensor) -> Result<Look> {
        let position = self.planned(i)?.position;
        let x_0 = self.clip.apply(position.x_0(self.prediction, x_t, model_output)?)?;
        // DDIM keeps the noise that the model saw; elsewhere a clipped picture leaves another noise.
        let kept = self.clip == Clip::Off || matches!(self.sampler.method, Method::Ddim { .. });
        let noise_pred = match kept {
            true => position.noise_pred(self.prediction, x_t, model_output)?,
            false => position.noise_pred(Prediction::Sample, x_t, &x_0)?,
        };
        Ok(Look { position, x_t: x_t.shallow_clone(), x_0, noise_pred })
    }

    /// The step that follows a look: the next sample. `look.x_t` becomes what the corrector makes of it, where there is
    /// one. `earlier` are the looks before, the last one first.
    ///
    /// # Errors
    /// A look or a noise that is needed and missing; shapes that differ.
    pub fn step(
        &self,
        i: usize,
        look: &mut Look,
        earlier: &[Look],
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let planned = self.planned(i)?;
        if let Some(correction) = &planned.correction {
            look.x_t = correction.sum(&newest_first(look, earlier), None)?;
        }
        planned.coefficients.sum(&newest_first(look, earlier), noise)
    }

    fn planned(&self, i: usize) -> Result<&PlannedStep> {
        let expected = format!("0..{}", self.steps.len());
        self.steps.get(i).ok_or_else(|| Error::argument("step", expected, i, ""))
    }
}

fn newest_first<'a>(look: &'a Look, earlier: &'a [Look]) -> Vec<&'a Look> {
    std::iter::once(look).chain(earlier).collect()
}

fn in_time_steps(
    method: Method,
    s: &Schedule,
    n: usize,
    settings: &Settings,
    skipped: usize,
) -> Result<Vec<PlannedStep>> {
    if let Method::Lcm { original_steps } = method {
        let list = lcm::timesteps(s, n, original_steps, settings)?;
        return lcm::plan(s, &list[skipped..]);
    }
    let list = &time_list(s, n, settings)?[skipped..];
    let stride = s.num_train_timesteps() / n.max(1);
    match method {
        Method::Ddpm => ddpm::plan(s, list),
        Method::Pndm { runge_kutta } => pndm::plan(s, list, stride, runge_kutta, settings),
        Method::Ddim { eta } => ddim::plan(s, list, stride, eta, settings),
        _ => Err(Error::argument("sampler", "one in time", method.name(), "")),
    }
}

fn in_lambda_steps(
    method: Method,
    s: &Schedule,
    n: usize,
    settings: &Settings,
    skipped: usize,
) -> Result<Vec<PlannedStep>> {
    match method {
        Method::DpmSolver(solver) => {
            // The single-step solvers of diffusers know no other spacing.
            let linspace = Settings { spacing: Spacing::Linspace, ..settings.clone() };
            let settings = if solver.single { &linspace } else { settings };
            let end = match solver.form {
                Form::Data => FinalSigma::Zero,
                Form::Noise => FinalSigma::SigmaMin,
            };
            dpm_solver::plan(
                &in_lambda(s, n, settings, end)?,
                solver,
                skipped,
                settings.as_diffusers,
            )
        }
        Method::UniPc(solver) => {
            unipc::plan(&in_lambda(s, n, settings, FinalSigma::Zero)?[skipped..], solver)
        }
        Method::Deis { order } => {
            deis::plan(&in_lambda(s, n, settings, FinalSigma::SigmaMin)?, order, true, skipped)
        }
        _ => Err(Error::argument("sampler", "one in lambda", method.name(), "")),
    }
}

fn in_sigma_steps(
    method: Method,
    s: &Schedule,
    n: usize,
    settings: &Settings,
    skipped: usize,
) -> Result<(Vec<PlannedStep>, f64)> {
    let whole = matches!(method, Method::Dpm2 | Method::Dpm2Ancestral);
    let positions = in_sigma(s, n, settings, whole)?;
    let largest = positions.first().map_or(1., |p| p.sigma);
    let init_noise_sigma = match settings.spacing {
        Spacing::Leading => largest.hypot(1.),
        _ => largest,
    };
    let (positions, t_of) = (&positions[skipped..], |sigma: f64| timestep_of(s, sigma));
    let steps = match method {
        Method::Euler => euler::plan(positions)?,
        Method::EulerAncestral => euler::plan_ancestral(positions)?,
        Method::Lms => lms::plan(positions)?,
        Method::Heun => heun::plan(positions)?,
        Method::Dpm2 => heun::plan_dpm2(positions, t_of)?,
        Method::Dpm2Ancestral => heun::plan_dpm2_ancestral(positions, t_of)?,
        Method::DpmSde => heun::plan_dpm_sde(positions, t_of)?,
        Method::Dpm2sAncestral => heun::plan_dpm2s_ancestral(positions, t_of)?,
        _ => return Err(Error::argument("sampler", "one in sigma", method.name(), "")),
    };
    Ok((steps, init_noise_sigma))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{EARLIER, Weights};

    #[test]
    fn looks_belong_to_steps() -> Result<()> {
        let s = Schedule::stable_diffusion();
        for (name, expected) in [
            ("ddim", &[0, 1, 2, 3][..]),
            ("heun", &[0, 0, 1, 1, 2, 2, 3]),
            ("pndm", &[0, 0, 1, 2, 3]),
        ] {
            let plan = Plan::new(name.parse()?, &s, 4, &Settings::default())?;
            let got: Vec<usize> = (0..plan.steps.len()).map(|i| plan.step_of(i)).collect();
            assert_eq!(got, expected, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_quantile_bounds_a_picture_and_a_range_clips_it() -> Result<()> {
        let x = Tensor::from_slice(&[-4f32, 1., 2., 3., 0.5, 0.2, 0.1, 0.]).view([2, 1, 2, 2]);
        let got = Clip::Range(2.).apply(x.shallow_clone())?;
        assert!(got.equal(&x.clamp(-2., 2.)));
        let got = Clip::Dynamic { ratio: 0.5, max: 10. }.apply(x.shallow_clone())?;
        // The median of 1, 2, 3, 4; the other picture's is below 1.
        assert!(got.get(0).equal(&(x.get(0).clamp(-2.5, 2.5) / 2.5)));
        assert!(got.get(1).equal(&x.get(1)));
        let got = Clip::Dynamic { ratio: 1., max: 2. }.apply(x.shallow_clone())?;
        assert!(got.get(0).equal(&(x.get(0).clamp(-2., 2.) / 2.)));
        assert!(
            Clip::Range(-1.).check().is_err()
                && Clip::Dynamic { ratio: 2., max: 1. }.check().is_err()
        );
        Ok(())
    }

    #[test]
    fn what_skips_its_first_steps_remembers_nothing_of_them() -> Result<()> {
        let s = Schedule::stable_diffusion();
        for name in Sampler::names() {
            let sampler: Sampler = name.parse()?;
            let whole = Plan::new(sampler, &s, 12, &Settings::default())?;
            let part = Plan::starting_at(sampler, &s, 12, &Settings::default(), 5)?;
            assert_eq!(part.num_inference_steps, 7, "{name}");
            let first = part.steps[0];
            assert!(whole.steps.iter().any(|step| step.position == first.position), "{name}");
            let nothing = [Weights::default(); EARLIER];
            assert_eq!(first.coefficients.earlier, nothing, "{name}");
            assert_eq!(part.init_noise_sigma, whole.init_noise_sigma, "{name}");
            assert!(Plan::starting_at(sampler, &s, 12, &Settings::default(), 12)?.steps.is_empty());
            assert!(Plan::starting_at(sampler, &s, 12, &Settings::default(), 13).is_err());
            assert!(Plan::new(sampler, &s, 0, &Settings::default()).is_err(), "{name}");
            assert!(Plan::new(sampler, &s, 1001, &Settings::default()).is_err(), "{name}");
        }
        Ok(())
    }
}
