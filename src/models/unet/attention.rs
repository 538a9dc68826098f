//! The U-Net's transformers: the picture attends to itself and to the text.

use std::cell::RefCell;
use std::fmt;

use tch::Tensor;

use super::config::{Level, UNetConfig};
use crate::models::layers::{
    Conv2d, GroupNorm, LayerNorm, Linear, attention, attention_weights, join_heads, rows_at_once,
    split_heads,
};
use crate::models::params::Params;

/// The attention probabilities of one layer, for every sample and head.
pub struct AttentionMap {
    /// The layer's name in the weights, such as `down_blocks.1.attentions.0.transformer_blocks.0.attn2`.
    pub layer: String,
    /// [B, heads, h * w, keys]: keys are the tokens (cross-attention) or the cells themselves.
    pub weights: Tensor,
    /// Height and width of the level, in cells.
    pub cells: (i64, i64),
    /// Whether the keys are the text's tokens (`attn2`) or the picture's cells (`attn1`). With
    /// `only_cross_attention` both attend to the text.
    pub cross: bool,
}

impl fmt::Debug for AttentionMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttentionMap {{ {}, weights: {:?} }}", self.layer, self.weights.size())
    }
}

/// Where attention layers put their maps, if they were asked for.
pub(super) type Probe = Option<AttentionProbe>;

/// The maps of one pass.
#[derive(Default)]
pub(super) struct AttentionProbe {
    pub maps: RefCell<Vec<AttentionMap>>,
    /// Whether the picture's attention to itself is left out: it takes the square of the cells.
    pub cross_only: bool,
}

/// Attention with queries from the picture, and keys from the picture or from the text.
struct UNetAttention {
    name: String,
    heads: i64,
    upcast: bool,
    cross: bool,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl UNetAttention {
    fn new(params: &Params, width: i64, context: Option<i64>, heads: i64, upcast: bool) -> Self {
        let keys = context.unwrap_or(width);
        Self {
            name: params.name().to_owned(),
            heads,
            upcast,
            cross: context.is_some(),
            to_q: Linear::no_bias(&(params / "to_q"), width, width),
            to_k: Linear::no_bias(&(params / "to_k"), keys, width),
            to_v: Linear::no_bias(&(params / "to_v"), keys, width),
            to_out: Linear::new(&(params / "to_out" / 0), width, width),
        }
    }

    fn forward(&self, x: &Tensor, keys: &Tensor, cells: (i64, i64), probe: &Probe) -> Tensor {
        let q = split_heads(&self.to_q.forward(x), self.heads);
        let of_keys = |to: &Linear| if self.cross { to.once(keys) } else { to.forward(keys) };
        let k = split_heads(&of_keys(&self.to_k), self.heads);
        let v = split_heads(&of_keys(&self.to_v), self.heads);
        if let Some(probe) = probe.as_ref().filter(|probe| self.cross || !probe.cross_only) {
            let weights = attention_weights(&q, &k);
            let layer = self.name.clone();
            probe.maps.borrow_mut().push(AttentionMap { layer, weights, cells, cross: self.cross });
        }
        self.to_out.forward(&join_heads(&attention(&q, &k, &v, false, self.upcast)))
    }
}

/// Self-attention, cross-attention, feed-forward. With `only_cross` the first is cross-attention as well.
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: UNetAttention,
    norm2: LayerNorm,
    attn2: UNetAttention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn new(params: &Params, level: &Level, only_cross: bool, config: &UNetConfig) -> Self {
        let (width, heads) = (level.width, level.heads);
        let (context, upcast) = (Some(config.cross_attention_dim), config.upcast_attention);
        let first = context.filter(|_| only_cross);
        let ff = params / "ff" / "net";
        let norm = |name: &str| LayerNorm::new(&(params / name), width, 1e-5);
        Self {
            norm1: norm("norm1"),
            attn1: UNetAttention::new(&(params / "attn1"), width, first, heads, upcast),
            norm2: norm("norm2"),
            attn2: UNetAttention::new(&(params / "attn2"), width, context, heads, upcast),
            norm3: norm("norm3"),
            ff_in: Linear::new(&(&ff / 0 / "proj"), width, 8 * width),
            ff_out: Linear::new(&(&ff / 2), 4 * width, width),
        }
    }

    fn forward(&self, x: &Tensor, context: &Tensor, cells: (i64, i64), probe: &Probe) -> Tensor {
        let h = self.norm1.forward(x);
        let keys = if self.attn1.cross { context } else { &h };
        let x = x + self.attn1.forward(&h, keys, cells, probe);
        let x = &x + self.attn2.forward(&self.norm2.forward(&x), context, cells, probe);
        let feed_forward = |h: &Tensor| {
            // GEGLU, Shazeer 2020, with the exact gelu.
            let halves = self.ff_in.forward(h).chunk(2, -1);
            self.ff_out.forward(&(&halves[0] * halves[1].gelu("none")))
        };
        let h = self.norm3.forward(&x);
        x + rows_at_once(&h, 8 * h.size()[2], feed_forward)
    }
}

enum TransformerProjection {
    Convolution(Conv2d, Conv2d),
    Linear(Linear, Linear),
}

/// Transformer blocks over the cells of one level, between two projections.
pub(super) struct SpatialTransformer {
    norm: GroupNorm,
    projection: TransformerProjection,
    blocks: Vec<TransformerBlock>,
}

impl SpatialTransformer {
    pub fn new(params: &Params, level: &Level, only_cross: bool, config: &UNetConfig) -> Self {
        let width = level.width;
        let (first, last) = (params / "proj_in", params / "proj_out");
        Self {
            norm: GroupNorm::new(&(params / "norm"), config.norm_num_groups, width, 1e-6),
            projection: if config.use_linear_projection {
                TransformerProjection::Linear(
                    Linear::new(&first, width, width),
                    Linear::new(&last, width, width),
                )
            } else {
                TransformerProjection::Convolution(
                    Conv2d::new(&first, width, width, 1),
                    Conv2d::new(&last, width, width, 1),
                )
            },
            blocks: (0..level.transformers)
                .map(|k| {
                    let params = params / "transformer_blocks" / k;
                    TransformerBlock::new(&params, level, only_cross, config)
                })
                .collect(),
        }
    }

    pub fn forward(&self, x: &Tensor, context: &Tensor, probe: &Probe) -> Tensor {
        let size = x.size();
        let cells = (size[2], size[3]);
        let to_tokens = |h: &Tensor| h.flatten(2, 3).transpose(1, 2);
        let to_cells = |h: &Tensor| h.transpose(1, 2).reshape(&size);
        let h = self.norm.forward(x);
        let mut h = match &self.projection {
            TransformerProjection::Convolution(proj, _) => to_tokens(&proj.forward(&h)),
            TransformerProjection::Linear(proj, _) => proj.forward(&to_tokens(&h)),
        };
        for block in &self.blocks {
            h = block.forward(&h, context, cells, probe);
        }
        x + match &self.projection {
            TransformerProjection::Convolution(_, proj) => proj.forward(&to_cells(&h)),
            TransformerProjection::Linear(_, proj) => to_cells(&proj.forward(&h)),
        }
    }
}
