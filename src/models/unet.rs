//! The U-Net: given a noisy sample, a timestep and a context, what is the noise?

use std::cell::RefCell;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::layers::{
    Conv2d, GroupNorm, LayerNorm, Linear, PerLevel, ResnetBlock, attention, attention_weights,
    join_heads, split_heads,
};
use crate::weights::{Params, channels_last, read_config, weight_files};
use crate::{Error, Result};

/// `unet/config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are diffusers' own")]
pub struct UNetConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub block_out_channels: Vec<i64>,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub layers_per_block: PerLevel,
    pub cross_attention_dim: i64,
    /// The number of heads, in spite of its name.
    pub attention_head_dim: PerLevel,
    #[serde(default = "one")]
    pub transformer_layers_per_block: PerLevel,
    pub norm_num_groups: i64,
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    #[serde(default = "silu")]
    pub act_fn: String,
    #[serde(default = "yes")]
    pub flip_sin_to_cos: bool,
    #[serde(default)]
    pub freq_shift: f64,
    /// Linear layers around the transformer blocks (SD 2.x) instead of 1x1 convolutions (SD 1.x).
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Attention in f32 whatever the dtype.
    #[serde(default)]
    pub upcast_attention: bool,
    /// The side of the latents that it was trained on; `None` where the sides differ.
    #[serde(default, deserialize_with = "one_side")]
    pub sample_size: Option<i64>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

/// diffusers writes one side, or height and width.
fn one_side<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<i64>, D::Error> {
    Ok(match Option::<PerLevel>::deserialize(from)? {
        Some(PerLevel::One(side)) => Some(side),
        Some(PerLevel::Each(sides)) => {
            sides.first().copied().filter(|a| sides.iter().all(|b| a == b))
        }
        None => None,
    })
}

fn one() -> PerLevel {
    PerLevel::One(1)
}

fn norm_eps() -> f64 {
    1e-5
}

fn silu() -> String {
    "silu".into()
}

fn yes() -> bool {
    true
}

/// What other families of U-Nets switch on: with any of these the network would be another one.
const UNSUPPORTED: [(&str, &str); 25] = [
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
    ("only_cross_attention", "false"),
    ("dual_cross_attention", "false"),
    ("num_attention_heads", "null"),
    ("class_embed_type", "null"),
    ("num_class_embeds", "null"),
    ("addition_embed_type", "null"),
    ("encoder_hid_dim", "null"),
    ("time_cond_proj_dim", "null"),
    ("resnet_time_scale_shift", "\"default\""),
    ("time_embedding_type", "\"positional\""),
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("attention_type", "\"default\""),
];

