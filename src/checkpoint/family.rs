//! Which Stable Diffusion a checkpoint is, and the evidence for it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::LoraKeyStyle;
use super::lora_keys::OTHER_METHODS;
use super::stored_network::StoredNetwork;
use crate::prediction::Prediction;
use crate::tensor_file::TensorFile;

/// The families of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Stable Diffusion 1.1 to 1.5.
    Sd1,
    /// SD 1.x's inpainting model, with a 9-channel U-Net.
    Sd1Inpainting,
    /// SD 1.x distilled to few steps: its U-Net is conditioned on the guidance scale.
    Sd1Lcm,
    /// Stable Diffusion 2.0 and 2.1 base: predicts noise.
    Sd2Base,
    /// Stable Diffusion 2.0 and 2.1 for 768×768: predicts v.
    Sd2V,
    /// SD 2.x's inpainting model.
    Sd2Inpainting,
    /// SD 2.x's depth-to-image model.
    Sd2Depth,
    /// SD 2.x's x4 upscaler.
    X4Upscaler,
    /// SDXL base, and Turbo.
    Sdxl,
    /// SDXL's inpainting model.
    SdxlInpainting,
    /// SDXL's refiner.
    SdxlRefiner,
    /// An autoencoder alone.
    Vae,
    /// A U-Net alone.
    UNet,
    /// A text encoder alone.
    TextEncoder,
    /// Low-rank changes to another checkpoint.
    Lora(LoraKeyStyle),
    /// None of these; the text says which other kind, or `unknown`.
    Other(&'static str),
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sd1 => "Stable Diffusion 1.x",
            Self::Sd1Inpainting => "Stable Diffusion 1.x inpainting",
            Self::Sd1Lcm => "Stable Diffusion 1.x, distilled as a latent consistency model (LCM)",
            Self::Sd2Base => "Stable Diffusion 2.x base",
            Self::Sd2V => "Stable Diffusion 2.x 768-v",
            Self::Sd2Inpainting => "Stable Diffusion 2.x inpainting",
            Self::Sd2Depth => "Stable Diffusion 2.x depth-to-image",
            Self::X4Upscaler => "Stable Diffusion x4 upscaler",
            Self::Sdxl => "Stable Diffusion XL base",
            Self::SdxlInpainting => "Stable Diffusion XL inpainting",
            Self::SdxlRefiner => "Stable Diffusion XL refiner",
            Self::Vae => "an autoencoder (VAE) alone",
            Self::UNet => "a U-Net alone",
            Self::TextEncoder => "a text encoder alone",
            Self::Lora(LoraKeyStyle::Kohya) => "LoRA, in kohya's keys",
            Self::Lora(LoraKeyStyle::Peft) => "LoRA, in PEFT's and diffusers' keys",
            Self::Other(what) => what,
        })
    }
}

const UNKNOWN: Family = Family::Other("unknown");

impl Family {
    /// The family, once it is known what the U-Net predicts: only this tells SD 2.x's two text-to-image models apart.
    pub(super) fn that_predicts(self, prediction: Prediction) -> Self {
        match (self, prediction) {
            (Self::Sd2Base, Prediction::V) => Self::Sd2V,
            (family, _) => family,
        }
    }
}

/// The family that the networks make up, with the evidence; SD 2.x's two text-to-image models are both
/// [`Family::Sd2Base`] before [`Family::that_predicts`].
pub(super) fn of_networks(networks: &BTreeMap<String, StoredNetwork>) -> (Family, Vec<String>) {
    let Some(unet) = networks.get("unet").map(|network| &network.config) else {
        let names: Vec<&str> = networks.keys().map(String::as_str).collect();
        let family = match names[..] {
            ["vae"] => Family::Vae,
            ["text_encoder"] | ["text_encoder_2"] => Family::TextEncoder,
            _ => UNKNOWN,
        };
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return (family, vec![format!("it has no U-Net; its networks: {names}")]);
    };
    let mut evidence = vec![
        format!("the U-Net takes {} channels", number(unet, "in_channels").unwrap_or(0)),
        format!("it attends to a context of width {}", context_width(unet).unwrap_or(0)),
    ];
    let (family, more) = if unet.get("addition_embed_type").and_then(Value::as_str)
        == Some("text_time")
    {
        of_sdxl(unet, networks)
    } else if !unet.get("class_embed_type").is_none_or(Value::is_null) {
        let why = "it is conditioned on an image embedding (class_embed_type)".into();
        (Family::Other("Stable unCLIP"), vec![why])
    } else if let Some(levels) = number(unet, "num_class_embeds") {
        let upscaler = number(unet, "in_channels") == Some(7);
        let why = format!("it is conditioned on one of {levels} noise levels (class_embedding)");
        (if upscaler { Family::X4Upscaler } else { UNKNOWN }, vec![why])
    } else {
        of_sd1_or_sd2(unet, networks)
    };
    evidence.extend(more);
    (family, evidence)
}

