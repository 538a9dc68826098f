//! The U-Net: given a noisy sample, a timestep and a context, what is the noise?

mod attention;
mod conditions;
mod config;
mod embedding;

use std::cell::RefCell;
use std::path::Path;

use tch::{Device, Kind, Tensor};

pub use attention::AttentionMap;
pub use conditions::Conditions;
pub use config::UNetConfig;
pub use embedding::{guidance_embedding, timestep_embedding};

use super::layers::{Conv2d, GroupNorm, ResnetBlock, carried_kind};
use crate::weights::{Params, channels_last, read_config, weight_files};
use crate::{Error, Result};
use attention::{Probe, SpatialTransformer};
use embedding::Embedding;

/// Residual blocks of one level, each followed by a transformer where the level attends.
struct Block {
    layers: Vec<(ResnetBlock, Option<SpatialTransformer>)>,
    resample: Option<Conv2d>,
}

/// The whole network.
pub struct UNet {
    config: UNetConfig,
    conv_in: Conv2d,
    embedding: Embedding,
    down_blocks: Vec<Block>,
    mid_block: (ResnetBlock, SpatialTransformer, ResnetBlock),
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    kind: Kind,
}

impl UNet {
    /// Builds the network from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built or is of another family, or weights that do not fit it.
    pub fn new(params: &Params, config: &UNetConfig) -> Result<Self> {
        let (levels, text_time) = (config.levels()?, config.text_time()?);
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let first = levels[0].width;
        let time = 4 * first;
        let resnet = |params: &Params, inputs: i64, outputs: i64| {
            ResnetBlock::new(params, inputs, outputs, Some(time), groups, eps)
        };

        // Every output on the way down is an input on the way up.
        let mut skips = vec![first];
        let mut down_blocks = Vec::new();
        let mut inputs = first;
        for (i, level) in levels.iter().enumerate() {
            let params = params / "down_blocks" / i;
            let layers = (0..level.resnets).map(|j| {
                let from = std::mem::replace(&mut inputs, level.width);
                skips.push(level.width);
                let block = resnet(&(&params / "resnets" / j), from, level.width);
                let attends = level.attends.0.then(|| {
                    let params = &params / "attentions" / j;
                    SpatialTransformer::new(&params, level, level.only_cross, config)
                });
                (block, attends)
            });
            let layers = layers.collect();
            let resample = (i + 1 < levels.len()).then(|| {
                let params = &params / "downsamplers" / 0 / "conv";
                Conv2d::strided(&params, level.width, level.width, 3, 2, 1)
            });
            if resample.is_some() {
                skips.push(level.width);
            }
            down_blocks.push(Block { layers, resample });
        }

        let last = &levels[levels.len() - 1];
        let mid = params / "mid_block";
        let mid_block = (
            resnet(&(&mid / "resnets" / 0), last.width, last.width),
            SpatialTransformer::new(
                &(&mid / "attentions" / 0),
                last,
                config.mid_only_cross(),
                config,
            ),
            resnet(&(&mid / "resnets" / 1), last.width, last.width),
        );

        let mut up_blocks = Vec::new();
        for (i, level) in levels.iter().rev().enumerate() {
            let params = params / "up_blocks" / i;
            let layers = (0..=level.resnets).map(|j| {
                let from = std::mem::replace(&mut inputs, level.width) + skips.pop().unwrap_or(0);
                let block = resnet(&(&params / "resnets" / j), from, level.width);
                let attends = level.attends.1.then(|| {
                    let params = &params / "attentions" / j;
                    SpatialTransformer::new(&params, level, level.only_cross, config)
                });
                (block, attends)
            });
            let layers = layers.collect();
            let resample = (i + 1 < levels.len()).then(|| {
                Conv2d::new(&(&params / "upsamplers" / 0 / "conv"), level.width, level.width, 3)
            });
            up_blocks.push(Block { layers, resample });
        }

        let unet = Self {
            conv_in: Conv2d::new(&(params / "conv_in"), config.in_channels, first, 3),
            embedding: Embedding::new(params, config, text_time),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(&(params / "conv_norm_out"), groups, first, eps),
            conv_out: Conv2d::new(&(params / "conv_out"), first, config.out_channels, 3),
            config: config.clone(),
            kind: params.kind(),
        };
        params.finish()?;
        Ok(unet)
    }

