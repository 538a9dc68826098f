//! Low-rank changes against what diffusers and PEFT merge, in every spelling of their keys.

mod golden;

use std::collections::BTreeMap;
use std::path::Path;

use diffuscope::Result;
use diffuscope::checkpoint::{Lora, LoraKeyStyle};
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::tensor_file::{TensorFile, write_tensors};
use golden::Worst;
use tch::{Device, Kind, Tensor};

type Weights = BTreeMap<String, Tensor>;

fn opened(folder: &str) -> Result<StableDiffusion> {
    StableDiffusion::open(golden::path(folder), Kind::Float, Device::Cpu)
}

/// A copy of every weight that can change, by `network.name`.
fn weights(model: &StableDiffusion) -> Weights {
    let copy = |network: &'static str| {
        let named = move |(name, tensor): (String, Tensor)| {
            let name = name.strip_prefix("text_model.").unwrap_or(&name).to_owned();
            (format!("{network}.{name}"), tensor.copy())
        };
        model.tensors(network).into_iter().map(named)
    };
    ["unet", "text_encoder", "text_encoder_2"].into_iter().flat_map(copy).collect()
}

fn same(a: &Weights, b: &Weights) -> bool {
    a.len() == b.len() && a.iter().all(|(name, tensor)| b[name].equal(tensor))
}

fn lora(name: &str) -> Result<Lora> {
    Lora::open(golden::path("lora").join(name))
}

#[test]
fn merged_weights_of_diffusers_and_back_again() -> Result<()> {
    let mut worst = Worst::within(1e-6);
    for (folder, name, merged, keys) in [
        ("pipeline/sd1", "sd1_diffusers.safetensors", "sd1_diffusers_merged", LoraKeyStyle::Peft),
        ("pipeline/sd1", "sd1_kohya.safetensors", "sd1_diffusers_merged", LoraKeyStyle::Kohya),
        ("pipeline/sd1", "sd1_oldest.safetensors", "sd1_oldest_merged", LoraKeyStyle::Peft),
        ("pipeline/sd1", "sd1_peft", "sd1_peft/merged", LoraKeyStyle::Peft),
        ("families/sdxl", "sdxl_kohya.safetensors", "sdxl_kohya_merged", LoraKeyStyle::Kohya),
    ] {
        let mut model = opened(folder)?;
        let before = weights(&model);
        let change = lora(name)?;
        assert_eq!(change.key_style(), keys, "{name}");
        let layers: usize = change.networks().values().sum();
        model.set_loras(&[(change, 0.7)])?;
        let after = weights(&model);
        let changed = after.iter().filter(|(name, tensor)| !before[*name].equal(tensor)).count();
        assert_eq!(changed, layers, "{name}");
        let expected = golden::open(&format!("lora/{merged}"));
        for key in expected.names() {
            let plain = key.replace(".text_model.", ".");
            let what = format!("{name}, {key}");
            worst.compare(&what, &after[&plain], &expected.tensor(key)?);
        }
        model.set_loras(&[])?;
        assert!(same(&weights(&model), &before), "{name} leaves a trace");
    }
    worst.finish("merged weights");
    Ok(())
}

#[test]
fn spellings_agree_strengths_add_and_order_leaves_no_trace() -> Result<()> {
    let mut model = opened("pipeline/sd1")?;
    let before = weights(&model);
    let mut after = |loras: &[(Lora, f64)]| {
        model.set_loras(loras)?;
        Ok::<_, diffuscope::Error>(weights(&model))
    };
    let [one, other] = ["sd1_diffusers.safetensors", "sd1_kohya.safetensors"];
    let all = |a: &Weights, b: &Weights, tolerance: f64| {
        let mut worst = Worst::within(tolerance);
        for (name, tensor) in a {
            worst.compare(name, tensor, &b[name]);
        }
        worst.finish("weights");
    };
    let whole = after(&[(lora(one)?, 1.)])?;
    all(&whole, &after(&[(lora(other)?, 1.)])?, 0.);
    all(&whole, &after(&[(lora(one)?, 0.25), (lora(other)?, 0.75)])?, 1e-6);
    assert!(same(&before, &after(&[(lora(one)?, 1.), (lora(other)?, -1.)])?));
    assert!(same(&before, &after(&[(lora(one)?, 0.)])?));
    // The second takes back what the first changed beyond it.
    let few = after(&[(lora("sd1_oldest.safetensors")?, 1.)])?;
    assert!(!same(&few, &whole));
    after(&[(lora(one)?, 2.)])?;
    assert!(same(&few, &after(&[(lora("sd1_oldest.safetensors")?, 1.)])?));
    assert!(same(&before, &after(&[])?));
    Ok(())
}

