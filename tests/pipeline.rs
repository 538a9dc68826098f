//! Whole generations against diffusers' StableDiffusionPipeline, step by step: two prompts, a
//! negative one, guidance, and a picture that is not square.

mod golden;

use diffuscope::Result;
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::sampler::Sampler;
use golden::Worst;
use tch::{Device, Kind};

#[test]
fn traces_of_diffusers() -> Result<()> {
    let mut worst = Worst::within(1e-4);
    for (name, folder) in golden::folders("pipeline") {
        let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?;
        for sampler in [Sampler::ddim(0.), Method::Euler.into()] {
            let numbers = golden::open(&format!("pipeline/{name}/{}", sampler.name()));
            let trace = model.trace(&Request {
                prompts: vec!["a red star, flat".into(), "two cats on the beach".into()],
                negative_prompt: "blurry!".into(),
                sampler: Some(sampler),
                num_inference_steps: 5,
                guidance_scale: 5.,
                initial_latents: Some(numbers.tensor("initial_latents")?),
                ..Request::new("")
            })?;
            for (tensor, got) in [
                ("timesteps", &trace.timesteps),
                ("x_t", &trace.x_t),
                ("noise_uncond", &trace.noise_uncond),
                ("noise_cond", &trace.noise_cond),
                ("noise_pred", &trace.noise_pred),
                ("x_0", &trace.x_0),
                ("latents", &trace.latents),
                ("image", &trace.image),
            ] {
                let name = format!("{name}, {}, {tensor}", sampler.name());
                worst.compare(&name, got, &numbers.tensor(tensor)?);
            }
        }
    }
    worst.finish("whole traces");
    Ok(())
}

#[test]
fn words_that_a_model_was_not_taught_are_named() -> Result<()> {
    let tiny = StableDiffusion::tiny()?;
    let said = |prompt: &str| tiny.warnings(&Request::new(prompt));
    assert!(said("two cacti left of a 3d Ladybug, cartoon")?.is_empty());
    let warnings = said("a Castle, and a red château on the grass \u{1f3f0} !")?;
    let [one] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(one.starts_with("the model was not taught: Castle, and, château; "), "{one}");
    assert!(one.contains(" apple, ") && !one.contains("<|"), "{one}");
    let negative = Request { negative_prompt: "dragons".into(), ..Request::new("a cat") };
    assert!(tiny.warnings(&negative)?[0].contains("not taught: dragons;"));
    // A model that has all rows knows all words.
    for (_, folder) in golden::folders("pipeline") {
        let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?;
        assert!(model.warnings(&Request::new("a castle"))?.is_empty());
    }
    Ok(())
}
