//! The keys of single files: CompVis's latent-diffusion names, translated to diffusers' names and back.
//!
//! Both name the same tensors. latent-diffusion numbers a U-Net's blocks in one row, where diffusers has levels; its
//! VAE's decoder counts levels from the picture, where diffusers counts from the latents; OpenCLIP keeps queries, keys
//! and values in one tensor. How many levels and layers there are is read from the keys.

use std::collections::{BTreeMap, BTreeSet};

use crate::tensor_file::{TensorPart, common_prefix};

/// What a key of a single file stands for.
#[derive(Debug, PartialEq)]
pub(super) enum Translation {
    /// These tensors of the network with this name.
    Tensors(&'static str, Vec<(String, TensorPart)>),
    /// Something known that no network needs, for this reason.
    NotNeeded(&'static str),
    /// Nothing known.
    Unknown,
}

/// How the keys below a prefix are written.
#[derive(Clone, Copy)]
enum KeyScheme {
    UNet,
    Vae,
    /// As transformers writes them.
    Clip,
    OpenClip {
        /// Whether the last layer is left out: SD 2.x uses the output of the penultimate one.
        penultimate: bool,
    },
    /// As diffusers writes them.
    Diffusers,
}

/// The networks of a whole single file: prefix, network, scheme.
const SCOPES: [(&str, &str, KeyScheme); 8] = [
    ("model.diffusion_model.", "unet", KeyScheme::UNet),
    ("diffusion_model.", "unet", KeyScheme::UNet),
    ("first_stage_model.", "vae", KeyScheme::Vae),
    ("cond_stage_model.transformer.", "text_encoder", KeyScheme::Clip),
    ("cond_stage_model.model.", "text_encoder", KeyScheme::OpenClip { penultimate: true }),
    ("conditioner.embedders.0.transformer.", "text_encoder", KeyScheme::Clip),
    (
        "conditioner.embedders.0.model.",
        "text_encoder_2",
        KeyScheme::OpenClip { penultimate: false },
    ),
    (
        "conditioner.embedders.1.model.",
        "text_encoder_2",
        KeyScheme::OpenClip { penultimate: false },
    ),
];

/// A file of one network: how a key begins that only this network has.
const ALONE: [(&str, &str, KeyScheme); 6] = [
    ("input_blocks.", "unet", KeyScheme::UNet),
    ("decoder.up.", "vae", KeyScheme::Vae),
    ("down_blocks.", "unet", KeyScheme::Diffusers),
    ("decoder.up_blocks.", "vae", KeyScheme::Diffusers),
    ("text_model.", "text_encoder", KeyScheme::Clip),
    ("embeddings.token_embedding.", "text_encoder", KeyScheme::Clip),
];

const EMA: &str = "weights averaged in training (EMA); the plain ones are used";
const SCHEDULE: &str = "the noise schedule of training, which the scheduler's configuration gives";
const LOSS: &str = "the loss of training";
const HEAD: &str = "CLIP's head, which compares texts with pictures";
const LAST_LAYER: &str =
    "the text encoder's last layer: SD 2.x uses the output of the penultimate one";

/// Keys of no network, by how they begin, with what they are.
const LEFTOVERS: [(&str, &str); 21] = [
    ("model_ema.", EMA),
    ("betas", SCHEDULE),
    ("alphas_cumprod", SCHEDULE),
    ("sqrt_alphas_cumprod", SCHEDULE),
    ("sqrt_one_minus_alphas_cumprod", SCHEDULE),
    ("log_one_minus_alphas_cumprod", SCHEDULE),
    ("sqrt_recip", SCHEDULE),
    ("posterior_", SCHEDULE),
    ("logvar", SCHEDULE),
    ("lvlb_weights", SCHEDULE),
    ("denoiser.sigmas", SCHEDULE),
    ("low_scale_model.", SCHEDULE),
    ("loss.", LOSS),
    ("first_stage_model.loss.", LOSS),
    ("depth_model.", "the network that estimates depth; the user gives the depth map"),
    ("cond_stage_model.logit_scale", HEAD),
    ("cond_stage_model.text_projection", HEAD),
    ("conditioner.embedders.0.logit_scale", HEAD),
    ("conditioner.embedders.0.text_projection", HEAD),
    ("v_pred", "a marker: the model predicts v"),
    ("ztsnr", "a marker: trained to zero terminal SNR"),
];

/// What all names begin with, where they are those of a network only without it; empty elsewhere.
pub(super) fn foreign_prefix<'a>(names: &[&'a str]) -> &'a str {
    // Markers and schedules stand beside a network.
    let leftover = |name: &&str| LEFTOVERS.iter().any(|(start, _)| name.starts_with(start));
    let names: Vec<&'a str> = names.iter().copied().filter(|name| !leftover(name)).collect();
    let known = |skipped: usize| {
        let mut starts = SCOPES.iter().chain(&ALONE).map(|(start, ..)| *start);
        starts.any(|start| names.iter().any(|name| name[skipped..].starts_with(start)))
    };
    let prefix = common_prefix(names.iter().copied());
    if !known(0) && known(prefix.len()) { prefix } else { "" }
}

