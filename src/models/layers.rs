//! The layers that all networks are made of.

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::cpu::{has_bf16, linear_lags, plain};
use crate::kernels::{self, Memo, PackedWeight, Window};
use crate::models::params::{Init, Params, channels_last};

/// The dtype that a network keeps between its layers. On a CPU, bf16 weights save memory. Rounding every sum to bf16 too
/// would cost accuracy, and saves time only on a CPU with instructions for bf16 and in a network that is large for its
/// pictures; all other networks are `exact`. A network in training keeps the dtype of its weights.
pub(super) fn carried_kind(weight: &Tensor, exact: bool) -> Kind {
    match (weight.kind(), weight.device()) {
        (Kind::Half, Device::Cpu) => Kind::Float,
        (Kind::BFloat16, Device::Cpu) if !weight.requires_grad() && (exact || !has_bf16()) => {
            Kind::Float
        }
        (kind, _) => kind,
    }
}

/// The dtype of a layer's products. A CPU without instructions for bf16 emulates it, many times slower than f32, and so it
/// does with f16.
fn product_kind(weight: &Tensor) -> Kind {
    match (weight.kind(), weight.device()) {
        (Kind::Half, Device::Cpu) => Kind::Float,
        (Kind::BFloat16, Device::Cpu) if !has_bf16() => Kind::Float,
        (kind, _) => kind,
    }
}

/// Whether a layer may be computed in another way than libtorch's plain one: on a CPU, where nothing learns.
fn fast(inputs: &[&Tensor]) -> bool {
    !plain() && inputs.iter().all(|x| x.device() == Device::Cpu && !x.requires_grad())
}

/// `y = x W^T + b`
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    packed: PackedWeight,
    memo: Memo,
}

impl Linear {
    pub fn new(params: &Params, inputs: i64, outputs: i64) -> Self {
        let bias = params.tensor("bias", &[outputs], Init::FanIn(inputs));
        Self { bias: Some(bias), ..Self::no_bias(params, inputs, outputs) }
    }

    pub fn no_bias(params: &Params, inputs: i64, outputs: i64) -> Self {
        let weight = params.tensor("weight", &[outputs, inputs], Init::FanIn(inputs));
        Self { weight, bias: None, packed: PackedWeight::default(), memo: Memo::default() }
    }

    /// Whether there is enough to multiply.
    fn is_wide(&self, x: &Tensor) -> bool {
        let shape = self.weight.size();
        shape[0] >= 256 && shape[1] >= 256 && x.numel() as i64 >= 64 * shape[1]
    }

    /// The weights in the dtype of the products. Where it is another than that of the weights, small ones are kept in both.
    fn weight_in(&self, kind: Kind) -> Tensor {
        const SMALL: usize = 1 << 19;
        let weight = &self.weight;
        match weight.kind() != kind && weight.numel() <= SMALL && fast(&[weight]) {
            true => self.memo.of(&[weight], || weight.to_kind(kind)),
            false => weight.to_kind(kind),
        }
    }

    /// The same product, kept for the next steps: of a text, which all of them have in common.
    pub fn once(&self, text: &Tensor) -> Tensor {
        match fast(&[text, &self.weight]) {
            true => self.memo.of(&[text, &self.weight], || self.forward(text)),
            false => self.forward(text),
        }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = product_kind(&self.weight);
        if fast(&[x, &self.weight]) && linear_lags() && self.is_wide(x) {
            let made = self.packed.multiply(&x.to_kind(kind), &self.weight, self.bias.as_ref());
            if let Some(made) = made {
                return made.to_kind(x.kind());
            }
        }
        let bias = self.bias.as_ref().map(|bias| bias.to_kind(kind));
        x.to_kind(kind).linear(&self.weight_in(kind), bias.as_ref()).to_kind(x.kind())
    }
}

/// A square convolution.
pub(super) struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    window: Window,
    packed: PackedWeight,
}

impl Conv2d {
    pub fn new(params: &Params, inputs: i64, outputs: i64, kernel: i64) -> Self {
        Self::strided(params, inputs, outputs, kernel, 1, kernel / 2)
    }

