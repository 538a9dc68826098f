//! The embedding of the timestep, and of the conditions that some families add to it.

use tch::{Kind, Tensor};

use super::conditions::Conditions;
use super::config::{SIZES, TextTime, UNetConfig};
use crate::device::{put, send};
use crate::models::layers::Linear;
use crate::models::params::{Init, Params};
use crate::{Error, Result};

/// The sinusoidal embedding of timesteps.
///
/// ```text
/// f_i = 10000^(-i / (width/2 - shift))      [cos(t f), sin(t f)]      Vaswani et al. 2017, 3.5
/// ```
///
/// # Shapes
/// `t` `[B]`, or one number; returns [B, width] in f32. `flip_sin_to_cos`: the cosines come first, as in Stable
/// Diffusion.
/// # Errors
/// Timesteps of more than one dimension; a width below 2; a shift of half the width.
pub fn timestep_embedding(
    t: &Tensor,
    width: i64,
    flip_sin_to_cos: bool,
    shift: f64,
) -> Result<Tensor> {
    if t.dim() > 1 {
        return Err(Error::shape("t", "[B], or one number", &t.size()));
    }
    if !(2..=1 << 16).contains(&width) {
        return Err(Error::argument("width", format!("2 to {}", 1 << 16), width));
    }
    if !shift.is_finite() || shift == (width / 2) as f64 {
        let expected = format!("a number other than {}, half of the width", width / 2);
        return Err(Error::argument("shift", expected, shift));
    }
    Ok(sinusoids(&t.reshape([-1]), width, flip_sin_to_cos, shift))
}

/// The embedding of timesteps `[B]`, with a width and a shift that were checked.
fn sinusoids(t: &Tensor, width: i64, flip_sin_to_cos: bool, shift: f64) -> Tensor {
    let half = width / 2;
    let i = Tensor::arange(half, (Kind::Float, t.device()));
    let frequencies = (i * (-(10000f64.ln()) / (half as f64 - shift))).exp();
    let angles = t.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
    let (sin, cos) = (angles.sin(), angles.cos());
    let embedding = if flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
    Tensor::cat(&embedding, -1).constant_pad_nd([0, width % 2])
}

/// The embedding of a guidance scale, which a network distilled to a consistency model is told instead of
/// being run twice.
///
/// ```text
/// w = guidance_scale - 1      [sin(1000 w f), cos(1000 w f)]      f_i = 10000^(-i / (width/2 - 1))
/// ```
///
/// Luo et al. 2023, section 4.2, with the embedding of Kingma et al. 2021's code.
///
/// # Shapes
/// Returns [B, width], one row a scale, in f32.
/// # Errors
/// As [`timestep_embedding`], with a shift of 1.
pub fn guidance_embedding(guidance_scales: &[f64], width: i64) -> Result<Tensor> {
    let w: Vec<f32> = guidance_scales.iter().map(|scale| (scale - 1.) as f32 * 1000.).collect();
    timestep_embedding(&Tensor::from_slice(&w), width, false, 1.)
}

/// Two linear layers with a SiLU between them.
struct EmbeddingMlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl EmbeddingMlp {
    fn new(params: &Params, inputs: i64, outputs: i64) -> Self {
        Self {
            linear_1: Linear::new(&(params / "linear_1"), inputs, outputs),
            linear_2: Linear::new(&(params / "linear_2"), outputs, outputs),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.linear_2.forward(&self.linear_1.forward(x).silu())
    }
}

/// The timestep's embedding and everything that is added to it.
pub(super) struct Embedding {
    /// Of the sinusoids of a timestep.
    width: i64,
    flip_sin_to_cos: bool,
    shift: f64,
    time: EmbeddingMlp,
    /// Of the guidance scale, with the width of its embedding.
    guidance: Option<(i64, Linear)>,
    /// [labels, width]
    classes: Option<Tensor>,
    text_time: Option<(TextTime, EmbeddingMlp)>,
}

impl Embedding {
    pub fn new(params: &Params, config: &UNetConfig, text_time: Option<TextTime>) -> Self {
        let inputs = config.block_out_channels[0];
        let outputs = 4 * inputs;
        let time = params / "time_embedding";
        Self {
            width: inputs,
            flip_sin_to_cos: config.flip_sin_to_cos,
            shift: config.freq_shift,
            time: EmbeddingMlp::new(&time, inputs, outputs),
            guidance: config
                .time_cond_proj_dim
                .map(|width| (width, Linear::no_bias(&(&time / "cond_proj"), width, inputs))),
            classes: config.num_class_embeds.map(|count| {
                let shape = [count, outputs];
                (params / "class_embedding").tensor("weight", &shape, Init::Normal(1.))
            }),
            text_time: text_time.map(|wide| {
                let inputs = wide.pooled + SIZES * wide.each_size;
                (wide, EmbeddingMlp::new(&(params / "add_embedding"), inputs, outputs))
            }),
        }
    }