/// Translates the keys of one file.
pub(super) struct KeyTranslator {
    scopes: Vec<(&'static str, &'static str, KeyScheme)>,
    unet: NumberedBlocks,
    up_levels: usize,
    /// The number of the last layer of OpenCLIP.
    last_layer: usize,
}

/// A U-Net's numbered blocks: the level of each, and its position in that level.
#[derive(Default)]
struct NumberedBlocks {
    inputs: BTreeMap<usize, (usize, usize)>,
    outputs: BTreeMap<usize, (usize, usize)>,
    /// Whether the label is a class or an image embedding (SD 2.x), and not SDXL's pooled text.
    classes: bool,
}

impl KeyTranslator {
    /// Works out how to translate a file from all of its keys; `context` is the width of the U-Net's context, if known.
    pub fn of<'a>(keys: impl Iterator<Item = &'a str> + Clone, context: Option<i64>) -> Self {
        let in_scope = |scope: &&(&str, _, _)| keys.clone().any(|key| key.starts_with(scope.0));
        let mut scopes: Vec<_> = SCOPES.iter().filter(in_scope).copied().collect();
        if scopes.is_empty() {
            let alone = ALONE.iter().find(in_scope);
            scopes.extend(alone.map(|&(_, network, keys)| ("", network, keys)));
        }
        let below = |prefix: Option<&'static str>| {
            let keys = keys.clone();
            prefix
                .into_iter()
                .flat_map(move |p| keys.clone().filter_map(move |k| k.strip_prefix(p)))
        };
        let prefix = |wanted: &str| {
            scopes.iter().find(|(_, network, _)| *network == wanted).map(|&(prefix, _, _)| prefix)
        };
        let open_clip =
            scopes.iter().filter(|(_, _, keys)| matches!(keys, KeyScheme::OpenClip { .. }));
        let layers = open_clip.flat_map(|&(prefix, _, _)| {
            below(Some(prefix)).filter_map(|key| index_after(key, "transformer.resblocks."))
        });
        Self {
            last_layer: layers.max().unwrap_or(0),
            up_levels: below(prefix("vae"))
                .filter_map(|key| index_after(key, "decoder.up."))
                .max()
                .map_or(0, |last| last + 1),
            unet: NumberedBlocks::of(below(prefix("unet")), context == Some(1024)),
            scopes,
        }
    }

    /// Whether any network has latent-diffusion's names.
    pub fn is_ldm(&self) -> bool {
        self.scopes.iter().any(|(prefix, _, keys)| {
            !prefix.is_empty() || matches!(keys, KeyScheme::UNet | KeyScheme::Vae)
        })
    }

    /// Whether a network of the file is a text encoder of OpenCLIP.
    pub fn is_open_clip(&self, network: &str) -> bool {
        self.scopes
            .iter()
            .any(|(_, of, keys)| *of == network && matches!(keys, KeyScheme::OpenClip { .. }))
    }

    /// What the key stands for.
    pub fn translate(&self, key: &str) -> Translation {
        if let Some(&(_, why)) = LEFTOVERS.iter().find(|(start, _)| key.starts_with(start)) {
            return Translation::NotNeeded(why);
        }
        for &(prefix, network, keys) in &self.scopes {
            let Some(name) = key.strip_prefix(prefix) else { continue };
            let parts: Vec<&str> = name.split('.').collect();
            let whole = |name: Option<String>| name.map(|name| vec![(name, TensorPart::Whole)]);
            let tensors = match keys {
                KeyScheme::UNet => whole(self.unet.name(&parts)),
                KeyScheme::Vae => whole(vae(&parts, self.up_levels)),
                KeyScheme::Diffusers => None,
                KeyScheme::Clip
                    if matches!(parts[..], ["logit_scale"] | ["text_projection", ..]) =>
                {
                    return Translation::NotNeeded(HEAD);
                }
                KeyScheme::Clip => None,
                KeyScheme::OpenClip { penultimate } => {
                    let last = self.last_layer.to_string();
                    match parts[..] {
                        ["transformer", "resblocks", layer, ..] if penultimate && layer == last => {
                            return Translation::NotNeeded(LAST_LAYER);
                        }
                        ["logit_scale"] | ["attn_mask"] => return Translation::NotNeeded(HEAD),
                        ["text_projection"] if penultimate => return Translation::NotNeeded(HEAD),
                        _ => open_clip(&parts),
                    }
                }
            };
            // A key that is not understood keeps its name: the network will report that it has no such tensor.
            let tensors = tensors.unwrap_or_else(|| vec![(name.to_owned(), TensorPart::Whole)]);
            return Translation::Tensors(network, tensors);
        }
        Translation::Unknown
    }
}

