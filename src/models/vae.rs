//! The autoencoder: pictures to latents and back.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::layers::{
    Conv2d, GroupNorm, Linear, ResnetBlock, attention, carried_kind, join_heads, split_heads,
};
use crate::weights::{Params, channels_last, read_config, weight_files};
use crate::{Error, Result};

/// The VAE normalises with this epsilon everywhere.
const EPS: f64 = 1e-6;

/// `vae/config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    #[serde(default = "silu")]
    pub act_fn: String,
    #[serde(default = "sample_size")]
    pub sample_size: i64,
    #[serde(default = "scaling_factor")]
    pub scaling_factor: f64,
    #[serde(default)]
    pub shift_factor: Option<f64>,
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Its activations overflow in f16 (SDXL): it is then opened in f32, see [`VaeConfig::kind`].
    #[serde(default)]
    pub force_upcast: bool,
    /// What some later models subtract from latents and divide them by: not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_mean: Option<Vec<f64>>,
}

fn silu() -> String {
    "silu".into()
}

fn sample_size() -> i64 {
    32
}

/// Checkpoints from before diffusers wrote the factor are Stable Diffusion 1.x's; this is diffusers' default.
fn scaling_factor() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

impl VaeConfig {
    /// Picture pixels a latent cell, along one side: 8 for Stable Diffusion.
    pub fn factor(&self) -> i64 {
        1 << (self.block_out_channels.len().saturating_sub(1))
    }

    /// The dtype to compute in where `kind` is asked for: f32 in place of f16 where that overflows (`force_upcast`).
    pub fn kind(&self, kind: Kind) -> Kind {
        if kind == Kind::Half && self.force_upcast { Kind::Float } else { kind }
    }

    fn check(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 8 {
            return Err(Error::argument("block_out_channels", "1 to 8 levels", levels, ""));
        }
        let counts = [
            ("in_channels", self.in_channels, 1 << 14),
            ("out_channels", self.out_channels, 1 << 14),
            ("latent_channels", self.latent_channels, 1 << 14),
            ("layers_per_block", self.layers_per_block, 64),
            ("norm_num_groups", self.norm_num_groups, 1 << 14),
        ];
        for (name, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(Error::argument(name, format!("a count from 1 to {most}"), value, ""));
            }
        }
        for &width in &self.block_out_channels {
            if !(1..=1 << 14).contains(&width) || width % self.norm_num_groups != 0 {
                let expected = format!("multiples of norm_num_groups {}", self.norm_num_groups);
                return Err(Error::argument("block_out_channels", expected, width, ""));
            }
        }
        let only = |name: &str, types: &[String], known: &str| match types
            .iter()
            .find(|t| t.as_str() != known)
        {
            None if types.len() == levels => Ok(()),
            None => Err(Error::argument(name, format!("{levels} of them"), types.len(), "")),
            Some(other) => Err(Error::argument(name, known, other, "")),
        };
        only("down_block_types", &self.down_block_types, "DownEncoderBlock2D")?;
        only("up_block_types", &self.up_block_types, "UpDecoderBlock2D")?;
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(Error::argument("act_fn", "silu", &self.act_fn, ""));
        }
        if let Some(mean) = &self.latents_mean {
            let todo = "this autoencoder is of another family";
            return Err(Error::argument("latents_mean", "null", format!("{mean:?}"), todo));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.) {
            return Err(Error::argument("scaling_factor", "above 0", self.scaling_factor, ""));
        }
        Ok(())
    }
}

/// Self-attention over all cells of the lowest level, with a single head.
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
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

struct MidBlock {
    first: ResnetBlock,
    attention: Option<Attention>,
    second: ResnetBlock,
}

