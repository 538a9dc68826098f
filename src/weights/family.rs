//! Which Stable Diffusion a checkpoint is, and what says so.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::{Network, TensorFile};
use crate::prediction::Prediction;

/// How the keys of a LoRA are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraKeys {
    /// `lora_unet_down_blocks_0_....lora_down.weight`
    Kohya,
    /// `unet.down_blocks.0....lora_A.weight`, or diffusers' older `....lora.down.weight`.
    Peft,
}

/// The families of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Stable Diffusion 1.1 to 1.5.
    Sd1,
    /// Its inpainting model, with a 9-channel U-Net.
    Sd1Inpainting,
    /// Distilled to few steps: its U-Net is told the guidance scale.
    Sd1Lcm,
    /// Stable Diffusion 2.0 and 2.1 base: predicts noise.
    Sd2Base,
    /// Stable Diffusion 2.0 and 2.1 for 768×768: predicts v.
    Sd2V,
    /// Its inpainting model.
    Sd2Inpainting,
    /// Its depth-to-image model.
    Sd2Depth,
    /// Its x4 upscaler.
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
    Lora(LoraKeys),
    /// None of these; the text says what, or that nothing is known of it.
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
            Self::Lora(LoraKeys::Kohya) => "LoRA, in kohya's keys",
            Self::Lora(LoraKeys::Peft) => "LoRA, in PEFT's and diffusers' keys",
            Self::Other(what) => what,
        })
    }
}

const UNKNOWN: Family = Family::Other("unknown");

/// Which family the networks make; the prediction type tells SD 2.x's two apart.
pub(super) fn judge(
    networks: &BTreeMap<String, Network>,
    prediction: Prediction,
) -> (Family, Vec<String>) {
    let mut evidence = Vec::new();
    let Some(unet) = networks.get("unet").map(|network| &network.config) else {
        let names: Vec<&str> = networks.keys().map(String::as_str).collect();
        evidence.push(format!("of the networks it has: {}", names.join(", ")));
        let family = match names[..] {
            ["vae"] => Family::Vae,
            ["text_encoder"] | ["text_encoder_2"] => Family::TextEncoder,
            _ => UNKNOWN,
        };
        return (family, evidence);
    };
    let number = |key: &str| unet.get(key).and_then(Value::as_i64);
    let (channels, context) = (number("in_channels"), number("cross_attention_dim"));
    let is = |key: &str, value: &str| unet.get(key).and_then(Value::as_str) == Some(value);
    let mut says = |what: String| evidence.push(what);

    says(format!("the U-Net takes {} channels", channels.unwrap_or(0)));
    says(format!("it attends to a context of width {}", context.unwrap_or(0)));
    let (first, second) =
        (networks.contains_key("text_encoder"), networks.contains_key("text_encoder_2"));
    if is("addition_embed_type", "text_time") {
        says("it is told a pooled text embedding and the picture's size (text_time)".into());
        says(match (first, second) {
            (true, true) => "there are two text encoders".into(),
            (false, true) => "there is the second text encoder and not the first".into(),
            _ => "there is no second text encoder".into(),
        });
        let refiner = if first || second { !first } else { context == Some(1280) };
        let family = match channels {
            _ if refiner => Family::SdxlRefiner,
            Some(9) => Family::SdxlInpainting,
            Some(4) => Family::Sdxl,
            _ => UNKNOWN,
        };
        return (family, evidence);
    }
    if !unet.get("class_embed_type").is_none_or(Value::is_null) {
        says("it is told a picture's embedding (class_embed_type)".into());
        return (Family::Other("Stable unCLIP"), evidence);
    }
    if let Some(classes) = number("num_class_embeds") {
        says(format!("it is told one of {classes} noise levels (class_embedding)"));
        let family = if channels == Some(7) { Family::X4Upscaler } else { UNKNOWN };
        return (family, evidence);
    }
    let linear = unet.get("use_linear_projection").and_then(Value::as_bool) == Some(true);
    says(match linear {
        true => "its transformers begin with a linear layer, as in 2.x".into(),
        false => "its transformers begin with a 1x1 convolution, as in 1.x".into(),
    });
    if let Some(text) = networks.get("text_encoder") {
        let width = text.config.get("hidden_size").and_then(Value::as_i64).unwrap_or(0);
        let layers = text.config.get("num_hidden_layers").and_then(Value::as_i64).unwrap_or(0);
        let act = text.config.get("hidden_act").and_then(Value::as_str).unwrap_or("?");
        says(format!("the text encoder has {layers} layers of width {width} with {act}"));
    } else if networks.len() == 1 {
        says("there is no other network".into());
        return (Family::UNet, evidence);
    }
    let lcm = number("time_cond_proj_dim");
    if let Some(width) = lcm {
        says(format!("it is told the guidance scale, as an embedding of width {width}"));
    }
    let family = match (linear, channels) {
        (false, Some(4)) if lcm.is_some() => Family::Sd1Lcm,
        (_, Some(8)) => Family::Other("InstructPix2Pix"),
        (false, Some(9)) => Family::Sd1Inpainting,
        (true, Some(9)) => Family::Sd2Inpainting,
        (true, Some(5)) => Family::Sd2Depth,
        (true, Some(4)) if prediction == Prediction::V => Family::Sd2V,
        (true, Some(4)) => Family::Sd2Base,
        (false, Some(4)) => Family::Sd1,
        _ => UNKNOWN,
    };
    (family, evidence)
}

/// The family of a file whose keys are those of no network, with what says so.
pub(super) fn of_keys(file: &TensorFile) -> Option<(Family, Vec<String>)> {
    let find = |part: &str| file.names().find(|name| name.contains(part));
    let lora = ["lora_down", "lora_up", ".lora_A.", ".lora_B.", "lora.down.", "lora_linear_layer"]
        .into_iter()
        .find_map(find);
    if let Some(key) = lora {
        let kohya = key.starts_with("lora_");
        let keys = if kohya { LoraKeys::Kohya } else { LoraKeys::Peft };
        let mut evidence = vec![format!("keys such as {key}")];
        let context = file.names().find(|name| {
            let down = ["lora_down", "lora_A", "lora.down", "down.weight"];
            name.contains("attn2") && name.contains("to_k") && down.iter().any(|d| name.contains(d))
        });
        let width = context.and_then(|name| file.shape(name)?.get(1).copied());
        evidence.extend(width.map(|width| {
            let of = match width {
                768 => "SD 1.x",
                1024 => "SD 2.x",
                2048 => "SDXL",
                _ => "another model",
            };
            format!("it changes a U-Net with a context of width {width}: {of}")
        }));
        return Some((Family::Lora(keys), evidence));
    }
    [
        ("hada_w1", "LyCORIS (LoHa)"),
        ("lokr_w", "LyCORIS (LoKr)"),
        ("control_model.", "ControlNet"),
        ("controlnet_cond_embedding.", "ControlNet"),
        ("joint_blocks.", "Stable Diffusion 3"),
        ("double_blocks.", "Flux"),
        ("emb_params", "a textual inversion embedding"),
    ]
    .into_iter()
    .find_map(|(part, what)| {
        Some((Family::Other(what), vec![format!("keys such as {}", find(part)?)]))
    })
}
