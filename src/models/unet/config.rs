//! `unet/config.json`: what a U-Net is built from.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::models::layers::PerLevel;
use crate::short::Few;
use crate::tensor_file::json::truth;
use crate::{Error, Result};

/// The numbers in SDXL's `time_ids`: height and width of the original, the crop's corner, height and width of the target.
pub(super) const SIZES: i64 = 6;

/// `unet/config.json`. A key that the file lacks has diffusers' default, and null is Python's None: false, for a switch.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are diffusers' own")]
pub struct UNetConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub block_out_channels: Vec<i64>,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub layers_per_block: PerLevel,
    pub cross_attention_dim: i64,
    /// The number of heads, despite the name.
    pub attention_head_dim: PerLevel,
    pub transformer_layers_per_block: PerLevel,
    pub norm_num_groups: i64,
    pub norm_eps: f64,
    pub act_fn: String,
    #[serde(deserialize_with = "truth")]
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    /// Linear layers around the transformer blocks (SD 2.x) instead of 1x1 convolutions (SD 1.x).
    #[serde(deserialize_with = "truth")]
    pub use_linear_projection: bool,
    /// Attention in f32 whatever the dtype.
    #[serde(deserialize_with = "truth")]
    pub upcast_attention: bool,
    /// Levels whose first attention also attends to the context, instead of to the picture (x4 upscaler).
    pub only_cross_attention: PerLevel<bool>,
    /// The same for the middle block; without it, `only_cross_attention` if that is a single value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid_block_only_cross_attention: Option<bool>,
    /// The number of class labels: the noise levels of the x4 upscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_class_embeds: Option<i64>,
    /// `text_time` in SDXL: a pooled text embedding and the picture's sizes are added to the timestep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_embed_type: Option<String>,
    /// The width of the embedding of each of SDXL's six sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_time_embed_dim: Option<i64>,
    /// The width of the pooled text embedding and of all six sizes' embeddings together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_class_embeddings_input_dim: Option<i64>,
    /// The width of the guidance scale's embedding in a network distilled to a consistency model (LCM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_cond_proj_dim: Option<i64>,
    /// The side of the latents that it was trained on; `None` if height and width differ.
    #[serde(deserialize_with = "one_side")]
    pub sample_size: Option<i64>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

/// diffusers' defaults.
impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            up_block_types: ["UpBlock2D"]
                .into_iter()
                .chain(["CrossAttnUpBlock2D"; 3])
                .map(String::from)
                .collect(),
            sample_size: None,
            ..Self::narrow(&[320, 640, 1280, 1280], &[true, true, true, false], 2, 8, 1280, 64)
        }
    }
}

impl fmt::Debug for UNetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UNetConfig")
            .field("in_channels", &self.in_channels)
            .field("out_channels", &self.out_channels)
            .field("block_out_channels", &Few(&self.block_out_channels))
            .field("layers_per_block", &self.layers_per_block)
            .field("cross_attention_dim", &self.cross_attention_dim)
            .field("sample_size", &self.sample_size)
            .finish_non_exhaustive()
    }
}

/// diffusers writes one side, or height and width.
fn one_side<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<i64>, D::Error> {
    Ok(match Option::<PerLevel>::deserialize(from)? {
        Some(PerLevel::One(side)) => Some(side),
        Some(PerLevel::Each(sides)) => {
            sides.first().copied().filter(|a| sides.iter().all(|b| a == b))
        }
        None => None,
    })
}

/// What other families of U-Nets switch on. Any other value than these would make it another network.
const UNSUPPORTED: [(&str, &str); 22] = [
    ("class_embeddings_concat", "false"),
    ("cross_attention_norm", "null"),
    ("resnet_out_scale_factor", "1"),
    ("resnet_skip_time_act", "false"),
    ("reverse_transformer_layers_per_block", "null"),
    ("time_embedding_act_fn", "null"),
    ("time_embedding_dim", "null"),
    ("timestep_post_act", "null"),
    ("center_input_sample", "false"),
    ("downsample_padding", "1"),
    ("mid_block_scale_factor", "1"),
    ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
    ("dual_cross_attention", "false"),
    ("num_attention_heads", "null"),
    ("class_embed_type", "null"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("resnet_time_scale_shift", "\"default\""),
    ("time_embedding_type", "\"positional\""),
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("attention_type", "\"default\""),
];

/// One level of the U-Net: what is computed at one resolution.
pub(super) struct Level {
    pub width: i64,
    pub resnets: i64,
    pub heads: i64,
    pub transformers: i64,
    /// Whether it has transformers on the way down.
    pub attends_down: bool,
    /// Whether it has transformers on the way up.
    pub attends_up: bool,
    /// Whether the first attention of its transformers attends to the context as well.
    pub only_cross: bool,
}

/// The widths of SDXL's extra conditions.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextTime {
    /// Of the pooled text embedding.
    pub pooled: i64,
    /// Of each size's embedding.
    pub each_size: i64,
}