struct Level {
    width: i64,
    resnets: i64,
    heads: i64,
    transformers: i64,
    /// Whether its way down attends; its way up.
    attends: (bool, bool),
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
            transformer_layers_per_block: one(),
            norm_num_groups: 32,
            norm_eps: norm_eps(),
            act_fn: silu(),
            flip_sin_to_cos: true,
            freq_shift: 0.,
            use_linear_projection: false,
            upcast_attention: false,
            sample_size: Some(sample_size),
            others: serde_json::Map::new(),
        }
    }

    fn levels(&self) -> Result<Vec<Level>> {
        let count = self.block_out_channels.len();
        if count == 0 || count > 8 {
            return Err(Error::argument("block_out_channels", "1 to 8 levels", count, ""));
        }
        for (name, known) in UNSUPPORTED {
            let Some(got) = self.others.get(name) else { continue };
            let same_number =
                matches!((got.as_f64(), known.parse::<f64>()), (Some(a), Ok(b)) if a == b);
            let text = got.to_string();
            if text != known && !same_number {
                return Err(Error::argument(name, known, text, "this U-Net is of another family"));
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(Error::argument("act_fn", "silu", &self.act_fn, ""));
        }
        let per_level = |name: &str, value: &PerLevel| {
            let all = value.levels(count).filter(|all| all.iter().all(|n| (1..=4096).contains(n)));
            let expected = format!("a count of 1 and more, or a list of {count}");
            all.ok_or_else(|| Error::argument(name, expected, format!("{value:?}"), ""))
        };
        let heads = per_level("attention_head_dim", &self.attention_head_dim)?;
        let resnets = per_level("layers_per_block", &self.layers_per_block)?;
        let transformers =
            per_level("transformer_layers_per_block", &self.transformer_layers_per_block)?;
        for (name, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("cross_attention_dim", self.cross_attention_dim),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if !(1..=1 << 14).contains(&value) {
                return Err(Error::argument(name, "a count of 1 and more", value, ""));
            }
        }
        let attends = |name: &str, types: &[String], i: usize, without: &str, with: &str| {
            match types.get(i) {
                _ if types.len() != count => {
                    Err(Error::argument(name, format!("{count} of them"), types.len(), ""))
                }
                Some(t) if t == with => Ok(true),
                Some(t) if t == without => Ok(false),
                other => Err(Error::argument(
                    name,
                    format!("{with} or {without}"),
                    format!("{other:?}"),
                    "",
                )),
            }
        };
        (0..count)
            .map(|i| {
                let (width, heads) = (self.block_out_channels[i], heads[i]);
                if !(1..=1 << 14).contains(&width)
                    || width % self.norm_num_groups != 0
                    || width % heads != 0
                {
                    let expected = format!(
                        "multiples of norm_num_groups {} and of {heads} heads",
                        self.norm_num_groups
                    );
                    return Err(Error::argument("block_out_channels", expected, width, ""));
                }
                let down = attends(
                    "down_block_types",
                    &self.down_block_types,
                    i,
                    "DownBlock2D",
                    "CrossAttnDownBlock2D",
                )?;
                let up = attends(
                    "up_block_types",
                    &self.up_block_types,
                    count - 1 - i,
                    "UpBlock2D",
                    "CrossAttnUpBlock2D",
                )?;
                Ok(Level {
                    width,
                    resnets: resnets[i],
                    heads,
                    transformers: transformers[i],
                    attends: (down, up),
                })
            })
            .collect()
    }
}

/// Where one attention layer looked: its probabilities, averaged over nothing.
pub struct AttentionMap {
    /// The layer's name in the weights, such as `down_blocks.1.attentions.0.transformer_blocks.0.attn2`.
    pub layer: String,
    /// [B, heads, h * w, keys]: keys are the tokens (cross-attention) or the cells themselves.
    pub weights: Tensor,
    /// Height and width of the level in latent cells.
    pub cells: (i64, i64),
    /// Whether it looked at the text (`attn2`) or at the picture itself (`attn1`).
    pub cross: bool,
}

/// Where attention layers put their maps, when somebody asked for them.
type Probe = Option<RefCell<Vec<AttentionMap>>>;

/// `x_t` looked at from everywhere: queries of the picture on keys of the picture or the text.
struct Attention {
    name: String,
    heads: i64,
    upcast: bool,
    cross: bool,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
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
        let k = split_heads(&self.to_k.forward(keys), self.heads);
        let v = split_heads(&self.to_v.forward(keys), self.heads);
        if let Some(maps) = probe {
            let weights = attention_weights(&q, &k);
            let layer = self.name.clone();
            maps.borrow_mut().push(AttentionMap { layer, weights, cells, cross: self.cross });
        }
        self.to_out.forward(&join_heads(&attention(&q, &k, &v, false, self.upcast)))
    }
}