fn number(config: &Value, key: &str) -> Option<i64> {
    config.get(key).and_then(Value::as_i64)
}

fn context_width(unet: &Value) -> Option<i64> {
    number(unet, "cross_attention_dim")
}

/// The evidence that a U-Net is told the guidance scale, as a latent consistency model is.
fn told_guidance(unet: &Value) -> Option<String> {
    let width = number(unet, "time_cond_proj_dim")?;
    Some(format!("it is conditioned on the guidance scale, as an embedding of width {width}"))
}

fn of_sdxl(unet: &Value, networks: &BTreeMap<String, StoredNetwork>) -> (Family, Vec<String>) {
    let encoders = ["text_encoder", "text_encoder_2"].map(|name| networks.contains_key(name));
    let which = match encoders {
        [true, true] => "there are two text encoders",
        [false, true] => "there is the second text encoder and not the first",
        _ => "there is no second text encoder",
    };
    let refiner = match encoders {
        [false, false] => context_width(unet) == Some(1280),
        [first, _] => !first,
    };
    let family = match number(unet, "in_channels") {
        _ if refiner => Family::SdxlRefiner,
        Some(9) => Family::SdxlInpainting,
        Some(4) => Family::Sdxl,
        _ => UNKNOWN,
    };
    let why = "it is conditioned on a pooled text embedding and the picture's size (text_time)";
    (family, [why.into(), which.into()].into_iter().chain(told_guidance(unet)).collect())
}

fn of_sd1_or_sd2(
    unet: &Value,
    networks: &BTreeMap<String, StoredNetwork>,
) -> (Family, Vec<String>) {
    let linear = unet.get("use_linear_projection").and_then(Value::as_bool) == Some(true);
    let first = match linear {
        true => "its transformers begin with a linear layer, as in 2.x",
        false => "its transformers begin with a 1x1 convolution, as in 1.x",
    };
    let mut evidence = vec![first.to_owned()];
    if let Some(text) = networks.get("text_encoder").map(|network| &network.config) {
        let width = number(text, "hidden_size").unwrap_or(0);
        let layers = number(text, "num_hidden_layers").unwrap_or(0);
        let act = text.get("hidden_act").and_then(Value::as_str).unwrap_or("?");
        evidence.push(format!("the text encoder has {layers} layers of width {width} with {act}"));
    } else if networks.len() == 1 {
        evidence.push("there is no other network".into());
        return (Family::UNet, evidence);
    }
    let lcm = number(unet, "time_cond_proj_dim");
    evidence.extend(told_guidance(unet));
    let family = match (linear, number(unet, "in_channels")) {
        (_, Some(8)) => Family::Other("InstructPix2Pix"),
        (false, Some(4)) if lcm.is_some() => Family::Sd1Lcm,
        (false, Some(4)) => Family::Sd1,
        (false, Some(9)) => Family::Sd1Inpainting,
        (true, Some(4)) => Family::Sd2Base,
        (true, Some(5)) => Family::Sd2Depth,
        (true, Some(9)) => Family::Sd2Inpainting,
        _ => UNKNOWN,
    };
    (family, evidence)
}

/// What parts of a key only other kinds of files have.
const OTHER_KINDS: [(&str, &str); 5] = [
    ("control_model.", "ControlNet"),
    ("controlnet_cond_embedding.", "ControlNet"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    ("emb_params", "a textual inversion embedding"),
];

/// The family of a file that holds no network of Stable Diffusion, with the evidence, if its keys give it away.
pub(super) fn of_keys(file: &TensorFile) -> Option<(Family, Vec<String>)> {
    let find = |part: &str| file.names().find(|name| name.contains(part));
    let lora = ["lora_down", "lora_up", ".lora_A.", ".lora_B.", "lora.down.", "lora_linear_layer"]
        .into_iter()
        .find_map(find);
    if let Some(key) = lora {
        let mut evidence = vec![format!("it has keys such as {key}")];
        evidence.extend(lora_context_width(file).map(|width| {
            let of = match width {
                768 => "SD 1.x",
                1024 => "SD 2.x",
                2048 => "SDXL",
                _ => "another model",
            };
            format!("it changes a U-Net with a context of width {width}: {of}")
        }));
        return Some((Family::Lora(LoraKeyStyle::of(key)), evidence));
    }
    OTHER_METHODS.into_iter().chain(OTHER_KINDS).find_map(|(part, what)| {
        Some((Family::Other(what), vec![format!("it has keys such as {}", find(part)?)]))
    })
}

/// The width of the context that a LoRA's factors of cross attention take.
fn lora_context_width(file: &TensorFile) -> Option<i64> {
    let down = ["lora_down", "lora_A", "lora.down", "down.weight"];
    let key = file.names().find(|name| {
        name.contains("attn2") && name.contains("to_k") && down.iter().any(|d| name.contains(d))
    })?;
    file.shape(key)?.get(1).copied()
}
