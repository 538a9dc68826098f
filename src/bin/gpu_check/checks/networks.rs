//! Every network against diffusers' and transformers', on the inputs of the golden files.

use diffuscope::Result;
use diffuscope::models::clip::TextEncoder;
use diffuscope::models::params::Params;
use diffuscope::models::unet::{Conditions, UNet};
use diffuscope::models::vae::{Vae, VaeConfig};
use diffuscope::tensor_file::{TensorFile, read_config, weight_files};
use tch::{Kind, no_grad};

use super::families;
use crate::bench::{Bench, WorstGap};
use crate::outcome::Outcome;

type Parity = fn(&Bench, Kind, f64) -> Result<Outcome>;

pub const ALL: [(&str, Parity); 3] =
    [("text encoders", text_encoders), ("U-Nets", unets), ("autoencoders", autoencoders)];

/// Compares what every one of these folders gives.
fn worst(
    bench: &Bench,
    folders: Vec<String>,
    bound: f64,
    compare: impl Fn(&str, &TensorFile, &mut WorstGap) -> Result<()>,
) -> Result<Outcome> {
    let mut worst = WorstGap::default();
    for folder in &folders {
        let numbers = TensorFile::open(bench.golden(folder).join("golden.safetensors"))?;
        no_grad(|| compare(folder, &numbers, &mut worst))?;
    }
    Ok(Outcome::within(worst.gap, bound)
        .note(format!("{} of them", folders.len()))
        .note(worst.place))
}

fn text_encoders(bench: &Bench, kind: Kind, bound: f64) -> Result<Outcome> {
    let folders = [bench.folders("text_encoder")?, bench.folders("text_projection")?].concat();
    worst(bench, folders, bound, |name, numbers, worst| {
        let encoder = TextEncoder::open(bench.golden(name), kind, bench.device)?;
        let out = encoder.forward(&numbers.tensor("ids")?)?;
        worst.take(name, &out.last_hidden_state, &numbers.tensor("context")?)?;
        if let Some(pooled) = &out.text_embeds {
            worst.take(name, pooled, &numbers.tensor("text_embeds")?)?;
        }
        Ok(())
    })
}

/// Also those of the families, with all that they are told. Their inputs come from the CPU.
fn unets(bench: &Bench, kind: Kind, bound: f64) -> Result<Outcome> {
    let of_families = families::folders().map(|family| format!("{family}/unet"));
    let folders = bench.folders("unet")?.into_iter().chain(of_families).collect();
    worst(bench, folders, bound, |name, numbers, worst| {
        let unet = UNet::open(bench.golden(name), kind, bench.device)?;
        let conditions = Conditions {
            text_embeds: numbers.tensor("text_embeds").ok(),
            time_ids: numbers.tensor("time_ids").ok(),
            class_labels: numbers.tensor("class_labels").ok(),
            timestep_cond: numbers.tensor("timestep_cond").ok(),
            channels: numbers.tensor("channels").ok(),
            ..Conditions::from(numbers.tensor("context")?)
        };
        let (sample, timestep) = (numbers.tensor("sample")?, numbers.tensor("timestep")?);
        let output = unet.forward(&sample, &timestep, conditions)?;
        worst.take(name, &output, &numbers.tensor("noise_pred")?)
    })
}

fn autoencoders(bench: &Bench, kind: Kind, bound: f64) -> Result<Outcome> {
    worst(bench, bench.folders("vae")?, bound, |name, numbers, worst| {
        let folder = bench.golden(name);
        let config: VaeConfig = read_config(folder.join("config.json"))?;
        // Not `Vae::open`, which takes f32 in place of f16 where a large autoencoder would overflow.
        let params = Params::open(&weight_files(&folder)?, kind, bench.device)?;
        let vae = Vae::new(&params, &config)?;
        let posterior = vae.posterior(&numbers.tensor("image")?)?;
        worst.take(name, &posterior.mean, &numbers.tensor("mean")?)?;
        worst.take(name, &posterior.logvar, &numbers.tensor("logvar")?)?;
        worst.take(name, &vae.decode(&numbers.tensor("latents")?)?, &numbers.tensor("decoded")?)
    })
}
