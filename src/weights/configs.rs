//! Configurations of networks that came without one: read from the shapes of their tensors.
//!
//! What shapes do not say (heads, groups, epsilons, scaling factors) is as Stability's and CompVis's published
//! configurations have it.

use serde_json::{Value, json};

use super::Weights;

/// What all published Stable Diffusions have.
const GROUPS: i64 = 32;
/// Channels of an attention head in CLIP, and in the U-Nets of SD 2.x and SDXL.
const HEAD: i64 = 64;

fn dim(weights: &Weights, name: &str, axis: usize) -> Option<i64> {
    weights.shape(name)?.get(axis).copied()
}

/// The same value for all levels is one value.
fn per_level(values: &[i64]) -> Value {
    match values {
        [first, rest @ ..] if rest.iter().all(|n| n == first) => json!(first),
        _ => json!(values),
    }
}

/// The width of the context that a U-Net attends to.
pub(super) fn context_width(weights: &Weights) -> Option<i64> {
    let name = weights.names().find(|name| name.ends_with(".attn2.to_k.weight"))?;
    dim(weights, name, 1)
}

/// A U-Net's `config.json`, or `None` where the tensors are none of a U-Net's.
pub(super) fn unet(weights: &Weights) -> Option<Value> {
    let levels = weights.count("down_blocks");
    let conv = |i: usize| format!("down_blocks.{i}.resnets.0.conv1.weight");
    let widths: Vec<i64> = (0..levels).map(|i| dim(weights, &conv(i), 0)).collect::<Option<_>>()?;
    let (down, up) = (|i: usize| format!("down_blocks.{i}"), |i: usize| format!("up_blocks.{i}"));
    let attends = |block: String| weights.has(&format!("{block}.attentions."));
    let types = |side: &dyn Fn(usize) -> String, with: &str, without: &str| -> Vec<String> {
        (0..levels).map(|i| if attends(side(i)) { with } else { without }.to_owned()).collect()
    };
    let resnets: Vec<i64> =
        (0..levels).map(|i| weights.count(&format!("{}.resnets", down(i))) as i64).collect();
    let blocks =
        |block: &str| weights.count(&format!("{block}.attentions.0.transformer_blocks")) as i64;
    let transformers: Vec<i64> = (0..levels)
        .map(|i| {
            let mid = if i + 1 == levels { blocks("mid_block") } else { 0 };
            let all = [blocks(&down(i)), blocks(&up(levels - 1 - i)), mid];
            all.into_iter().find(|&n| n > 0).unwrap_or(1)
        })
        .collect();
    let linear = weights
        .names()
        .find(|name| name.ends_with(".proj_in.weight"))
        .and_then(|name| weights.shape(name))
        .is_some_and(|shape| shape.len() == 2);
    let context = context_width(weights)?;
    // The x4 upscaler's first attention looks at the text too.
    let only_cross: Vec<bool> = (0..levels)
        .map(|i| {
            let keys = format!("{}.attentions.0.transformer_blocks.0.attn1.to_k.weight", down(i));
            dim(weights, &keys, 1).is_none_or(|keys| keys == context && keys != widths[i])
        })
        .collect();
    let classes = dim(weights, "class_embedding.weight", 0);
    let pooled = dim(weights, "add_embedding.linear_1.weight", 1);
    let projected = dim(weights, "class_embedding.linear_1.weight", 1);
    let heads: Vec<i64> = match linear && classes.is_none() {
        true => widths.iter().map(|width| (width / HEAD).max(1)).collect(),
        false => vec![8; levels],
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": per_level(&heads),
        "block_out_channels": widths,
        "cross_attention_dim": context,
        "down_block_types": types(&down, "CrossAttnDownBlock2D", "DownBlock2D"),
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": dim(weights, "conv_in.weight", 1)?,
        "layers_per_block": per_level(&resnets),
        "norm_eps": 1e-5,
        "norm_num_groups": GROUPS,
        "out_channels": dim(weights, "conv_out.weight", 0)?,
        "sample_size": 64,
        "transformer_layers_per_block": per_level(&transformers),
        "up_block_types": types(&up, "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": linear,
    });
    if let Some(classes) = classes {
        config["num_class_embeds"] = json!(classes);
        config["only_cross_attention"] = json!(only_cross);
        config["sample_size"] = json!(128);
    }
    if let Some(width) = pooled {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(width);
        config["sample_size"] = json!(128);
    } else if linear {
        // SD 2.x's attention overflows in f16; in f32 this changes nothing.
        config["upcast_attention"] = json!(true);
    }
    if let Some(width) = projected {
        config["class_embed_type"] = json!("projection");
        config["projection_class_embeddings_input_dim"] = json!(width);
    }
    if let Some(width) = dim(weights, "time_embedding.cond_proj.weight", 1) {
        config["time_cond_proj_dim"] = json!(width);
    }
    Some(config)
}

/// A VAE's `config.json`; the scaling factor is SD 1.x's and 2.x's.
pub(super) fn vae(weights: &Weights) -> Option<Value> {
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

/// A text encoder's `config.json`; `open_clip`: it was trained with exact gelu.
pub(super) fn text_encoder(weights: &Weights, open_clip: bool) -> Option<Value> {
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

/// `scheduler_config.json` of SD 1.x, 2.x and SDXL.
pub(super) fn scheduler(class_name: &str, prediction: &Value) -> Value {
    json!({
        "_class_name": class_name,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    })
}

/// The x4 upscaler's schedules, of its latents and of the noise on its low-resolution picture.
pub(super) fn upscaler_scheduler(class_name: &str, prediction: &Value) -> Value {
    let mut config = scheduler(class_name, prediction);
    config["beta_start"] = json!(0.0001);
    config["beta_end"] = json!(0.02);
    config
}