    pub fn strided(
        params: &Params,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Self {
        let init = Init::FanIn(inputs * kernel * kernel);
        let weight = params.tensor("weight", &[outputs, inputs, kernel, kernel], init);
        let bias = params.tensor("bias", &[outputs], init);
        let window = Window { stride, padding };
        Self { weight, bias, window, packed: PackedWeight::default() }
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let kind = product_kind(&self.weight);
        let input = x.to_kind(kind);
        if fast(&[x, &self.weight]) {
            let made = self.packed.convolve(&input, &self.weight, Some(&self.bias), self.window);
            if let Some(made) = made {
                return made.to_kind(x.kind());
            }
        }
        let [weight, bias] = [&self.weight, &self.bias].map(|t| t.to_kind(kind));
        let Window { stride, padding } = self.window;
        input.conv2d(&weight, Some(&bias), stride, padding, 1, 1).to_kind(x.kind())
    }

    /// The convolution of `x` after its cells were repeated to fill `size`, [height, width].
    pub fn upsampled(&self, x: &Tensor, size: [i64; 2]) -> Tensor {
        let (old, window) = (x.size(), (self.weight.size()[2], self.window));
        let doubles = size == [2 * old[2], 2 * old[3]];
        let three = window == (3, Window { stride: 1, padding: 1 });
        if doubles && three && fast(&[x, &self.weight]) {
            let input = x.to_kind(product_kind(&self.weight));
            let made = self.packed.convolve_doubled(&input, &self.weight, &self.bias);
            if let Some(made) = made {
                return made.to_kind(x.kind());
            }
        }
        self.forward(&x.upsample_nearest2d(size, None, None))
    }
}

pub(super) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    pub fn new(params: &Params, groups: i64, channels: i64, eps: f64) -> Self {
        let weight = params.tensor("weight", &[channels], Init::Ones);
        let bias = params.tensor("bias", &[channels], Init::Zeros);
        Self { weight, bias, groups, eps }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.in_one(x, false).unwrap_or_else(|| self.plain(x))
    }

    /// SiLU after the norm.
    pub fn silu(&self, x: &Tensor) -> Tensor {
        self.in_one(x, true).unwrap_or_else(|| self.plain(x).silu())
    }

    fn in_one(&self, x: &Tensor, silu: bool) -> Option<Tensor> {
        let (weight, bias) = (&self.weight, &self.bias);
        let may = fast(&[x, weight, bias]);
        may.then(|| kernels::group_norm(x, weight, bias, self.groups, self.eps, silu)).flatten()
    }

    fn plain(&self, x: &Tensor) -> Tensor {
        let norm = |x: &Tensor| {
            let [weight, bias] = [&self.weight, &self.bias].map(|t| t.to_kind(x.kind()));
            x.group_norm(self.groups, Some(weight), Some(bias), self.eps, true)
        };
        if !(x.kind() == Kind::BFloat16 && x.device() == Device::Cpu) {
            return norm(x);
        }
        // libtorch's group norm of bf16, and its gradient, take several times as long in channels-last order as
        // in plain order. For a large picture, computing in f32 is cheaper than reordering.
        if x.size()[2] * x.size()[3] <= 256 {
            return channels_last(&norm(&x.contiguous()));
        }
        norm(&x.to_kind(Kind::Float)).to_kind(Kind::BFloat16)
    }
}

pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub fn new(params: &Params, width: i64, eps: f64) -> Self {
        let weight = params.tensor("weight", &[width], Init::Ones);
        let bias = params.tensor("bias", &[width], Init::Zeros);
        Self { weight, bias, eps }
    }

    pub fn forward(&self, x: &Tensor) -> Tensor {
        let [weight, bias] = [&self.weight, &self.bias].map(|t| t.to_kind(x.kind()));
        x.layer_norm(weight.size(), Some(&weight), Some(&bias), self.eps, true)
    }
}

/// A residual block of two convolutions; the U-Net's adds the timestep's embedding between them.
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// `time_width`: the timestep embedding's width, `None` in the VAE.
    pub fn new(
        params: &Params,
        inputs: i64,
        outputs: i64,
        time_width: Option<i64>,
        groups: i64,
        eps: f64,
    ) -> Self {
        Self {
            norm1: GroupNorm::new(&(params / "norm1"), groups, inputs, eps),
            conv1: Conv2d::new(&(params / "conv1"), inputs, outputs, 3),
            time_emb_proj: time_width
                .map(|width| Linear::new(&(params / "time_emb_proj"), width, outputs)),
            norm2: GroupNorm::new(&(params / "norm2"), groups, outputs, eps),
            conv2: Conv2d::new(&(params / "conv2"), outputs, outputs, 3),
            conv_shortcut: (inputs != outputs)
                .then(|| Conv2d::new(&(params / "conv_shortcut"), inputs, outputs, 1)),
        }
    }

    /// `time`: the timestep's embedding after SiLU, the same for all blocks.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Tensor {
        let mut h = self.conv1.forward(&self.norm1.silu(x));
        if let (Some(proj), Some(time)) = (&self.time_emb_proj, time) {
            h += proj.forward(time).unsqueeze(-1).unsqueeze(-1);
        }
        let h = self.conv2.forward(&self.norm2.silu(&h));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

