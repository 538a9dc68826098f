//! U-Nets against diffusers: folders that `UNet2DConditionModel.save_pretrained` wrote.

mod golden;

use diffuscope::Result;
use diffuscope::models::unet::{Conditions, UNet, guidance_embedding, timestep_embedding};
use golden::Worst;
use tch::{Device, Kind, Tensor};

#[test]
fn predictions_of_diffusers() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    for (name, folder) in golden::folders("unet") {
        let numbers = golden::numbers(&folder);
        let unet = UNet::open(&folder, Kind::Float, Device::Cpu)?;
        let [sample, timestep, context] =
            ["sample", "timestep", "context"].map(|name| numbers.tensor(name).unwrap());
        let noise_pred = unet.forward(&sample, &timestep, &context)?;
        worst.compare(&name, &noise_pred, &numbers.tensor("noise_pred")?);
        let between = unet.forward(&sample, 344.4828, &context)?;
        worst.compare(&name, &between, &numbers.tensor("fractional")?);

        // Returning the attention maps changes nothing, and every row of a map is a distribution.
        let (same, maps) = unet.forward_with_attention(&sample, &timestep, &context)?;
        assert!(same.equal(&noise_pred), "{name}");
        assert!(!maps.is_empty());
        for map in maps {
            let sums = map.weights.sum_dim_intlist(-1, false, Kind::Float);
            worst.compare(&map.layer, &sums, &sums.ones_like());
            let (height, width) = map.cells;
            assert_eq!(map.weights.size()[2], height * width, "{name} {}", map.layer);
            let keys = if map.cross { context.size()[1] } else { height * width };
            assert_eq!(map.weights.size()[3], keys, "{name} {}", map.layer);
        }
    }
    worst.finish("U-Nets");
    Ok(())
}

/// However a batch is shared out among the cores, each sample has its own prediction and maps.
#[test]
fn a_sample_of_a_batch_is_what_it_is_alone() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    for (name, folder) in golden::folders("unet").into_iter().take(2) {
        let numbers = golden::numbers(&folder);
        let unet = UNet::open(&folder, Kind::Float, Device::Cpu)?;
        let one = |name: &str| numbers.tensor(name).unwrap().narrow(0, 0, 1);
        let (sample, context) = (one("sample"), one("context"));
        let several = |x: &Tensor| Tensor::cat(&[x, &(x * 2.), &(x * -1.), &(x + 1.)], 0);
        let (samples, contexts) = (several(&sample), several(&context));
        let t = Tensor::from_slice(&[10i64, 500, 20, 900]);
        let (all, maps) = unet.forward_with_attention(&samples, &t, &contexts)?;
        for i in 0..4 {
            let row = |x: &Tensor| x.narrow(0, i, 1);
            let (alone, own) =
                unet.forward_with_attention(&row(&samples), row(&t), row(&contexts))?;
            worst.compare(&name, &row(&all), &alone);
            for (map, own) in maps.iter().zip(&own) {
                assert_eq!(map.weights.size()[0], 4, "{}", map.layer);
                worst.compare(&map.layer, &row(&map.weights), &own.weights);
            }
        }
    }
    worst.finish("samples of a batch");
    Ok(())
}

/// The families, with all inputs of their U-Nets.
const FAMILIES: [&str; 5] = ["depth", "inpainting", "lcm", "sdxl", "upscaler"];

fn opened(family: &str, kind: Kind) -> Result<(UNet, Tensor, Tensor, Conditions)> {
    let folder = golden::path("families").join(family).join("unet");
    let numbers = golden::numbers(&folder);
    let unet = UNet::open(&folder, kind, Device::Cpu)?;
    let conditions = Conditions {
        text_embeds: numbers.tensor("text_embeds").ok(),
        time_ids: numbers.tensor("time_ids").ok(),
        class_labels: numbers.tensor("class_labels").ok(),
        timestep_cond: numbers.tensor("timestep_cond").ok(),
        channels: numbers.tensor("channels").ok(),
        ..Conditions::from(numbers.tensor("context")?)
    };
    Ok((unet, numbers.tensor("sample")?, numbers.tensor("timestep")?, conditions))
}

