//! Whole loops of every sampler against diffusers, with a model that needs no weights and noise that was drawn beforehand.
//!
//! `samplers.json` lists every case; those with a reason are the ones that diffusers refuses or that end on NaN there.
//! With `DIFFUSCOPE_TABLE=docs/samplers.md`, what was compared is written there as a table.

mod golden;

use std::collections::BTreeMap;

use diffuscope::Result;
use diffuscope::checkpoint::{Checkpoint, SchedulerConfig};
use diffuscope::denoiser::Denoiser;
use diffuscope::noise::{standard_normal, standard_normals};
use diffuscope::prediction::Prediction;
use diffuscope::sampler::{
    Deis, DpmSolver, FinalSigma, Options, Plan, PlanSettings, PlannedStep, Sampler, Sampling,
    Sigmas, SolverForm, SolverType, UniPc, ddim_step, ddim_step_eta, ddpm_step, dpm_sde_step,
    dpm2_ancestral_step, dpm2_step, dpm2s_ancestral_step, euler_ancestral_step, euler_step,
    heun_step, lcm_step,
};
use diffuscope::schedule::{BetaSchedule, Schedule, Spacing};
use diffuscope::timesteps::Timesteps;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

/// `sample t / (t + 1)`
struct Shrink;

impl Denoiser for Shrink {
    fn predict(&self, x_t: &Tensor, t: &Timesteps, _: Option<&Tensor>) -> Result<Tensor> {
        let t = t.tensor().to_kind(Kind::Double);
        Ok(x_t * (&t / (&t + 1.)))
    }
}

#[derive(Deserialize)]
struct Case {
    scheduler: String,
    steps: usize,
    eta: f64,
    config: Map<String, Value>,
    /// Why diffusers has no such sampler.
    reason: Option<String>,
}

impl Case {
    fn config(&self) -> SchedulerConfig {
        let mut config = self.config.clone();
        let schedule = json!({
            "_class_name": self.scheduler,
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
        });
        config.extend(schedule.as_object().unwrap().clone());
        serde_json::from_value(config.into()).unwrap()
    }

    fn plan(&self) -> Result<Plan> {
        let config = self.config();
        let mut sampler = config.sampler();
        if sampler.method.is("ddim") {
            sampler.options.eta = self.eta;
        }
        sampler.as_diffusers = true;
        Plan::new(sampler, &config.schedule()?, self.steps, &config.settings(sampler)?)
    }

    fn text(&self, key: &str) -> &str {
        self.config.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// The column of the table: prediction, spacing, sigmas.
    fn column(&self) -> (&str, &str, &str) {
        let on = |kind: &&str| self.config.get(&format!("use_{kind}_sigmas")) == Some(&json!(true));
        let sigmas = ["karras", "exponential", "beta"].into_iter().find(on).unwrap_or("own");
        (self.text("prediction_type"), self.text("timestep_spacing"), sigmas)
    }

    /// The row: the class, its options, the steps.
    fn row(&self) -> String {
        let column = ["prediction_type", "timestep_spacing", "steps_offset"];
        let options: Vec<String> = self
            .config
            .iter()
            .filter(|(key, _)| !column.contains(&key.as_str()) && !key.ends_with("_sigmas"))
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key} {text}"),
                Value::Bool(true) => key.clone(),
                Value::Bool(false) => format!("no {key}"),
                value => format!("{key} {value}"),
            })
            .chain((self.eta > 0.).then(|| format!("eta {}", self.eta)))
            .chain((self.steps != 10).then(|| format!("{} steps", self.steps)))
            .collect();
        format!("| {} | {} |", self.scheduler, options.join(", "))
    }
}

fn run(plan: Plan, x_start: &Tensor, noises: &Tensor) -> Result<Tensor> {
    let start = plan.start(x_start);
    let noises = (0..plan.draws() as i64).map(|i| noises.get(i)).collect();
    let mut sampling = Sampling::new(&Shrink, plan, start, None, 1., noises)?;
    for step in sampling.by_ref() {
        step?;
    }
    Ok(sampling.into_sample())
}

