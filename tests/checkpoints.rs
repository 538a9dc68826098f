//! Which checkpoints open: single files against diffusers, torch's files against torch, families by their keys, and
//! files that must be refused.

mod golden;
mod torch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diffuscope::checkpoint::{Checkpoint, Family, LoraKeyStyle, OpenOptions, examine};
use diffuscope::models::clip::{TextConfig, TextEncoder, Tokenizer};
use diffuscope::models::unet::{UNet, UNetConfig};
use diffuscope::models::vae::{Vae, VaeConfig};
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::prediction::Prediction;
use diffuscope::sampler::Sampler;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use diffuscope::{Error, Result};
use golden::Worst;
use serde_json::Value;
use tch::{Device, Kind, Tensor};
use torch::{Pickle, archive, entry, zip};

fn checkpoint(name: &str) -> PathBuf {
    golden::path("checkpoint").join(name)
}

fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    let file = TensorFile::open(path).unwrap();
    file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect()
}

/// The same model from a `.ckpt` of overlapping windows and from a plain `.safetensors`.
#[test]
fn single_files_are_what_diffusers_makes_of_the_same_networks() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut worst = Worst::within(3e-5);
    for (name, family, notes) in [("sd1", Family::Sd1, 0), ("sd2", Family::Sd2V, 1)] {
        let ckpt = checkpoint(&format!("{name}.ckpt"));
        let safetensors = folder.path().join(format!("{name}.safetensors"));
        write_tensors(&safetensors, &tensors(&ckpt), &[])?;
        let numbers = TensorFile::open(checkpoint(&format!("{name}.safetensors")))?;
        let number = |name: &str| numbers.tensor(name).unwrap();
        for path in [ckpt, safetensors] {
            let found = Checkpoint::open(&path)?;
            assert_eq!(found.family, family, "{:?}", found.evidence);
            let report = examine(&found);
            assert!(report.is_whole(), "{report:#?}");
            let model = StableDiffusion::from_checkpoint(&found, Kind::Float, Device::Cpu)?;
            assert_eq!(model.notes.len(), notes, "{:?}", model.notes);

            let ids = model.tokenizer.encode("a red star!")?.tensor();
            assert!(ids.equal(&number("ids")));
            let context = model.text_encoder.encode(&ids)?;
            let noise_pred = model.unet.forward(&number("latents"), 501, &context)?;
            let generated = model.generate(&Request {
                negative_prompt: "blurry".into(),
                sampler: Some(Sampler::ddim(0.)),
                num_inference_steps: 5,
                initial_latents: Some(number("latents")),
                ..Request::new("a red star!")
            })?;
            for (what, got) in [
                ("context", context),
                ("noise_pred", noise_pred),
                ("mean", model.vae.posterior(&number("image"))?.mean),
                ("decoded", model.vae.decode(&number("latents"))?),
                ("final", generated.latents),
            ] {
                worst.compare(&format!("{}: {what}", path.display()), &got, &number(what));
            }
        }
    }
    worst.finish("single files");
    Ok(())
}

#[test]
fn a_single_file_can_be_stated_to_be_something() -> Result<()> {
    let path = checkpoint("sd2.ckpt");
    let assumed = Checkpoint::open(&path)?;
    assert!(!assumed.prediction.known && assumed.prediction.prediction == Prediction::V);
    assert!(assumed.notes()[0].contains("v_prediction was assumed"), "{:?}", assumed.notes());
    let options = OpenOptions { prediction: Some(Prediction::Epsilon), ..OpenOptions::default() };
    let stated = Checkpoint::open_with(&path, &options)?;
    assert_eq!(stated.family, Family::Sd2Base);
    assert!(stated.prediction.known && stated.notes().is_empty());
    // The base model's pictures are smaller than the 768-v model's.
    assert_eq!(stated.networks["unet"].config["sample_size"], 64);
    assert_eq!(assumed.networks["unet"].config["sample_size"], 96);
    let model = StableDiffusion::from_checkpoint(&stated, Kind::Float, Device::Cpu)?;
    assert_eq!(model.scheduler.prediction(), Prediction::Epsilon);

    // Configurations from a folder in place of those that were read from the shapes.
    let folder = tempfile::tempdir().unwrap();
    for (name, network) in &assumed.networks {
        let mut config = network.config.clone();
        if name == "vae" {
            config["scaling_factor"] = 0.5.into();
        }
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("config.json"), config.to_string()).unwrap();
    }
    fs::create_dir(folder.path().join("scheduler")).unwrap();
    let (scheduler, _) = &assumed.schedulers["scheduler"];
    let written = folder.path().join("scheduler/scheduler_config.json");
    fs::write(written, scheduler.to_string()).unwrap();
    let stated = OpenOptions { configs: Some(folder.path().to_owned()), ..OpenOptions::default() };
    let stated = Checkpoint::open_with(&path, &stated)?;
    assert!(stated.prediction.known && stated.prediction.prediction == Prediction::V);
    let model = StableDiffusion::from_checkpoint(&stated, Kind::Float, Device::Cpu)?;
    assert_eq!(model.vae.config().scaling_factor, 0.5);
    Ok(())
}

/// The embedded vocabulary is the one of `data/tokenizer`.
#[test]
fn the_embedded_tokenizer_is_clips() -> Result<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tokenizer");
    let (embedded, opened) = (Tokenizer::clip("<|endoftext|>")?, Tokenizer::open(data)?);
    for id in 0..=49408 {
        assert_eq!(embedded.token(id), opened.token(id), "{id}");
    }
    let text = fs::read_to_string(golden::path("tokenizer.json")).unwrap();
    let cases: Vec<BTreeMap<String, Value>> = serde_json::from_str(&text).unwrap();
    let zero = Tokenizer::clip("!")?;
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        for (tokenizer, ids) in [(&embedded, "pad_end"), (&zero, "pad_zero")] {
            assert_eq!(Value::from(tokenizer.encode(prompt)?.ids), case[ids], "{prompt:?}");
        }
    }
    assert!(matches!(Tokenizer::clip("no such token"), Err(Error::Tokenizer(_))));
    Ok(())
}

/// Keys and shapes of the published files, and what their networks' configurations are.
struct Published {
    keys: BTreeMap<String, Vec<i64>>,
    configs: Value,
}