/// The number that follows `start`.
fn index_after(key: &str, start: &str) -> Option<usize> {
    index(key.strip_prefix(start)?.split('.').next()?)
}

/// A number of a block or layer; no network has a thousand of anything.
fn index(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&n| n < 1000)
}

impl NumberedBlocks {
    fn of<'a>(keys: impl Iterator<Item = &'a str>, classes: bool) -> Self {
        let (mut inputs, mut outputs) = (BTreeMap::new(), BTreeMap::new());
        let (mut ends_down, mut ends_up) = (BTreeSet::new(), BTreeSet::new());
        for key in keys {
            let parts: Vec<&str> = key.split('.').collect();
            match parts[..] {
                ["input_blocks", i, part, what, ..] => {
                    let Some(i) = index(i).filter(|&i| i > 0) else { continue };
                    inputs.entry(i).or_insert((0, 0));
                    if (part, what) == ("0", "op") {
                        ends_down.insert(i);
                    }
                }
                ["output_blocks", i, _, what, ..] => {
                    let Some(i) = index(i) else { continue };
                    outputs.entry(i).or_insert((0, 0));
                    if what == "conv" {
                        ends_up.insert(i);
                    }
                }
                _ => {}
            }
        }
        // A level ends with its downsampling block on the way down, and with the block that upsamples on the way up.
        for (places, ends) in [(&mut inputs, ends_down), (&mut outputs, ends_up)] {
            let (mut level, mut j) = (0, 0);
            for (i, place) in places {
                *place = (level, j);
                (level, j) = if ends.contains(i) { (level + 1, 0) } else { (level, j + 1) };
            }
        }
        Self { inputs, outputs, classes }
    }

    fn name(&self, parts: &[&str]) -> Option<String> {
        let place = |places: &BTreeMap<_, _>, i: &str| places.get(&index(i)?).copied();
        let label = if self.classes { "class_embedding" } else { "add_embedding" };
        Some(match parts {
            ["time_embed", "0", end] => format!("time_embedding.linear_1.{end}"),
            ["time_embed", "2", end] => format!("time_embedding.linear_2.{end}"),
            ["time_embed", "cond_proj", end] => format!("time_embedding.cond_proj.{end}"),
            ["label_emb", "0", "0", end] => format!("{label}.linear_1.{end}"),
            ["label_emb", "0", "2", end] => format!("{label}.linear_2.{end}"),
            ["label_emb", end] => format!("class_embedding.{end}"),
            ["input_blocks", "0", "0", end] => format!("conv_in.{end}"),
            ["out", "0", end] => format!("conv_norm_out.{end}"),
            ["out", "2", end] => format!("conv_out.{end}"),
            ["middle_block", "0", inner @ ..] => format!("mid_block.resnets.0.{}", resnet(inner)?),
            ["middle_block", "1", inner @ ..] => {
                format!("mid_block.attentions.0.{}", inner.join("."))
            }
            ["middle_block", "2", inner @ ..] => format!("mid_block.resnets.1.{}", resnet(inner)?),
            ["input_blocks", i, "0", "op", end] => {
                let (level, _) = place(&self.inputs, i)?;
                format!("down_blocks.{level}.downsamplers.0.conv.{end}")
            }
            ["input_blocks", i, "0", inner @ ..] => {
                let (level, j) = place(&self.inputs, i)?;
                format!("down_blocks.{level}.resnets.{j}.{}", resnet(inner)?)
            }
            ["input_blocks", i, "1", inner @ ..] => {
                let (level, j) = place(&self.inputs, i)?;
                format!("down_blocks.{level}.attentions.{j}.{}", inner.join("."))
            }
            ["output_blocks", i, "1" | "2", "conv", end] => {
                let (level, _) = place(&self.outputs, i)?;
                format!("up_blocks.{level}.upsamplers.0.conv.{end}")
            }
            ["output_blocks", i, "0", inner @ ..] => {
                let (level, j) = place(&self.outputs, i)?;
                format!("up_blocks.{level}.resnets.{j}.{}", resnet(inner)?)
            }
            ["output_blocks", i, "1", inner @ ..] => {
                let (level, j) = place(&self.outputs, i)?;
                format!("up_blocks.{level}.attentions.{j}.{}", inner.join("."))
            }
            _ => return None,
        })
    }
}

