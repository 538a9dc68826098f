//! Schedules and timesteps against their formulas and against diffusers' tables.

mod golden;

use diffuscope::sampler::{Plan, PlanSettings};
use diffuscope::schedule::{BetaSchedule, Schedule, Spacing, timesteps};
use golden::Worst;
use tch::Tensor;

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(name.into()).unwrap()
}

#[test]
fn betas_and_alphas_cumprod() {
    let file = golden::open("schedules");
    let mut f64s = Worst::within(1e-12);
    // diffusers' own tables are products of a thousand numbers in f32.
    let mut f32s = Worst::within(1e-6);
    for name in file.names() {
        let parts: Vec<&str> = name.split('/').collect();
        let [kind, start, end, total, array] = parts[..] else { panic!("{name}") };
        let kind: BetaSchedule = read(kind);
        let number = |text: &str| text.parse::<f64>().unwrap();
        let s = Schedule::new(kind, number(start), number(end), total.parse().unwrap()).unwrap();
        let got = if array.starts_with("betas") { s.betas() } else { s.alphas_cumprod() };
        let expected = file.tensor(name).unwrap();
        let got = Tensor::from_slice(got);
        if array.ends_with("_f32") {
            f32s.compare(name, &got, &expected);
        } else {
            // Element by element: the smallest alpha_bar is far below the largest.
            let ratio = got / expected;
            f64s.compare(name, &ratio, &ratio.ones_like());
        }
    }
    f64s.finish("schedules in f64");
    f32s.finish("schedules in f32");
}

#[test]
fn spaced_timesteps() {
    let file = golden::open("timesteps");
    let mut euler = Worst::within(1e-6);
    let mut lists = 0;
    for name in file.names() {
        let parts: Vec<&str> = name.split('/').collect();
        let [sampler, spacing, total, steps, offset] = parts[..] else { panic!("{name}") };
        let spacing: Spacing = read(spacing);
        let count = |text: &str| text.parse::<usize>().unwrap();
        let (steps, offset) = (count(steps), count(offset));
        let s = Schedule::new(BetaSchedule::ScaledLinear, 0.00085, 0.012, count(total)).unwrap();
        let expected = file.tensor(name).unwrap();
        if sampler == "euler" {
            let settings =
                PlanSettings { spacing, steps_offset: offset, ..PlanSettings::default() };
            let plan = Plan::new("euler".parse().unwrap(), &s, steps, &settings).unwrap();
            let list: Vec<f64> = plan.steps.iter().map(|step| step.timestep()).collect();
            euler.compare(name, &Tensor::from_slice(&list), &expected);
        } else {
            let list = timesteps(&s, steps, spacing, offset).unwrap();
            let list: Vec<i64> = list.into_iter().map(|t| t as i64).collect();
            assert_eq!(list, Vec::<i64>::try_from(expected).unwrap(), "{name}");
            lists += 1;
        }
    }
    println!("{lists} lists of timesteps are equal");
    euler.finish("timesteps of Euler");
}