/// Applies `work` to the rows of `x` [B, n, width], which leaves up to `widest` numbers of each in between: to all at once,
/// or to as many as leave no more than the CPU's caches hold.
pub(super) fn rows_at_once(x: &Tensor, widest: i64, work: impl Fn(&Tensor) -> Tensor) -> Tensor {
    const CACHED: i64 = 1 << 21;
    let (size, some) = (x.size(), (CACHED / widest).max(64));
    let rows = size[0] * size[1];
    if rows < 2 * some || !fast(&[x]) {
        return work(x);
    }
    let x = x.reshape([1, rows, size[2]]);
    let parts: Vec<Tensor> = x.split(some, 1).iter().map(work).collect();
    Tensor::cat(&parts, 1).reshape([size[0], size[1], -1])
}

/// Splits the last dimension into heads: [B, n, heads * width] to [B, heads, n, width].
pub(super) fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (batch, n, width) = (x.size()[0], x.size()[1], x.size()[2]);
    // Not `view`: what memory order a layer leaves its numbers in differs from device to device.
    x.reshape([batch, n, heads, width / heads]).transpose(1, 2)
}

/// The inverse of [`split_heads`].
pub(super) fn join_heads(x: &Tensor) -> Tensor {
    let size = x.size();
    x.transpose(1, 2).reshape([size[0], size[2], size[1] * size[3]])
}

/// `softmax(q k^T / sqrt(d)) v`, Vaswani et al. 2017, eq. 1. `upcast` computes it in f32.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool, upcast: bool) -> Tensor {
    let kind = v.kind();
    let wide = |x: &Tensor| x.to_kind(if upcast { Kind::Float } else { product_kind(x) });
    if fast(&[q, k, v])
        && let Some(made) = kernels::attention(&wide(q), &wide(k), &wide(v), causal)
    {
        return made.to_kind(kind);
    }
    let none = None::<&Tensor>;
    Tensor::scaled_dot_product_attention(
        &wide(q),
        &wide(k),
        &wide(v),
        none,
        0.,
        causal,
        None::<f64>,
        false,
    )
    .to_kind(kind)
}

/// The weights of [`attention`] that libtorch's fused kernel never stores: [B, heads, n, m] in f32.
pub(super) fn attention_weights(q: &Tensor, k: &Tensor) -> Tensor {
    let (q, k) = (q.to_kind(Kind::Float), k.to_kind(Kind::Float));
    let scale = 1. / (q.size()[3] as f64).sqrt();
    (q.matmul(&k.transpose(-2, -1)) * scale).softmax(-1, Kind::Float)
}

/// One value for all levels, or one per level, as diffusers' configurations have it.
#[derive(Debug, Clone, Deserialize, serde::Serialize, PartialEq)]
#[serde(untagged)]
pub enum PerLevel<T = i64> {
    /// The same for every level.
    One(T),
    /// One per level, from the outermost in.
    Each(Vec<T>),
}

impl<T: Clone> PerLevel<T> {
    /// The values of `levels` levels, or `None` if there is not exactly one for each.
    pub fn levels(&self, levels: usize) -> Option<Vec<T>> {
        match self {
            PerLevel::One(one) => Some(vec![one.clone(); levels]),
            PerLevel::Each(all) => (all.len() == levels).then(|| all.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    /// The group norm of a GPU leaves its numbers in another order than that of a CPU.
    #[test]
    fn heads_are_split_whatever_the_memory_order() {
        let x = standard_normal(&[2, 6, 5], 1).unwrap();
        let split = split_heads(&x.transpose(1, 2), 3);
        assert!(split.equal(&split_heads(&x.transpose(1, 2).contiguous(), 3)));
        assert!(join_heads(&split).equal(&x.transpose(1, 2)));
    }

    /// In bf16 the norm has separate paths for small and for large pictures: both must agree with f32.
    #[test]
    fn the_group_norm_and_its_gradients_in_bf16_are_those_in_f32() {
        for side in [16, 32] {
            let values = standard_normal(&[2, 8, side, side], 1).unwrap();
            let pull = standard_normal(&[2, 8, side, side], 2).unwrap();
            let run = |kind: Kind| {
                let x = channels_last(&values.to_kind(kind)).set_requires_grad(true);
                let params = Params::fresh(kind, Device::Cpu);
                let norm = GroupNorm::new(&params, 4, 8, 1e-5);
                let y = norm.forward(&x);
                assert_eq!(y.kind(), kind);
                (y.to_kind(Kind::Float) * &pull).sum(Kind::Float).backward();
                [y, x.grad(), norm.weight.grad(), norm.bias.grad()].map(|t| t.to_kind(Kind::Float))
            };
            for (got, expected) in run(Kind::BFloat16).iter().zip(run(Kind::Float)) {
                let far = (got - &expected).abs().max().double_value(&[]);
                let largest = expected.abs().max().double_value(&[]);
                assert!(far < 0.02 * largest, "side {side}: {far} of {largest}");
            }
        }
    }
}
