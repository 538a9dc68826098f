//! Whole generations against diffusers' StableDiffusionPipeline, step by step: two prompts, a
//! negative one, guidance, and a picture that is not square.

mod golden;

use std::ops::ControlFlow;

use diffuscope::Result;
use diffuscope::checkpoint::{Checkpoint, Family, OpenOptions, examine};
use diffuscope::denoiser::{Denoiser, Half};
use diffuscope::guidance::{Guidance, Projection};
use diffuscope::models::vae::Tiling;
use diffuscope::pipeline::{
    ClipSkip, DepthMap, ExtraChannels, ImageSizes, InitImage, LowResImage, Request, Sdxl,
    StableDiffusion, Variation,
};
use diffuscope::sampler::Sampler;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use diffuscope::timesteps::Timesteps;
use golden::{Worst, gap as apart};
use tch::{Device, Kind, Tensor};

/// The outputs of all steps.
fn whole(outputs: &[Option<Tensor>]) -> Tensor {
    let all: Vec<&Tensor> = outputs.iter().map(|output| output.as_ref().unwrap()).collect();
    Tensor::stack(&all, 0)
}

#[test]
fn traces_of_diffusers() -> Result<()> {
    let mut worst = Worst::within(1e-4);
    for (name, folder) in golden::folders("pipeline") {
        let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?;
        for sampler in samplers() {
            let numbers = golden::open(&format!("pipeline/{name}/{}", sampler));
            let trace = model.trace(&Request {
                negative_prompt: "blurry!".into(),
                sampler: Some(sampler),
                num_inference_steps: 5,
                initial_latents: Some(numbers.tensor("initial_latents")?),
                ..Request::batch(PROMPTS)
            })?;
            for (tensor, got) in [
                ("timesteps", &trace.timesteps),
                ("x_t", &trace.x_t),
                ("noise_uncond", &whole(&trace.output_uncond)),
                ("noise_cond", &whole(&trace.output_cond)),
                ("noise_pred", &trace.output),
                ("x_0", &trace.x_0),
                ("latents", &trace.latents),
                ("image", &trace.image),
            ] {
                let name = format!("{name}, {}, {tensor}", sampler);
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

#[test]
fn a_generation_carries_its_notes_and_what_was_asked_for() -> Result<()> {
    let mut tiny = StableDiffusion::tiny()?;
    tiny.notes = vec!["epsilon was assumed".to_owned()];
    let dragon = "a dragon on the grass";
    let request =
        Request { num_inference_steps: 2, seed: 5, ..Request::batch([dragon, dragon, ""]) };
    let made = tiny.generate(&request)?;
    assert_eq!(made.notes, tiny.warnings(&request)?);
    assert_eq!((made.notes.len(), made.notes[0].as_str()), (2, "epsilon was assumed"));
    assert!(made.notes[1].starts_with("the model was not taught: dragon;"), "{:?}", made.notes);
    let captions = [5, 6].map(|seed| format!("{dragon}, seed {seed}"));
    assert_eq!(made.captions[..2], captions);
    assert_eq!(made.captions[2], "(no text), seed 7");
    let one = Request { num_inference_steps: 2, ..Request::new("a cat") };
    let other = Request { num_inference_steps: 2, ..Request::new(dragon) };
    assert_eq!(tiny.trace(&other)?.notes, made.notes);
    assert_eq!(tiny.generate_between(&one, &other, 0.5)?.notes, made.notes);

    let init = Some(InitImage::new(made.image.narrow(0, 0, 1), 0.3));
    let still = tiny.generate(&Request { init, ..one.clone() })?;
    assert_eq!(still.notes.len(), 2);
    let expected = "no step is left to take: 2 steps at strength 0.3 are none";
    assert!(still.notes[1].starts_with(expected), "{:?}", still.notes);

    // What brackets mean is no word.
    let weighted =
        Request { weighted_prompts: true, ..Request::new("a (red:1.4) [cat:dragon:0.5]") };
    let said = tiny.warnings(&weighted)?;
    assert!(said[1].starts_with("the model was not taught: dragon;"), "{said:?}");
    Ok(())
}

#[test]
fn a_sampler_that_is_not_here_is_said_to_be_replaced() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    let tiny = diffuscope::pipeline::tiny_folder().join("scheduler/scheduler_config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(tiny).unwrap()).unwrap();
    json["_class_name"] = "EDMEulerScheduler".into();
    std::fs::write(&path, json.to_string()).unwrap();
    let mut model = StableDiffusion::tiny()?;
    model.scheduler = diffuscope::checkpoint::SchedulerConfig::open(&path)?;
    let said = model.warnings(&Request::new("a cat"))?;
    let expected = "the checkpoint names EDMEulerScheduler, which is not here: ddim draws; choose another sampler with \
                    --sampler, or the `sampler` of a request";
    assert_eq!(said, [expected]);
    let chosen = Request { sampler: Some("euler".parse()?), ..Request::new("a cat") };
    assert!(model.warnings(&chosen)?.is_empty());
    Ok(())
}

const PROMPTS: [&str; 2] = ["a red star, flat", "two cats on the beach"];

fn samplers() -> [Sampler; 2] {
    ["ddim", "euler"].map(|name| name.parse().unwrap())
}

fn opened(folder: &str) -> Result<StableDiffusion> {
    StableDiffusion::open(golden::path(folder), Kind::Float, Device::Cpu)
}

/// Two pictures, masks and depths that the reference was given.
fn pictures() -> [Tensor; 3] {
    let file = golden::open("families/pictures");
    ["picture", "mask", "depth"].map(|name| file.tensor(name).unwrap())
}

/// What the reference was asked for: two prompts, the seeds 5 and 6, 20 steps, a guidance scale of 5.
fn asked() -> Request {
    Request {
        negative_prompt: "blurry!".into(),
        num_inference_steps: 20,
        seed: 5,
        sampler: Some(samplers()[0]),
        ..Request::batch(PROMPTS)
    }
}

fn with_prompts(prompts: &[&str]) -> Request {
    Request { prompts: prompts.iter().map(|&prompt| prompt.into()).collect(), ..asked() }
}

fn small() -> Request {
    Request { width: Some(8), height: Some(16), ..asked() }
}

/// A picture to start from with a strength, and what is drawn anew of it.
fn of_picture(strength: f64, masked: bool, sample_posterior: bool) -> Request {
    let [image, mask, _] = pictures();
    let mask = masked.then_some(mask);
    Request { init: Some(InitImage { image, strength, mask, sample_posterior }), ..asked() }
}

fn compare(folder: &str, numbers: &str, requests: Vec<(&str, Request)>) -> Result<()> {
    let mut worst = Worst::within(2e-5);
    let model = opened(folder)?;
    for (name, mut request) in requests {
        for sampler in samplers() {
            request.sampler = Some(sampler);
            let expected = golden::open(&format!("{numbers}/{}", sampler)).tensor(name)?;
            let got = model.generate(&request)?;
            worst.compare(&format!("{name}, {}", sampler), &got.latents, &expected);
            assert!(got.finished && got.image.size()[0] == 2);
        }
    }
    worst.finish(folder);
    Ok(())
}

fn with_sizes(sizes: ImageSizes) -> Request {
    Request { sdxl: Some(Sdxl { sizes: Some(sizes), ..Sdxl::default() }), ..small() }
}

/// The small pictures that the reference enlarged.
fn low_res() -> Option<LowResImage> {
    Some(LowResImage::new(golden::open("families/small").tensor("small").unwrap()))
}

#[test]
fn sdxl_as_diffusers() -> Result<()> {
    let folder = "families/sdxl";
    let both = Request {
        sdxl: Some(Sdxl {
            prompts_2: vec!["a fish".into(), "flat".into()],
            negative_prompt_2: Some("a cat".into()),
            sizes: None,
        }),
        ..small()
    };
    let sizes = ImageSizes {
        original_size: (40, 30),
        crops_coords_top_left: (3, 5),
        target_size: (16, 20),
    };
    let requests = vec![
        ("plain", small()),
        ("no_negative", Request { negative_prompt: String::new(), ..small() }),
        ("both_prompts", both),
        ("sizes", with_sizes(sizes)),
        ("clip_skip", Request { clip_skip: ClipSkip { prompt: 1, negative: 0 }, ..small() }),
    ];
    compare(folder, folder, requests)
}

#[test]
fn inpainting_as_diffusers() -> Result<()> {
    let folder = "families/inpainting";
    assert_eq!(opened(folder)?.extra_channels(), Some(ExtraChannels::MaskedImage));
    let requests = vec![
        ("whole", of_picture(1., true, false)),
        ("part", of_picture(0.6, true, false)),
        ("whole_sampled", of_picture(1., true, true)),
        ("part_sampled", of_picture(0.6, true, true)),
    ];
    compare(folder, folder, requests)
}

#[test]
fn depth_to_image_as_diffusers() -> Result<()> {
    let folder = "families/depth";
    assert_eq!(opened(folder)?.extra_channels(), Some(ExtraChannels::DepthMap));
    let with = |sampled| {
        let [.., depth] = pictures();
        Request { depth: Some(DepthMap(depth)), ..of_picture(0.8, false, sampled) }
    };
    compare(folder, folder, vec![("part", with(false)), ("part_sampled", with(true))])
}

#[test]
fn upscaling_as_diffusers() -> Result<()> {
    let folder = "families/upscaler";
    assert_eq!(opened(folder)?.extra_channels(), Some(ExtraChannels::LowResImage));
    compare(folder, folder, vec![("plain", Request { low_res: low_res(), ..asked() })])
}

#[test]
fn a_distilled_network_as_diffusers() -> Result<()> {
    let folder = "families/lcm";
    let request = Request { negative_prompt: String::new(), ..small() };
    compare(folder, folder, vec![("plain", request)])?;

    // By its own sampler, as diffusers' own pipelines run it.
    let lcm = "lcm".parse::<Sampler>()?;
    let plain = || Request { negative_prompt: String::new(), sampler: Some(lcm), ..small() };
    let few = Request { num_inference_steps: 4, guidance: 8.0.into(), ..plain() };
    let picture = |sampled| Request {
        negative_prompt: String::new(),
        sampler: Some(lcm),
        ..of_picture(0.6, false, sampled)
    };
    let numbers = golden::open("families/lcm/lcm");
    let model = opened(folder)?;
    let mut worst = Worst::within(2e-5);
    for (name, request) in [
        ("twenty", plain()),
        ("four", few),
        ("picture", picture(false)),
        ("picture_sampled", picture(true)),
    ] {
        worst.compare(name, &model.generate(&request)?.latents, &numbers.tensor(name)?);
    }
    worst.finish("LCM by its own sampler");
    Ok(())
}

/// A single file in latent-diffusion's keys draws what the folder draws.
#[test]
fn single_files_of_every_family() -> Result<()> {
    let [_, _, depth] = pictures();
    for (family, name, request) in [
        (Family::Sdxl, "sdxl", small()),
        (Family::Sd1Inpainting, "inpainting", of_picture(1., true, false)),
        (
            Family::Sd2Depth,
            "depth",
            Request { depth: Some(DepthMap(depth)), ..of_picture(0.8, false, false) },
        ),
        (Family::X4Upscaler, "upscaler", Request { low_res: low_res(), ..asked() }),
        (Family::Sd1Lcm, "lcm", Request { negative_prompt: String::new(), ..small() }),
    ] {
        let folder = golden::path("families").join(name);
        let stated = OpenOptions { configs: Some(folder.clone()), ..OpenOptions::default() };
        let single = Checkpoint::open_with(folder.join("single.safetensors"), &stated)?;
        assert_eq!(single.family, family, "{:?}", single.evidence);
        assert!(examine(&single).is_whole(), "{name}");
        let single = StableDiffusion::from_checkpoint(&single, Kind::Float, Device::Cpu)?;
        let [expected, got] = [&opened(&format!("families/{name}"))?, &single]
            .map(|model| model.generate(&request).unwrap().latents);
        assert!(got.equal(&expected), "{name}: {:e} apart", apart(&got, &expected));
    }
    Ok(())
}

#[test]
fn tasks_of_an_ordinary_model_as_diffusers() -> Result<()> {
    let requests = vec![
        ("picture", of_picture(0.75, false, false)),
        ("picture_sampled", of_picture(0.75, false, true)),
        ("whole_area", of_picture(1., true, false)),
        ("part_of_area", of_picture(0.75, true, false)),
    ];
    compare("pipeline/sd1", "families", requests)
}

#[test]
fn a_picture_of_a_batch_is_the_same_alone() -> Result<()> {
    let noisy = Some(Sampler::ddim(1.));
    for folder in ["pipeline/sd1", "families/sdxl", "families/upscaler"] {
        let model = opened(folder)?;
        let of = |prompts: &[&str], seeds: &[i64]| {
            let one = |x: Tensor| x.narrow(0, 0, 1);
            let [image, mask, _] = pictures().map(one);
            let init = InitImage {
                mask: Some(mask),
                sample_posterior: true,
                ..InitImage::new(image, 0.75)
            };
            let low_res = low_res().map(|small| LowResImage { image: one(small.image), ..small });
            model.generate(&Request {
                seeds: seeds.to_vec(),
                sampler: noisy,
                init: (folder == "pipeline/sd1").then_some(init),
                low_res: low_res.filter(|_| folder == "families/upscaler"),
                num_inference_steps: 20,
                ..with_prompts(prompts)
            })
        };
        let batch = of(&["a cat", "a red star", "two fish"], &[8, 3, 11])?;
        let alone = of(&["two fish"], &[11])?;
        let gap = apart(&batch.latents.narrow(0, 2, 1), &alone.latents);
        assert!(gap < 1e-5, "{folder}: {gap:e}");
        assert!(apart(&batch.latents.narrow(0, 1, 1), &alone.latents) > 0.1, "{folder}");
    }
    Ok(())
}

/// Networks that move: on a machine without a GPU from the CPU to the CPU, which must change nothing.
#[test]
fn networks_that_stay_elsewhere_draw_the_same() -> Result<()> {
    let away = match tch::Cuda::is_available() {
        true => Device::Cuda(0),
        false => Device::Cpu,
    };
    for folder in ["pipeline/sd1", "families/sdxl"] {
        let model = opened(folder)?;
        let request = || Request { num_inference_steps: 3, ..small() };
        let expected = model.generate(&request())?;
        let model = model.offloaded(away);
        for _ in 0..2 {
            let got = model.generate(&request())?;
            assert!(apart(&got.latents, &expected.latents) < 1e-4, "{folder}");
            assert!(apart(&got.image, &expected.image) < 1e-3, "{folder}");
        }
        for network in ["unet", "vae", "text_encoder"] {
            let tensors = model.tensors(network);
            assert!(!tensors.is_empty());
            assert!(tensors.iter().all(|(_, tensor)| tensor.device() == Device::Cpu), "{network}");
        }
    }
    Ok(())
}

#[test]
fn a_run_that_is_stopped_gives_what_there_is() -> Result<()> {
    let model = opened("pipeline/sd1")?;
    let request = Request { num_inference_steps: 4, ..small() };
    let whole = model.trace(&request)?;
    for last in 0..4i64 {
        let stopped = model.generate_with(&request, |step| match step.i as i64 == last {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        assert_eq!(stopped.finished, last == 3);
        if last < 3 {
            assert!(stopped.latents.equal(&whole.x_t.get(last + 1)), "after step {last}");
            assert!(stopped.image.equal(&model.decode(&whole.x_0.get(last))?), "after step {last}");
        } else {
            assert!(stopped.image.equal(&whole.image));
        }
    }
    Ok(())
}

#[test]
fn between_two_requests_and_near_a_seed() -> Result<()> {
    let model = opened("families/sdxl")?;
    let other = || Request { prompts: vec!["a fish".into(), "b".into()], seed: 70, ..small() };
    let [from, to] = [small(), other()].map(|request| model.generate(&request).unwrap().latents);
    let at = |weight: f64| {
        Ok::<_, diffuscope::Error>(model.generate_between(&small(), &other(), weight)?.latents)
    };
    assert!(apart(&at(0.)?, &from) < 1e-5 && apart(&at(1.)?, &to) < 1e-5);
    let half = at(0.5)?;
    assert!(apart(&half, &from) > 0.01 && apart(&half, &to) > 0.01);
    let more = Request { prompts: vec!["one".into()], ..other() };
    assert!(model.generate_between(&small(), &more, 0.5).is_err());

    let near = |weight: f64| {
        let request = Request {
            seeds: vec![5, 5],
            variation: Some(Variation { seed: 90, weight }),
            ..small()
        };
        Ok::<_, diffuscope::Error>(model.prepare(&request)?.x_t)
    };
    let (plain, other) = (near(0.)?, near(1.)?);
    assert!(plain.get(0).equal(&plain.get(1)) && apart(&other.get(0), &other.get(1)) > 0.1);
    let [a, b] = [0.1, 0.3].map(|weight| apart(&near(weight).unwrap(), &plain));
    assert!(0. < a && a < b && b < apart(&other, &plain), "{a} {b}");
    assert!(near(1.1).is_err());
    Ok(())
}

#[test]
fn an_inverted_picture_is_drawn_again() -> Result<()> {
    let model = StableDiffusion::tiny()?;
    let drawn = model.generate(&Request::new("a red apple on the grass"))?;
    let asked = |init, initial_latents| Request {
        guidance: 1.0.into(),
        num_inference_steps: 20,
        init,
        initial_latents,
        ..Request::new("a red apple on the grass")
    };
    let x_0 = model.vae.encode(&drawn.image)?;
    let mut gaps = Vec::new();
    for iterations in [1, 6] {
        let x_t = model.invert(
            &asked(Some(InitImage::new(drawn.image.shallow_clone(), 1.)), None),
            iterations,
        )?;
        let again = model.generate(&asked(None, Some(x_t)))?;
        gaps.push(apart(&again.latents, &x_0));
    }
    println!("inverted and drawn again: {:.1e} apart, {:.1e} with 6 iterations", gaps[0], gaps[1]);
    assert!(gaps[0] < 0.2 && gaps[1] < 0.1 * gaps[0], "{gaps:?}");
    // Back through a prompt that changes halfway: each text at its own steps, or the picture is lost.
    let changing = |init, initial_latents| Request {
        num_inference_steps: 10,
        weighted_prompts: true,
        prompts: vec!["[a red apple on the grass:a blue fish at night:0.5]".into()],
        ..asked(init, initial_latents)
    };
    let init = || Some(InitImage::new(drawn.image.shallow_clone(), 1.));
    let of_one = Request { num_inference_steps: 10, ..asked(init(), None) };
    let [of_both, of_one] =
        [changing(init(), None), of_one].map(|request| model.invert(&request, 6));
    let again = |x_t| model.generate(&changing(None, Some(x_t)));
    let [right, wrong] =
        [apart(&again(of_both?)?.latents, &x_0), apart(&again(of_one?)?.latents, &x_0)];
    println!("with a prompt that changes: {right:.1e}, inverted without the change: {wrong:.1e}");
    assert!(right < 0.1 && wrong > 10. * right, "{right} {wrong}");
    let euler = Request { sampler: Some("euler".parse()?), ..asked(init(), None) };
    assert!(model.invert(&euler, 1).is_err());
    Ok(())
}

#[test]
fn what_a_family_needs_and_what_it_cannot_use_is_named() -> Result<()> {
    let [picture, mask, depth] = pictures();
    let plain = || Request { negative_prompt: String::new(), ..small() };
    let sdxl = |sdxl| Request { sdxl: Some(sdxl), ..plain() };
    let init = |mask| Some(InitImage { mask, ..InitImage::new(picture.shallow_clone(), 1.) });
    let short = Some(mask.narrow(2, 0, 8));
    let noisy = LowResImage { noise_level: 26, ..LowResImage::new(picture.shallow_clone()) };
    let in_interval = Guidance { interval: Some((0.2, 0.8)), ..5.0.into() };
    let latents = Tensor::zeros([2, 4, 4, 2], (Kind::Float, Device::Cpu));
    for (folder, request, start) in [
        ("inpainting", small(), "init (the picture under the mask): expected a picture"),
        ("inpainting", Request { init: init(None), ..asked() }, "mask: expected a picture"),
        ("inpainting", Request { init: init(short), ..asked() }, "mask"),
        ("depth", small(), "depth: expected a picture"),
        (
            "depth",
            Request { depth: Some(DepthMap(depth.zeros_like())), ..small() },
            "depth: expected finite",
        ),
        ("upscaler", asked(), "small (low_res): expected a picture"),
        ("upscaler", Request { low_res: Some(noisy), ..asked() }, "noise_level: expected 0 to 25"),
        ("sdxl", Request { depth: Some(DepthMap(depth)), ..small() }, "depth: expected none"),
        ("sdxl", Request { low_res: low_res(), ..small() }, "small (low_res): expected none"),
        ("sdxl", Request { width: Some(16), init: init(None), ..asked() }, "width: expected 8"),
        (
            "sdxl",
            Request {
                variation: Some(Variation { seed: 1, weight: 0.5 }),
                initial_latents: Some(latents),
                ..small()
            },
            "variation: expected none",
        ),
        (
            "sdxl",
            sdxl(Sdxl { prompts_2: vec!["a".into()], ..Sdxl::default() }),
            "prompts_2: expected 2",
        ),
        ("lcm", small(), "negative_prompt: expected none"),
        ("lcm", Request { guidance: in_interval, ..plain() }, "guidance: expected one scale"),
        ("lcm", sdxl(Sdxl { sizes: Some(ImageSizes::whole(1, 1)), ..Sdxl::default() }), "sizes"),
        ("lcm", Request { seeds: vec![1], ..plain() }, "seeds: expected 2"),
        ("lcm", sdxl(Sdxl { negative_prompt_2: Some("a".into()), ..Sdxl::default() }), "prompts_2"),
        ("sdxl", Request { clip_skip: 2.into(), ..small() }, "clip_skip: expected at most 2"),
        (
            "sdxl",
            Request { clip_skip: usize::MAX.into(), ..small() },
            "clip_skip: expected at most",
        ),
    ] {
        let message =
            opened(&format!("families/{folder}"))?.generate(&request).unwrap_err().to_string();
        assert!(message.starts_with(start), "{folder}: {message}");
    }
    Ok(())
}

#[test]
fn a_masked_picture_keeps_the_rest_with_any_family() -> Result<()> {
    let [_, mask, depth] = pictures();
    for (folder, depth, negative_prompt) in [
        ("families/depth", Some(depth), "blurry!"),
        ("families/sdxl", None, "blurry!"),
        ("families/lcm", None, ""),
    ] {
        let model = opened(folder)?;
        let request = of_picture(1., true, false);
        let image = request.init.as_ref().map(|init| init.image.shallow_clone()).unwrap();
        let depth = depth.map(DepthMap);
        let request = Request { depth, negative_prompt: negative_prompt.into(), ..request };
        let drawn = model.generate(&request)?.latents;
        let kept = model.vae.encode(&image)?;
        let size = drawn.size();
        let closed = mask.upsample_nearest2d([size[2], size[3]], None, None).le(0.5);
        let closed = closed.expand_as(&drawn);
        assert!(drawn.eq_tensor(&kept).equal(&closed), "{folder}");
    }
    Ok(())
}

#[test]
fn every_family_draws_in_bf16() -> Result<()> {
    let [.., depth] = pictures();
    for (family, request) in [
        ("sdxl", small()),
        ("inpainting", of_picture(1., true, true)),
        ("depth", Request { depth: Some(DepthMap(depth)), ..small() }),
        ("upscaler", Request { low_res: low_res(), ..asked() }),
        ("lcm", Request { negative_prompt: String::new(), ..small() }),
    ] {
        let folder = golden::path("families").join(family);
        let [plain, bf16] = [Kind::Float, Kind::BFloat16]
            .map(|kind| StableDiffusion::open(&folder, kind, Device::Cpu).unwrap());
        let request = Request { num_inference_steps: 2, ..request };
        let [plain, bf16] = [plain, bf16].map(|model| model.generate(&request).unwrap());
        let gap = apart(&bf16.latents, &plain.latents);
        println!("{family} in bf16: {gap:.1e} apart");
        assert!(gap > 0. && gap < 0.1, "{family}: {gap}");
        assert_eq!((bf16.latents.kind(), bf16.image.kind()), (Kind::Float, Kind::Float));
    }
    Ok(())
}

#[test]
fn tiles_go_through_the_pipeline() -> Result<()> {
    let mut model = opened("pipeline/sd1")?;
    let request = || Request { width: Some(40), height: Some(24), ..small() };
    let whole = model.generate(&request())?;
    model.tiling = Some(Tiling { tile: 4, overlap: 2 });
    let tiled = model.generate(&request())?;
    assert!(tiled.latents.equal(&whole.latents) && !tiled.image.equal(&whole.image));
    assert_eq!(tiled.image.size(), whole.image.size());
    Ok(())
}

#[test]
fn folders_of_other_families_are_refused() -> Result<()> {
    let place = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    fn files(folder: &std::path::Path, all: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, all) } else { all.push(path) }
        }
    }
    let from = golden::path("families/sdxl");
    let mut all = Vec::new();
    files(&from, &mut all);
    for path in &all {
        copy(path, &place.path().join(path.strip_prefix(&from).unwrap()));
    }
    let said = || {
        let opened = StableDiffusion::open(place.path(), Kind::Float, Device::Cpu);
        opened.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(said(), "");
    std::fs::remove_dir_all(place.path().join("tokenizer_2")).unwrap();
    assert!(said().contains("belong together"), "{}", said());
    let index = place.path().join("model_index.json");
    std::fs::write(&index, r#"{"_class_name": "KandinskyPipeline"}"#).unwrap();
    assert!(
        said().contains("KandinskyPipeline is not one of StableDiffusionPipeline"),
        "{}",
        said()
    );
    Ok(())
}

#[test]
fn prompts_with_weights_and_prompts_that_change() -> Result<()> {
    let (_, folder) = golden::folders("pipeline").remove(0);
    let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?;
    let draw = |prompt: &str, weighted_prompts: bool| {
        let request = Request {
            num_inference_steps: 4,
            weighted_prompts,
            sampler: Some(Sampler::ddim(0.)),
            negative_prompt: "blurry".into(),
            ..Request::new(prompt)
        };
        Ok::<_, diffuscope::Error>(model.generate(&request)?.latents)
    };
    let (star, cats) = (draw("a red star", false)?, draw("two cats", false)?);
    let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-5;
    assert!(near(&draw("a (red:1.0) star", true)?, &star));
    assert!(!near(&draw("a (red:1.5) star", true)?, &star));
    assert!(!near(&draw("a (red:1.5) star", false)?, &draw("a (red:1.5) star", true)?));
    // For the first 4 of 4 steps, for none, and for half of them.
    assert!(near(&draw("[a red star:two cats:4]", true)?, &star));
    assert!(near(&draw("[a red star:two cats:0]", true)?, &cats));
    let half = draw("[a red star:two cats:0.5]", true)?;
    assert!(!near(&half, &star) && !near(&half, &cats));

    // The first half by hand, and the second from there.
    let request = Request {
        num_inference_steps: 4,
        sampler: Some(Sampler::ddim(0.)),
        negative_prompt: "blurry".into(),
        ..Request::new("a red star")
    };
    let prepared = model.prepare(&request)?;
    let mut sampling = prepared.sampling()?;
    for _ in 0..2 {
        sampling.next().transpose()?;
    }
    let (uncond, cond) = (model.context("blurry")?, model.context("two cats")?);
    sampling.set_contexts(&uncond, &cond)?;
    for step in sampling.by_ref() {
        step?;
    }
    assert!(near(&half, &sampling.into_sample()));
    Ok(())
}

/// Texts are encoded once, each with its own number of skipped layers.
#[test]
fn one_text_with_two_skips_is_two_texts() -> Result<()> {
    let model = StableDiffusion::tiny()?;
    let request = Request {
        negative_prompt: "a cat".into(),
        clip_skip: ClipSkip { prompt: 1, negative: 0 },
        ..Request::batch(["a cat", "a dog", "a cat"])
    };
    let (uncond, cond) = model.prepare(&request)?.contexts.unwrap();
    assert!(apart(&uncond.get(0), &cond.get(0)) > 1e-2);
    assert!(uncond.get(0).equal(&model.encode_text("a cat", "a cat", 0)?.context.get(0)));
    for (i, prompt) in request.prompts.iter().enumerate() {
        let alone = model.encode_text(prompt, prompt, 1)?.context.get(0);
        assert!(cond.get(i as i64).equal(&alone), "{prompt}");
    }
    Ok(())
}

/// A half alone is that half of both, with a pooled text for each half and with one that serves both.
#[test]
fn half_of_a_guided_batch_is_that_half() -> Result<()> {
    let sdxl = StableDiffusion::open(golden::path("families/sdxl"), Kind::Float, Device::Cpu)?;
    let mut prepared = sdxl.prepare(&Request { negative_prompt: "blurry".into(), ..small() })?;
    let (uncond, cond) = prepared.contexts.take().unwrap();
    let (x_t, t) = (prepared.x_t.shallow_clone(), Timesteps::from(300));
    let both_x_t = Tensor::cat(&[&x_t, &x_t], 0);
    let context = Tensor::cat(&[&uncond, &cond], 0);
    let batch = x_t.size()[0];
    assert_eq!(batch, 2);
    let pooled = prepared.denoiser.conditions.text_embeds.as_ref().unwrap().shallow_clone();
    assert!(apart(&pooled.narrow(0, 0, batch), &pooled.narrow(0, batch, batch)) > 1e-2);
    for text_embeds in [pooled.shallow_clone(), pooled.narrow(0, 0, batch)] {
        prepared.denoiser.conditions.text_embeds = Some(text_embeds);
        let denoiser = &prepared.denoiser;
        let both = tch::no_grad(|| denoiser.predict(&both_x_t, &t, Some(&context)))?;
        for (half, context, first) in [(Half::Uncond, &uncond, 0), (Half::Cond, &cond, batch)] {
            let one = tch::no_grad(|| denoiser.predict_half(half, &x_t, &t, Some(context)))?;
            let gap = apart(&one, &both.narrow(0, first, batch));
            assert!(gap < 1e-5, "{half:?}: {gap}");
        }
    }
    Ok(())
}

/// Where one of the two predictions does not count, it is not asked for, and the pictures are those of both.
#[test]
fn one_prediction_is_enough_where_one_counts() -> Result<()> {
    let (_, plain) = golden::folders("pipeline").remove(0);
    for folder in [plain, golden::path("families/sdxl")] {
        let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?;
        let trace = |guidance: Guidance| {
            model.trace(&Request {
                sampler: Some(Sampler::ddim(0.)),
                num_inference_steps: 4,
                guidance,
                negative_prompt: "blurry".into(),
                ..Request::batch(["a cat", "two fish"])
            })
        };
        let there = |all: &[Option<Tensor>]| all.iter().map(Option::is_some).collect::<Vec<_>>();
        let nothing = vec![false; 4];
        let all = vec![true; 4];
        for (scale, uncond, cond) in [(0., &all, &nothing), (1., &nothing, &all)] {
            let one = trace(scale.into())?;
            assert_eq!((&there(&one.output_uncond), &there(&one.output_cond)), (uncond, cond));
            // A scale that asks for both and comes to the same.
            let both = trace((scale + 1e-9).into())?;
            assert_eq!((&there(&both.output_uncond), &there(&both.output_cond)), (&all, &all));
            let gap = (&one.latents - &both.latents).abs().max().double_value(&[]);
            assert!(gap < 1e-4, "{}, scale {scale}: {gap}", folder.display());
        }
        let late = trace(Guidance { interval: Some((0.5, 1.)), ..5.0.into() })?;
        assert_eq!(there(&late.output_uncond), [false, false, true, true]);
        assert!(late.noise_uncond().is_err() && late.noise_cond().is_ok());
        assert_eq!(late.guided_steps()?.len(), 2);
    }
    Ok(())
}

#[test]
fn guidance_beyond_one_scale() -> Result<()> {
    let (_, folder) = golden::folders("pipeline").remove(0);
    let model = StableDiffusion::open(&folder, Kind::Float, Device::Cpu)?;
    let draw = |guidance: Guidance| {
        let request = Request { num_inference_steps: 4, guidance, ..Request::new("a cat") };
        Ok::<_, diffuscope::Error>(model.generate(&request)?.latents)
    };
    let plain = |scale: f64| draw(scale.into());
    let near = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-4;
    let base = || Guidance::from(5.);
    assert!(near(&draw(Guidance { scales: vec![5.; 4], ..base() })?, &plain(5.)?));
    assert!(near(&draw(Guidance { interval: Some((0., 1.)), ..base() })?, &plain(5.)?));
    assert!(near(&draw(Guidance { interval: Some((0.5, 0.5)), ..base() })?, &plain(1.)?));
    let part = draw(Guidance { interval: Some((0.5, 1.)), ..base() })?;
    assert!(near(&part, &draw(Guidance { scales: vec![1., 1., 5., 5.], ..base() })?));
    let all = Projection { eta: 1., norm_threshold: f64::INFINITY, momentum: 0. };
    assert!(near(&draw(Guidance { projection: Some(all), ..base() })?, &plain(5.)?));
    let projected = draw(Guidance { projection: Some(Projection::default()), ..base() })?;
    let rescaled = draw(Guidance { rescale: 0.7, ..base() })?;
    for other in [&projected, &rescaled, &part] {
        assert!(!near(other, &plain(5.)?) && other.isfinite().all().int64_value(&[]) == 1);
    }
    assert!(draw(Guidance { scales: vec![5.; 3], ..base() }).is_err());
    Ok(())
}

/// A U-Net with noise levels that is not the upscaler is told the usual one.
#[test]
fn a_network_with_classes_draws_without_a_small_picture() -> Result<()> {
    let place = tempfile::tempdir().unwrap();
    let from = golden::path("pipeline/sd1");
    for part in ["", "scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
        std::fs::create_dir_all(place.path().join(part)).unwrap();
        for entry in std::fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.file_name().unwrap();
                std::fs::copy(&path, place.path().join(part).join(name)).unwrap();
            }
        }
    }
    let config = place.path().join("unet/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["num_class_embeds"] = 30.into();
    std::fs::write(&config, json.to_string()).unwrap();
    let weights = place.path().join("unet/diffusion_pytorch_model.safetensors");
    let file = TensorFile::open(&weights)?;
    let mut tensors = file
        .names()
        .map(|name| Ok((name.to_owned(), file.tensor(name)?)))
        .collect::<Result<Vec<_>>>()?;
    let width = file.shape("time_embedding.linear_2.bias").unwrap()[0];
    let classes = Tensor::ones([30, width], (Kind::Float, Device::Cpu));
    tensors.push(("class_embedding.weight".into(), classes));
    write_tensors(&weights, &tensors, &[])?;
    let model = StableDiffusion::open(place.path(), Kind::Float, Device::Cpu)?;
    let request = Request { num_inference_steps: 2, ..Request::new("a cat") };
    let labels = &model.prepare(&request)?.denoiser.conditions.class_labels;
    assert_eq!(labels.as_ref().map(|labels| labels.int64_value(&[0])), Some(20));
    assert!(model.generate(&request)?.finished);
    Ok(())
}