fn published() -> BTreeMap<String, Published> {
    let text = fs::read_to_string(checkpoint("families.json")).unwrap();
    let families: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let read = |mut family: Value| {
        let (mut keys, mut before) = (BTreeMap::new(), String::new());
        for line in family["keys"].as_array().unwrap() {
            let words: Vec<&str> = line.as_str().unwrap().split(' ').collect();
            let shared: usize = words[0].parse().unwrap();
            before = format!("{}{}", &before[..shared], words[1]);
            let shape = words[2].split('x').filter_map(|side| side.parse().ok()).collect();
            keys.insert(before.clone(), shape);
        }
        Published { keys, configs: family["configs"].take() }
    };
    families.into_iter().map(|(name, family)| (name, read(family))).collect()
}

/// A file of f16 tensors of these shapes, as large as a real one and with nothing in it.
fn hollow(path: &Path, keys: &BTreeMap<String, Vec<i64>>, metadata: &[(&str, &str)]) {
    let mut header = serde_json::Map::new();
    let texts: BTreeMap<_, _> = metadata.iter().copied().collect();
    header.insert("__metadata__".into(), serde_json::to_value(texts).unwrap());
    let mut at = 0;
    for (key, shape) in keys {
        let end = at + 2 * shape.iter().product::<i64>();
        let tensor =
            serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": [at, end] });
        header.insert(key.clone(), tensor);
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let start = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    fs::write(path, &start).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(start.len() as u64 + at as u64)
        .unwrap();
}

#[test]
fn published_families_are_named_from_their_headers() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let published = published();
    const CONV: &str = "model.diffusion_model.input_blocks.0.0.weight";
    const COND: &str = "model.diffusion_model.time_embed.cond_proj.weight";
    type Change = fn(&mut BTreeMap<String, Vec<i64>>);
    let takes: [Change; 3] = [
        |keys| drop(keys.insert(CONV.into(), vec![320, 9, 3, 3])),
        |keys| drop(keys.insert(CONV.into(), vec![320, 5, 3, 3])),
        |keys| drop(keys.insert(COND.into(), vec![320, 256])),
    ];
    let alone: [Change; 2] = [
        |keys| *keys = below(keys, "first_stage_model."),
        |keys| *keys = below(keys, "model.diffusion_model."),
    ];
    let base = [("modelspec.prediction_type", "epsilon")];
    for (name, change, metadata, family) in [
        ("sd1", None, &[][..], Family::Sd1),
        ("sd1", Some(takes[0]), &[], Family::Sd1Inpainting),
        ("sd1", Some(takes[2]), &[], Family::Sd1Lcm),
        ("sd2", None, &[], Family::Sd2V),
        ("sd2", None, &base, Family::Sd2Base),
        ("sd2", Some(takes[0]), &[], Family::Sd2Inpainting),
        ("sd2", Some(takes[1]), &[], Family::Sd2Depth),
        ("x4", None, &[], Family::X4Upscaler),
        ("sdxl", None, &[], Family::Sdxl),
        ("refiner", None, &[], Family::SdxlRefiner),
        ("sd1", Some(alone[0]), &[], Family::Vae),
        ("sd1", Some(alone[1]), &[], Family::UNet),
        ("sd2", Some(alone[1]), &[], Family::UNet),
    ] {
        let mut keys = published[name].keys.clone();
        change.iter().for_each(|change| change(&mut keys));
        hollow(&path, &keys, metadata);
        let found = Checkpoint::open(&path)?;
        assert_eq!(found.family, family, "{name}: {:?}", found.evidence);
        assert!(!found.evidence.is_empty() && found.unknown.is_empty(), "{:?}", found.unknown);
        assert_eq!(found.prediction.known, !metadata.is_empty());
        let report = examine(&found);
        if matches!(family, Family::Sd1 | Family::Sd2V | Family::Sd2Base | Family::Vae) {
            assert!(report.is_whole(), "{name}: {report:#?}");
        }
        if family == Family::Sd1 {
            assert_eq!(report.networks.len(), 3);
            let unet = report.networks.iter().find(|network| network.name == "unet").unwrap();
            assert_eq!((unet.parameters, unet.tensors), (859_520_964, 686));
            assert_eq!(unet.memory["f32"], 4 * 859_520_964);
        }
        // What shapes say, and what the published constants are.
        for (network, config) in published[name].configs.as_object().unwrap() {
            if change.is_none() {
                let got = &found.networks[network].config;
                for (key, value) in config.as_object().unwrap() {
                    assert!(
                        agree(&got[key], value, key, metadata),
                        "{name} {network} {key}: {}",
                        got[key]
                    );
                }
            }
        }
    }
    Ok(())
}

fn below(keys: &BTreeMap<String, Vec<i64>>, scope: &str) -> BTreeMap<String, Vec<i64>> {
    let names = keys.iter().filter_map(|(key, shape)| Some((key.strip_prefix(scope)?, shape)));
    names.map(|(key, shape)| (key.to_owned(), shape.clone())).collect()
}

fn agree(got: &Value, expected: &Value, key: &str, metadata: &[(&str, &str)]) -> bool {
    match (key, got, expected) {
        // The 768-v model was trained on larger latents than the base model.
        ("sample_size", Value::Number(n), _) if metadata.is_empty() && n.as_i64() == Some(96) => {
            true
        }
        // One number for every level is that number for each; where nothing attends it says nothing.
        (_, Value::Array(all), Value::Number(_)) => all.iter().all(|n| n == expected || *n == 1),
        _ => got == expected,
    }
}

#[test]
fn loras_and_strangers_are_named() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.safetensors");
    let kohya =
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight";
    let peft = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight";
    let old = "unet.down_blocks.0.attentions.0.processor.attn2.to_k_lora.down.weight";
    for (key, width, family, said) in [
        (kohya, 768, Family::Lora(LoraKeyStyle::Kohya), "SD 1.x"),
        (peft, 2048, Family::Lora(LoraKeyStyle::Peft), "SDXL"),
        (peft, 1024, Family::Lora(LoraKeyStyle::Peft), "SD 2.x"),
        ("control_model.zero_convs.0.0.weight", 8, Family::Other("ControlNet"), "control_model"),
        ("joint_blocks.0.x.weight", 8, Family::Other("Stable Diffusion 3"), "joint_blocks"),
    ] {
        write_tensors(
            &path,
            &[(key.into(), Tensor::zeros([4, width], (Kind::Half, Device::Cpu)))],
            &[],
        )?;
        let v = OpenOptions { prediction: Some(Prediction::V), ..OpenOptions::default() };
        assert_eq!(Checkpoint::open_with(&path, &v)?.family, family);
        let found = Checkpoint::open(&path)?;
        assert_eq!(found.family, family);
        assert!(found.evidence.iter().any(|e| e.contains(said)), "{:?}", found.evidence);
        let refused = StableDiffusion::from_checkpoint(&found, Kind::Float, Device::Cpu);
        assert!(refused.is_err_and(|e| e.to_string().contains(&family.to_string())));
    }
    write_tensors(&path, &[(old.into(), Tensor::zeros([4, 8], (Kind::Half, Device::Cpu)))], &[])?;
    assert_eq!(Checkpoint::open(&path)?.family, Family::Lora(LoraKeyStyle::Peft));
    write_tensors(&path, &[("a.b".into(), Tensor::zeros([4], (Kind::Half, Device::Cpu)))], &[])?;
    let found = Checkpoint::open(&path)?;
    assert_eq!((found.family, found.unknown.len()), (Family::Other("unknown"), 1));
    Ok(())
}