/// latent-diffusion's names of a U-Net's layers, from diffusers': the sizes of the levels give the blocks' numbers.
pub(super) struct LdmLayerNames {
    /// How many numbered blocks each level has on the way down, its downsampling included.
    down: Vec<usize>,
    /// How many numbered blocks each level has on the way up.
    up: Vec<usize>,
    /// The levels on the way up with attention: their upsampling comes third in its block.
    attends: BTreeSet<usize>,
}

impl LdmLayerNames {
    /// From the names of a U-Net's layers in diffusers.
    pub fn of<'a>(layers: impl Iterator<Item = &'a str>) -> Self {
        let (mut down, mut up, mut attends) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for layer in layers {
            let parts: Vec<&str> = layer.split('.').collect();
            if let ["up_blocks", level, "attentions", ..] = parts[..] {
                attends.extend(index(level));
            }
            let (side, count) = match parts[..] {
                ["down_blocks", _, "resnets", j, ..] => (&mut down, index(j).map(|j| j + 1)),
                // Downsampling has a block of its own; upsampling belongs to the last block of its level.
                ["down_blocks", _, "downsamplers", ..] => (&mut down, Some(0)),
                ["up_blocks", _, "resnets", j, ..] => (&mut up, index(j).map(|j| j + 1)),
                _ => continue,
            };
            let (Some(level), Some(count)) = (index(parts[1]), count) else { continue };
            let place: &mut (usize, usize) = side.entry(level).or_default();
            if count == 0 { place.1 = 1 } else { place.0 = place.0.max(count) }
        }
        let sizes = |side: BTreeMap<usize, (usize, usize)>| {
            side.into_values().map(|(resnets, samplers)| resnets + samplers).collect()
        };
        Self { down: sizes(down), up: sizes(up), attends }
    }

    /// latent-diffusion's name of a layer.
    pub fn name(&self, layer: &str) -> Option<String> {
        let before = |sizes: &[usize], level: &str| {
            let level = index(level)?;
            (level < sizes.len()).then(|| sizes.iter().take(level).sum::<usize>())
        };
        let parts: Vec<&str> = layer.split('.').collect();
        Some(match parts[..] {
            ["conv_in"] => "input_blocks.0.0".into(),
            ["conv_out"] => "out.2".into(),
            ["time_embedding", "linear_1"] => "time_embed.0".into(),
            ["time_embedding", "linear_2"] => "time_embed.2".into(),
            ["time_embedding", "cond_proj"] => "time_embed.cond_proj".into(),
            ["add_embedding" | "class_embedding", "linear_1"] => "label_emb.0.0".into(),
            ["add_embedding" | "class_embedding", "linear_2"] => "label_emb.0.2".into(),
            ["mid_block", "resnets", j, inner] => {
                format!("middle_block.{}.{}", 2 * index(j)?, resnet_layer(inner)?)
            }
            ["mid_block", "attentions", _, ref inner @ ..] => {
                format!("middle_block.1.{}", inner.join("."))
            }
            ["down_blocks", level, "downsamplers", "0", "conv"] => {
                let last = before(&self.down, level)? + self.down[index(level)?];
                format!("input_blocks.{last}.0.op")
            }
            ["down_blocks", level, "resnets", j, inner] => {
                let i = 1 + before(&self.down, level)? + index(j)?;
                format!("input_blocks.{i}.0.{}", resnet_layer(inner)?)
            }
            ["down_blocks", level, "attentions", j, ref inner @ ..] => {
                let i = 1 + before(&self.down, level)? + index(j)?;
                format!("input_blocks.{i}.1.{}", inner.join("."))
            }
            ["up_blocks", level, "resnets", j, inner] => {
                let i = before(&self.up, level)? + index(j)?;
                format!("output_blocks.{i}.0.{}", resnet_layer(inner)?)
            }
            ["up_blocks", level, "attentions", j, ref inner @ ..] => {
                let i = before(&self.up, level)? + index(j)?;
                format!("output_blocks.{i}.1.{}", inner.join("."))
            }
            ["up_blocks", level, "upsamplers", "0", "conv"] => {
                let last = before(&self.up, level)? + self.up[index(level)?] - 1;
                let attends = self.attends.contains(&index(level)?);
                format!("output_blocks.{last}.{}.conv", 1 + usize::from(attends))
            }
            _ => return None,
        })
    }
}

