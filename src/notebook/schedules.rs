//! Schedules as curves; plans and samplings as their steps.

use super::look::{Look, Looks, show, shows};
use super::table::Table;
use crate::Result;
use crate::denoiser::Denoiser;
use crate::figures::schedule_figure;
use crate::pipeline::Prepared;
use crate::plot::{Panel, latents};
use crate::sampler::{Plan, Sampling, SamplingStep};
use crate::schedule::Schedule;
use crate::short::Digits;

shows!(Schedule, Plan, SamplingStep, Prepared<'_>, Panel);

impl Looks for Schedule {
    fn look(&self) -> Result<Look> {
        Ok(Look::picture(schedule_figure(&[("", self)])?.png()?, format!("{self:?}")))
    }
}

impl Looks for Panel {
    fn look(&self) -> Result<Look> {
        Ok(Look::picture(self.clone().draw()?.png()?, format!("{self:?}")))
    }
}

impl Looks for Plan {
    fn look(&self) -> Result<Look> {
        Ok(Look::table(&steps(self)))
    }
}

impl Looks for Prepared<'_> {
    fn look(&self) -> Result<Look> {
        Ok(Look::table(&steps(&self.plan)).notes(&self.notes))
    }
}

impl<D: Denoiser> Sampling<'_, D> {
    /// Shows the steps, and the next one; the notebook kernel calls this when it ends a cell.
    pub fn evcxr_display(&self) {
        show(self);
    }
}

impl<D: Denoiser> Looks for Sampling<'_, D> {
    fn look(&self) -> Result<Look> {
        Ok(Look::table(&steps(self.plan()).mark(self.taken())))
    }
}

impl Looks for SamplingStep {
    fn look(&self) -> Result<Look> {
        let first = self.x_0.get(0);
        let title = format!("step {}, t = {}: predicted x₀", self.i, Digits(self.position.t));
        Ok(Look::picture(latents(&first)?.title(title).png()?, format!("{self:?}")))
    }
}

/// One row an evaluation of the model: where it is, and the sum that follows.
fn steps(plan: &Plan) -> Table {
    let Plan { sampler, num_inference_steps: steps, prediction, .. } = plan;
    let evaluations = plan.steps.len();
    let mut caption = format!("{sampler}, {steps} steps, the model predicts {}", prediction.name());
    if evaluations != *steps {
        caption += &format!(", {evaluations} evaluations");
    }
    let head = ["step", "t", "picture", "noise", "to", "next sample ="];
    let rows = plan.steps.iter().enumerate().map(|(i, step)| {
        let [t, signal, noise, next] =
            [step.position.t, step.position.signal_rate, step.position.noise_rate, step.next.t]
                .map(|number| Digits(number).to_string());
        let next = if step.next.noise_rate == 0. { "picture".to_owned() } else { next };
        let sum = format!("{:?}", step.coefficients);
        vec![(plan.step_of(i) + 1).to_string(), t, signal, noise, next, sum]
    });
    Table::new(caption, head).rows(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoiser::ExactDenoiser;
    use crate::noise::standard_normal;
    use crate::sampler::PlanSettings;

    fn plan(name: &str, steps: usize) -> Plan {
        let settings = PlanSettings::default();
        Plan::new(name.parse().unwrap(), &Schedule::stable_diffusion(), steps, &settings).unwrap()
    }

    #[test]
    fn a_plan_is_a_table_of_its_steps() -> Result<()> {
        let block = plan("dpm++2m", 4).look()?.block();
        assert!(block.starts_with("EVCXR_BEGIN_CONTENT text/html\n<p>dpm++2m, 4 steps"), "{block}");
        let text = block.split("text/plain\n").nth(1).unwrap();
        assert_eq!(text.lines().count(), 2 + 4 + 1, "{text}");
        assert!(text.contains("1 evaluation before") && text.contains("picture  "), "{text}");
        assert!(steps(&plan("heun", 4)).text().contains("4 steps, the model predicts"));
        assert!(steps(&plan("heun", 4)).text().contains("7 evaluations"));
        assert!(steps(&plan("ddpm", 100)).text().contains("... 60 more"));
        Ok(())
    }

    #[test]
    fn a_sampling_marks_its_next_step() -> Result<()> {
        let data = standard_normal(&[2, 4, 4, 4], 1)?;
        let exact = ExactDenoiser::new(Schedule::stable_diffusion(), &data)?;
        let plan = plan("ddim", 3);
        let x_t = plan.start(&standard_normal(&[1, 4, 4, 4], 2)?);
        let mut sampling = Sampling::new(&exact, plan, x_t, None, 1., Vec::new())?;
        let marked = |sampling: &Sampling<'_, ExactDenoiser>| -> Result<Option<String>> {
            let block = sampling.look()?.block();
            let line = block.lines().find(|line| line.starts_with("> "));
            Ok(line.map(|line| line[2..3].to_owned()))
        };
        assert_eq!(marked(&sampling)?.as_deref(), Some("1"));
        let step = sampling.next().unwrap()?;
        assert_eq!(marked(&sampling)?.as_deref(), Some("2"));
        assert!(step.look()?.block().starts_with("EVCXR_BEGIN_CONTENT image/png"));
        sampling.by_ref().for_each(drop);
        assert_eq!((marked(&sampling)?, sampling.taken()), (None, 3));
        Ok(())
    }

    #[test]
    fn a_schedule_is_its_curves() -> Result<()> {
        let block = Schedule::stable_diffusion().look()?.block();
        assert!(block.starts_with("EVCXR_BEGIN_CONTENT image/png"));
        assert!(block.contains("Schedule of 1000 timesteps"), "{}", &block[block.len() - 200..]);
        Ok(())
    }
}