#[test]
fn what_a_single_file_lacks_or_has_too_much_is_said() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut all = tensors(&checkpoint("sd1.ckpt"));
    let position =
        |all: &[(String, Tensor)], name: &str| all.iter().position(|(n, _)| n == name).unwrap();
    let i = position(&all, "model.diffusion_model.middle_block.1.proj_in.bias");
    drop(all.remove(i));
    let i = position(&all, "first_stage_model.decoder.up.2.block.0.norm1.weight");
    all[i].1 = Tensor::zeros([7], (Kind::Half, Device::Cpu));
    all.push((
        "model.diffusion_model.input_blocks.1.0.extra.weight".into(),
        all[i].1.shallow_clone(),
    ));
    all.push(("surprise.weight".into(), all[i].1.shallow_clone()));
    write_tensors(&path, &all, &[])?;
    let report = examine(&Checkpoint::open(&path)?);
    let of = |name: &str| report.networks.iter().find(|network| network.name == name).unwrap();
    assert_eq!(of("unet").missing, ["mid_block.attentions.0.proj_in.bias [64] is missing"]);
    assert_eq!(of("unet").unused, ["input_blocks.1.0.extra.weight"]);
    assert_eq!(
        of("vae").misshaped,
        ["decoder.up_blocks.0.resnets.0.norm1.weight should be [64] and is [7]"]
    );
    assert_eq!(report.unknown, ["surprise.weight"]);
    assert!(!report.is_whole());
    let leftovers: Vec<&String> = report.leftovers.values().flatten().collect();
    assert_eq!(leftovers, ["betas", "model_ema.decay", "model_ema.num_updates"]);
    let error = StableDiffusion::open(&path, Kind::Float, Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("mid_block.attentions.0.proj_in.bias [64] is missing"), "{error}");
    Ok(())
}

/// Variants, shards and torch's own files in a folder.
#[test]
fn folders_open_however_their_weights_are_stored() -> Result<()> {
    let from = golden::path("pipeline/sd1");
    let unet = from.join("unet/diffusion_pytorch_model.safetensors");
    let all = tensors(&unet);
    let half: Vec<torch::Saved> = all
        .iter()
        .map(|(name, tensor)| {
            let mut bytes = vec![0; 2 * tensor.numel()];
            tensor.f_copy_data_u8(&mut bytes, tensor.numel()).unwrap();
            (name.clone(), tensor.size(), "HalfStorage", bytes, 2)
        })
        .collect();
    let sample = Tensor::ones([1, 4, 8, 8], (Kind::Float, Device::Cpu));
    let context = Tensor::ones([1, 3, 32], (Kind::Float, Device::Cpu));
    let run = |folder: &Path| -> Result<Tensor> {
        UNet::open(folder, Kind::Float, Device::Cpu)?.forward(&sample, 3, &context)
    };
    let expected = run(&from.join("unet"))?;
    type Store<'a> = Box<dyn Fn(&Path) + 'a>;
    let one = |name: &'static str| -> Store<'_> {
        let unet = unet.clone();
        Box::new(move |folder| assert!(fs::copy(&unet, folder.join(name)).unwrap() > 0))
    };
    let shards = |index: &'static str| -> Store<'_> {
        let all = &all;
        Box::new(move |folder| {
            let (first, second) = all.split_at(all.len() / 2);
            let mut map = serde_json::Map::new();
            for (file, part) in [("s-1.safetensors", first), ("s-2.safetensors", second)] {
                write_tensors(folder.join(file), part, &[]).unwrap();
                map.extend(part.iter().map(|(name, _)| (name.clone(), file.into())));
            }
            let index = folder.join(index);
            fs::write(index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
        })
    };
    let stores = [
        one("diffusion_pytorch_model.fp16.safetensors"),
        one("diffusion_pytorch_model.non_ema.safetensors"),
        shards("diffusion_pytorch_model.safetensors.index.json"),
        shards("diffusion_pytorch_model.safetensors.index.fp16.json"),
        shards("diffusion_pytorch_model.fp16.safetensors.index.json"),
        Box::new(|folder: &Path| {
            fs::write(folder.join("diffusion_pytorch_model.bin"), torch::save(&half)).unwrap();
        }),
    ];
    for store in stores {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(from.join("unet/config.json"), folder.path().join("config.json")).unwrap();
        store(folder.path());
        assert!(run(folder.path())?.equal(&expected));
        let found = Checkpoint::open(folder.path())?;
        assert_eq!(found.family, Family::UNet);
        assert!(examine(&found).is_whole());
    }
    Ok(())
}

#[test]
fn folders_of_diffusers_are_named() -> Result<()> {
    for (name, family) in [("sd1", Family::Sd1), ("sd2", Family::Sd2V)] {
        let found = Checkpoint::open(golden::path("pipeline").join(name))?;
        assert_eq!(found.family, family);
        assert!(found.prediction.known && examine(&found).is_whole());
        assert_eq!(found.evidence[0], "model_index.json names StableDiffusionPipeline");
    }
    assert_eq!(Checkpoint::open(golden::path("vae/sd"))?.family, Family::Vae);
    assert_eq!(Checkpoint::open(golden::path("text_encoder/gelu"))?.family, Family::TextEncoder);
    assert!(Checkpoint::open("/nowhere").is_err());
    Ok(())
}

#[test]
fn torchs_files_hold_what_torch_put_in() -> Result<()> {
    let expected = TensorFile::open(checkpoint("odd/tensors.safetensors"))?;
    let got = TensorFile::open(checkpoint("odd/tensors.ckpt"))?;
    assert!(got.names().eq(expected.names()));
    for name in expected.names() {
        let (got, expected) = (got.tensor(name)?, expected.tensor(name)?);
        assert_eq!((got.kind(), got.size()), (expected.kind(), expected.size()), "{name}");
        assert!(got.equal(&expected) && got.is_contiguous(), "{name}");
    }
    assert!(got.others().is_empty());

    let lightning = TensorFile::open(checkpoint("odd/lightning.ckpt"))?;
    assert_eq!(lightning.names().collect::<Vec<_>>(), ["bias", "weight"]);
    let weight = lightning.tensor("weight")?;
    assert!(weight.equal(&Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3])));
    assert_eq!(lightning.metadata()["global_step"], "875000");
    for name in ["callbacks", "optimizer_states", "huge", "bytes", "nothing"] {
        assert!(lightning.others().iter().any(|other| other == name), "{:?}", lightning.others());
    }
    Ok(())
}