#[test]
fn pictures_change_and_come_back() -> Result<()> {
    let mut model = opened("pipeline/sd1")?;
    let request = Request {
        num_inference_steps: 3,
        width: Some(8),
        height: Some(8),
        ..Request::new("a cat")
    };
    let plain = model.generate(&request)?.latents;
    model.set_loras(&[(lora("sd1_kohya.safetensors")?, 1.)])?;
    let changed = model.generate(&request)?.latents;
    assert!(golden::gap(&changed, &plain) > 1e-2);
    model.set_loras(&[])?;
    assert!(model.generate(&request)?.latents.equal(&plain));
    // In bf16 the sum is rounded once.
    let mut rounded =
        StableDiffusion::open(golden::path("pipeline/sd1"), Kind::BFloat16, Device::Cpu)?;
    rounded.set_loras(&[(lora("sd1_kohya.safetensors")?, 1.)])?;
    model.set_loras(&[(lora("sd1_kohya.safetensors")?, 1.)])?;
    let exact = weights(&model);
    for (name, tensor) in weights(&rounded) {
        assert!(tensor.equal(&exact[&name].to_kind(Kind::BFloat16)), "{name}");
    }
    Ok(())
}

/// A convolution in three factors is that of its three convolutions.
#[test]
fn a_change_in_three_factors() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.safetensors");
    let mut model = opened("pipeline/sd1")?;
    let name = "unet.down_blocks.0.resnets.0.conv2";
    let before = weights(&model)[&format!("{name}.weight")].copy();
    let (outputs, inputs) = (before.size()[0], before.size()[1]);
    let draw = |shape: &[i64], seed| diffuscope::noise::standard_normal(shape, seed).unwrap();
    let [down, mid, up] =
        [draw(&[2, inputs, 1, 1], 1), draw(&[2, 2, 3, 3], 2), draw(&[outputs, 2, 1, 1], 3)];
    let key = |end: &str| format!("lora_unet_down_blocks_0_resnets_0_conv2.{end}");
    let factors = [
        (key("lora_down.weight"), down.shallow_clone()),
        (key("lora_mid.weight"), mid.shallow_clone()),
        (key("lora_up.weight"), up.shallow_clone()),
        (key("alpha"), Tensor::from(1f32)),
    ];
    write_tensors(&path, &factors, &[])?;
    model.set_loras(&[(Lora::open(&path)?, 1.)])?;
    let after = weights(&model)[&format!("{name}.weight")].copy();
    let x = draw(&[1, inputs, 5, 5], 4);
    let none = None::<&Tensor>;
    let through = |x: &Tensor, w: &Tensor, pad: i64| x.conv2d(w, none, 1, pad, 1, 1);
    let separate = through(&through(&through(&x, &down, 0), &mid, 1), &up, 0) / 2;
    let merged = through(&x, &(after - before), 1);
    assert!(golden::gap(&merged, &separate) < 1e-5);
    Ok(())
}

#[test]
fn what_cannot_be_merged_is_named_and_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.safetensors");
    let mut model = opened("pipeline/sd1")?;
    let before = weights(&model);
    let source = golden::open("lora/sd1_kohya");
    let all: Vec<(String, Tensor)> =
        source.names().map(|name| (name.to_owned(), source.tensor(name).unwrap())).collect();
    let layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let (down, up) = (format!("{layer}.lora_down.weight"), format!("{layer}.lora_up.weight"));
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Half, Device::Cpu));
    let with = |key: &str, tensor: Tensor| {
        let mut all: Vec<_> = all
            .iter()
            .filter(|(k, _)| k != key)
            .map(|(k, t)| (k.clone(), t.shallow_clone()))
            .collect();
        all.push((key.to_owned(), tensor));
        all
    };
    let without = |key: &str| {
        let kept = all.iter().filter(|(k, _)| k != key);
        kept.map(|(k, t)| (k.clone(), t.shallow_clone())).collect::<Vec<_>>()
    };
    let wide = zeros(&[3, 7]);
    let shape = source.shape(&down).unwrap();
    let nan = Tensor::full(&shape[..], f64::NAN, (Kind::Half, Device::Cpu));
    for (what, tensors, said) in [
        ("half", without(&up), "one factor"),
        ("dora", with(&format!("{layer}.dora_scale"), zeros(&[4])), "DoRA"),
        ("loha", with("lora_unet_conv_in.hada_w1_a", zeros(&[4])), "LoHa"),
        ("stranger", with("something.weight", zeros(&[4])), "something.weight"),
        ("wide", with(&down, wide), "made for another model"),
        ("nan", with(&down, nan), "not finite"),
        ("alpha", with(&format!("{layer}.alpha"), Tensor::from(f32::INFINITY)), "alpha / rank"),
        ("no number", with(&format!("{layer}.alpha"), zeros(&[2])), "not one number"),
        (
            "another",
            vec![
                ("lora_unet_nowhere.lora_down.weight".into(), zeros(&[1, 4])),
                ("lora_unet_nowhere.lora_up.weight".into(), zeros(&[4, 1])),
            ],
            "not in the model, such as nowhere",
        ),
        (
            "second",
            vec![
                ("lora_te2_x.lora_down.weight".into(), zeros(&[1, 4])),
                ("lora_te2_x.lora_up.weight".into(), zeros(&[4, 1])),
            ],
            "text_encoder_2, which the model does not have",
        ),
        ("empty", vec![("a".into(), zeros(&[1]))], "no low-rank changes"),
    ] {
        write_tensors(&path, &tensors, &[])?;
        let done = Lora::open(&path).and_then(|lora| model.set_loras(&[(lora, 1.)]));
        let message = done.expect_err(what).to_string();
        assert!(message.contains(said), "{what}: {message}");
        assert!(same(&weights(&model), &before), "{what} leaves a trace");
    }
    let nan = model.set_loras(&[(lora("sd1_kohya.safetensors")?, f64::NAN)]);
    assert!(nan.unwrap_err().to_string().contains("strength"));
    let sdxl = model.set_loras(&[(lora("sdxl_kohya.safetensors")?, 1.)]).unwrap_err().to_string();
    assert!(sdxl.contains("another") || sdxl.contains("does not have"), "{sdxl}");
    assert!(
        Lora::open(Path::new("nowhere.safetensors")).is_err() && Lora::open(folder.path()).is_err()
    );
    assert!(TensorFile::open(&path).is_ok());
    Ok(())
}

