//! How the keys of a LoRA's file are written, and which layer and which factor each names.

use std::collections::HashMap;

use super::latent_diffusion_keys::LdmLayerNames;
use crate::models::params::Params;

/// How the keys of a LoRA are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraKeyStyle {
    /// `lora_unet_down_blocks_0_....lora_down.weight`
    Kohya,
    /// `unet.down_blocks.0....lora_A.weight`, or diffusers' older `....lora.down.weight`.
    Peft,
}

impl LoraKeyStyle {
    /// The style of one key.
    pub(super) fn of(key: &str) -> Self {
        if key.starts_with("lora_") { Self::Kohya } else { Self::Peft }
    }
}

/// What a tensor is to its layer's change.
#[derive(Clone, Copy)]
pub(super) enum LoraFactor {
    Down,
    Up,
    Mid,
    Alpha,
}

/// How a key ends, with what its tensor is.
const ENDINGS: [(&str, LoraFactor); 12] = [
    ("_lora.down.weight", LoraFactor::Down),
    ("_lora.up.weight", LoraFactor::Up),
    (".lora.down.weight", LoraFactor::Down),
    (".lora.up.weight", LoraFactor::Up),
    (".lora_linear_layer.down.weight", LoraFactor::Down),
    (".lora_linear_layer.up.weight", LoraFactor::Up),
    (".lora_down.weight", LoraFactor::Down),
    (".lora_up.weight", LoraFactor::Up),
    (".lora_mid.weight", LoraFactor::Mid),
    (".lora_A.weight", LoraFactor::Down),
    (".lora_B.weight", LoraFactor::Up),
    (".alpha", LoraFactor::Alpha),
];

/// How a layer's name begins, with the network it belongs to.
const PREFIXES: [(&str, &str); 7] = [
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
];

/// The layer of a key, in one of its spellings, and what the tensor is to it.
pub(super) fn layer_and_factor(key: &str) -> Option<(String, LoraFactor)> {
    // PEFT may write the adapter's name in between.
    let key = key.strip_prefix("base_model.model.").unwrap_or(key).replace(".default.", ".");
    let key = key.replace(".processor.", ".");
    let (layer, factor) =
        ENDINGS.iter().find_map(|&(end, factor)| Some((key.strip_suffix(end)?, factor)))?;
    let mut layer = layer.to_owned();
    // diffusers' oldest spelling: `attn1.processor.to_out_lora.down`, `self_attn.to_q_lora.down`.
    if let Some((scope, name)) = layer.rsplit_once('.') {
        let text = scope.ends_with("self_attn");
        let name = match name {
            "to_q" | "to_k" | "to_v" if text => name.replace("to_", "") + "_proj",
            "to_out" if text => "out_proj".to_owned(),
            "to_out" => "to_out.0".to_owned(),
            name => name.to_owned(),
        };
        layer = format!("{scope}.{name}");
    }
    Some((layer, factor))
}

/// The network of a layer, and its name there; a layer that names no network belongs to the U-Net.
pub(super) fn network_and_layer(layer: &str) -> (&'static str, &str) {
    let (network, name) = PREFIXES
        .iter()
        .find_map(|&(start, network)| Some((network, layer.strip_prefix(start)?)))
        .unwrap_or(("unet", layer));
    let plain = ["text_model.", "text_model_"].iter().find_map(|start| name.strip_prefix(start));
    (network, plain.unwrap_or(name))
}

/// The kind of change, other than LoRA, that a key belongs to.
pub(super) fn other_method(key: &str) -> Option<&'static str> {
    [
        ("dora_scale", "DoRA's magnitudes"),
        ("lora_magnitude_vector", "DoRA's magnitudes"),
        ("hada_", "Hadamard products (LoHa)"),
        ("lokr_", "Kronecker products (LoKr)"),
        (".diff", "full-rank changes (LyCORIS full)"),
        ("bias", "changes of biases"),
        ("lora_embedding", "changes of embeddings"),
    ]
    .into_iter()
    .find_map(|(part, method)| key.contains(part).then_some(method))
}

/// The weights of a network's layers, each a tensor's name and shape, by every spelling of the layer: `a.b.0.c`,
/// kohya's `a_b_0_c`, and both in latent-diffusion's names, which kohya's trainer uses for SDXL.
pub(super) fn layer_spellings(params: &Params) -> HashMap<String, (String, Vec<i64>)> {
    let variables = params.variables();
    let layers: Vec<(&str, &str, Vec<i64>)> = variables
        .iter()
        .filter_map(|(name, tensor)| {
            Some((name.strip_suffix(".weight")?, name.as_str(), tensor.size()))
        })
        .filter(|(_, _, shape)| shape.len() > 1)
        .collect();
    let ldm_names = LdmLayerNames::of(layers.iter().map(|(layer, ..)| *layer));
    let mut all = HashMap::new();
    for (layer, name, shape) in &layers {
        let mut add = |spelling: String| all.insert(spelling, (name.to_string(), shape.clone()));
        let plain = layer.strip_prefix("text_model.").unwrap_or(layer);
        let ldm = ldm_names.name(layer);
        for layer in [plain].into_iter().chain(ldm.as_deref()) {
            add(layer.to_owned());
            add(layer.replace('.', "_"));
        }
    }
    all
}
