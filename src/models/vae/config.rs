//! `vae/config.json`: what an autoencoder is built from.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tch::Kind;

use crate::models::layers::PerLevel;
use crate::short::Few;
use crate::tensor_file::json::truth;
use crate::{Error, Result};

/// `vae/config.json`. A key that the file lacks has diffusers' default, and null is Python's None: false, for a switch.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are diffusers' own")]
pub struct VaeConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub latent_channels: i64,
    pub block_out_channels: Vec<i64>,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub layers_per_block: i64,
    pub norm_num_groups: i64,
    pub act_fn: String,
    /// The side of the pictures that it was trained on.
    #[serde(deserialize_with = "first_side")]
    pub sample_size: i64,
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    #[serde(deserialize_with = "truth")]
    pub use_quant_conv: bool,
    #[serde(deserialize_with = "truth")]
    pub use_post_quant_conv: bool,
    #[serde(deserialize_with = "truth")]
    pub mid_block_add_attention: bool,
    /// The activations overflow in f16 (SDXL): f32 is used instead, see [`VaeConfig::kind`].
    #[serde(deserialize_with = "truth")]
    pub force_upcast: bool,
    /// The mean that some later models subtract from the latents: not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latents_mean: Option<Vec<f64>>,
}

/// diffusers' defaults, but for `force_upcast`: the pipelines that read it are told of it where a checkpoint is opened.
impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            layers_per_block: 1,
            norm_num_groups: 32,
            act_fn: "silu".into(),
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            force_upcast: false,
            latents_mean: None,
        }
    }
}

impl fmt::Debug for VaeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaeConfig")
            .field("latent_channels", &self.latent_channels)
            .field("block_out_channels", &Few(&self.block_out_channels))
            .field("layers_per_block", &self.layers_per_block)
            .field("sample_size", &self.sample_size)
            .field("scaling_factor", &self.scaling_factor)
            .finish_non_exhaustive()
    }
}

/// diffusers writes one side, or height and width, of which it reads the first.
fn first_side<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<i64, D::Error> {
    match PerLevel::deserialize(from)? {
        PerLevel::One(side) => Ok(side),
        PerLevel::Each(sides) => {
            sides.first().copied().ok_or_else(|| D::Error::custom("expected a size, got none"))
        }
    }
}

impl VaeConfig {
    /// Pixels per latent cell along one side: 8 for Stable Diffusion.
    pub fn factor(&self) -> i64 {
        // An autoencoder has at most 8 levels; this may be asked of a configuration that nobody checked.
        1 << (self.block_out_channels.len().saturating_sub(1)).min(62)
    }

    /// The dtype to compute in when `kind` is asked for: f32 instead of f16 if that overflows (`force_upcast`).
    pub fn kind(&self, kind: Kind) -> Kind {
        if kind == Kind::Half && self.force_upcast { Kind::Float } else { kind }
    }

    pub(super) fn check(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 8 {
            return Err(Error::argument("block_out_channels", "1 to 8 levels", levels));
        }
        let counts = [
            ("in_channels", self.in_channels, 1 << 14),
            ("out_channels", self.out_channels, 1 << 14),
            ("latent_channels", self.latent_channels, 1 << 14),
            ("layers_per_block", self.layers_per_block, 64),
            ("norm_num_groups", self.norm_num_groups, 1 << 14),
            ("sample_size", self.sample_size, 1 << 16),
        ];
        for (name, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(Error::argument(name, format!("a count from 1 to {most}"), value));
            }
        }
        for &width in &self.block_out_channels {
            if !(1..=1 << 14).contains(&width) || width % self.norm_num_groups != 0 {
                let expected = format!("multiples of norm_num_groups {}", self.norm_num_groups);
                return Err(Error::argument("block_out_channels", expected, width));
            }
        }
        let only = |name: &str, types: &[String], known: &str| match types
            .iter()
            .find(|t| t.as_str() != known)
        {
            None if types.len() == levels => Ok(()),
            None => {
                let expected = format!("{levels} of them, as many as block_out_channels");
                Err(Error::argument(name, expected, types.len()))
            }
            Some(other) => Err(Error::argument(name, known, other)),
        };
        only("down_block_types", &self.down_block_types, "DownEncoderBlock2D")?;
        only("up_block_types", &self.up_block_types, "UpDecoderBlock2D")?;
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(Error::argument("act_fn", "silu", &self.act_fn));
        }
        if let Some(mean) = &self.latents_mean {
            let todo = "this autoencoder is of another family";
            return Err(Error::argument("latents_mean", "null", format!("{mean:?}")).hint(todo));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.) {
            return Err(Error::argument("scaling_factor", "above 0", self.scaling_factor));
        }
        Ok(())
    }
}