impl MidBlock {
    fn new(params: &Params, width: i64, config: &VaeConfig) -> Self {
        let groups = config.norm_num_groups;
        let resnet =
            |i| ResnetBlock::new(&(params / "resnets" / i), width, width, None, groups, EPS);
        Self {
            first: resnet(0),
            attention: config
                .mid_block_add_attention
                .then(|| Attention::new(&(params / "attentions" / 0), width, groups)),
            second: resnet(1),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let h = self.first.forward(x, None);
        let h = self.attention.as_ref().map_or(h.shallow_clone(), |a| a.forward(&h));
        self.second.forward(&h, None)
    }
}

struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(params: &Params, config: &VaeConfig) -> Self {
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

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.conv_in.forward(x);
        for (resnets, down) in &self.down_blocks {
            for resnet in resnets {
                h = resnet.forward(&h, None);
            }
            if let Some(down) = down {
                // Right and bottom only.
                h = down.forward(&h.constant_pad_nd([0, 1, 0, 1]));
            }
        }
        let h = self.mid_block.forward(&h);
        self.conv_out.forward(&self.conv_norm_out.forward(&h).silu())
    }
}

struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(params: &Params, config: &VaeConfig) -> Self {
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

    fn forward(&self, z: &Tensor) -> Tensor {
        let mut h = self.mid_block.forward(&self.conv_in.forward(z));
        for (resnets, up) in &self.up_blocks {
            for resnet in resnets {
                h = resnet.forward(&h, None);
            }
            if let Some(up) = up {
                let size = h.size();
                let (height, width) = (2 * size[2], 2 * size[3]);
                h = up.forward(&h.upsample_nearest2d([height, width], None, None));
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward(&h).silu())
    }
}

/// What the encoder says of a picture: a normal distribution for every number of its latents.
pub struct Posterior {
    /// Its mean, unscaled, [B, latent_channels, h, w].
    pub mean: Tensor,
    /// The logarithm of its variance, within [-30, 20].
    pub logvar: Tensor,
}

impl Posterior {
    /// `z = mean + exp(logvar / 2) noise`, Kingma & Welling 2013, section 2.4.
    ///
    /// # Errors
    /// `noise` of another shape than `mean`.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        if noise.size() != self.mean.size() {
            return Err(Error::shape("noise", format!("{:?}", self.mean.size()), &noise.size()));
        }
        Ok(&self.mean + (&self.logvar * 0.5).exp() * noise.to_device(self.mean.device()))
    }

    /// `KL(q || N(0, I)) = (mean^2 + exp(logvar) - 1 - logvar) / 2`, averaged over all numbers;
    /// Kingma & Welling 2013, appendix B.
    pub fn kl(&self) -> Tensor {
        let (mean, logvar) = (self.mean.to_kind(Kind::Float), self.logvar.to_kind(Kind::Float));
        ((mean.square() + logvar.exp() - 1. - logvar) * 0.5).mean(Kind::Float)
    }
}

/// How a picture that does not fit into memory is cut: into square tiles that overlap, and whose overlaps
/// are blended linearly. A tile is normalised and attended to alone, so that it is not to the last digit
/// what it is within the whole picture.
///
/// # Examples
/// ```
/// use diffuscope::models::vae::Tiling;
/// // Tiles of 512 pixels, with a factor of 8.
/// let tiling = Tiling { tile: 64, overlap: 16 };
/// assert_eq!(tiling.tile - tiling.overlap, 48);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// A tile's side in latent cells.
    pub tile: i64,
    /// The cells that two neighbours share.
    pub overlap: i64,
}

impl Tiling {
    /// diffusers': tiles as large as the pictures that the autoencoder was trained on, a quarter of which
    /// overlaps.
    pub fn of(config: &VaeConfig) -> Self {
        let tile = (config.sample_size / config.factor()).max(1);
        Self { tile, overlap: tile / 4 }
    }

    fn check(self) -> Result<Self> {
        let Self { tile, overlap } = self;
        if tile < 1 || !(0..tile).contains(&overlap) {
            let got = format!("{overlap} of {tile}");
            return Err(Error::argument("tiling", "an overlap from 0 to below the tile", got, ""));
        }
        Ok(self)
    }