impl UNetConfig {
    /// Stable Diffusion 1.x's network at other widths: `attends` says which levels have transformers.
    pub fn narrow(
        widths: &[i64],
        attends: &[bool],
        layers: i64,
        heads: i64,
        cross_attention_dim: i64,
        sample_size: i64,
    ) -> Self {
        let types = |with: &str, without: &str| -> Vec<String> {
            attends.iter().map(|&a| if a { with } else { without }.to_owned()).collect()
        };
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: widths.to_vec(),
            down_block_types: types("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types: types("CrossAttnUpBlock2D", "UpBlock2D").into_iter().rev().collect(),
            layers_per_block: PerLevel::One(layers),
            cross_attention_dim,
            attention_head_dim: PerLevel::One(heads),
            transformer_layers_per_block: PerLevel::One(1),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            act_fn: "silu".into(),
            flip_sin_to_cos: true,
            freq_shift: 0.,
            use_linear_projection: false,
            upcast_attention: false,
            only_cross_attention: PerLevel::One(false),
            mid_block_only_cross_attention: None,
            num_class_embeds: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_cond_proj_dim: None,
            sample_size: Some(sample_size),
            others: serde_json::Map::new(),
        }
    }

    /// Whether the middle block's first attention attends to the context as well.
    pub(super) fn mid_only_cross(&self) -> bool {
        let of_all = matches!(self.only_cross_attention, PerLevel::One(true));
        self.mid_block_only_cross_attention.unwrap_or(of_all)
    }

    /// What SDXL adds to the timestep's embedding; `None` for other families.
    pub(super) fn text_time(&self) -> Result<Option<TextTime>> {
        match self.addition_embed_type.as_deref() {
            None => return Ok(None),
            Some("text_time") => (),
            Some(other) => {
                let todo = "this U-Net is of another family";
                return Err(
                    Error::argument("addition_embed_type", "text_time or null", other).hint(todo)
                );
            }
        }
        let count = |name: &str, value: Option<i64>| {
            let got = value.map_or("none".to_owned(), |n| n.to_string());
            let known = value.filter(|n| (1..=1 << 16).contains(n));
            known.ok_or_else(|| Error::argument(name, "a width of 1 or more", got))
        };
        let each_size = count("addition_time_embed_dim", self.addition_time_embed_dim)?;
        let name = "projection_class_embeddings_input_dim";
        let both = count(name, self.projection_class_embeddings_input_dim)?;
        let pooled = both - SIZES * each_size;
        if pooled < 1 {
            let expected = format!("more than {SIZES} times addition_time_embed_dim {each_size}");
            return Err(Error::argument(name, expected, both));
        }
        Ok(Some(TextTime { pooled, each_size }))
    }

    /// The levels, from the outermost in.
    pub(super) fn levels(&self) -> Result<Vec<Level>> {
        let count = self.block_out_channels.len();
        if count == 0 || count > 8 {
            return Err(Error::argument("block_out_channels", "1 to 8 levels", count));
        }
        self.check_family()?;
        let only_cross = self.only_cross_attention.levels(count).ok_or_else(|| {
            let expected = format!("true, false or a list of {count}");
            let got = format!("{:?}", self.only_cross_attention);
            Error::argument("only_cross_attention", expected, got)
        })?;
        let per_level = |name: &str, value: &PerLevel, most: i64| {
            let all = value.levels(count).filter(|all| all.iter().all(|n| (1..=most).contains(n)));
            let expected = format!("a count from 1 to {most}, or a list of {count}");
            all.ok_or_else(|| Error::argument(name, expected, format!("{value:?}")))
        };
        let heads = per_level("attention_head_dim", &self.attention_head_dim, 4096)?;
        let resnets = per_level("layers_per_block", &self.layers_per_block, 64)?;
        let transformers =
            per_level("transformer_layers_per_block", &self.transformer_layers_per_block, 64)?;
        self.check_counts()?;
        let level = |i: usize| {
            Ok(Level {
                width: self.width(i, heads[i])?,
                resnets: resnets[i],
                heads: heads[i],
                transformers: transformers[i],
                attends_down: self.attends_down(i)?,
                attends_up: self.attends_up(i)?,
                only_cross: only_cross[i],
            })
        };
        (0..count).map(level).collect()
    }

    /// Refuses what would make it another network.
    fn check_family(&self) -> Result<()> {
        for (name, known) in UNSUPPORTED {
            let Some(got) = self.others.get(name) else { continue };
            let same_number =
                matches!((got.as_f64(), known.parse::<f64>()), (Some(a), Ok(b)) if a == b);
            let text = got.to_string();
            let off = got.is_null() && known == "false";
            if text != known && !same_number && !off {
                return Err(
                    Error::argument(name, known, text).hint("this U-Net is of another family")
                );
            }
        }
        match self.act_fn.as_str() {
            "silu" | "swish" => Ok(()),
            other => Err(Error::argument("act_fn", "silu", other)),
        }
    }