/// Self-attention, cross-attention, feed-forward.
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn new(params: &Params, width: i64, heads: i64, config: &UNetConfig) -> Self {
        let (context, upcast) = (Some(config.cross_attention_dim), config.upcast_attention);
        let ff = params / "ff" / "net";
        let norm = |name: &str| LayerNorm::new(&(params / name), width, 1e-5);
        Self {
            norm1: norm("norm1"),
            attn1: Attention::new(&(params / "attn1"), width, None, heads, upcast),
            norm2: norm("norm2"),
            attn2: Attention::new(&(params / "attn2"), width, context, heads, upcast),
            norm3: norm("norm3"),
            ff_in: Linear::new(&(&ff / 0 / "proj"), width, 8 * width),
            ff_out: Linear::new(&(&ff / 2), 4 * width, width),
        }
    }

    fn forward(&self, x: &Tensor, context: &Tensor, cells: (i64, i64), probe: &Probe) -> Tensor {
        let h = self.norm1.forward(x);
        let x = x + self.attn1.forward(&h, &h, cells, probe);
        let x = &x + self.attn2.forward(&self.norm2.forward(&x), context, cells, probe);
        // GEGLU, Shazeer 2020, with the exact gelu.
        let halves = self.ff_in.forward(&self.norm3.forward(&x)).chunk(2, -1);
        x + self.ff_out.forward(&(&halves[0] * halves[1].gelu("none")))
    }
}

enum Projection {
    Convolution(Conv2d, Conv2d),
    Linear(Linear, Linear),
}

/// Transformer blocks over the cells of one level.
struct SpatialTransformer {
    norm: GroupNorm,
    projection: Projection,
    blocks: Vec<TransformerBlock>,
}

impl SpatialTransformer {
    fn new(params: &Params, level: &Level, config: &UNetConfig) -> Self {
        let width = level.width;
        let (first, last) = (params / "proj_in", params / "proj_out");
        Self {
            norm: GroupNorm::new(&(params / "norm"), config.norm_num_groups, width, 1e-6),
            projection: if config.use_linear_projection {
                Projection::Linear(
                    Linear::new(&first, width, width),
                    Linear::new(&last, width, width),
                )
            } else {
                Projection::Convolution(
                    Conv2d::new(&first, width, width, 1),
                    Conv2d::new(&last, width, width, 1),
                )
            },
            blocks: (0..level.transformers)
                .map(|k| {
                    let params = params / "transformer_blocks" / k;
                    TransformerBlock::new(&params, width, level.heads, config)
                })
                .collect(),
        }
    }

    fn forward(&self, x: &Tensor, context: &Tensor, probe: &Probe) -> Tensor {
        let size = x.size();
        let cells = (size[2], size[3]);
        let to_tokens = |h: &Tensor| h.flatten(2, 3).transpose(1, 2);
        let to_cells = |h: &Tensor| h.transpose(1, 2).reshape(&size);
        let h = self.norm.forward(x);
        let mut h = match &self.projection {
            Projection::Convolution(proj, _) => to_tokens(&proj.forward(&h)),
            Projection::Linear(proj, _) => proj.forward(&to_tokens(&h)),
        };
        for block in &self.blocks {
            h = block.forward(&h, context, cells, probe);
        }
        x + match &self.projection {
            Projection::Convolution(_, proj) => proj.forward(&to_cells(&h)),
            Projection::Linear(_, proj) => to_cells(&proj.forward(&h)),
        }
    }
}

/// Residual blocks of one level, each followed by a transformer where the level attends.
struct Block {
    layers: Vec<(ResnetBlock, Option<SpatialTransformer>)>,
    resample: Option<Conv2d>,
}

/// The whole network.
pub struct UNet {
    config: UNetConfig,
    conv_in: Conv2d,
    linear_1: Linear,
    linear_2: Linear,
    down_blocks: Vec<Block>,
    mid_block: (ResnetBlock, SpatialTransformer, ResnetBlock),
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    kind: Kind,
    device: Device,
}

impl UNet {
    /// Builds the network from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built or is of another family, or weights that do not fit it.
    pub fn new(params: &Params, config: &UNetConfig) -> Result<Self> {
        let levels = config.levels()?;
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
                let attends = level
                    .attends
                    .0
                    .then(|| SpatialTransformer::new(&(&params / "attentions" / j), level, config));
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
            SpatialTransformer::new(&(&mid / "attentions" / 0), last, config),
            resnet(&(&mid / "resnets" / 1), last.width, last.width),
        );

