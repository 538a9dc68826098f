//! Merging LoRAs into the weights of networks, and taking them out again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tch::{Kind, Tensor};

use super::lora::{Lora, LoraLayer};
use super::lora_keys::layer_spellings;
use crate::models::params::Params;
use crate::{Error, Result};

/// A network, and the name of one of its tensors.
type LoraTarget = (&'static str, String);
/// Each network's [`layer_spellings`].
type NetworkSpellings = BTreeMap<String, HashMap<String, (String, Vec<i64>)>>;

/// Makes the networks' weights those of their files plus these changes.
///
/// Every tensor in `changed` is first read from its file again; then `changed` holds the tensors that these LoRAs
/// change. After an error the weights are those of the files.
///
/// # Errors
/// A strength that is not finite; changes that do not fit these networks, or that make weights that are not finite.
pub(crate) fn merge_loras(
    networks: &BTreeMap<String, Params>,
    changed: &mut BTreeSet<LoraTarget>,
    loras: &[(Lora, f64)],
) -> Result<()> {
    let spellings: NetworkSpellings =
        networks.iter().map(|(name, params)| (name.clone(), layer_spellings(params))).collect();
    let mut changes: BTreeMap<LoraTarget, Vec<(&Lora, &LoraLayer, f64)>> = BTreeMap::new();
    for (lora, strength) in loras {
        if !strength.is_finite() {
            return Err(Error::argument("a LoRA's strength", "a finite number", strength));
        }
        for (target, layer) in targets(lora, &spellings)? {
            changes.entry(target).or_default().push((lora, layer, *strength));
        }
    }
    restore(networks, changed)?;
    for (target, layers) in &changes {
        changed.insert(target.clone());
        if let Err(error) = write(networks, target, layers) {
            restore(networks, changed)?;
            return Err(error);
        }
    }
    Ok(())
}

/// Reads every tensor in `changed` from its file again.
fn restore(networks: &BTreeMap<String, Params>, changed: &mut BTreeSet<LoraTarget>) -> Result<()> {
    for target in std::mem::take(changed) {
        params(networks, &target)?.rewrite(&target.1, None)?;
    }
    Ok(())
}

/// Makes one tensor that of its file plus the sum of these changes.
fn write(
    networks: &BTreeMap<String, Params>,
    target: &LoraTarget,
    layers: &[(&Lora, &LoraLayer, f64)],
) -> Result<()> {
    let params = params(networks, target)?;
    let shape = params.shape(&target.1);
    let mut sum: Option<Tensor> = None;
    for &(lora, layer, strength) in layers {
        let change = change(lora, layer, &shape)? * strength;
        sum = Some(match sum {
            Some(sum) => sum + change,
            None => change,
        });
    }
    params.rewrite(&target.1, sum.as_ref())
}

fn params<'a>(networks: &'a BTreeMap<String, Params>, target: &LoraTarget) -> Result<&'a Params> {
    let missing = || Error::argument("network", "one of the model", target.0);
    networks.get(target.0).ok_or_else(missing)
}

/// The tensor that each layer of a LoRA changes.
fn targets<'a>(
    lora: &'a Lora,
    spellings: &NetworkSpellings,
) -> Result<BTreeMap<LoraTarget, &'a LoraLayer>> {
    let refused = |what: String| Error::weights(lora.path(), what);
    let mut targets = BTreeMap::new();
    let mut missing = Vec::new();
    for layer in &lora.layers {
        let Some(names) = spellings.get(layer.network) else {
            let what = format!("changes a {}, which the model does not have", layer.network);
            return Err(refused(what));
        };
        let Some((name, shape)) = names.get(&layer.name) else {
            missing.push(format!("{} of {}", layer.name, layer.network));
            continue;
        };
        fits(lora, layer, shape).map_err(|what| {
            refused(format!("{what}: it was made for another model, or another size of this one"))
        })?;
        if targets.insert((layer.network, name.clone()), layer).is_some() {
            return Err(refused(format!("changes {name} twice, in two spellings")));
        }
    }
    if let Some(first) = missing.first() {
        let (count, all) = (missing.len(), lora.layers.len());
        return Err(refused(format!(
            "{count} of its {all} layers are not in the model, such as {first}: it was made for another model"
        )));
    }
    Ok(targets)
}

/// Checks that a layer's factors multiply to a change of the shape `weight`.
fn fits(lora: &Lora, layer: &LoraLayer, weight: &[i64]) -> std::result::Result<(), String> {
    let shape = |key: &str| lora.file.shape(key).unwrap_or_default();
    let (down, up) = (shape(&layer.down), shape(&layer.up));
    let (rank, outputs) = (down.first(), weight.first());
    let [inner, inputs] = [&down, weight].map(|shape| shape.iter().skip(1).product::<i64>());
    let mid = layer.mid.as_ref().map(|key| shape(key));
    let inputs_fit = match (mid.as_deref(), rank, weight) {
        (None, ..) => inner == inputs,
        (Some([a, b, h, w]), Some(rank), [_, inputs, kh, kw]) => {
            (a, b, h, w) == (rank, rank, kh, kw) && inner == *inputs
        }
        _ => false,
    };
    let outputs_fit = up.iter().product::<i64>() == up.iter().take(2).product::<i64>()
        && up.first() == outputs
        && up.get(1) == rank;
    if inputs_fit && outputs_fit {
        return Ok(());
    }
    Err(format!(
        "{}: the factors {up:?} and {down:?} do not make a change of {weight:?}",
        layer.name
    ))
}

/// `(alpha / r) * up down`, in f32.
fn change(lora: &Lora, layer: &LoraLayer, shape: &[i64]) -> Result<Tensor> {
    let matrix = |key: &str| -> Result<Tensor> {
        let tensor = lora.file.tensor(key)?.f_to_kind(Kind::Float)?;
        Ok(tensor.f_flatten(1, -1)?)
    };
    let (down, up) = (matrix(&layer.down)?, matrix(&layer.up)?);
    let product = match &layer.mid {
        None => up.f_matmul(&down)?,
        Some(mid) => {
            let mid = lora.file.tensor(mid)?.f_to_kind(Kind::Float)?;
            Tensor::f_einsum("oa,abhw,bi->oihw", &[up, mid, down], None::<i64>)?
        }
    };
    Ok((product * layer.scale).f_reshape(shape)?)
}
