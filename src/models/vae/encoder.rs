//! The encoder: a picture to the moments of its latents.

use tch::Tensor;

use super::blocks::{EPS, MidBlock};
use super::config::VaeConfig;
use crate::models::layers::{Conv2d, GroupNorm, ResnetBlock};
use crate::models::params::Params;

/// Down to the lowest resolution, then the middle block.
pub(super) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub fn new(params: &Params, config: &VaeConfig) -> Self {
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let mut inputs = first;
        let block = |(i, &width): (usize, &i64)| {
            let params = params / "down_blocks" / i;
            let resnets = (0..config.layers_per_block)
                .map(|j| {
                    let from = std::mem::replace(&mut inputs, width);
                    ResnetBlock::new(&(&params / "resnets" / j), from, width, None, groups, EPS)
                })
                .collect();
            let down = (i + 1 < widths.len()).then(|| {
                Conv2d::strided(&(&params / "downsamplers" / 0 / "conv"), width, width, 3, 2, 0)
            });
            (resnets, down)
        };
        Self {
            conv_in: Conv2d::new(&(params / "conv_in"), config.in_channels, first, 3),
            down_blocks: widths.iter().enumerate().map(block).collect(),
            mid_block: MidBlock::new(&(params / "mid_block"), last, config),
            conv_norm_out: GroupNorm::new(&(params / "conv_norm_out"), groups, last, EPS),
            conv_out: Conv2d::new(&(params / "conv_out"), last, 2 * config.latent_channels, 3),
        }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.conv_in.forward(x);
        for (resnets, down) in &self.down_blocks {
            for resnet in resnets {
                h = resnet.forward(&h, None);
            }
            if let Some(down) = down {
                // Pads on the right and at the bottom only, as diffusers does.
                h = down.forward(&h.constant_pad_nd([0, 1, 0, 1]));
            }
        }
        let h = self.mid_block.forward(&h);
        self.conv_out.forward(&self.conv_norm_out.silu(&h))
    }
}