        let mut up_blocks = Vec::new();
        for (i, level) in levels.iter().rev().enumerate() {
            let params = params / "up_blocks" / i;
            let layers = (0..=level.resnets).map(|j| {
                let from = std::mem::replace(&mut inputs, level.width) + skips.pop().unwrap_or(0);
                let block = resnet(&(&params / "resnets" / j), from, level.width);
                let attends = level
                    .attends
                    .1
                    .then(|| SpatialTransformer::new(&(&params / "attentions" / j), level, config));
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
            linear_1: Linear::new(&(params / "time_embedding" / "linear_1"), first, time),
            linear_2: Linear::new(&(params / "time_embedding" / "linear_2"), time, time),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(&(params / "conv_norm_out"), groups, first, eps),
            conv_out: Conv2d::new(&(params / "conv_out"), first, config.out_channels, 3),
            config: config.clone(),
            kind: params.kind(),
            device: params.device(),
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

    /// What the network was trained to predict (its noise, or v) of a noisy sample.
    ///
    /// # Shapes
    /// `sample` [B, in_channels, h, w]; `timestep` `[B]` or one number; `context`
    /// [B, tokens, cross_attention_dim]; returns [B, out_channels, h, w] in the sample's dtype.
    /// # Errors
    /// Other shapes.
    pub fn forward(&self, sample: &Tensor, timestep: &Tensor, context: &Tensor) -> Result<Tensor> {
        self.run(sample, timestep, context, &None)
    }

    /// The same prediction, and where every attention layer looked.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_with_attention(
        &self,
        sample: &Tensor,
        timestep: &Tensor,
        context: &Tensor,
    ) -> Result<(Tensor, Vec<AttentionMap>)> {
        let probe = Some(RefCell::new(Vec::new()));
        let noise_pred = self.run(sample, timestep, context, &probe)?;
        Ok((noise_pred, probe.map(RefCell::into_inner).unwrap_or_default()))
    }

    fn check(&self, sample: &Tensor, timestep: &Tensor, context: &Tensor) -> Result<()> {
        let (size, text) = (sample.size(), context.size());
        if size.len() != 4 || size[1] != self.config.in_channels || size.contains(&0) {
            let expected = format!("[B, {}, h, w]", self.config.in_channels);
            return Err(Error::shape("sample", expected, &size));
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
        Ok(())
    }

    fn run(
        &self,
        sample: &Tensor,
        timestep: &Tensor,
        context: &Tensor,
        probe: &Probe,
    ) -> Result<Tensor> {
        self.check(sample, timestep, context)?;
        let here = |x: &Tensor| x.to_device(self.device).to_kind(self.kind);
        let (x, context) = (here(sample), here(context));
        let t = timestep.to_device(self.device).reshape([-1]).expand([sample.size()[0]], false);
        let first = self.config.block_out_channels[0];
        let shift = self.config.freq_shift;
        let embedding = timestep_embedding(&t, first, self.config.flip_sin_to_cos, shift);
        let time = self.linear_1.forward(&embedding.to_kind(self.kind)).silu();
        let time = Some(self.linear_2.forward(&time));
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

/// The sinusoidal embedding of timesteps.
///
/// ```text
/// f_i = 10000^(-i / (width/2 - shift))      [cos(t f), sin(t f)]      Vaswani et al. 2017, 3.5
/// ```
///
/// # Shapes
/// `t` `[B]`; returns [B, width] in f32. `flip_sin_to_cos`: the cosines come first, as in Stable
/// Diffusion.
pub fn timestep_embedding(t: &Tensor, width: i64, flip_sin_to_cos: bool, shift: f64) -> Tensor {
    let half = width / 2;
    let i = Tensor::arange(half, (Kind::Float, t.device()));
    let frequencies = (i * (-(10000f64.ln()) / (half as f64 - shift))).exp();
    let angles = t.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
    let (sin, cos) = (angles.sin(), angles.cos());
    let embedding = if flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
    Tensor::cat(&embedding, -1).constant_pad_nd([0, width % 2])
}