fn refused(path: &Path) -> String {
    match TensorFile::open(path) {
        Ok(file) => panic!("{}: {:?}", path.display(), file.names().collect::<Vec<_>>()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn files_that_would_run_something_are_refused() {
    for (name, said) in [
        ("system", "`posix.system`"),
        ("eval", "`__builtin__.eval`"),
        ("getattr", "`__builtin__.getattr`"),
        ("class", "Stranger`"),
        ("storage", "`torch.ComplexFloatStorage`"),
    ] {
        let message = refused(&checkpoint(&format!("odd/{name}.ckpt")));
        assert!(message.contains(said) && message.contains("nothing was executed"), "{message}");
    }
    for (name, said) in [
        ("legacy", "before version 1.6"),
        ("pickle", "before version 1.6"),
        ("tar", "before version 1.6"),
        ("deflated", "is compressed"),
        ("bomb", "is compressed"),
        ("big_endian", "big-endian"),
    ] {
        let message = refused(&checkpoint(&format!("odd/{name}.ckpt")));
        assert!(message.contains(said), "{message}");
    }
    assert!(!Path::new("diffuscope-was-here").exists());
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.ckpt");
    for name in ["odd/tensors.ckpt", "odd/lightning.ckpt", "odd/tensors.safetensors"] {
        let whole = fs::read(checkpoint(name)).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(!refused(&path).is_empty(), "{name} {length}");
        }
    }
    // A pickle that is cut off inside a whole archive.
    let pickle = Pickle::only("w", |p| p.tensor("FloatStorage", "0", 2, 0, &[2], &[1]));
    for length in 0..pickle.len() {
        fs::write(&path, archive(&pickle[..length], &[("0", &[0; 8])])).unwrap();
        assert!(refused(&path).contains("cut off"), "{length}");
    }
    fs::write(&path, archive(&pickle, &[("0", &[0; 8])])).unwrap();
    assert!(TensorFile::open(&path).is_ok());
}

#[test]
fn tensors_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lie.ckpt");
    let two = [0; 8];
    for (held, at, shape, strides, said) in [
        (1i64 << 40, 0, &[2][..], &[1][..], "claims a storage of"),
        (3, 0, &[2], &[1], "claims a storage of 3 numbers, which has 2"),
        (-1, 0, &[2], &[1], "not a storage"),
        (2, 0, &[3], &[1], "reaches outside its storage of 2 numbers"),
        (2, 1, &[2], &[1], "reaches outside"),
        (2, 2, &[1], &[1], "reaches outside"),
        (2, 3, &[0], &[1], "reaches outside"),
        (2, -1, &[1], &[1], "the offset -1"),
        (2, 0, &[-2], &[1], "size or stride"),
        (2, 0, &[2], &[-1], "size or stride"),
        (2, 0, &[2], &[2], "reaches outside"),
        (2, 0, &[2, 2], &[1], "the strides [1]"),
        (2, 0, &[i64::MAX, i64::MAX], &[0, 0], "larger than any"),
        (2, 0, &[0, i64::MAX, i64::MAX], &[1, 1, 1], "larger than any"),
        (2, i64::MAX, &[2], &[1], "reaches outside"),
        (2, 0, &[2], &[i64::MAX], "larger than any"),
        (2, 0, &[3, 3], &[i64::MAX, i64::MAX], "larger than any"),
        (2, 0, &[1 << 30], &[0], "expand to more than twice the file's size"),
        (2, 0, &[1; 17], &[1; 17], "17 dimensions"),
    ] {
        let pickle = Pickle::only("w", |p| p.tensor("FloatStorage", "0", held, at, shape, strides));
        fs::write(&path, archive(&pickle, &[("0", &two)])).unwrap();
        let message = refused(&path);
        assert!(message.contains(said), "{shape:?}: {message}");
    }
    // Sides of which libtorch multiplies the others where one is 0.
    for shape in
        ["[4294967296,2147483648,0]", "[9223372036854775808,0]", "[18446744073709551615,0]"]
    {
        let header = format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
        let length = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&length[..], header.as_bytes()].concat()).unwrap();
        let message = refused(&path);
        assert!(message.contains("no tensor has the shape"), "{shape}: {message}");
    }
    let elsewhere = Pickle::only("w", |p| p.tensor("FloatStorage", "1", 2, 0, &[2], &[1]));
    fs::write(&path, archive(&elsewhere, &[("0", &two)])).unwrap();
    assert!(refused(&path).contains("has no storage"));
}