    fn check_counts(&self) -> Result<()> {
        for (name, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("cross_attention_dim", self.cross_attention_dim),
            ("norm_num_groups", self.norm_num_groups),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1)),
            ("time_cond_proj_dim", self.time_cond_proj_dim.unwrap_or(1)),
            ("sample_size", self.sample_size.unwrap_or(1)),
        ] {
            if !(1..=1 << 14).contains(&value) {
                let expected = format!("a count from 1 to {}", 1 << 14);
                return Err(Error::argument(name, expected, value));
            }
        }
        // The divisor of the sinusoids' frequencies.
        let half = (self.block_out_channels[0] / 2) as f64;
        if !self.freq_shift.is_finite() || (self.freq_shift == half && half > 0.) {
            let expected = format!("a number other than {half}, half of the first level's width");
            return Err(Error::argument("freq_shift", expected, self.freq_shift));
        }
        Ok(())
    }

    /// The width of a level, which its groups and its heads must divide.
    fn width(&self, level: usize, heads: i64) -> Result<i64> {
        let (width, groups) = (self.block_out_channels[level], self.norm_num_groups);
        if !(1..=1 << 14).contains(&width) || width % groups != 0 || width % heads != 0 {
            let expected = format!("multiples of norm_num_groups {groups} and of {heads} heads");
            return Err(Error::argument("block_out_channels", expected, width));
        }
        Ok(width)
    }

    fn attends_down(&self, level: usize) -> Result<bool> {
        let (types, known) = (&self.down_block_types, ["DownBlock2D", "CrossAttnDownBlock2D"]);
        self.attends("down_block_types", types, level, known)
    }

    /// The types of the way up are listed from the innermost level out.
    fn attends_up(&self, level: usize) -> Result<bool> {
        let (types, known) = (&self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"]);
        self.attends("up_block_types", types, self.block_out_channels.len() - 1 - level, known)
    }

    fn attends(&self, name: &str, types: &[String], i: usize, known: [&str; 2]) -> Result<bool> {
        let (count, [without, with]) = (self.block_out_channels.len(), known);
        match types.get(i) {
            _ if types.len() != count => {
                Err(Error::argument(name, format!("{count} of them"), types.len()))
            }
            Some(t) if t == with => Ok(true),
            Some(t) if t == without => Ok(false),
            other => {
                Err(Error::argument(name, format!("{with} or {without}"), format!("{other:?}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published, with unset options written as null.
    const SDXL: &str = r#"{
        "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048, "norm_num_groups": 32, "norm_eps": 1e-05, "sample_size": 128,
        "use_linear_projection": true, "upcast_attention": null, "num_attention_heads": null,
        "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        "num_class_embeds": null, "time_cond_proj_dim": null, "only_cross_attention": false,
        "mid_block_only_cross_attention": null, "encoder_hid_dim_type": null
    }"#;

    #[test]
    fn published_configurations() -> Result<()> {
        let read = |text: &str| serde_json::from_str::<UNetConfig>(text).unwrap();
        let sdxl = read(SDXL);
        let levels = sdxl.levels()?;
        let of = |of: fn(&Level) -> i64| levels.iter().map(of).collect::<Vec<_>>();
        assert_eq!(of(|level| level.width / level.heads), [64; 3]);
        assert_eq!(of(|level| level.transformers), [1, 2, 10]);
        let attends = |i: usize| (levels[i].attends_down, levels[i].attends_up);
        assert_eq!((attends(0), attends(2)), ((false, false), (true, true)));
        assert_eq!(sdxl.text_time()?.map(|wide| (wide.pooled, wide.each_size)), Some((1280, 256)));
        let upscaler = read(
            &SDXL
                .replace(
                    "\"only_cross_attention\": false",
                    "\"only_cross_attention\": [true, true, false]",
                )
                .replace("\"text_time\"", "null"),
        );
        let only: Vec<bool> = upscaler.levels()?.iter().map(|level| level.only_cross).collect();
        assert_eq!((only, upscaler.mid_only_cross()), (vec![true, true, false], false));
        assert!(upscaler.text_time()?.is_none());
        for (from, to, said) in [
            (
                "\"text_time\"",
                "\"image\"",
                "addition_embed_type: expected text_time or null, got image",
            ),
            ("2816", "1536", "projection_class_embeddings_input_dim: expected more than 6 times"),
            (
                "\"encoder_hid_dim_type\": null",
                "\"encoder_hid_dim_type\": \"text_proj\"",
                "encoder_hid_dim_type",
            ),
            (
                "\"only_cross_attention\": false",
                "\"only_cross_attention\": [true]",
                "only_cross_attention",
            ),
            ("\"num_class_embeds\": null", "\"num_class_embeds\": 0", "num_class_embeds"),
        ] {
            let config = read(&SDXL.replace(from, to));
            let error = config.levels().err().or(config.text_time().err()).map(|e| e.to_string());
            assert!(error.as_ref().is_some_and(|e| e.starts_with(said)), "{said}: {error:?}");
        }
        Ok(())
    }
}
