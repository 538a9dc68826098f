//! How much a network computes: its products, counted from the shapes of its weights and the size of its input. What
//! norms, activations and copies cost is not counted.

use std::collections::BTreeMap;
use std::path::Path;

use diffuscope::models::clip::TextConfig;
use diffuscope::models::unet::UNetConfig;
use diffuscope::models::vae::VaeConfig;
use diffuscope::tensor_file::{NamedTensors, read_config, weight_files};
use diffuscope::{Error, Result};

/// The tokens of a prompt.
pub const TOKENS: i64 = 77;

/// One operation, with all that its time depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A square convolution; `side` is that of what comes out.
    Convolution { batch: i64, inputs: i64, outputs: i64, kernel: i64, stride: i64, side: i64 },
    /// `x W^T` with this many rows of x.
    Linear { rows: i64, inputs: i64, outputs: i64 },
    /// `softmax(q k^T) v`, each head this wide.
    Attention { batch: i64, heads: i64, queries: i64, keys: i64, width: i64 },
}

impl Operation {
    /// Multiplications and additions.
    pub fn count(&self) -> f64 {
        let product = |sides: &[i64]| sides.iter().map(|&n| n as f64).product::<f64>();
        match *self {
            Self::Convolution { batch, inputs, outputs, kernel, side, .. } => {
                2. * product(&[batch, side, side, inputs, outputs, kernel, kernel])
            }
            Self::Linear { rows, inputs, outputs } => 2. * product(&[rows, inputs, outputs]),
            Self::Attention { batch, heads, queries, keys, width } => {
                4. * product(&[batch, heads, queries, keys, width])
            }
        }
    }
}

/// Operations, and how often each of them is done.
#[derive(Debug, Clone, Default)]
pub struct OperationCounts(pub BTreeMap<Operation, f64>);

impl OperationCounts {
    /// All of it, in 10^9 multiplications and additions.
    pub fn gflop(&self) -> f64 {
        self.0.iter().map(|(operation, times)| operation.count() * times / 1e9).sum()
    }

    fn add(&mut self, operation: Operation) {
        *self.0.entry(operation).or_default() += 1.;
    }

    /// The operations of `other`, `times` as often, too.
    pub fn and(mut self, other: &Self, times: f64) -> Self {
        for (operation, count) in &other.0 {
            *self.0.entry(*operation).or_default() += count * times;
        }
        self
    }
}

/// The shapes of a network's weights.
fn weights(folder: &Path) -> Result<Vec<(String, Vec<i64>)>> {
    let weights = NamedTensors::open(&weight_files(folder)?)?;
    let shape = |name: &str| Some((name.to_owned(), weights.shape(name)?));
    Ok(weights.names().filter_map(shape).collect())
}

/// The number after `block.` in a name.
fn index(name: &str, block: &str) -> Option<u32> {
    name.split_once(block)?.1.split('.').next()?.parse().ok()
}

fn convolution(shape: &[i64], batch: i64, side: i64, stride: i64) -> Option<Operation> {
    let [outputs, inputs, kernel, _] = *shape else { return None };
    Some(Operation::Convolution { batch, inputs, outputs, kernel, stride, side })
}

fn linear(shape: &[i64], rows: i64) -> Option<Operation> {
    let [outputs, inputs] = *shape else { return None };
    Some(Operation::Linear { rows, inputs, outputs })
}

/// A pass of the U-Net in this folder.
pub fn unet_operations(folder: &Path, batch: i64, side: i64) -> Result<OperationCounts> {
    let config: UNetConfig = read_config(folder.join("config.json"))?;
    let levels = config.block_out_channels.len() as u32;
    let heads = config.attention_head_dim.levels(levels as usize).ok_or_else(|| {
        Error::config(folder.join("config.json"), "attention_head_dim does not fit the levels")
    })?;
    let mut counts = OperationCounts::default();
    for (name, shape) in weights(folder)? {
        // The level, counted from the outermost one.
        let level = match (index(&name, "down_blocks."), index(&name, "up_blocks.")) {
            (Some(down), _) => down,
            (_, Some(up)) => (levels - 1).saturating_sub(up),
            _ if name.starts_with("mid_block") => levels - 1,
            _ => 0,
        };
        let level = level.min(levels - 1);
        let here = side >> level;
        let cells = here * here;
        let (out, stride) = match () {
            () if name.contains("downsamplers") => (here / 2, 2),
            () if name.contains("upsamplers") => (here * 2, 1),
            () => (here, 1),
        };
        let of_text = name.contains("attn2.to_k") || name.contains("attn2.to_v");
        let of_time = ["time_emb", "add_embedding", "class_embedding"];
        let rows = match () {
            () if of_time.iter().any(|part| name.contains(part)) => batch,
            () if of_text => batch * TOKENS,
            () => batch * cells,
        };
        let product = convolution(&shape, batch, out, stride).or_else(|| linear(&shape, rows));
        product.into_iter().for_each(|operation| counts.add(operation));
        if name.ends_with("to_q.weight") {
            let (heads, width) = (heads[level as usize], shape[0]);
            let keys = if name.contains("attn2") { TOKENS } else { cells };
            let width = width / heads.max(1);
            counts.add(Operation::Attention { batch, heads, queries: cells, keys, width });
        }
    }
    Ok(counts)
}