#[test]
fn whole_loops() -> Result<()> {
    let text = std::fs::read_to_string(golden::path("samplers.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    let file = golden::open("samplers");
    let double = |name: &str| Ok::<_, diffuscope::Error>(file.tensor(name)?.to_kind(Kind::Double));
    let (x_start, noises) = (double("x_T")?, double("noises")?);
    let (last, last_f64) = (double("last")?, double("last_f64")?);
    // Element by element, absolute: the samples are of size 1.
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    let (mut worst, mut worst_f64, mut coarse, mut i) = (0f64, 0f64, 0, 0);
    let mut failed = Vec::new();
    let mut table: BTreeMap<String, BTreeMap<(&str, &str, &str), String>> = BTreeMap::new();
    for case in &cases {
        let cell = match &case.reason {
            Some(reason) => reason.clone(),
            None => {
                let got = run(case.plan()?, &x_start, &noises)?;
                let (theirs, theirs_f64) = (last.get(i), last_f64.get(i));
                i += 1;
                let (gap, gap_f64) = (apart(&got, &theirs), apart(&got, &theirs_f64));
                // Where diffusers' own rounding to f32 is the larger part, f64 decides.
                let rounded = apart(&theirs, &theirs_f64) > 0.5e-4;
                let good = gap_f64 < 1e-6 && (gap < 1e-4 || rounded);
                // Also for NaN.
                if !good {
                    failed.push(format!(
                        "{gap:.1e} {gap_f64:.1e} {} {:?}",
                        case.row(),
                        case.column()
                    ));
                }
                worst_f64 = worst_f64.max(gap_f64);
                if gap < 1e-4 {
                    worst = worst.max(gap);
                    format!("{gap:.0e}")
                } else {
                    coarse += 1;
                    format!("{gap:.0e}*")
                }
            }
        };
        table.entry(case.row()).or_default().insert(case.column(), cell);
    }
    assert_eq!(i, last.size()[0]);
    assert!(failed.is_empty(), "{} of {i} differ:\n{}", failed.len(), failed.join("\n"));
    let refused = cases.len() as i64 - i;
    let said = format!(
        "{i} whole loops: at most {worst:.0e} from diffusers in f32 (but for {coarse} whose own rounding is larger, \
         marked *), at most {worst_f64:.0e} from the same code in f64; {refused} refused"
    );
    println!("{said}");
    if let Ok(path) = std::env::var("DIFFUSCOPE_TABLE") {
        std::fs::write(path, markdown(&table, &said)).unwrap();
    }
    Ok(())
}

#[derive(Deserialize)]
struct ConfigCase {
    pipeline: String,
    scheduler: String,
    /// How many of ten steps are left out.
    skipped: usize,
    /// The text of scheduler_config.json, as Python writes it.
    file: String,
}

/// Folders as people have them, each opened as the pipeline of diffusers does that its index names.
#[test]
fn schedulers_are_what_pipelines_make_of_their_files() -> Result<()> {
    let text = std::fs::read_to_string(golden::path("configs.json")).unwrap();
    let cases: Vec<ConfigCase> = serde_json::from_str(&text).unwrap();
    let file = golden::open("configs");
    let double = |name: &str| Ok::<_, diffuscope::Error>(file.tensor(name)?.to_kind(Kind::Double));
    let (x_start, noises, last) = (double("x_T")?, double("noises")?, double("last_f64")?);
    let mut failed = Vec::new();
    for (i, ConfigCase { pipeline, scheduler, skipped, file }) in cases.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let index = json!({"_class_name": pipeline, "scheduler": ["diffusers", scheduler]});
        std::fs::write(folder.path().join("model_index.json"), index.to_string()).unwrap();
        std::fs::create_dir(folder.path().join("scheduler")).unwrap();
        std::fs::write(folder.path().join("scheduler/scheduler_config.json"), file).unwrap();
        let run = || {
            let (json, _) = Checkpoint::open(folder.path())?.schedulers["scheduler"].clone();
            let config: SchedulerConfig = serde_json::from_value(json).unwrap();
            let mut sampler = config.sampler();
            sampler.as_diffusers = true;
            let (schedule, settings) = (config.schedule()?, config.settings(sampler)?);
            let plan = Plan::starting_at(sampler, &schedule, 10, &settings, *skipped)?;
            run(plan, &x_start, &noises)
        };
        // Of a cosine schedule, diffusers' betas are rounded to f32 even where all else is f64.
        let allowed = if file.contains("squaredcos") { 1e-4 } else { 1e-6 };
        let gap = run().map(|got| (got - last.get(i as i64)).abs().max().double_value(&[]));
        if !gap.as_ref().is_ok_and(|gap| *gap < allowed) {
            failed.push(format!("{gap:?} {pipeline} {scheduler} {skipped} {file}"));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} differ:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
    println!("{} files, each as diffusers reads it", cases.len());
    Ok(())
}

type Row<'a> = BTreeMap<(&'a str, &'a str, &'a str), String>;

fn markdown(table: &BTreeMap<String, Row>, said: &str) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut lines = Vec::new();
    for (row, cells) in table {
        let mut line = row.clone();
        for prediction in ["epsilon", "v_prediction", "sample"] {
            for sigmas in ["own", "karras", "exponential", "beta"] {
                let three = ["leading", "linspace", "trailing"].map(|spacing| {
                    let Some(cell) = cells.get(&(prediction, spacing, sigmas)) else {
                        return "·".into();
                    };
                    if cell.starts_with(|c: char| c.is_ascii_digit()) {
                        return cell.clone();
                    }
                    let known = reasons.iter().position(|r| r == cell).unwrap_or_else(|| {
                        reasons.push(cell);
                        reasons.len() - 1
                    });
                    format!("({})", (b'a' + known as u8) as char)
                });
                let same = three.iter().all(|cell| *cell == three[0]);
                line += &format!(" {} |", if same { three[0].clone() } else { three.join(" ") });
            }
        }
        lines.push(line);
    }
    let notes: String = reasons
        .iter()
        .enumerate()
        .map(|(i, reason)| format!("- ({}) diffusers: {reason}\n", (b'a' + i as u8) as char))
        .collect();
    let heads: String = ["eps", "v", "x_0"]
        .iter()
        .flat_map(|p| ["own", "karras", "exponential", "beta"].map(|s| format!(" {p}, {s} |")))
        .collect();
    format!(
        "# Every sampler against diffusers\n\n\
         With the model `sample t / (t + 1)`, the same noise and 10 steps where nothing else is said:\n{said}\n(diffusers \
         has no such sampler, or it ends on NaN there).\n\n\
         A cell has the largest difference of any element of the last sample under leading, linspace and trailing spacing,\n\
         once where they are alike. A dot: not asked, because the class has no such option. All ran with\n\
         `PlanSettings::as_diffusers`, whose documentation says where that matters. The model hardly depends on the\n\
         timestep that it is told; [samplers_embedded.md](samplers_embedded.md) has the figures of a network, which does.\n\n\
         Written by `DIFFUSCOPE_TABLE=docs/samplers.md cargo test --test sampler`; the numbers of diffusers are those of\n\
         `tests/golden/make.py`.\n\n{notes}\n\
         | diffusers' class | options |{heads}\n|---|---|{}\n{}\n",
        "---|".repeat(12),
        lines.join("\n")
    )
}