    fn sinusoids(&self, t: &Tensor, width: i64) -> Tensor {
        sinusoids(t, width, self.flip_sin_to_cos, self.shift)
    }

    /// Says whether there is everything that is embedded, in its shape, and nothing else.
    pub fn check(&self, conditions: &Conditions, batch: i64) -> Result<()> {
        let wide = self.text_time.as_ref().map(|(wide, _)| wide);
        let of = |width: i64| vec![batch, width];
        let guidance = self.guidance.as_ref().map(|(width, _)| of(*width));
        let expected = [
            ("text_embeds", &conditions.text_embeds, wide.map(|wide| of(wide.pooled))),
            ("time_ids", &conditions.time_ids, wide.map(|_| of(SIZES))),
            ("class_labels", &conditions.class_labels, self.classes.as_ref().map(|_| vec![batch])),
            ("timestep_cond", &conditions.timestep_cond, guidance),
        ];
        for (name, given, expected) in expected {
            match (given, expected) {
                (None, None) => (),
                (Some(given), Some(shape)) if given.size() == shape => (),
                (Some(given), Some(shape)) => {
                    return Err(Error::shape(name, format!("{shape:?}"), &given.size()));
                }
                (None, Some(shape)) => {
                    let todo = "this U-Net needs it among its conditions";
                    return Err(Error::argument(name, format!("{shape:?}"), "none").hint(todo));
                }
                (Some(given), None) => {
                    let (got, todo) = (format!("{:?}", given.size()), "this U-Net does not use it");
                    return Err(Error::argument(name, "none", got).hint(todo));
                }
            }
        }
        if let (Some(labels), Some(classes)) = (&conditions.class_labels, &self.classes) {
            let (low, high) = (labels.min().int64_value(&[]), labels.max().int64_value(&[]));
            let count = classes.size()[0];
            if low < 0 || high >= count {
                let got = if low < 0 { low } else { high };
                return Err(Error::argument("class_labels", format!("0..{count}"), got));
            }
        }
        Ok(())
    }

    /// `t` `[B]` and the conditions, checked, to [B, width] in the dtype `kind`.
    pub fn forward(&self, t: &Tensor, conditions: &Conditions, kind: Kind) -> Tensor {
        let here = |x: &Tensor| put(x, kind, t.device());
        let mut time = self.sinusoids(t, self.width).to_kind(kind);
        if let (Some((_, proj)), Some(guidance)) = (&self.guidance, &conditions.timestep_cond) {
            time += proj.forward(&here(guidance));
        }
        let mut sum = self.time.forward(&time);
        if let (Some(classes), Some(labels)) = (&self.classes, &conditions.class_labels) {
            sum += classes.index_select(0, &send(labels, Kind::Int64, t.device()));
        }
        if let (Some((wide, proj)), Some(text), Some(sizes)) =
            (&self.text_time, &conditions.text_embeds, &conditions.time_ids)
        {
            let flat = put(sizes, Kind::Float, t.device()).flatten(0, -1);
            let sizes = self.sinusoids(&flat, wide.each_size).reshape([sizes.size()[0], -1]);
            sum += proj.forward(&Tensor::cat(&[here(text), here(&sizes)], 1));
        }
        sum
    }
}
