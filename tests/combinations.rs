//! Combinations of families that exist in the wild: what one family has (a guidance scale that is told, channels of a
//! picture, a second text encoder) in the network of another.

mod golden;

use std::fs;
use std::path::Path;

use diffuscope::Result;
use diffuscope::models::clip::{TextConfig, TextEncoder};
use diffuscope::models::params::Params;
use diffuscope::models::unet::{UNet, UNetConfig};
use diffuscope::noise::with_seed;
use diffuscope::pipeline::{DepthMap, InitImage, Request, StableDiffusion, Variation};
use diffuscope::sampler::Sampler;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use golden::{Worst, gap as apart};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const PROMPTS: [&str; 2] = ["a red star, flat", "two cats on the beach"];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let place = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy(&entry, &place),
            false => assert!(fs::copy(&entry, &place).is_ok()),
        }
    }
}

/// Changes a JSON file of a folder.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn request() -> Request {
    Request {
        num_inference_steps: 20,
        seed: 5,
        width: Some(8),
        height: Some(16),
        ..Request::batch(PROMPTS)
    }
}

/// Prompts that change after half of the steps, and SDXL's U-Net told the guidance scale, against diffusers.
#[test]
fn sdxl_with_prompts_that_change_and_distilled_as_diffusers() -> Result<()> {
    let place = tempfile::tempdir().unwrap();
    let numbers = golden::open("families/sdxl_variants");
    let plain = golden::path("families/sdxl");
    copy(&plain, place.path());
    edit(&place.path().join("unet/config.json"), |unet| unet["time_cond_proj_dim"] = json!(6));
    let file = TensorFile::open(plain.join(WEIGHTS))?;
    let mut weights: Vec<(String, Tensor)> =
        file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect();
    weights.push(("time_embedding.cond_proj.weight".into(), numbers.tensor("cond_proj")?));
    write_tensors(place.path().join(WEIGHTS), &weights, &[])?;

    let mut worst = Worst::within(2e-5);
    for (name, folder, negative) in [("plain", &*plain, "blurry!"), ("distilled", place.path(), "")]
    {
        let model = StableDiffusion::open(folder, Kind::Float, Device::Cpu)?;
        let [a, b] = PROMPTS;
        let changing = [format!("[{a}:a fish:0.5]"), format!("[{b}:flat:0.5]")];
        for sampler in ["ddim", "euler"] {
            for (run, prompts) in
                [("same", PROMPTS.map(String::from)), ("changing", changing.clone())]
            {
                let got = model.generate(&Request {
                    prompts: prompts.to_vec(),
                    negative_prompt: negative.into(),
                    sampler: Some(sampler.parse()?),
                    weighted_prompts: run == "changing",
                    ..request()
                })?;
                let what = format!("{name}/{run}/{sampler}");
                worst.compare(&what, &got.latents, &numbers.tensor(&what)?);
            }
        }
    }
    worst.finish("SDXL");
    Ok(())
}

/// Prompts that change over the steps.
fn changing(prompt: &str) -> Request {
    Request {
        num_inference_steps: 4,
        sampler: Some(Sampler::ddim(0.)),
        weighted_prompts: true,
        negative_prompt: "[blurry:flat:0.25]".into(),
        prompts: vec![prompt.into()],
        ..request()
    }
}

/// What [`changing`] asks for at each step, as prompts that stay.
fn at_each_step(prompts: [&str; 4]) -> Vec<Request> {
    let negative = ["blurry", "flat", "flat", "flat"];
    let one = |(prompt, negative): (&str, &str)| Request {
        negative_prompt: negative.into(),
        ..changing(prompt)
    };
    prompts.into_iter().zip(negative).map(one).collect()
}