#[test]
fn bombs_and_broken_pickles_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.ckpt");
    let start = std::time::Instant::now();
    let start_of = || Pickle(vec![0x80, 2]);
    let deep = [vec![b']'; 500_000], vec![b'a'; 499_999], vec![b'.']].concat();
    let stack = vec![b'N'; 3 << 20];
    let marks = vec![b'('; 3 << 20];
    let containers = [b"]0".repeat(2 << 20), b".".to_vec()].concat();
    let steps = b"N0".repeat(4 << 20);
    // Lists of lists, each ten times the one before: nothing is copied.
    let mut laughs = start_of().op(b']').op(b'q').op(0);
    for i in 1..40 {
        laughs = laughs.op(b']').op(b'q').op(i).op(b'(');
        laughs = (0..10).fold(laughs, |p, _| p.op(b'h').op(i - 1)).op(b'e');
    }
    // One long list, made into a set again and again.
    let mut sets = start_of().op(b']').op(b'q').op(0).op(b'(');
    sets.0.extend(vec![b'N'; 1_000_000]);
    sets = sets.op(b'e');
    for _ in 0..1000 {
        sets = sets.global("builtins", "set").op(b'h').op(0).op(0x85).op(b'R').op(b'0');
    }
    // One view, seven hundred thousand times.
    let mut views = start_of().global("torch._utils", "_rebuild_tensor_v2").op(b'q').op(0);
    views
        .0
        .extend(b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ");
    views.0.extend(b"K\0(K\x01K\x01K\x01K\x01t(K\x01K\x01K\x01K\x01t\x89Ntq\x01");
    views.0.extend(b"h\0h\x01R0".repeat(700_000));
    // A key of a megabyte, in one dict ten thousand times.
    let mut keys = [&b"\x80\x02}(X\0\0\x10\0"[..], &[b'k'; 1 << 20], b"q\0N"].concat();
    keys.extend([&b"h\0N".repeat(10_000)[..], b"u."].concat());
    let itself = start_of().op(b']').op(b'q').op(0).op(b'h').op(0).op(b'a').op(b'.');
    let long = [&[0x80, 2, 0x8b][..], &[255, 255, 255, 255]].concat();
    let text = [&[0x80, 2, 0x8d][..], &[255; 8]].concat();
    for (name, pickle, said) in [
        ("deep", deep, "no dict of tensors"),
        ("stack", stack, "values at once"),
        ("marks", marks, "values at once"),
        ("containers", containers, "containers"),
        ("steps", steps, "instructions"),
        ("laughs", laughs.op(b'.').0, "no dict of tensors"),
        ("sets", sets.op(b'.').0, "too large"),
        ("views", views.op(b'.').0, "too large"),
        ("keys", keys, "too large"),
        ("itself", itself.0, "no dict of tensors"),
        ("long", long, "cut off"),
        ("text", text, "cut off"),
        ("memo", b"\x80\x02h\x07.".to_vec(), "never written"),
        ("empty stack", b"\x80\x02.".to_vec(), "empty stack"),
        ("no mark", b"\x80\x02e.".to_vec(), "pops to a mark"),
        ("below the mark", b"\x80\x02N(0.".to_vec(), "empty stack"),
        ("odd dict", b"\x80\x02}(Nu.".to_vec(), "key without a value"),
        ("calls a value", b"\x80\x02N)R.".to_vec(), "is not a function"),
        ("newobj", b"\x80\x02ccollections\nOrderedDict\n)\x81.".to_vec(), "makes an object"),
        ("inst", b"(S'echo'\nios\nsystem\n.".to_vec(), "`os.system`"),
        ("stack global", b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(), "`os.system`"),
        ("extension", b"\x80\x02\x82\x01.".to_vec(), "0x82"),
        ("dict state", b"\x80\x02NNb.".to_vec(), "sets the state"),
        (
            "names a class only",
            b"\x80\x02cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)R.".to_vec(),
            "as torch never does",
        ),
        ("no tensors", b"\x80\x02}X\x01\x00\x00\x00aK\x01s.".to_vec(), "holds no tensors"),
        ("large", vec![b'N'; 33 << 20], "too long"),
    ] {
        fs::write(&path, archive(&pickle, &[])).unwrap();
        let message = refused(&path);
        assert!(message.contains(said), "{name}: {message}");
    }
    println!("bombs refused in {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn archives_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lie.ckpt");
    let pickle = Pickle::only("w", |p| p.tensor("FloatStorage", "0", 2, 0, &[2], &[1]));
    let good = || vec![entry("a/data.pkl", &pickle), entry("a/data/0", &[0; 8])];
    type Change = fn(&mut Vec<torch::Entry>);
    for (change, start_of, said) in [
        ((|_| ()) as Change, (|i| i) as fn(usize) -> usize, ""),
        (|all| all[1].method = 8, |i| i, "is compressed"),
        (|all| all[1].size = 4_000_000_000, |i| i, "is compressed, 8 bytes to 4000000000"),
        (|all| all.push(entry("a/data/0", &[1; 8])), |i| i, "two entries named"),
        (|all| all.push(entry("b/data.pkl", b".")), |i| i, "no data.pkl, or several"),
        (|all| all[0].name = "a/other.pkl".into(), |i| i, "no data.pkl, or several"),
        (|_| (), |_| 0, "another name in its own header"),
        (
            |all| {
                // An archive in an entry: its entries are found in both.
                let inner = zip(&[entry("a/data/1", &[0; 8])], |i| i);
                all[1].bytes = inner;
                all[1].size = all[1].bytes.len() as u32;
            },
            |i| i,
            "",
        ),
        (|all| all[1].name = "\u{fffd}".into(), |i| i, "no storage"),
    ] {
        let mut all = good();
        change(&mut all);
        fs::write(&path, zip(&all, start_of)).unwrap();
        match said {
            "" => drop(TensorFile::open(&path).unwrap()),
            said => {
                let message = refused(&path);
                assert!(message.contains(said), "{said}: {message}");
            }
        }
    }
    // Two entries that share their bytes: the first is made to reach over the second.
    let mut bytes = zip(&good(), |i| i);
    let at = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let longer = (pickle.len() as u32 + 60).to_le_bytes();
    bytes[at + 20..at + 24].copy_from_slice(&longer);
    bytes[at + 24..at + 28].copy_from_slice(&longer);
    fs::write(&path, bytes).unwrap();
    let message = refused(&path);
    assert!(message.contains("overlap") || message.contains("past the end"), "{message}");
}

/// What every component opens with, from a folder and from a file.
#[test]
fn parts_of_a_file_open_alone() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vae.safetensors");
    let all = tensors(&checkpoint("sd1.ckpt"));
    let scope = "first_stage_model.";
    let vae: Vec<(String, Tensor)> = all
        .iter()
        .filter_map(|(name, tensor)| {
            Some((name.strip_prefix(scope)?.to_owned(), tensor.shallow_clone()))
        })
        .collect();
    write_tensors(&path, &vae, &[])?;
    let alone = Checkpoint::open(&path)?;
    assert_eq!(alone.family, Family::Vae);
    let vae = alone.build("vae", Kind::Float, Device::Cpu, Vae::new)?;
    let whole = Checkpoint::open(checkpoint("sd1.ckpt"))?;
    let numbers = TensorFile::open(checkpoint("sd1.safetensors"))?;
    let decoded = vae.decode(&numbers.tensor("latents")?)?;
    let mut worst = Worst::within(3e-5);
    worst.compare("vae alone", &decoded, &numbers.tensor("decoded")?);
    let text = whole.build("text_encoder", Kind::Float, Device::Cpu, TextEncoder::new)?;
    worst.compare(
        "text encoder",
        &text.encode(&numbers.tensor("ids")?)?,
        &numbers.tensor("context")?,
    );
    worst.finish("parts");
    assert!(
        whole
            .network("text_encoder_2")
            .is_err_and(|e| e.to_string().contains("holds no text_encoder_2"))
    );
    Ok(())
}