/// A layer of a U-Net's residual block in latent-diffusion's names: the inverse of [`resnet`].
fn resnet_layer(name: &str) -> Option<&'static str> {
    Some(match name {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}

/// A tensor of a U-Net's residual block in diffusers' names.
fn resnet(parts: &[&str]) -> Option<String> {
    Some(match parts {
        ["in_layers", "0", end] => format!("norm1.{end}"),
        ["in_layers", "2", end] => format!("conv1.{end}"),
        ["emb_layers", "1", end] => format!("time_emb_proj.{end}"),
        ["out_layers", "0", end] => format!("norm2.{end}"),
        ["out_layers", "3", end] => format!("conv2.{end}"),
        ["skip_connection", end] => format!("conv_shortcut.{end}"),
        _ => return None,
    })
}

/// A tensor of the VAE in diffusers' names.
fn vae(parts: &[&str], up_levels: usize) -> Option<String> {
    let layer = |name: &str| match name {
        "nin_shortcut" => "conv_shortcut".to_owned(),
        other => other.to_owned(),
    };
    let up = |i: &str| up_levels.checked_sub(1 + index(i)?);
    Some(match parts {
        ["encoder", "down", i, "block", j, name, end] => {
            format!("encoder.down_blocks.{i}.resnets.{j}.{}.{end}", layer(name))
        }
        ["encoder", "down", i, "downsample", "conv", end] => {
            format!("encoder.down_blocks.{i}.downsamplers.0.conv.{end}")
        }
        ["decoder", "up", i, "block", j, name, end] => {
            format!("decoder.up_blocks.{}.resnets.{j}.{}.{end}", up(i)?, layer(name))
        }
        ["decoder", "up", i, "upsample", "conv", end] => {
            format!("decoder.up_blocks.{}.upsamplers.0.conv.{end}", up(i)?)
        }
        [side, "mid", "block_1", name, end] => {
            format!("{side}.mid_block.resnets.0.{}.{end}", layer(name))
        }
        [side, "mid", "block_2", name, end] => {
            format!("{side}.mid_block.resnets.1.{}.{end}", layer(name))
        }
        [side, "mid", "attn_1", name, end] => {
            let name = match *name {
                "norm" => "group_norm",
                "q" => "to_q",
                "k" => "to_k",
                "v" => "to_v",
                "proj_out" => "to_out.0",
                _ => return None,
            };
            format!("{side}.mid_block.attentions.0.{name}.{end}")
        }
        [side, "norm_out", end] => format!("{side}.conv_norm_out.{end}"),
        _ => return None,
    })
}

/// The tensors of transformers' CLIP that one of OpenCLIP's holds.
fn open_clip(parts: &[&str]) -> Option<Vec<(String, TensorPart)>> {
    let one = |name: String| Some(vec![(name, TensorPart::Whole)]);
    match parts {
        ["positional_embedding"] => {
            one("text_model.embeddings.position_embedding.weight".to_owned())
        }
        ["token_embedding", end] => one(format!("text_model.embeddings.token_embedding.{end}")),
        ["ln_final", end] => one(format!("text_model.final_layer_norm.{end}")),
        ["text_projection"] => {
            Some(vec![("text_projection.weight".into(), TensorPart::Transposed)])
        }
        ["transformer", "resblocks", layer, inner @ ..] => {
            let layer = format!("text_model.encoder.layers.{}", index(layer)?);
            let name = match inner {
                ["ln_1", end] => format!("layer_norm1.{end}"),
                ["ln_2", end] => format!("layer_norm2.{end}"),
                ["mlp", "c_fc", end] => format!("mlp.fc1.{end}"),
                ["mlp", "c_proj", end] => format!("mlp.fc2.{end}"),
                ["attn", "out_proj", end] => format!("self_attn.out_proj.{end}"),
                ["attn", fused] => {
                    let end = fused.strip_prefix("in_proj_")?;
                    let third = |(i, name)| {
                        (format!("{layer}.self_attn.{name}.{end}"), TensorPart::Third(i))
                    };
                    return Some([(0, "q_proj"), (1, "k_proj"), (2, "v_proj")].map(third).into());
                }
                _ => return None,
            };
            one(format!("{layer}.{name}"))
        }
        _ => None,
    }
}