/// The names of all samplers, and the options that no name stands for.
fn all_samplers() -> Vec<Sampler> {
    let mut all: Vec<Sampler> = Sampler::names().map(|name| name.parse().unwrap()).collect();
    all.push(Sampler::ddim(1.));
    let mut with = |name: &str, change: &dyn Fn(&mut Options)| {
        let mut sampler: Sampler = name.parse().unwrap();
        change(&mut sampler.options);
        all.push(sampler);
    };
    for order in 1..=3 {
        for lower_order_final in [true, false] {
            with("deis", &|o| o.deis = Deis { order, lower_order_final });
            for (bh2, predict_x0) in [(true, true), (true, false), (false, true), (false, false)] {
                with("unipc", &|o| o.unipc = UniPc { order, bh2, predict_x0, lower_order_final });
            }
            for form in [SolverForm::Data, SolverForm::Noise] {
                for (single, sde) in [(true, true), (true, false), (false, true), (false, false)] {
                    let heun = (form == SolverForm::Data) == single;
                    let solver_type = if heun { SolverType::Heun } else { SolverType::Midpoint };
                    let euler_at_final = sde;
                    with("dpm++2m", &|o| {
                        o.dpm_solver = DpmSolver {
                            order,
                            single,
                            form,
                            sde,
                            solver_type,
                            lower_order_final,
                            euler_at_final,
                        };
                    });
                }
            }
        }
    }
    all
}