    /// Opens the folder `unet/`.
    ///
    /// # Errors
    /// As [`UNet::new`], and files that cannot be read.
    pub fn open(folder: impl AsRef<Path>, kind: Kind, device: Device) -> Result<Self> {
        let path = folder.as_ref().join("config.json");
        let config = read_config(&path)?;
        let params = Params::open(&weight_files(&folder)?, kind, device)?;
        Self::new(&params, &config).map_err(|e| e.in_config(&path))
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The dtype of its weights: what it multiplies in, where the device has instructions for it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the network was trained to predict (its noise, or v) of a noisy sample. `conditions` are the
    /// context alone, or [`Conditions`] where the family takes more.
    ///
    /// # Shapes
    /// `sample` [B, c, h, w], which with the conditions' channels has `in_channels`; `timestep` `[B]` or one
    /// number; `context` [B, tokens, cross_attention_dim]; returns [B, out_channels, h, w] in the sample's
    /// dtype.
    /// # Errors
    /// Other shapes; a condition that the network needs and does not get, or gets and does not use.
    pub fn forward(
        &self,
        sample: &Tensor,
        timestep: &Tensor,
        conditions: impl Into<Conditions>,
    ) -> Result<Tensor> {
        self.run(sample, timestep, &conditions.into(), &None)
    }

    /// The same prediction, and where every attention layer looked.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_with_attention(
        &self,
        sample: &Tensor,
        timestep: &Tensor,
        conditions: impl Into<Conditions>,
    ) -> Result<(Tensor, Vec<AttentionMap>)> {
        let probe = Some(RefCell::new(Vec::new()));
        let noise_pred = self.run(sample, timestep, &conditions.into(), &probe)?;
        Ok((noise_pred, probe.map(RefCell::into_inner).unwrap_or_default()))
    }

    fn check(&self, sample: &Tensor, timestep: &Tensor, conditions: &Conditions) -> Result<()> {
        let (size, text) = (sample.size(), conditions.context.size());
        let more = conditions.channels.as_ref().map(Tensor::size);
        let beside = more.as_ref().and_then(|more| more.get(1)).copied().unwrap_or(0);
        if size.len() != 4 || size[1] + beside != self.config.in_channels || size.contains(&0) {
            let expected = format!("[B, {}, h, w]", self.config.in_channels - beside);
            return Err(Error::shape("sample", expected, &size));
        }
        if let Some(more) = more.filter(|more| *more != [size[0], beside, size[2], size[3]]) {
            let expected = format!("[{}, c, {}, {}]", size[0], size[2], size[3]);
            return Err(Error::shape("channels", expected, &more));
        }
        let batch = size[0];
        if timestep.numel() != 1 && timestep.size() != [batch] {
            let expected = format!("[{batch}], one a sample");
            return Err(Error::shape("timestep", expected, &timestep.size()));
        }
        let width = self.config.cross_attention_dim;
        if text.len() != 3 || text[0] != batch || text[1] == 0 || text[2] != width {
            let expected = format!("[{batch}, tokens, {width}]");
            return Err(Error::shape("context", expected, &text));
        }
        self.embedding.check(conditions, batch)
    }

    fn run(
        &self,
        sample: &Tensor,
        timestep: &Tensor,
        conditions: &Conditions,
        probe: &Probe,
    ) -> Result<Tensor> {
        self.check(sample, timestep, conditions)?;
        let weight = self.conv_in.weight();
        let (device, carried) = (weight.device(), carried_kind(weight, false));
        let here = |x: &Tensor| x.to_device(device).to_kind(carried);
        let mut x = here(sample);
        if let Some(channels) = &conditions.channels {
            x = Tensor::cat(&[x, here(channels)], 1);
        }
        let context = here(&conditions.context);
        let t = timestep.to_device(device).reshape([-1]).expand([sample.size()[0]], false);
        let time = Some(self.embedding.forward(&t, conditions, carried));
        let time = time.as_ref();
        let layer =
            |x: &Tensor, (resnet, transformer): &(ResnetBlock, Option<SpatialTransformer>)| {
                let h = resnet.forward(x, time);
                transformer.as_ref().map_or(h.shallow_clone(), |t| t.forward(&h, &context, probe))
            };

        let mut h = self.conv_in.forward(&channels_last(&x));
        let mut skips = vec![h.shallow_clone()];
        for block in &self.down_blocks {
            for pair in &block.layers {
                h = layer(&h, pair);
                skips.push(h.shallow_clone());
            }
            if let Some(down) = &block.resample {
                h = down.forward(&h);
                skips.push(h.shallow_clone());
            }
        }

        let (before, transformer, after) = &self.mid_block;
        h = after.forward(&transformer.forward(&before.forward(&h, time), &context, probe), time);

        for block in &self.up_blocks {
            for pair in &block.layers {
                if let Some(skip) = skips.pop() {
                    h = layer(&Tensor::cat(&[h, skip], 1), pair);
                }
            }
            if let (Some(up), Some(skip)) = (&block.resample, skips.last()) {
                // The skip's size and not twice ours: an odd size was rounded up on the way down.
                let size = &skip.size()[2..];
                h = up.forward(&h.upsample_nearest2d(size, None, None));
            }
        }
        let out = self.conv_out.forward(&self.conv_norm_out.forward(&h).silu());
        Ok(out.to_kind(sample.kind()))
    }
}