/// PEFT's keys with the name of an adapter in them, whatever it is, and names that wrappers of networks left.
#[test]
fn keys_with_names_of_adapters_and_wrappers() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.safetensors");
    let source = golden::open("lora/sd1_diffusers");
    let renamed = |rename: &dyn Fn(&str) -> String| -> Vec<(String, Tensor)> {
        source.names().map(|name| (rename(name), source.tensor(name).unwrap())).collect()
    };
    let metadata: Vec<(String, String)> =
        source.metadata().iter().map(|(key, text)| (key.clone(), text.clone())).collect();
    let mut model = opened("pipeline/sd1")?;
    model.set_loras(&[(lora("sd1_diffusers.safetensors")?, 0.7)])?;
    let expected = weights(&model);
    for name in ["default", "default_0", "my-style", "weight"] {
        let rename = |key: &str| key.replace(".weight", &format!(".{name}.weight"));
        write_tensors(&path, &renamed(&rename), &metadata)?;
        model.set_loras(&[(Lora::open(&path)?, 0.7)])?;
        assert!(same(&weights(&model), &expected), "{name}");
    }
    let wrapped = |key: &str| key.replace("unet.", "unet._orig_mod.");
    write_tensors(&path, &renamed(&wrapped), &metadata)?;
    model.set_loras(&[(Lora::open(&path)?, 0.7)])?;
    assert!(same(&weights(&model), &expected), "wrapped");

    let two = |name: &'static str| {
        renamed(&move |key: &str| key.replace(".weight", &format!(".{name}.weight")))
    };
    write_tensors(&path, &two("a").into_iter().chain(two("b")).collect::<Vec<_>>(), &metadata)?;
    let said = Lora::open(&path).unwrap_err().to_string();
    assert!(said.contains("several adapters, a, b"), "{said}");
    Ok(())
}

/// Files of other methods alone are named for what they are.
#[test]
fn other_methods_alone_are_named() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.safetensors");
    let zeros = || Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
    let layer = "lora_unet_mid_block_attentions_0_proj_in";
    let peft = "base_model.model.mid_block.attentions.0.to_q";
    for (keys, said) in [
        (vec![format!("{layer}.hada_w1_a"), format!("{layer}.alpha")], "LoHa"),
        (vec![format!("{layer}.lokr_w1"), format!("{layer}.lokr_w2_a")], "LoKr"),
        (vec![format!("{peft}.hada_w2_b")], "LoHa"),
        (vec![format!("{peft}.lokr_w2")], "LoKr"),
        (vec![format!("{layer}.oft_blocks")], "OFT"),
        (vec![format!("{peft}.ia3_l")], "IA3"),
        (vec![format!("{layer}.diff")], "full-rank"),
        (vec!["emb_params".to_owned()], "such as emb_params"),
    ] {
        let tensors: Vec<_> = keys.iter().map(|key| (key.clone(), zeros())).collect();
        write_tensors(&path, &tensors, &[])?;
        let message = Lora::open(&path).unwrap_err().to_string();
        assert!(message.contains(said) && message.contains(&keys[0]), "{message}");
        let family = diffuscope::checkpoint::Checkpoint::open(&path)?.family.to_string();
        let named = said.len() > 4 || family.contains(said);
        assert!(named, "{family}");
    }
    Ok(())
}