/// The last sample where the model knows the only picture there is; samples of picture and noise in the plan's sizes.
fn run_knowing(plan: &Plan, picture: &Tensor, noises: &[Tensor]) -> Result<Tensor> {
    let mut x = match plan.steps.first() {
        Some(first) => first.position.noised(picture, &noises[0])?,
        None => picture.shallow_clone(),
    };
    let mut earlier = Vec::new();
    for (i, step) in plan.steps.iter().enumerate() {
        let output = plan.prediction.output(&step.position.rates(), &x, picture)?;
        let mut evaluation = plan.interpret(i, &x, &output)?;
        x = plan.step(i, &mut evaluation, &earlier, Some(&noises[1 + i]))?;
        earlier.insert(0, evaluation);
        earlier.drain(..step.forget.min(earlier.len()));
    }
    Ok(x)
}

/// Every prediction, spacing, kind of sigmas, end and number of few steps.
fn all_settings() -> Vec<(usize, PlanSettings)> {
    let mut all = Vec::new();
    for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
        for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
            for sigmas in [Sigmas::Own, Sigmas::Karras, Sigmas::Exponential, Sigmas::Beta] {
                for final_sigma in [None, Some(FinalSigma::Zero), Some(FinalSigma::SigmaMin)] {
                    for steps in 1..=5 {
                        let settings = PlanSettings {
                            prediction,
                            spacing,
                            sigmas,
                            final_sigma,
                            steps_offset: steps % 2,
                            set_alpha_to_one: steps > 2,
                            ..PlanSettings::default()
                        };
                        all.push((steps, settings));
                    }
                }
            }
        }
    }
    all
}

/// How far a sampler may end from the only picture that its model knows.
fn allowed(plan: &Plan, schedule: &str) -> f64 {
    let Options { dpm_solver: solver, runge_kutta, .. } = plan.sampler.options;
    let is_pndm = plan.sampler.method.is("pndm");
    match plan.steps.last() {
        // Its long steps add more noise than the end has.
        _ if solver.sde && solver.form == SolverForm::Noise => f64::MAX,
        // It mixes outputs, and v differs from sample to sample.
        _ if is_pndm && plan.prediction == Prediction::V => 1.,
        // Four stages in a row magnify the rounding where hardly any picture is left.
        _ if runge_kutta && schedule == "cosine" => 1.,
        // What was drawn, or a sum of several draws.
        end => 1e-6 + 40. * end.map_or(0., |end| end.next.noise_rate),
    }
}

/// Every sampler with all settings and kinds of schedules ends on the only picture there is, but for the noise of its end,
/// or is refused by name.
#[test]
fn every_combination_is_right_or_refused() -> Result<()> {
    let shape = [2];
    let draws = standard_normals(&shape, 2, 24)?;
    let noises: Vec<Tensor> = draws.iter().map(|n| n.to_kind(Kind::Double)).collect();
    let picture = standard_normal(&shape, 1)?.to_kind(Kind::Double);
    let sd = Schedule::stable_diffusion();
    let cosine = Schedule::new(BetaSchedule::Cosine, 0., 0., 1000)?;
    let schedules = [("sd", &sd), ("zero SNR", &sd.rescale_zero_snr()?), ("cosine", &cosine)];
    let (mut right, mut refused, mut wrong) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    let settings = all_settings();
    for (sampler, (name, schedule)) in
        all_samplers().into_iter().flat_map(|sampler| schedules.map(|schedule| (sampler, schedule)))
    {
        let mut before: Vec<(Prediction, Vec<PlannedStep>)> = Vec::new();
        for (steps, settings) in &settings {
            let plan = match Plan::new(sampler, schedule, *steps, settings) {
                Ok(plan) => plan,
                Err(error) => {
                    *refused.entry(error.to_string()).or_default() += 1;
                    continue;
                }
            };
            right += 1;
            // Samplers in time have no sigmas to choose.
            if before.iter().any(|(p, steps)| (*p, steps) == (plan.prediction, &plan.steps)) {
                continue;
            }
            let end = plan.steps[plan.steps.len() - 1].next;
            let got = run_knowing(&plan, &picture, &noises)?;
            let gap = (got - &picture * end.signal_rate).abs().max().double_value(&[]);
            // False for NaN.
            let good = gap <= allowed(&plan, name);
            if !good {
                wrong.push(format!("{gap:.1e} {sampler:?} {name} {steps} steps {settings:?}"));
            }
            before.push((plan.prediction, plan.steps));
        }
    }
    for (why, count) in &refused {
        println!("{count} refused: {why}");
    }
    let shown: Vec<&String> = wrong.iter().step_by(1 + wrong.len() / 40).collect();
    assert!(wrong.is_empty(), "{} of {right} are wrong: {shown:#?}", wrong.len());
    println!("{right} right");
    Ok(())
}

