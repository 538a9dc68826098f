//! Configurations of single files, which have none: inferred from the shapes of their tensors.
//!
//! What shapes do not say (heads, groups, epsilons, scaling factors, schedules) is as CompVis's and Stability's
//! published configurations have it.

use serde_json::{Map, Value, json};

use super::Family;
use crate::prediction::Prediction;
use crate::tensor_file::NamedTensors;

/// Groups of every group normalisation in the published models.
const GROUPS: i64 = 32;
/// Channels of an attention head in CLIP, and in the U-Nets of SD 2.x and SDXL.
const HEAD: i64 = 64;

fn dim(weights: &NamedTensors, name: &str, axis: usize) -> Option<i64> {
    weights.shape(name)?.get(axis).copied()
}

/// One value if it is the same for all levels, as diffusers writes it.
fn per_level(values: &[i64]) -> Value {
    match values {
        [first, rest @ ..] if rest.iter().all(|n| n == first) => json!(first),
        _ => json!(values),
    }
}

/// The width of the context that a U-Net attends to.
fn context_width(weights: &NamedTensors) -> Option<i64> {
    let name = weights.names().find(|name| name.ends_with(".attn2.to_k.weight"))?;
    dim(weights, name, 1)
}

/// A U-Net's `config.json`, or `None` where the tensors are not a U-Net's.
pub(super) fn unet(weights: &NamedTensors) -> Option<Value> {
    let levels = Levels::of(weights)?;
    let context = context_width(weights)?;
    let classes = dim(weights, "class_embedding.weight", 0);
    let linear = has_linear_projection(weights);
    let heads: Vec<i64> = match linear && classes.is_none() {
        true => levels.widths.iter().map(|width| (width / HEAD).max(1)).collect(),
        false => vec![8; levels.widths.len()],
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": per_level(&heads),
        "block_out_channels": levels.widths,
        "cross_attention_dim": context,
        "down_block_types": levels.types("down_blocks", "CrossAttnDownBlock2D", "DownBlock2D"),
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": dim(weights, "conv_in.weight", 1)?,
        "layers_per_block": per_level(&levels.resnets()),
        "norm_eps": 1e-5,
        "norm_num_groups": GROUPS,
        "out_channels": dim(weights, "conv_out.weight", 0)?,
        "sample_size": 64,
        "transformer_layers_per_block": per_level(&levels.transformers()),
        "up_block_types": levels.types("up_blocks", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": linear,
    });
    if let Some(classes) = classes {
        config["num_class_embeds"] = json!(classes);
        config["only_cross_attention"] = json!(levels.only_cross_attention(context));
        config["sample_size"] = json!(128);
    }
    if let Some(width) = dim(weights, "add_embedding.linear_1.weight", 1) {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(width);
        config["sample_size"] = json!(128);
    } else if linear {
        // SD 2.x's attention overflows in f16; in f32 this changes nothing.
        config["upcast_attention"] = json!(true);
    }
    if let Some(width) = dim(weights, "class_embedding.linear_1.weight", 1) {
        config["class_embed_type"] = json!("projection");
        config["projection_class_embeddings_input_dim"] = json!(width);
    }
    if let Some(width) = dim(weights, "time_embedding.cond_proj.weight", 1) {
        config["time_cond_proj_dim"] = json!(width);
    }
    Some(config)
}

/// A U-Net's levels, from the highest resolution to the lowest.
struct Levels<'a> {
    weights: &'a NamedTensors,
    widths: Vec<i64>,
}

impl<'a> Levels<'a> {
    fn of(weights: &'a NamedTensors) -> Option<Self> {
        let levels = 0..weights.count("down_blocks");
        let width = |i| dim(weights, &format!("down_blocks.{i}.resnets.0.conv1.weight"), 0);
        Some(Self { weights, widths: levels.map(width).collect::<Option<_>>()? })
    }

    fn each<T>(&self, value: impl Fn(usize) -> T) -> Vec<T> {
        (0..self.widths.len()).map(value).collect()
    }

