//! The decoder: latents to a picture.

use tch::Tensor;

use super::blocks::{EPS, MidBlock};
use super::config::VaeConfig;
use crate::models::layers::{Conv2d, GroupNorm, ResnetBlock};
use crate::models::params::Params;

/// Middle block, then up from the lowest resolution.
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub fn new(params: &Params, config: &VaeConfig) -> Self {
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let mut inputs = last;
        let block = |(i, &width): (usize, &i64)| {
            let params = params / "up_blocks" / i;
            let resnets = (0..=config.layers_per_block)
                .map(|j| {
                    let from = std::mem::replace(&mut inputs, width);
                    ResnetBlock::new(&(&params / "resnets" / j), from, width, None, groups, EPS)
                })
                .collect();
            let up = (i + 1 < widths.len())
                .then(|| Conv2d::new(&(&params / "upsamplers" / 0 / "conv"), width, width, 3));
            (resnets, up)
        };
        Self {
            conv_in: Conv2d::new(&(params / "conv_in"), config.latent_channels, last, 3),
            mid_block: MidBlock::new(&(params / "mid_block"), last, config),
            up_blocks: widths.iter().rev().enumerate().map(block).collect(),
            conv_norm_out: GroupNorm::new(&(params / "conv_norm_out"), groups, first, EPS),
            conv_out: Conv2d::new(&(params / "conv_out"), first, config.out_channels, 3),
        }
    }

    /// Tells the device and the dtype of the weights.
    pub fn weight(&self) -> &Tensor {
        self.conv_in.weight()
    }

    pub fn forward(&self, z: &Tensor) -> Tensor {
        let mut h = self.mid_block.forward(&self.conv_in.forward(z));
        for (resnets, up) in &self.up_blocks {
            for resnet in resnets {
                h = resnet.forward(&h, None);
            }
            if let Some(up) = up {
                let size = h.size();
                h = up.upsampled(&h, [2 * size[2], 2 * size[3]]);
            }
        }
        self.conv_out.forward(&self.conv_norm_out.silu(&h))
    }
}