    /// `network` of every tile of `x`, blended: `x` has `from` numbers a cell and side, its result has `to`.
    fn run(self, x: &Tensor, from: i64, to: i64, network: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let size = x.size();
        let (height, width) = (size[2], size[3]);
        let (tile, stride) = (self.tile * from, (self.tile - self.overlap) * from);
        if height <= tile && width <= tile {
            return network(x);
        }
        let (overlap, kept) = (self.overlap * to, (self.tile - self.overlap) * to);
        let (mut above, mut bands) = (Vec::<Tensor>::new(), Vec::new());
        for top in (0..height).step_by(stride as usize) {
            let (mut row, mut band) = (Vec::<Tensor>::new(), Vec::new());
            let strip = x.narrow(2, top, tile.min(height - top));
            for (j, left) in (0..width).step_by(stride as usize).enumerate() {
                let mut y = network(&strip.narrow(3, left, tile.min(width - left)));
                if let Some(above) = above.get(j) {
                    y = blend(above, &y, 2, overlap);
                }
                if let Some(before) = row.last() {
                    y = blend(before, &y, 3, overlap);
                }
                let (h, w) = (y.size()[2], y.size()[3]);
                band.push(y.narrow(2, 0, kept.min(h)).narrow(3, 0, kept.min(w)));
                row.push(y);
            }
            bands.push(Tensor::cat(&band, 3));
            above = row;
        }
        Tensor::cat(&bands, 2)
    }
}

/// `after`, whose first `overlap` rows or columns fade in from the last ones of `before`.
fn blend(before: &Tensor, after: &Tensor, dim: i64, overlap: i64) -> Tensor {
    let (a, b) = (before.size()[dim as usize], after.size()[dim as usize]);
    let overlap = overlap.min(a).min(b);
    if overlap == 0 {
        return after.shallow_clone();
    }
    let mut shape = [1; 4];
    shape[dim as usize] = overlap;
    let ramp = Tensor::arange(overlap, (after.kind(), after.device())) / overlap as f64;
    let ramp = ramp.view(shape);
    let seam = before.narrow(dim, a - overlap, overlap) * (1. - &ramp)
        + after.narrow(dim, 0, overlap) * ramp;
    Tensor::cat(&[seam, after.narrow(dim, overlap, b - overlap)], dim)
}

/// Stable Diffusion's autoencoder.
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    kind: Kind,
}