    /// The class of each block of one side, with attention or without.
    fn types(&self, side: &str, with: &'static str, without: &'static str) -> Vec<&'static str> {
        self.each(|i| match self.weights.has(&format!("{side}.{i}.attentions.")) {
            true => with,
            false => without,
        })
    }

    fn resnets(&self) -> Vec<i64> {
        self.each(|i| self.weights.count(&format!("down_blocks.{i}.resnets")) as i64)
    }

    /// How many transformer layers each attention has; the lowest level may have them in the middle block alone.
    fn transformers(&self) -> Vec<i64> {
        let count = |block: String| {
            self.weights.count(&format!("{block}.attentions.0.transformer_blocks")) as i64
        };
        let last = self.widths.len().saturating_sub(1);
        self.each(|i| {
            let mid = if i == last { count("mid_block".into()) } else { 0 };
            let sides = [format!("down_blocks.{i}"), format!("up_blocks.{}", last - i)];
            sides.map(count).into_iter().chain([mid]).find(|&n| n > 0).unwrap_or(1)
        })
    }

    /// Whether the first attention of each level attends to the text too, as in the x4 upscaler.
    fn only_cross_attention(&self, context: i64) -> Vec<bool> {
        self.each(|i| {
            let name =
                format!("down_blocks.{i}.attentions.0.transformer_blocks.0.attn1.to_k.weight");
            let keys = dim(self.weights, &name, 1);
            keys.is_none_or(|keys| keys == context && keys != self.widths[i])
        })
    }
}

fn has_linear_projection(weights: &NamedTensors) -> bool {
    let name = weights.names().find(|name| name.ends_with(".proj_in.weight"));
    name.and_then(|name| weights.shape(name)).is_some_and(|shape| shape.len() == 2)
}

/// A VAE's `config.json`, with the scaling factor of SD 1.x and 2.x.
pub(super) fn vae(weights: &NamedTensors) -> Option<Value> {
    let levels = weights.count("encoder.down_blocks");
    let conv = |i: usize| format!("encoder.down_blocks.{i}.resnets.0.conv1.weight");
    let widths: Vec<i64> = (0..levels).map(|i| dim(weights, &conv(i), 0)).collect::<Option<_>>()?;
    Some(json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "in_channels": dim(weights, "encoder.conv_in.weight", 1)?,
        "latent_channels": dim(weights, "decoder.conv_in.weight", 1)?,
        "layers_per_block": weights.count("encoder.down_blocks.0.resnets"),
        "mid_block_add_attention": weights.has("encoder.mid_block.attentions."),
        "norm_num_groups": GROUPS,
        "out_channels": dim(weights, "decoder.conv_out.weight", 0)?,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "use_post_quant_conv": weights.has("post_quant_conv."),
        "use_quant_conv": weights.has("quant_conv."),
    }))
}

/// A text encoder's `config.json`; OpenCLIP's were trained with exact gelu.
pub(super) fn text_encoder(weights: &NamedTensors, open_clip: bool) -> Option<Value> {
    let scope = if weights.has("text_model.") { "text_model." } else { "" };
    let tokens = format!("{scope}embeddings.token_embedding.weight");
    let width = dim(weights, &tokens, 1)?;
    let mut config = json!({
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "hidden_act": if open_clip { "gelu" } else { "quick_gelu" },
        "hidden_size": width,
        "intermediate_size": dim(weights, &format!("{scope}encoder.layers.0.mlp.fc1.weight"), 0)?,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": dim(weights, &format!("{scope}embeddings.position_embedding.weight"), 0)?,
        "num_attention_heads": (width / HEAD).max(1),
        "num_hidden_layers": weights.count(&format!("{scope}encoder.layers")),
        "vocab_size": dim(weights, &tokens, 0)?,
    });
    if let Some(width) = dim(weights, "text_projection.weight", 0) {
        config["architectures"] = json!(["CLIPTextModelWithProjection"]);
        config["projection_dim"] = json!(width);
    }
    Some(config)
}

/// What the published folder of a family says and the shapes of a single file's tensors do not.
struct Published {
    scheduler: &'static str,
    /// The first and the last beta.
    betas: [f64; 2],
    /// The side of the pictures that it was trained on, in latent cells, and of those of its autoencoder in pixels.
    sample_size: [i64; 2],
    scaling_factor: f64,
    /// Whether the autoencoder overflows in f16. diffusers asks for it in SDXL and the upscaler alone.
    force_upcast: bool,
    /// Whether the text without a prompt is all zeros.
    force_zeros_for_empty_prompt: bool,
}

