//! The README's tour, on the embedded model and on models of epsilon and of v: the same lines, the same picture.

mod golden;

use diffuscope::Result;
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::sampler::{Sampler, ddim_step};
use diffuscope::{guidance::guide, noise::standard_normal, plot};
use tch::{Device, Kind, no_grad};

fn tour(sd: &StableDiffusion) -> Result<()> {
    let prompt = "a red apple on the grass, cartoon";
    let ddim = Some(Sampler::ddim(0.));
    let request = Request { sampler: ddim, num_inference_steps: 5, ..Request::new(prompt) };
    let in_one_call = sd.generate(&request)?; // image [1, 3, 64, 64] in [-1, 1]

    let (uncond, cond) = (sd.context("")?, sd.context(prompt)?); // [1, 77, 128] each
    let plan = sd.plan(&request)?;
    let mut x_t = standard_normal(&in_one_call.latents.size(), request.seed)?.to_device(sd.device);
    for step in plan.steps.iter().map(|planned| planned.pair()) {
        let output_uncond = no_grad(|| sd.unet.forward(&x_t, step.t, &uncond))?;
        let output_cond = no_grad(|| sd.unet.forward(&x_t, step.t, &cond))?;
        let output = guide(&output_uncond, &output_cond, request.guidance.scale)?;
        let noise_pred = plan.prediction.to_epsilon(&sd.schedule, step.t, &x_t, &output)?;
        x_t = ddim_step(&sd.schedule, step, &x_t, &noise_pred)?.prev_sample;
    }
    let by_hand = sd.decode(&x_t)?;

    assert!((&by_hand - &in_one_call.image).abs().max().double_value(&[]) < 1e-3);
    let figure = plot::picture(&by_hand)?.caption(prompt); // shows itself when it ends a cell
    drop(figure);
    Ok(())
}

#[test]
fn the_tour_runs_on_every_kind_of_model() -> Result<()> {
    tour(&StableDiffusion::tiny()?)?;
    for (_, folder) in golden::folders("pipeline") {
        let mut devices = vec![Device::Cpu];
        devices.extend(tch::Cuda::is_available().then_some(Device::Cuda(0)));
        for device in devices {
            tour(&StableDiffusion::open(&folder, Kind::Float, device)?)?;
        }
    }
    Ok(())
}

#[test]
fn these_lines_are_the_readmes() {
    let lines = |text: &str| -> Vec<String> {
        let (_, from) = text.split_once("let prompt = ").expect("the tour begins");
        let (tour, _) = from.split_once("let figure = ").expect("the tour ends");
        tour.trim_end().lines().map(|line| line.trim().to_owned()).collect()
    };
    assert_eq!(lines(include_str!("tour.rs")), lines(include_str!("../README.md")));
}
