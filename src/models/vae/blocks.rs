//! What the encoder and the decoder have in common: the attention and the middle block.

use tch::Tensor;

use super::config::VaeConfig;
use crate::models::layers::{GroupNorm, Linear, ResnetBlock, attention, join_heads, split_heads};
use crate::models::params::Params;

/// The epsilon of every norm of the autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// Self-attention with a single head over all cells of the lowest resolution.
struct VaeAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl VaeAttention {
    fn new(params: &Params, width: i64, groups: i64) -> Self {
        let linear = |names: &[&str]| Linear::new(&params.first_of(names), width, width);
        Self {
            group_norm: GroupNorm::new(
                &params.first_of(&["group_norm", "norm"]),
                groups,
                width,
                EPS,
            ),
            to_q: linear(&["to_q", "query", "q"]),
            to_k: linear(&["to_k", "key", "k"]),
            to_v: linear(&["to_v", "value", "v"]),
            to_out: linear(&["to_out.0", "proj_attn", "proj_out"]),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let h = self.group_norm.forward(x).flatten(2, 3).transpose(1, 2);
        let [q, k, v] =
            [&self.to_q, &self.to_k, &self.to_v].map(|p| split_heads(&p.forward(&h), 1));
        let h = self.to_out.forward(&join_heads(&attention(&q, &k, &v, false, false)));
        x + h.transpose(1, 2).reshape(size)
    }
}

/// Residual block, attention, residual block, at the lowest resolution.
pub(super) struct MidBlock {
    first: ResnetBlock,
    attention: Option<VaeAttention>,
    second: ResnetBlock,
}

impl MidBlock {
    pub fn new(params: &Params, width: i64, config: &VaeConfig) -> Self {
        let groups = config.norm_num_groups;
        let resnet =
            |i| ResnetBlock::new(&(params / "resnets" / i), width, width, None, groups, EPS);
        Self {
            first: resnet(0),
            attention: config
                .mid_block_add_attention
                .then(|| VaeAttention::new(&(params / "attentions" / 0), width, groups)),
            second: resnet(1),
        }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let h = self.first.forward(x, None);
        let h = self.attention.as_ref().map_or(h.shallow_clone(), |a| a.forward(&h));
        self.second.forward(&h, None)
    }
}