const SD1: Published = Published {
    scheduler: "PNDMScheduler",
    betas: [0.00085, 0.012],
    sample_size: [64, 512],
    scaling_factor: 0.18215,
    force_upcast: false,
    force_zeros_for_empty_prompt: false,
};
const SD2: Published = Published { scheduler: "DDIMScheduler", ..SD1 };
const SDXL: Published = Published {
    scheduler: "EulerDiscreteScheduler",
    sample_size: [128, 1024],
    scaling_factor: 0.13025,
    force_upcast: true,
    force_zeros_for_empty_prompt: true,
    ..SD1
};

/// The table of families: everything that is not read from a single file itself stands here.
fn published(family: Family) -> Option<Published> {
    Some(match family {
        Family::Sd1 | Family::Sd1Inpainting => SD1,
        Family::Sd1Lcm => Published { scheduler: "LCMScheduler", ..SD1 },
        Family::Sd2Base | Family::Sd2Inpainting | Family::Sd2Depth => SD2,
        Family::Sd2V => Published { sample_size: [96, 512], ..SD2 },
        Family::X4Upscaler => Published {
            betas: [0.0001, 0.02],
            sample_size: [128, 512],
            scaling_factor: 0.08333,
            force_upcast: true,
            ..SD2
        },
        Family::Sdxl | Family::SdxlInpainting => SDXL,
        Family::SdxlRefiner => Published { force_zeros_for_empty_prompt: false, ..SDXL },
        _ => return None,
    })
}

/// What a single file says of how its U-Net is to be sampled.
pub(super) struct Sampled {
    pub prediction: Prediction,
    /// Trained to zero terminal SNR.
    pub zero_terminal_snr: bool,
    /// Told the guidance scale, as a latent consistency model is.
    pub distilled: bool,
}

/// The schedulers' configurations that the published folder of a family has, with their names there.
pub(super) fn schedulers(family: Family, sampled: &Sampled) -> Vec<(&'static str, Value)> {
    let Some(Published { scheduler: class, betas, .. }) = published(family) else {
        return Vec::new();
    };
    let class = match sampled {
        Sampled { distilled: true, .. } => "LCMScheduler",
        // PNDM has no zero SNR: it divides by the signal.
        Sampled { zero_terminal_snr: true, .. } if class == "PNDMScheduler" => "DDIMScheduler",
        _ => class,
    };
    let mut first = scheduler(class, sampled.prediction, betas);
    if sampled.zero_terminal_snr {
        first["rescale_betas_zero_snr"] = json!(true);
    }
    let mut all = vec![("scheduler", first)];
    if family == Family::X4Upscaler {
        // Of the noise on the low-resolution picture.
        all.push(("low_res_scheduler", scheduler("DDPMScheduler", Prediction::Epsilon, betas)));
    }
    all
}

fn scheduler(class_name: &str, prediction: Prediction, [start, end]: [f64; 2]) -> Value {
    json!({
        "_class_name": class_name,
        "beta_end": end,
        "beta_schedule": "scaled_linear",
        "beta_start": start,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    })
}

/// What the published networks of a family have in their configurations and shapes do not say: network, key, value.
pub(super) fn constants(family: Family) -> Vec<(&'static str, &'static str, Value)> {
    let Some(published) = published(family) else { return Vec::new() };
    let [cells, pixels] = published.sample_size;
    vec![
        ("unet", "sample_size", json!(cells)),
        ("vae", "sample_size", json!(pixels)),
        ("vae", "scaling_factor", json!(published.scaling_factor)),
        ("vae", "force_upcast", json!(published.force_upcast)),
    ]
}

/// Whether the autoencoder of a folder that does not say it overflows in f16: where diffusers' pipeline of the family
/// asks, its class says yes.
pub(super) fn force_upcast(family: Family) -> bool {
    published(family).is_some_and(|published| published.force_upcast)
}

/// What the published `model_index.json` of a family says of drawing.
pub(super) fn model_index(family: Family) -> Map<String, Value> {
    let zeros = published(family).is_some_and(|published| published.force_zeros_for_empty_prompt);
    let key = "force_zeros_for_empty_prompt".to_owned();
    if zeros { Map::from_iter([(key, json!(true))]) } else { Map::new() }
}