/// Files of configurations, and what becomes of each.
type Changes<'a> = &'a [(&'a str, &'a dyn Fn(&mut Value))];

/// A folder with other configurations; its weights are links.
fn changed(folder: &Path, changes: Changes<'_>) -> tempfile::TempDir {
    fn link(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let place = to.join(entry.file_name().unwrap());
            if entry.is_dir() {
                link(&entry, &place);
            } else if entry.extension().is_some_and(|end| end == "json") {
                fs::copy(entry, place).unwrap();
            } else {
                std::os::unix::fs::symlink(entry, place).unwrap();
            }
        }
    }
    let place = tempfile::tempdir().unwrap();
    link(folder, place.path());
    for (file, change) in changes {
        let path = place.path().join(file);
        let mut json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    }
    place
}

/// The embedded model's folder with other configurations.
fn changed_tiny(changes: Changes<'_>) -> tempfile::TempDir {
    changed(&diffuscope::pipeline::tiny_folder(), changes)
}

fn drawn(folder: &Path) -> Result<Tensor> {
    let model = StableDiffusion::open(folder, Kind::Float, Device::Cpu)?;
    Ok(model.generate(&Request { num_inference_steps: 3, ..Request::new("a cat") })?.latents)
}

/// What pipelines of diffusers correct, and what they read with their defaults, draws the same picture.
#[test]
fn old_and_odd_folders_draw_what_diffusers_draws() -> Result<()> {
    let expected = drawn(&diffuscope::pipeline::tiny_folder())?;
    let set = |key: &'static str, value: Value| move |json: &mut Value| json[key] = value.clone();
    let remove = |keys: &'static [&'static str]| {
        move |json: &mut Value| {
            keys.iter().for_each(|key| drop(json.as_object_mut().unwrap().remove(*key)))
        }
    };
    let scheduler = "scheduler/scheduler_config.json";
    let same: [(Changes<'_>, &[&str]); 7] = [
        (
            &[(scheduler, &remove(&["clip_sample", "steps_offset"]))],
            &["clip_sample is false", "steps_offset is 1"],
        ),
        (
            &[(scheduler, &set("clip_sample", true.into()))],
            &["clip_sample is false, where the file says true"],
        ),
        (&[(scheduler, &set("clip_sample", Value::Null))], &[]),
        (
            &[(scheduler, &set("_class_name", "PNDMScheduler".into()))],
            &["DDIMScheduler", "PNDMScheduler"],
        ),
        (&[(scheduler, &set("use_karras_sigmas", Value::Null))], &[]),
        (
            &[(
                "unet/config.json",
                &remove(&["upcast_attention", "act_fn", "norm_eps", "in_channels"]),
            )],
            &[],
        ),
        (
            &[
                ("vae/config.json", &set("force_upcast", Value::Null)),
                ("vae/config.json", &remove(&["act_fn", "in_channels"])),
            ],
            &[],
        ),
    ];
    for (changes, said) in same {
        let folder = changed_tiny(changes);
        let notes = Checkpoint::open(folder.path())?.notes();
        assert_eq!(notes.is_empty(), said.is_empty(), "{notes:?}");
        assert!(said.iter().all(|part| notes.concat().contains(part)), "{notes:?}");
        assert!(drawn(folder.path())?.equal(&expected), "{notes:?}");
    }
    let size = |version: &'static str| -> Result<Option<i64>> {
        let change = |json: &mut Value| json["_diffusers_version"] = version.into();
        let folder = changed_tiny(&[("unet/config.json", &change)]);
        Ok(Checkpoint::open(folder.path())?.config::<UNetConfig>("unet")?.sample_size)
    };
    assert_eq!((size("0.8.1")?, size("0.9.0")? == Some(64)), (Some(64), false));
    Ok(())
}

/// Nothing that decides a picture is replaced in silence, and errors name the file and the key.
#[test]
fn what_is_not_followed_is_named() -> Result<()> {
    let scheduler = "scheduler/scheduler_config.json";
    let index = |json: &mut Value| json["scheduler"][1] = "TCDScheduler".into();
    let folder = changed_tiny(&[("model_index.json", &index)]);
    let notes = Checkpoint::open(folder.path())?.notes();
    for part in ["TCDScheduler", "ddim draws", "--sampler"] {
        assert!(notes.concat().contains(part), "{notes:?}");
    }
    let ztsnr =
        |json: &mut Value| (json["ztsnr"], json["use_karras_sigmas"]) = (true.into(), true.into());
    let folder = changed_tiny(&[(scheduler, &ztsnr)]);
    let notes = Checkpoint::open(folder.path())?.notes().concat();
    assert!(notes.contains("ddim does not read: use_karras_sigmas: true, ztsnr: true"), "{notes}");
    let model = StableDiffusion::open(folder.path(), Kind::Float, Device::Cpu)?;
    let chosen = |name: &str| -> Result<String> {
        let request = Request { sampler: Some(name.parse()?), ..Request::new("a cat") };
        Ok(model.warnings(&request)?.concat())
    };
    assert!(chosen("euler-a")?.contains("euler-a does not read: use_karras_sigmas: true"));
    assert!(!chosen("euler")?.contains("use_karras_sigmas"));

    for (file, key, value) in [
        (scheduler, "beta_start", Value::Null),
        (scheduler, "prediction_type", Value::Null),
        (scheduler, "timestep_spacing", "sideways".into()),
        (scheduler, "thresholding", "no".into()),
        ("unet/config.json", "norm_eps", "NaN".into()),
        ("unet/config.json", "layers_per_block", Value::Null),
        ("vae/config.json", "scaling_factor", Value::Null),
        ("text_encoder/config.json", "hidden_size", 1.5.into()),
    ] {
        let change = |json: &mut Value| json[key] = value.clone();
        let folder = changed_tiny(&[(file, &change)]);
        let error = StableDiffusion::open(folder.path(), Kind::Float, Device::Cpu).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(file) && said.contains(key), "{said}");
    }
    Ok(())
}