/// Part of the way between two prompts that change over the steps is, at every step, part of the way between the texts
/// that hold there, SDXL's pooled ones too; and the noise is as it is without a change.
#[test]
fn prompts_that_change_and_the_way_between_two_of_them() -> Result<()> {
    let model = StableDiffusion::open(golden::path("families/sdxl"), Kind::Float, Device::Cpu)?;
    let from = changing("[a red star:two cats:0.5]");
    let to = Request { seed: 70, ..changing("[a fish|on the beach]") };
    let weight = 0.3;
    let steps = at_each_step(["a red star", "a red star", "two cats", "two cats"])
        .into_iter()
        .zip(at_each_step(["a fish", "on the beach", "a fish", "on the beach"]))
        .map(|(from, to)| {
            let to = Request { seed: 70, ..to };
            let prepared = model.prepare(&from)?.towards(&model.prepare(&to)?, weight)?;
            let texts = [model.encode_texts(&from)?, model.encode_texts(&to)?];
            let [(from_uncond, from), (to_uncond, to)] = texts;
            let line = |a: &Tensor, b: &Tensor| a * (1. - weight) + b * weight;
            let pooled = |text: &Option<Tensor>| text.as_ref().unwrap().shallow_clone();
            let both = [(&from_uncond, &to_uncond), (&from, &to)];
            let [uncond, cond] = both.map(|(a, b)| line(&a.context, &b.context));
            let embeds = both.map(|(a, b)| line(&pooled(&a.text_embeds), &pooled(&b.text_embeds)));
            let held = prepared.contexts.as_ref().unwrap();
            assert!(apart(&held.0, &uncond) < 1e-6 && apart(&held.1, &cond) < 1e-6);
            let told = prepared.denoiser.conditions.text_embeds.as_ref().unwrap();
            assert!(apart(told, &Tensor::cat(&embeds, 0)) < 1e-6);
            Ok(prepared)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut sampling = steps[0].sampling()?;
    for step in &steps {
        let (uncond, cond) = step.contexts.as_ref().unwrap();
        sampling.set_denoiser(&step.denoiser);
        sampling.set_contexts(uncond, cond)?;
        sampling.next().unwrap()?;
    }
    let by_hand = sampling.into_sample();
    let got = model.generate_between(&from, &to, weight)?.latents;
    assert!(apart(&got, &by_hand) < 1e-5, "{}", apart(&got, &by_hand));
    for (weight, end) in [(0., &from), (1., &to)] {
        let got = model.generate_between(&from, &to, weight)?.latents;
        assert!(apart(&got, &model.generate(end)?.latents) < 1e-5, "{weight}");
    }
    // Sampler and steps are those of the first, so that both texts are those of the same step.
    let other = Request { sampler: Some("heun".parse()?), num_inference_steps: 7, ..to.clone() };
    assert!(model.generate_between(&from, &other, weight)?.latents.equal(&got));
    let said = model.prepare(&from)?.towards(&model.prepare(&other)?, weight).unwrap_err();
    assert!(said.to_string().contains("the other's steps"), "{said}");
    // None of the four texts may be replaced by another.
    let still = changing("two cats");
    for (a, b) in [(&still, &to), (&from, &Request { seed: 70, ..changing("a fish") })] {
        assert!(apart(&model.generate_between(a, b, weight)?.latents, &by_hand) > 1e-3);
    }

    let variation = Some(Variation { seed: 90, weight });
    let [change, plain] = [from, still].map(|asked| Request { variation, ..asked });
    let x_t = model.prepare(&plain)?.x_t;
    assert!(model.prepare(&change)?.x_t.equal(&x_t));
    let again = Request { variation: None, initial_latents: Some(x_t), ..change.clone() };
    assert!(model.generate(&change)?.latents.equal(&model.generate(&again)?.latents));
    Ok(())
}

/// A number from 0 on and below `count`, drawn from a seed.
fn draw(seed: &mut u64, count: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % count
}

/// What a random model is made of.
#[derive(Debug, Clone, Copy)]
struct Combination {
    /// Of the networks that it is made from: their shapes, tokenizers and text encoders.
    family: &'static str,
    /// Told the guidance scale.
    distilled: bool,
    /// Channels beside the latents: 0, 1 (a depth map) or 5 (a mask and a picture).
    beside: i64,
    prediction: &'static str,
    sampler: &'static str,
    /// The width of the first text encoder.
    width: i64,
    masked: bool,
    changing: bool,
}

impl Combination {
    fn drawn(seed: &mut u64) -> Self {
        let mut of = |list: &[&'static str]| list[draw(seed, list.len() as u64) as usize];
        let family = of(&["sdxl", "sdxl", "lcm", "depth"]);
        let prediction = of(&["epsilon", "v_prediction", "sample"]);
        let sampler = of(&["ddim", "euler", "euler-a", "dpm++2m-karras", "unipc", "lcm"]);
        Self {
            family,
            prediction,
            sampler,
            distilled: draw(seed, 2) == 0,
            beside: [0, 1, 5][draw(seed, 3) as usize],
            width: [8, 16, 24][draw(seed, 3) as usize],
            masked: draw(seed, 2) == 0,
            changing: draw(seed, 2) == 0,
        }
    }

    /// A folder with fresh weights.
    fn write(self, folder: &Path, seed: i64) -> Result<()> {
        copy(&golden::path("families").join(self.family), folder);
        let text = folder.join("text_encoder");
        let mut before = 0;
        edit(&text.join("config.json"), |config| {
            before = config["hidden_size"].as_i64().unwrap();
            config["hidden_size"] = json!(self.width);
        });
        edit(&folder.join("unet/config.json"), |unet| {
            let width = unet["cross_attention_dim"].as_i64().unwrap();
            unet["cross_attention_dim"] = json!(width - before + self.width);
            unet["in_channels"] = json!(4 + self.beside);
            unet["time_cond_proj_dim"] = if self.distilled { json!(6) } else { Value::Null };
        });
        edit(&folder.join("scheduler/scheduler_config.json"), |config| {
            config["prediction_type"] = json!(self.prediction);
        });
        let read = |path: &Path| fs::read_to_string(path.join("config.json")).unwrap();
        let unet: UNetConfig = serde_json::from_str(&read(&folder.join("unet"))).unwrap();
        let text_config: TextConfig = serde_json::from_str(&read(&text)).unwrap();
        with_seed(seed, || {
            let fresh = || Params::fresh(Kind::Float, Device::Cpu);
            let (networks, texts) = (fresh(), fresh());
            UNet::new(&networks, &unet)?;
            TextEncoder::new(&texts, &text_config)?;
            write_tensors(folder.join(WEIGHTS), &networks.variables(), &[])?;
            write_tensors(text.join("model.safetensors"), &texts.variables(), &[])
        })
    }

    /// What it is asked for; of several pictures, those that `pictures` counts.
    fn request(self, pictures: std::ops::Range<usize>) -> Request {
        let draw = |shape: &[i64], seed| diffuscope::noise::standard_normal(shape, seed).unwrap();
        let image = draw(&[1, 3, 16, 8], 1).clamp(-1., 1.);
        let mask = draw(&[1, 1, 16, 8], 2).ge(0.).to_kind(Kind::Float);
        let mask = (self.masked || self.beside == 5).then_some(mask);
        let prompts = PROMPTS.map(|prompt| match self.changing {
            true => format!("[{prompt}:a fish:0.5]"),
            false => prompt.to_owned(),
        });
        let depth = (self.beside == 1).then(|| DepthMap(draw(&[1, 1, 9, 11], 3)));
        Request {
            negative_prompt: if self.distilled { "" } else { "blurry!" }.into(),
            sampler: self.sampler.parse::<Sampler>().ok(),
            num_inference_steps: 4,
            weighted_prompts: true,
            init: mask.is_some().then(|| InitImage { mask, ..InitImage::new(image, 1.) }),
            seeds: pictures.clone().map(|i| 5 + i as i64).collect(),
            depth,
            prompts: prompts[pictures].to_vec(),
            ..request()
        }
    }
}

/// Every combination draws, and a picture of a batch is the picture that it is alone: no text, scale or picture of one
/// row reaches another.
#[test]
fn combinations_drawn_at_random_draw_every_picture_as_it_is_alone() -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let given = std::env::var("DIFFUSCOPE_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or(now.as_nanos() as u64 % 1_000_000);
    println!("DIFFUSCOPE_SEED={first}");
    for i in 0..16 {
        let mut seed = first + i;
        let combination = Combination::drawn(&mut seed);
        let what = format!("DIFFUSCOPE_SEED={} {combination:?}", first + i);
        let place = tempfile::tempdir().unwrap();
        let drawn = || -> Result<(Tensor, Tensor)> {
            combination.write(place.path(), i as i64)?;
            let model = StableDiffusion::open(place.path(), Kind::Float, Device::Cpu)?;
            let both = model.generate(&combination.request(0..2))?.latents;
            Ok((both, model.generate(&combination.request(1..2))?.latents))
        };
        let (both, alone) = drawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(both.isfinite().all().int64_value(&[]) == 1, "{what}");
        let gap = apart(&both.narrow(0, 1, 1), &alone);
        assert!(gap < 1e-4, "{what}: {gap:e} apart");
    }
    Ok(())
}