/// Encoding pictures, or decoding latents with this side.
pub fn vae_operations(
    folder: &Path,
    batch: i64,
    side: i64,
    encode: bool,
) -> Result<OperationCounts> {
    let config: VaeConfig = read_config(folder.join("config.json"))?;
    let pixels = side * config.factor();
    let half = if encode { "encoder." } else { "decoder." };
    let around = if encode { "quant_conv" } else { "post_quant_conv" };
    let mut counts = OperationCounts::default();
    for (name, shape) in weights(folder)? {
        if !name.starts_with(half) && !name.starts_with(around) {
            continue;
        }
        let (here, out, stride) = match (index(&name, "down_blocks."), index(&name, "up_blocks.")) {
            (Some(down), _) if name.contains("downsamplers") => {
                (pixels >> down, pixels >> (down + 1), 2)
            }
            (Some(down), _) => (pixels >> down, pixels >> down, 1),
            (_, Some(up)) if name.contains("upsamplers") => (side << up, side << (up + 1), 1),
            (_, Some(up)) => (side << up, side << up, 1),
            _ if name == "encoder.conv_in.weight" || name == "decoder.conv_out.weight" => {
                (pixels, pixels, 1)
            }
            _ => (side, side, 1),
        };
        let product =
            convolution(&shape, batch, out, stride).or_else(|| linear(&shape, batch * here * here));
        product.into_iter().for_each(|operation| counts.add(operation));
        if name.ends_with("to_q.weight") || name.ends_with("query.weight") {
            let cells = here * here;
            let width = shape[0];
            counts.add(Operation::Attention {
                batch,
                heads: 1,
                queries: cells,
                keys: cells,
                width,
            });
        }
    }
    Ok(counts)
}

/// The text encoder over this many prompts.
fn text_operations(folder: &Path, prompts: i64) -> Result<OperationCounts> {
    let config: TextConfig = read_config(folder.join("config.json"))?;
    let mut counts = OperationCounts::default();
    for (name, shape) in weights(folder)? {
        if name.contains("embedding") {
            continue;
        }
        linear(&shape, prompts * TOKENS).into_iter().for_each(|operation| counts.add(operation));
        if name.ends_with("q_proj.weight") {
            let (heads, width) = (config.num_attention_heads, shape[0]);
            let width = width / heads.max(1);
            let (queries, keys) = (TOKENS, TOKENS);
            counts.add(Operation::Attention { batch: prompts, heads, queries, keys, width });
        }
    }
    Ok(counts)
}

/// So many guided passes for each of these pictures, and so often the texts and the decoding of all of them.
pub fn picture_operations(
    model: &Path,
    batch: i64,
    side: i64,
    passes: f64,
    times: f64,
) -> Result<OperationCounts> {
    let unet = unet_operations(&model.join("unet"), 2 * batch, side)?;
    let vae = vae_operations(&model.join("vae"), batch, side, false)?;
    let text = text_operations(&model.join("text_encoder"), 2)?;
    Ok(OperationCounts::default().and(&unet, passes).and(&vae, times).and(&text, times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffuscope::pipeline::tiny_folder;

    #[test]
    fn products_are_counted_by_their_shapes() -> Result<()> {
        let conv = Operation::Convolution {
            batch: 2,
            inputs: 3,
            outputs: 5,
            kernel: 3,
            stride: 2,
            side: 4,
        };
        assert_eq!(conv.count(), (2 * 2 * 16 * 3 * 5 * 9) as f64);
        let attention = Operation::Attention { batch: 2, heads: 3, queries: 5, keys: 7, width: 11 };
        assert_eq!(attention.count(), (4 * 2 * 3 * 5 * 7 * 11) as f64);

        let unet = tiny_folder().join("unet");
        let [once, twice] = [1, 2].map(|batch| unet_operations(&unet, batch, 16).unwrap());
        assert_eq!(twice.gflop(), 2. * once.gflop());
        let first = Operation::Convolution {
            batch: 1,
            inputs: 4,
            outputs: 64,
            kernel: 3,
            stride: 1,
            side: 16,
        };
        assert_eq!(once.0[&first], 1.);
        // Two levels of attention, of 8 by 8 and 4 by 4 cells.
        let cells = |operation: &Operation| match *operation {
            Operation::Attention { queries, .. } => Some(queries),
            _ => None,
        };
        let mut sizes: Vec<i64> = once.0.keys().filter_map(cells).collect();
        sizes.dedup();
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [16, 64]);

        let vae = tiny_folder().join("vae");
        let decoding = vae_operations(&vae, 1, 16, false)?;
        let last = Operation::Convolution {
            batch: 1,
            inputs: 32,
            outputs: 3,
            kernel: 3,
            stride: 1,
            side: 64,
        };
        assert_eq!(decoding.0[&last], 1.);
        assert!(vae_operations(&vae, 1, 16, true)?.gflop() < decoding.gflop());
        Ok(())
    }
}
