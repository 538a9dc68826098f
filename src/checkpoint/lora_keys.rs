//! How the keys of a LoRA's file are written, and which layer and which factor each names.

use std::collections::HashMap;

use super::latent_diffusion_keys::LdmLayerNames;
use crate::models::params::Params;
use crate::tensor_file::unwrapped;

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

/// How a key ends but for `.weight` and an adapter's name, with what its tensor is.
const ENDINGS: [(&str, LoraFactor); 12] = [
    ("_lora.down", LoraFactor::Down),
    ("_lora.up", LoraFactor::Up),
    (".lora.down", LoraFactor::Down),
    (".lora.up", LoraFactor::Up),
    (".lora_linear_layer.down", LoraFactor::Down),
    (".lora_linear_layer.up", LoraFactor::Up),
    (".lora_down", LoraFactor::Down),
    (".lora_up", LoraFactor::Up),
    (".lora_mid", LoraFactor::Mid),
    (".lora_A", LoraFactor::Down),
    (".lora_B", LoraFactor::Up),
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

/// What a key of low-rank changes names.
pub(super) struct LoraKey {
    /// The layer, in one of its spellings.
    pub layer: String,
    /// What the tensor is to it.
    pub factor: LoraFactor,
    /// The adapter, where PEFT wrote its name: `lora_A.NAME.weight`.
    pub adapter: Option<String>,
}

/// What a key names, if it is one of low-rank changes.
pub(super) fn lora_key(key: &str) -> Option<LoraKey> {
    let key = unwrapped(key);
    let key = key.strip_prefix("base_model.model.").unwrap_or(&key).replace(".processor.", ".");
    let key = key.strip_suffix(".weight").unwrap_or(&key);
    let ending = |key: &str| {
        let mut found = ENDINGS.iter().filter_map(|&(end, is)| Some((key.strip_suffix(end)?, is)));
        found.next().map(|(layer, factor)| (layer.to_owned(), factor))
    };
    let named = || {
        let (key, name) = key.rsplit_once('.')?;
        Some((ending(key)?, Some(name.to_owned())))
    };
    let ((mut layer, factor), adapter) = ending(key).map(|found| (found, None)).or_else(named)?;
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
    Some(LoraKey { layer, factor, adapter })
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

/// The kinds of change other than LoRA, by a part that only their keys have.
pub(super) const OTHER_METHODS: [(&str, &str); 6] = [
    (".hada_", "Hadamard products (LyCORIS LoHa)"),
    (".lokr_", "Kronecker products (LyCORIS LoKr)"),
    (".oft_", "orthogonal changes (OFT)"),
    (".ia3_", "scaled activations (IA3)"),
    (".on_input", "scaled activations (IA3)"),
    (".vera_lambda", "changes of shared factors (VeRA)"),
];

/// What else may stand beside low-rank changes, by a part of its keys.
const BESIDE: [(&str, &str); 6] = [
    ("dora_scale", "DoRA's magnitudes"),
    ("lora_magnitude_vector", "DoRA's magnitudes"),
    (".diff", "full-rank changes (LyCORIS full)"),
    ("bias", "changes of biases"),
    ("lora_embedding", "changes of embeddings"),
    ("modules_to_save", "whole layers (modules_to_save)"),
];

/// The kind of change, other than LoRA, that a key belongs to.
pub(super) fn other_method(key: &str) -> Option<&'static str> {
    OTHER_METHODS
        .into_iter()
        .chain(BESIDE)
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
