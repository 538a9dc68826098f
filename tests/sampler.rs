//! Whole loops of every sampler against diffusers, with a model that needs no weights.
//!
//! diffusers' DDIM steps back by the stride T / N, rounded down, and so leaves the list of timesteps
//! under linspace, and under trailing where N does not divide T. Here every step ends on the next
//! timestep of the list; the golden numbers are diffusers' equations along that same list.

mod golden;

use std::collections::BTreeSet;

use diffuscope::Result;
use diffuscope::denoiser::Denoiser;
use diffuscope::prediction::Prediction;
use diffuscope::sampler::{Plan, Position, Sampler, Sampling};
use diffuscope::schedule::{Schedule, Spacing};
use golden::Worst;
use tch::{Kind, Tensor};

/// `sample t / (t + 1)`
struct Shrink;

impl Denoiser for Shrink {
    fn predict(&self, x_t: &Tensor, t: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        let t = t.to_kind(Kind::Double);
        Ok(x_t * (&t / (&t + 1.)))
    }
}

#[test]
fn whole_loops() -> Result<()> {
    let file = golden::open("samplers");
    let (x_start, noises) = (file.tensor("x_T")?, file.tensor("noises")?);
    let schedule = Schedule::stable_diffusion();
    // diffusers keeps DDPM's variance above 1e-20, in the last step too.
    let mut f64s = Worst::within(1e-9);
    // diffusers' Euler casts to f32.
    let mut f32s = Worst::within(1e-5);
    let cases: BTreeSet<&str> =
        file.names().filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
    for case in cases {
        let parts: Vec<&str> = case.split('/').collect();
        let [sampler, prediction, spacing, steps, offset, eta, end, clip] = parts[..] else {
            panic!("{case}")
        };
        let mut sampler: Sampler = sampler.parse()?;
        if let Sampler::Ddim { eta: own } = &mut sampler {
            *own = eta.parse().unwrap();
        }
        let prediction: Prediction = prediction.parse()?;
        let spacing: Spacing = serde_json::from_value(spacing.into()).unwrap();
        let (steps, offset) = (steps.parse().unwrap(), offset.parse().unwrap());
        let one = end == "one";
        let mut plan = Plan::new(sampler, &schedule, prediction, steps, spacing, offset, one)?;
        plan.clip_sample = clip == "1";
        let worst = if sampler == Sampler::Euler { &mut f32s } else { &mut f64s };
        if sampler == Sampler::Euler {
            let sigmas: Vec<f64> = plan
                .positions
                .iter()
                .map(|position| match position {
                    Position::Sigma(step) => step.sigma,
                    Position::Time(_) => panic!("{case}"),
                })
                .chain([0.])
                .collect();
            let expected = file.tensor(&format!("{case}/sigmas"))?;
            worst.compare(case, &Tensor::from_slice(&sigmas), &expected);
            let expected = file.tensor(&format!("{case}/init_noise_sigma"))?;
            worst.compare(case, &Tensor::from(plan.init_noise_sigma), &expected);
        }

        let start = plan.start(&x_start);
        let noises = (0..steps as i64).map(|i| noises.get(i)).collect();
        let after = file.tensor(&format!("{case}/prev_sample"))?;
        let x_0 = file.tensor(&format!("{case}/pred_original_sample"))?;
        let mut seen = 0;
        let mut before = start.shallow_clone();
        for step in Sampling::new(&Shrink, plan, start, None, 1., noises)? {
            let step = step?;
            let i = step.i as i64;
            // Together: where x_0 is the small difference of large numbers, their rounding shows.
            let got = Tensor::stack(&[&step.x_t, &step.prev_sample, &step.x_0], 0);
            let expected = Tensor::stack(&[&before, &after.get(i), &x_0.get(i)], 0);
            worst.compare(&format!("{case} step {i}"), &got, &expected);
            before = after.get(i);
            seen += 1;
        }
        assert_eq!(seen, steps, "{case}");
    }
    f64s.finish("DDIM and DDPM in f64");
    f32s.finish("Euler in f32");
    Ok(())
}