#[test]
fn predictions_of_every_family() -> Result<()> {
    let (mut worst, mut rounded) = (Worst::within(1e-5), Worst::within(5e-2));
    for family in FAMILIES {
        let (unet, sample, timestep, conditions) = opened(family, Kind::Float)?;
        let folder = golden::path("families").join(family).join("unet");
        let expected = golden::numbers(&folder).tensor("noise_pred")?;
        let noise_pred = unet.forward(&sample, &timestep, &conditions)?;
        worst.compare(family, &noise_pred, &expected);
        // In bf16 the embeddings are computed in another dtype.
        let (in_bf16, ..) = opened(family, Kind::BFloat16)?;
        rounded.compare(family, &in_bf16.forward(&sample, &timestep, &conditions)?, &expected);
        let (same, maps) = unet.forward_with_attention(&sample, &timestep, &conditions)?;
        assert!(same.equal(&noise_pred), "{family}");
        // The outer levels of the upscaler have no self-attention.
        let alone = maps.iter().filter(|map| !map.cross).count();
        assert_eq!(alone == maps.len() / 2, family != "upscaler", "{family}");
    }
    worst.finish("U-Nets of all families");
    rounded.finish("U-Nets of all families in bf16");
    Ok(())
}

#[test]
fn a_condition_that_is_missing_or_not_used_is_named() -> Result<()> {
    let said = |family: &str, change: fn(&mut Conditions)| {
        let (unet, sample, timestep, mut conditions) = opened(family, Kind::Float).unwrap();
        change(&mut conditions);
        unet.forward(&sample, &timestep, conditions).unwrap_err().to_string()
    };
    let zeros = |shape: &[i64]| Some(Tensor::zeros(shape, tch::kind::FLOAT_CPU));
    for (family, change, start) in [
        (
            "sdxl",
            (|c| c.text_embeds = None) as fn(&mut Conditions),
            "text_embeds: expected [2, 12]",
        ),
        ("sdxl", |c| c.time_ids = None, "time_ids: expected [2, 6], got none"),
        ("lcm", |c| c.timestep_cond = None, "timestep_cond: expected [2, 6], got none"),
        ("upscaler", |c| c.class_labels = None, "class_labels: expected [2], got none"),
        (
            "upscaler",
            |c| c.class_labels = Some(Tensor::from_slice(&[30i64, 0])),
            "class_labels: expected 0..30",
        ),
        ("depth", |c| c.channels = None, "sample: expected the shape [B, 5, h, w]"),
        ("inpainting", |c| c.time_ids = Some(Tensor::from_slice(&[0.])), "time_ids: expected none"),
    ] {
        let message = said(family, change);
        assert!(message.starts_with(start), "{family}: {message}");
    }
    let (unet, sample, timestep, mut conditions) = opened("depth", Kind::Float)?;
    conditions.channels = zeros(&[2, 1, 8, 7]);
    let message = unet.forward(&sample, &timestep, conditions).unwrap_err().to_string();
    assert!(message.starts_with("channels: expected the shape [2, c, 8, 6]"), "{message}");
    assert_eq!(guidance_embedding(&[7.5, 1.], 6)?.size(), [2, 6]);
    Ok(())
}

#[test]
fn timesteps_that_cannot_be_embedded_are_refused() -> Result<()> {
    let (one, list) = (Tensor::from(7i64), Tensor::from_slice(&[7i64]));
    assert!(timestep_embedding(&one, 6, true, 0.)?.equal(&timestep_embedding(&list, 6, true, 0.)?));
    let none = Tensor::from_slice(&[0i64; 0]);
    assert_eq!(timestep_embedding(&none, 6, true, 0.)?.size(), [0, 6]);
    assert!(timestep_embedding(&list.unsqueeze(0), 6, true, 0.).is_err());
    for (width, shift) in [(-2, 0.), (0, 0.), (1, 0.), (i64::MAX, 0.), (6, 3.), (6, f64::NAN)] {
        assert!(timestep_embedding(&list, width, true, shift).is_err(), "{width}, {shift}");
    }
    let (_, folder) = golden::folders("unet").into_iter().find(|(name, _)| name == "sd1").unwrap();
    let (unet, numbers) =
        (UNet::open(&folder, Kind::Float, Device::Cpu)?, golden::numbers(&folder));
    let (sample, context) = (numbers.tensor("sample")?, numbers.tensor("context")?);
    assert!(unet.forward(&sample, Vec::<i64>::new(), &context).is_err());
    assert!(unet.forward(&sample, &one, &context)?.equal(&unet.forward(&sample, 7, &context)?));
    Ok(())
}