impl Vae {
    /// Builds the autoencoder from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built, or weights that do not fit it.
    pub fn new(params: &Params, config: &VaeConfig) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        let vae = Self {
            encoder: Encoder::new(&(params / "encoder"), config),
            decoder: Decoder::new(&(params / "decoder"), config),
            quant_conv: config
                .use_quant_conv
                .then(|| Conv2d::new(&(params / "quant_conv"), 2 * latent, 2 * latent, 1)),
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| Conv2d::new(&(params / "post_quant_conv"), latent, latent, 1)),
            config: config.clone(),
            kind: params.kind(),
        };
        params.finish()?;
        Ok(vae)
    }

    /// Opens the folder `vae/`. One that overflows in f16 (`force_upcast`) computes in f32 where f16 is
    /// asked for: see [`Vae::kind`].
    ///
    /// # Errors
    /// As [`Vae::new`], and files that cannot be read.
    pub fn open(folder: impl AsRef<Path>, kind: Kind, device: Device) -> Result<Self> {
        let path = folder.as_ref().join("config.json");
        let config: VaeConfig = read_config(&path)?;
        let params = Params::open(&weight_files(&folder)?, config.kind(kind), device)?;
        Self::new(&params, &config).map_err(|e| e.in_config(&path))
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The dtype of its weights: what it multiplies in, where the device has instructions for it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A picture to the distribution of its unscaled latents.
    ///
    /// # Shapes
    /// `image` [B, 3, H, W] in [-1, 1]; the posterior's tensors are [B, latent_channels, H/f, W/f].
    /// # Errors
    /// Another number of channels; sides that are no multiples of the factor f.
    pub fn posterior(&self, image: &Tensor) -> Result<Posterior> {
        self.posterior_tiled(image, None)
    }

    /// The same, tile by tile where the picture is larger than one.
    ///
    /// # Errors
    /// As [`Vae::posterior`]; an overlap that is not below the tile.
    pub fn posterior_tiled(&self, image: &Tensor, tiling: Option<Tiling>) -> Result<Posterior> {
        let (size, channels, f) = (image.size(), self.config.in_channels, self.config.factor());
        if size.len() != 4
            || size[1] != channels
            || size[2] < f
            || size[3] < f
            || size[2] % f != 0
            || size[3] % f != 0
        {
            let expected = format!("[B, {channels}, H, W] with H and W multiples of {f}");
            return Err(Error::shape("image", expected, &size));
        }
        let image = channels_last(&self.carried(image));
        let network = |x: &Tensor| {
            let h = self.encoder.forward(x);
            self.quant_conv.as_ref().map_or(h.shallow_clone(), |conv| conv.forward(&h))
        };
        let moments = match tiling {
            Some(tiling) => tiling.check()?.run(&image, f, 1, network),
            None => network(&image),
        };
        let latent = self.config.latent_channels;
        let mean = moments.narrow(1, 0, latent);
        let logvar = moments.narrow(1, latent, latent).clamp(-30., 20.);
        Ok(Posterior { mean, logvar })
    }

    /// Where the network is, in what it keeps between its layers.
    fn carried(&self, x: &Tensor) -> Tensor {
        let weight = self.decoder.conv_in.weight();
        x.to_device(weight.device()).to_kind(carried_kind(weight, true))
    }

    /// Scales what the posterior gives to what the U-Net works on:
    /// `latents = (z - shift_factor) scaling_factor`, Rombach et al. 2022, appendix G.
    pub fn scale(&self, z: &Tensor) -> Tensor {
        (z - self.config.shift_factor.unwrap_or(0.)) * self.config.scaling_factor
    }

    /// A picture to the mean of its scaled latents.
    ///
    /// # Shapes
    /// `image` [B, 3, H, W] in [-1, 1]; returns [B, latent_channels, H/f, W/f].
    /// # Errors
    /// As [`Vae::posterior`].
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        Ok(self.scale(&self.posterior(image)?.mean))
    }

    /// Scaled latents to a picture: `D(latents / scaling_factor + shift_factor)`.
    ///
    /// # Shapes
    /// `latents` [B, latent_channels, h, w]; returns [B, 3, h f, w f], about [-1, 1], in f32.
    /// # Errors
    /// Another number of channels; a side of length 0.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_tiled(latents, None)
    }

    /// The same, tile by tile where the picture is larger than one.
    ///
    /// # Errors
    /// As [`Vae::decode`]; an overlap that is not below the tile.
    pub fn decode_tiled(&self, latents: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let (size, channels) = (latents.size(), self.config.latent_channels);
        if size.len() != 4 || size[1] != channels || size.contains(&0) {
            return Err(Error::shape("latents", format!("[B, {channels}, h, w]"), &size));
        }
        let z = self.carried(latents) / self.config.scaling_factor
            + self.config.shift_factor.unwrap_or(0.);
        let network = |z: &Tensor| {
            let z = self.post_quant_conv.as_ref().map_or(z.shallow_clone(), |conv| conv.forward(z));
            self.decoder.forward(&z).to_kind(Kind::Float)
        };
        let z = channels_last(&z);
        Ok(match tiling {
            Some(tiling) => tiling.check()?.run(&z, 1, self.config.factor(), network),
            None => network(&z),
        })
    }
}