/// The networks' defaults are those of diffusers and transformers.
#[test]
fn what_a_network_leaves_out_is_what_diffusers_assumes() {
    let text = fs::read_to_string(golden::path("networks.json")).unwrap();
    let theirs: Value = serde_json::from_str(&text).unwrap();
    let ours = [
        ("unet", serde_json::to_value(UNetConfig::default()).unwrap()),
        ("vae", serde_json::to_value(VaeConfig::default()).unwrap()),
        ("text_encoder", serde_json::to_value(TextConfig::default()).unwrap()),
    ];
    for (name, ours) in ours {
        for (key, value) in
            ours.as_object().unwrap().iter().filter(|(key, _)| *key != "force_upcast")
        {
            let expected = &theirs[name][key];
            let same =
                value == expected || (value.is_number() && value.as_f64() == expected.as_f64());
            assert!(same, "{name} {key}: {value}, {expected}");
        }
    }
}

fn names_as(path: &Path, rename: impl Fn(&str) -> String) -> Vec<(String, Tensor)> {
    tensors(path).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect()
}

/// What torch.compile, parallel training and other wrappers leave in the names is taken off and said, wherever it stands.
#[test]
fn names_of_wrapped_networks_open() -> Result<()> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.safetensors");
    let plain = Checkpoint::open(checkpoint("sd1.ckpt"))?;
    type Rename = fn(&str) -> String;
    let whole: [(&str, Rename); 4] = [
        ("_orig_mod.", |name| format!("_orig_mod.{name}")),
        ("module.", |name| format!("module.{name}")),
        ("_orig_mod.", |name| name.replace("diffusion_model.", "diffusion_model._orig_mod.")),
        ("net.", |name| format!("net.{name}")),
    ];
    for (part, rename) in whole {
        write_tensors(&path, &names_as(&checkpoint("sd1.ckpt"), rename), &[])?;
        let opened = Checkpoint::open(&path)?;
        assert_eq!((opened.family, opened.key_style), (plain.family, plain.key_style), "{part}");
        let report = examine(&opened);
        assert!(report.is_whole(), "{part}: {report:?} {:?}", report.networks);
        assert_eq!(opened.notes(), [format!("taken off the names of its tensors: {part}")]);
        let [a, b] = [&plain, &opened]
            .map(|checkpoint| checkpoint.params("unet", Kind::Float, Device::Cpu).unwrap());
        let unet = |params| UNet::new(params, &plain.config("unet").unwrap()).unwrap();
        let [a, b] = [&a, &b].map(|params| (unet(params), params.variables()).1);
        for (a, b) in a.iter().zip(&b) {
            assert!(a.0 == b.0 && a.1.equal(&b.1), "{part}: {} and {}", a.0, b.0);
        }
    }

    // A network of a folder, and a network alone.
    let unet = golden::path("pipeline/sd1/unet");
    let file = unet.join("diffusion_pytorch_model.safetensors");
    let folder = place.path().join("unet");
    fs::create_dir(&folder).unwrap();
    fs::copy(unet.join("config.json"), folder.join("config.json")).unwrap();
    for part in ["_orig_mod.", "module._orig_mod.", "unet."] {
        let wrapped = names_as(&file, |name| format!("{part}{name}"));
        write_tensors(folder.join("diffusion_pytorch_model.safetensors"), &wrapped, &[])?;
        let opened = Checkpoint::open(&folder)?;
        assert!(
            examine(&opened).is_whole()
                && opened.notes()[0].contains(part.split('.').next().unwrap())
        );
        write_tensors(&path, &wrapped, &[])?;
        let configs = Some(golden::path("pipeline/sd1"));
        let configs = OpenOptions { configs, ..OpenOptions::default() };
        let alone = Checkpoint::open_with(&path, &configs)?;
        assert!(examine(&alone).is_whole(), "{part}");
        assert_eq!(alone.family, Family::UNet);
    }

    // Names that nobody knows: both sides are shown.
    write_tensors(&path, &names_as(&checkpoint("sd1.ckpt"), |name| format!("{name}.x")), &[])?;
    let said = StableDiffusion::open(&path, Kind::Float, Device::Cpu).unwrap_err().to_string();
    assert!(said.contains("lacks the tensors") && said.contains(".weight.x"), "{said}");
    // A name that the network does not have is shown beside the one that it lacks.
    let renamed = |name: &str| match name.ends_with("time_embed.0.weight") {
        true => name.replace("weight", "kernel"),
        false => name.to_owned(),
    };
    write_tensors(&path, &names_as(&checkpoint("sd1.ckpt"), renamed), &[])?;
    let said = StableDiffusion::open(&path, Kind::Float, Device::Cpu).unwrap_err().to_string();
    assert!(said.contains("linear_1.weight") && said.contains("linear_1.kernel"), "{said}");
    // All of them are another network's: still both sides.
    let folder = place.path().join("other");
    fs::create_dir(&folder).unwrap();
    fs::copy(unet.join("config.json"), folder.join("config.json")).unwrap();
    let strange = names_as(&file, |name| format!("x/{name}"));
    write_tensors(folder.join("diffusion_pytorch_model.safetensors"), &strange, &[])?;
    let said = UNet::open(&folder, Kind::Float, Device::Cpu).unwrap_err().to_string();
    assert!(said.contains(".norm1.weight [16] is missing") && said.contains("x/"), "{said}");
    write_tensors(&path, &names_as(&file, |name| name.replace('.', "/")), &[])?;
    let said = StableDiffusion::open(&path, Kind::Float, Device::Cpu).unwrap_err().to_string();
    assert!(
        said.contains("names such as conv_in/bias") && said.contains("down_blocks.0"),
        "{said}"
    );
    Ok(())
}

/// Every published family's hollow file, opened with these tensors and this metadata beside it.
fn opened_with(
    family: &str,
    markers: &[&str],
    metadata: &[(&str, &str)],
    path: &Path,
) -> Result<Checkpoint> {
    let mut keys = published()[family].keys.clone();
    keys.extend(markers.iter().map(|name| (name.to_string(), vec![0])));
    hollow(path, &keys, metadata);
    Checkpoint::open(path)
}

/// What a folder says and a single file cannot is as the published folder of the family has it.
#[test]
fn a_single_file_is_completed_by_its_family() -> Result<()> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.safetensors");
    for (family, scheduler, sample_size, scaling_factor, upcast) in [
        ("sd1", "PNDMScheduler", 64, 0.18215, false),
        ("sd2", "DDIMScheduler", 96, 0.18215, false),
        ("sdxl", "EulerDiscreteScheduler", 128, 0.13025, true),
        ("refiner", "EulerDiscreteScheduler", 128, 0.13025, true),
        ("x4", "DDIMScheduler", 128, 0.08333, true),
    ] {
        let opened = opened_with(family, &[], &[], &path)?;
        let vae: VaeConfig = opened.config("vae")?;
        let f16 = if upcast { Kind::Float } else { Kind::Half };
        assert_eq!((vae.kind(Kind::Half), vae.scaling_factor), (f16, scaling_factor), "{family}");
        assert_eq!(opened.networks["unet"].config["sample_size"], sample_size, "{family}");
        let (config, _) = &opened.schedulers["scheduler"];
        assert_eq!(config["_class_name"], scheduler, "{family}");
        assert!(config.get("rescale_betas_zero_snr").is_none(), "{family}");
    }
    Ok(())
}