/// Where a step ends on the next visited timestep, which is the default, the equations hold along that list.
#[test]
fn steps_end_where_the_model_is_evaluated_next() -> Result<()> {
    let s = Schedule::stable_diffusion();
    for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
        for name in ["ddim", "pndm", "pndm-rk"] {
            let plan = |name: &str| {
                let settings = PlanSettings { spacing, ..PlanSettings::default() };
                Plan::new(name.parse()?, &s, 30, &settings)
            };
            let ours = plan(name)?;
            for pair in ours.steps.windows(2).filter(|pair| pair[0].forget == 0 && name == "ddim") {
                assert_eq!(pair[0].next.t, pair[1].position.t, "{name} {spacing:?}");
            }
            let theirs = plan(&format!("{name}-diffusers"))?;
            assert_eq!(
                ours.steps == theirs.steps,
                spacing == Spacing::Leading,
                "{name} {spacing:?}"
            );
        }
    }
    Ok(())
}

/// k-diffusion's sampler, which diffusers does not have, in its own words.
#[test]
fn dpm2s_ancestral_is_its_algorithm() -> Result<()> {
    let s = Schedule::stable_diffusion();
    let sampler: Sampler = "dpm++2s-a".parse()?;
    let settings = PlanSettings { spacing: Spacing::Linspace, ..PlanSettings::default() };
    let plan = Plan::new(sampler, &s, 6, &settings)?;
    let sigmas: Vec<f64> =
        plan.steps.iter().step_by(2).map(|step| step.position.sigma()).chain([0.]).collect();
    let shape = [1, 2, 2, 2];
    let x_start = standard_normal(&shape, 1)?.to_kind(Kind::Double);
    let noises: Vec<Tensor> =
        standard_normals(&shape, 2, 5)?.iter().map(|n| n.to_kind(Kind::Double)).collect();
    let timesteps: Vec<f64> = plan.steps.iter().map(|step| step.position.t).collect();
    let got = run(plan, &x_start, &Tensor::stack(&noises, 0))?;

    // x_0 = x - sigma eps, where the model is given x / sqrt(sigma^2 + 1)
    let denoised =
        |x: &Tensor, sigma: f64, t: f64| x - x * (sigma / sigma.hypot(1.) * (t / (t + 1.)));
    let mut x = &x_start * sigmas[0];
    for i in 0..6 {
        let (sigma, next, t) = (sigmas[i], sigmas[i + 1], timesteps[2 * i]);
        let seen = denoised(&x, sigma, t);
        let up = (next.powi(2) * (sigma.powi(2) - next.powi(2)) / sigma.powi(2)).sqrt();
        let down = (next.powi(2) - up.powi(2)).max(0.).sqrt();
        if next == 0. {
            x = seen;
            continue;
        }
        let (time, time_down) = (-sigma.ln(), -down.ln());
        let h = time_down - time;
        let middle = (-(time + h / 2.)).exp();
        let between = middle / sigma * &x - (-h / 2.).exp_m1() * &seen;
        let seen = denoised(&between, middle, timesteps[2 * i + 1]);
        x = down / sigma * &x - (-h).exp_m1() * &seen + up * &noises[i];
    }
    let gap = (got - x).abs().max().double_value(&[]);
    assert!(gap < 1e-9, "{gap:e}");
    Ok(())
}

