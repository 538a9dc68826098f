//! The U-Net itself: a noisy sample, a timestep and a context to a prediction of the noise.

use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::attention::{AttentionMap, AttentionProbe, Probe, SpatialTransformer};
use super::blocks::{self, ResnetAndTransformer, UNetBlock};
use super::conditions::Conditions;
use super::config::UNetConfig;
use super::embedding::Embedding;
use crate::device::{self, put, send};
use crate::kernels::shared_out;
use crate::memory::guarded;
use crate::models::layers::{Conv2d, GroupNorm, ResnetBlock, carried_kind};
use crate::models::params::{Params, channels_last};
use crate::tensor_file::{read_config, weight_files};
use crate::timesteps::Timesteps;
use crate::{Error, Result};

/// Stable Diffusion's U-Net.
pub struct UNet {
    config: UNetConfig,
    conv_in: Conv2d,
    embedding: Embedding,
    down_blocks: Vec<UNetBlock>,
    mid_block: (ResnetBlock, SpatialTransformer, ResnetBlock),
    up_blocks: Vec<UNetBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    kind: Kind,
}

/// Which attention maps are asked for.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    All,
    /// Those of the attention to the text.
    Cross,
}

/// The maps of a whole batch, of those of its shares in order.
fn joined_maps(shares: Vec<Vec<AttentionMap>>) -> Result<Vec<AttentionMap>> {
    let mut shares = shares.into_iter();
    let mut maps = shares.next().unwrap_or_default();
    for share in shares {
        for (map, more) in maps.iter_mut().zip(share) {
            map.weights = Tensor::f_cat(&[&map.weights, &more.weights], 0)?;
        }
    }
    Ok(maps)
}

impl fmt::Debug for UNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UNet of {:?}", self.config)
    }
}

impl UNet {
    /// Builds the network from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built or is of another family, or weights that do not fit it.
    pub fn new(params: &Params, config: &UNetConfig) -> Result<Self> {
        let (levels, text_time) = (config.levels()?, config.text_time()?);
        let (groups, eps, first) = (config.norm_num_groups, config.norm_eps, levels[0].width);
        // Fresh weights are drawn in the order of these lines.
        let (down_blocks, skips) = blocks::down_blocks(params, &levels, config);
        let mid_block = blocks::mid_block(params, &levels[levels.len() - 1], config);
        let up_blocks = blocks::up_blocks(params, &levels, skips, config);
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

    /// The dtype of its weights, and of its products where the device has instructions for it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the network was trained to predict of a noisy sample: its noise, v or x_0. `conditions` is the
    /// context alone, or [`Conditions`] for a family that takes more.
    ///
    /// # Shapes
    /// `sample` [B, c, h, w], with `in_channels` channels including those of the conditions; `timestep` one for all or
    /// `[B]`, fractions too; `context` [B, tokens, cross_attention_dim]; returns [B, out_channels, h, w] in the sample's
    /// dtype and on its device.
    /// # Errors
    /// Other shapes; a condition that the network needs but was not given, or was given but does not use.
    pub fn forward(
        &self,
        sample: &Tensor,
        timestep: impl Into<Timesteps>,
        conditions: impl Into<Conditions>,
    ) -> Result<Tensor> {
        Ok(self.run(sample, &timestep.into(), &conditions.into(), None)?.0)
    }

    /// The same prediction, with the attention map of every attention layer.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_with_attention(
        &self,
        sample: &Tensor,
        timestep: impl Into<Timesteps>,
        conditions: impl Into<Conditions>,
    ) -> Result<(Tensor, Vec<AttentionMap>)> {
        self.run(sample, &timestep.into(), &conditions.into(), Some(Asked::All))
    }

    /// The same with the maps of the attention to the text alone, which need far less memory.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_with_cross_attention(
        &self,
        sample: &Tensor,
        timestep: impl Into<Timesteps>,
        conditions: impl Into<Conditions>,
    ) -> Result<(Tensor, Vec<AttentionMap>)> {
        self.run(sample, &timestep.into(), &conditions.into(), Some(Asked::Cross))
    }

    fn check(&self, sample: &Tensor, conditions: &Conditions) -> Result<()> {
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
        timestep: &Timesteps,
        conditions: &Conditions,
        asked: Option<Asked>,
    ) -> Result<(Tensor, Vec<AttentionMap>)> {
        self.check(sample, conditions)?;
        let t = timestep.for_batch(sample.size()[0])?;
        let doing = || {
            let (size, device) = (sample.size(), device::name(self.conv_in.weight().device()));
            format!("the U-Net, for samples of {size:?} in {:?} on {device},", self.kind)
        };
        let advice = "draw fewer or smaller pictures at once, or use f16 or bf16";
        let (batch, t) = (sample.size()[0], t.expand([sample.size()[0]], false));
        let some = |from: i64, count: i64| {
            let rows = |x: &Tensor| x.narrow(0, from, count);
            let cross_only = asked == Some(Asked::Cross);
            let probe = asked.map(|_| AttentionProbe { cross_only, ..AttentionProbe::default() });
            let conditions = conditions.rows(from, count);
            let output = self.compute(&rows(sample), &rows(&t), &conditions, &probe);
            Ok((output, probe.map(|probe| probe.maps.into_inner()).unwrap_or_default()))
        };
        guarded(doing, advice, || {
            if self.learns(sample, conditions) {
                return some(0, batch);
            }
            let (outputs, maps): (Vec<Tensor>, Vec<_>) =
                shared_out(batch, some)?.into_iter().unzip();
            Ok((Tensor::f_cat(&outputs, 0)?, joined_maps(maps)?))
        })
    }

    /// Whether anything here is recorded for gradients, or computed elsewhere than on a CPU.
    fn learns(&self, sample: &Tensor, conditions: &Conditions) -> bool {
        let weight = self.conv_in.weight();
        weight.device() != Device::Cpu
            || [weight, sample, &conditions.context].iter().any(|x| x.requires_grad())
    }

    /// The equation; all inputs are checked.
    fn compute(
        &self,
        sample: &Tensor,
        t: &Tensor,
        conditions: &Conditions,
        probe: &Probe,
    ) -> Tensor {
        let weight = self.conv_in.weight();
        let (device, carried) = (weight.device(), carried_kind(weight, false));
        let here = |x: &Tensor| put(x, carried, device);
        let mut x = here(sample);
        if let Some(channels) = &conditions.channels {
            x = Tensor::cat(&[x, here(channels)], 1);
        }
        let context = here(&conditions.context);
        let t = send(t, Kind::Float, device).expand([sample.size()[0]], false);
        let time = Some(self.embedding.forward(&t, conditions, carried).silu());
        let time = time.as_ref();
        let layer = |x: &Tensor, (resnet, transformer): &ResnetAndTransformer| {
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
                // The skip's size, which is not always twice this one: odd sizes were rounded up on the way down.
                let size = skip.size();
                h = up.upsampled(&h, [size[2], size[3]]);
            }
        }
        let out = self.conv_out.forward(&self.conv_norm_out.silu(&h));
        out.to_device(sample.device()).to_kind(sample.kind())
    }
}