/// Where a folder leaves it to the pipeline that it names whether the text without a prompt is all zeros, and whether the
/// autoencoder computes in f32 where f16 is asked for.
#[test]
fn what_a_folder_does_not_say_its_pipeline_assumes() -> Result<()> {
    let sd = ["Pipeline", "Img2ImgPipeline", "InpaintPipelineLegacy"];
    let xl = ["XLPipeline", "XLImg2ImgPipeline", "XLInpaintPipeline"];
    let (zeros, index, vae) =
        ("force_zeros_for_empty_prompt", "model_index.json", "vae/config.json");
    for (folder, prefix, classes, assumed) in [
        ("families/sdxl", "StableDiffusion", &xl[..], [true, true]),
        ("pipeline/sd1", "StableDiffusion", &sd, [false, false]),
        ("families/inpainting", "StableDiffusion", &["InpaintPipeline"], [false, false]),
        ("families/depth", "StableDiffusion", &["Depth2ImgPipeline"], [false, false]),
        ("families/upscaler", "StableDiffusion", &["UpscalePipeline"], [false, true]),
        (
            "families/lcm",
            "LatentConsistencyModel",
            &["Pipeline", "Img2ImgPipeline"],
            [false, false],
        ),
    ] {
        for class in classes.iter().map(|class| format!("{prefix}{class}")) {
            // One that does not read it is not asked what it makes of it.
            let yes = assumed[0].then(|| Some(true.into()));
            for said in [None, Some(Value::Null), Some(false.into())].into_iter().chain(yes) {
                let set = |key: &'static str| {
                    let (said, class) = (said.clone(), class.clone());
                    move |json: &mut Value| {
                        let json = json.as_object_mut().unwrap();
                        json.remove(key);
                        json.extend(said.clone().map(|said| (key.to_owned(), said)));
                        if key.starts_with("force_zeros") {
                            json.insert("_class_name".into(), class.clone().into());
                        }
                    }
                };
                let place = changed(
                    &golden::path(folder),
                    &[(index, &set(zeros)), (vae, &set("force_upcast"))],
                );
                let model = StableDiffusion::open(place.path(), Kind::Half, Device::Cpu)?;
                let model_in_f32 = StableDiffusion::open(place.path(), Kind::Float, Device::Cpu)?;
                let (uncond, _) = model_in_f32.encode_texts(&Request::new("a red star"))?;
                let zero = |x: &Tensor| x.abs().max().double_value(&[]) == 0.;
                let pooled = uncond.text_embeds.as_ref().is_none_or(zero);
                let of = |network: &str| model.tensors(network)[0].1.kind();
                let got = [zero(&uncond.context) && pooled, of("vae") == Kind::Float];
                let right = match &said {
                    None => assumed,
                    Some(said) => assumed.map(|reads| reads && *said == Value::Bool(true)),
                };
                assert_eq!(got, right, "{class}, {said:?}");
                assert_eq!(of("unet"), Kind::Half, "{class}");
            }
        }
    }
    Ok(())
}

/// The markers and the metadata by which a single file says what its model predicts and how it was trained.
#[test]
fn markers_and_metadata_of_single_files_are_followed() -> Result<()> {
    use Prediction::{Epsilon, V};
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.safetensors");
    for (family, markers, metadata, prediction, zero) in [
        ("sdxl", &[][..], &[][..], Epsilon, false),
        ("sdxl", &["v_pred"], &[], V, false),
        ("sdxl", &["v_pred", "ztsnr"], &[], V, true),
        ("sd1", &["v_pred", "ztsnr"], &[], V, true),
        ("sd2", &["ztsnr"], &[], V, true),
        ("sdxl", &["ztsnr"], &[], V, true),
        ("sdxl", &["v_pred"], &[("ztsnr", "true")], V, true),
        ("sdxl", &["v_pred"], &[("ztsnr", "False")], V, false),
        ("sdxl", &[], &[("modelspec.prediction_type", "v"), ("ztsnr", "1")], V, true),
        ("sdxl", &[], &[("modelspec.predict_key", "v")], V, false),
        ("sdxl", &[], &[("modelspec.predict_key", "epsilon")], Epsilon, false),
        (
            "sdxl",
            &[],
            &[("ss_v_parameterization", "True"), ("ss_zero_terminal_snr", "True")],
            V,
            true,
        ),
        ("sdxl", &[], &[("ss_v_parameterization", "None")], Epsilon, false),
    ] {
        let what = format!("{family} {markers:?} {metadata:?}");
        let opened = opened_with(family, markers, metadata, &path)?;
        assert_eq!(opened.prediction.prediction, prediction, "{what}");
        assert!(opened.unknown.is_empty(), "{what}: {:?}", opened.unknown);
        let (config, from) = opened.schedulers["scheduler"].clone();
        let written = place.path().join("scheduler_config.json");
        fs::write(&written, config.to_string()).unwrap();
        let scheduler = diffuscope::checkpoint::SchedulerConfig::open(&written)?;
        assert_eq!((scheduler.prediction(), from), (prediction, path.clone()), "{what}");
        let last = *scheduler.schedule()?.alphas_cumprod().last().unwrap();
        assert_eq!(last < 1e-9, zero, "{what}: {last}");
        assert_ne!((scheduler.sampler().to_string().as_str(), zero), ("pndm", true));
    }
    // The schedule that the file holds.
    let mut file = tensors(&checkpoint("sd1.ckpt"));
    let ends = |last: f64| Tensor::from_slice(&[0.9991, 0.5, last]);
    for (last, zero) in [(0.0047, false), (4.9e-8, true)] {
        file.retain(|(name, _)| name != "alphas_cumprod");
        file.push(("alphas_cumprod".into(), ends(last)));
        write_tensors(&path, &file, &[])?;
        let (config, _) = &Checkpoint::open(&path)?.schedulers["scheduler"];
        assert_eq!(config.get("rescale_betas_zero_snr").is_some(), zero);
    }
    Ok(())
}
