//! The way down, the middle and the way up of the U-Net.

use super::attention::SpatialTransformer;
use super::config::{Level, UNetConfig};
use crate::models::layers::{Conv2d, ResnetBlock};
use crate::models::params::Params;

/// A residual block, followed by a transformer if its level attends on this way.
pub(super) type ResnetAndTransformer = (ResnetBlock, Option<SpatialTransformer>);

/// The layers of one level on one way.
pub(super) struct UNetBlock {
    pub layers: Vec<ResnetAndTransformer>,
    /// To the next level: halves the sides on the way down, doubles them on the way up.
    pub resample: Option<Conv2d>,
}

fn resnet(params: &Params, inputs: i64, outputs: i64, config: &UNetConfig) -> ResnetBlock {
    let time_width = Some(4 * config.block_out_channels[0]);
    ResnetBlock::new(params, inputs, outputs, time_width, config.norm_num_groups, config.norm_eps)
}

/// Layer `j` of the block `params`.
fn layer(
    params: &Params,
    j: i64,
    inputs: i64,
    level: &Level,
    attends: bool,
    config: &UNetConfig,
) -> ResnetAndTransformer {
    let block = resnet(&(params / "resnets" / j), inputs, level.width, config);
    let transformer = attends.then(|| {
        let params = params / "attentions" / j;
        SpatialTransformer::new(&params, level, level.only_cross, config)
    });
    (block, transformer)
}

/// The blocks of the way down, and the width of every output that the way up takes in again.
pub(super) fn down_blocks(
    params: &Params,
    levels: &[Level],
    config: &UNetConfig,
) -> (Vec<UNetBlock>, Vec<i64>) {
    let mut inputs = levels[0].width;
    let mut skips = vec![inputs];
    let mut blocks = Vec::new();
    for (i, level) in levels.iter().enumerate() {
        let params = params / "down_blocks" / i;
        let mut layers = Vec::new();
        for j in 0..level.resnets {
            let from = std::mem::replace(&mut inputs, level.width);
            skips.push(level.width);
            layers.push(layer(&params, j, from, level, level.attends_down, config));
        }
        let resample = (i + 1 < levels.len()).then(|| {
            let params = &params / "downsamplers" / 0 / "conv";
            Conv2d::strided(&params, level.width, level.width, 3, 2, 1)
        });
        if resample.is_some() {
            skips.push(level.width);
        }
        blocks.push(UNetBlock { layers, resample });
    }
    (blocks, skips)
}

/// Residual block, transformer, residual block, at the lowest resolution.
pub(super) fn mid_block(
    params: &Params,
    level: &Level,
    config: &UNetConfig,
) -> (ResnetBlock, SpatialTransformer, ResnetBlock) {
    let (params, width) = (params / "mid_block", level.width);
    let attention = &params / "attentions" / 0;
    (
        resnet(&(&params / "resnets" / 0), width, width, config),
        SpatialTransformer::new(&attention, level, config.mid_only_cross(), config),
        resnet(&(&params / "resnets" / 1), width, width, config),
    )
}

/// The blocks of the way up. `skips` are the widths that [`down_blocks`] returned.
pub(super) fn up_blocks(
    params: &Params,
    levels: &[Level],
    mut skips: Vec<i64>,
    config: &UNetConfig,
) -> Vec<UNetBlock> {
    let mut inputs = levels[levels.len() - 1].width;
    let mut blocks = Vec::new();
    for (i, level) in levels.iter().rev().enumerate() {
        let params = params / "up_blocks" / i;
        let mut layers = Vec::new();
        for j in 0..=level.resnets {
            let from = std::mem::replace(&mut inputs, level.width) + skips.pop().unwrap_or(0);
            layers.push(layer(&params, j, from, level, level.attends_up, config));
        }
        let resample = (i + 1 < levels.len()).then(|| {
            Conv2d::new(&(&params / "upsamplers" / 0 / "conv"), level.width, level.width, 3)
        });
        blocks.push(UNetBlock { layers, resample });
    }
    blocks
}