/// The planned sampling and a loop over a sampler's own step function give the same samples, number for number.
#[test]
fn step_functions_take_the_planned_steps() -> Result<()> {
    let s = Schedule::stable_diffusion();
    let shape = [2, 3, 2];
    let x_start = standard_normal(&shape, 1)?.to_kind(Kind::Double);
    let noises: Vec<Tensor> =
        standard_normals(&shape, 2, 12)?.iter().map(|n| n.to_kind(Kind::Double)).collect();
    for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
        for name in [
            "ddim",
            "ddim eta",
            "ddpm",
            "lcm",
            "euler",
            "euler-a",
            "heun",
            "dpm2",
            "dpm2-a",
            "dpm++sde",
            "dpm++2s-a",
        ] {
            let sampler = match name {
                "ddim eta" => Sampler::ddim(0.7),
                name => name.parse()?,
            };
            let settings =
                PlanSettings { spacing, set_alpha_to_one: true, ..PlanSettings::default() };
            let plan = Plan::new(sampler, &s, 6, &settings)?;
            let expected = run(plan.clone(), &x_start, &Tensor::stack(&noises, 0))?;
            let mut x = plan.start(&x_start);
            let (mut evaluations, mut drawn) = (0..plan.steps.len(), noises.iter());
            while let Some(i) = evaluations.next() {
                let PlannedStep { position, next, .. } = plan.steps[i];
                let step = plan.steps[i].pair();
                // Of a step of two stages, the end is that of its second evaluation.
                let two = plan.sampler.method.evaluations_per_step == 2 && i + 1 < plan.steps.len();
                let last = if two { evaluations.next().unwrap_or(i) } else { i };
                let (sigma, sigma_next) = (position.sigma(), plan.steps[last].next.sigma());
                let mut draw = |i: usize| match plan.steps[i].adds_noise() {
                    true => drawn.next().unwrap(),
                    false => &noises[0],
                };
                let (noise, fresh) = match two {
                    true => (draw(i), draw(last)),
                    false => (draw(i), &noises[0]),
                };
                let mut at = plan.steps[i..=last].iter().map(|step| step.position);
                let noise_pred =
                    Shrink.predict(&(&x * position.input_scale()), &position.t.into(), None)?;
                let predict = |x: &Tensor, sigma: f64| {
                    let position = at.next().unwrap();
                    assert_eq!(position.sigma(), sigma, "{name}");
                    Shrink.predict(&(x * position.input_scale()), &position.t.into(), None)
                };
                let out = match name {
                    "ddim" => ddim_step(&s, step, &x, &noise_pred)?,
                    "ddim eta" => ddim_step_eta(&s, step, &x, &noise_pred, 0.7, noise)?,
                    "ddpm" => ddpm_step(&s, step, &x, &noise_pred, noise)?,
                    "lcm" => lcm_step(&s, step, &x, &noise_pred, noise)?,
                    "euler" => euler_step(sigma, next.sigma(), &x, &noise_pred)?,
                    "euler-a" => euler_ancestral_step(sigma, next.sigma(), &x, &noise_pred, noise)?,
                    "heun" => heun_step(sigma, sigma_next, &x, predict)?,
                    "dpm2" => dpm2_step(sigma, sigma_next, &x, predict)?,
                    "dpm2-a" => dpm2_ancestral_step(sigma, sigma_next, &x, predict, fresh)?,
                    "dpm++sde" => dpm_sde_step(sigma, sigma_next, &x, predict, [noise, fresh])?,
                    _ => dpm2s_ancestral_step(sigma, sigma_next, &x, predict, fresh)?,
                };
                x = out.prev_sample;
            }
            assert!(x.equal(&expected), "{name} {spacing:?}");
        }
    }
    let up = heun_step(1., 2., &x_start, |x, _| Ok(x.shallow_clone()));
    assert!(up.is_err(), "a sigma that goes up");
    let other = heun_step(2., 1., &x_start, |x, _| Ok(x.get(0)));
    assert!(other.is_err(), "a prediction of another shape");
    Ok(())
}
