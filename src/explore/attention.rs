//! Where the picture looked in the prompts, as bytes.

use tch::{Kind, Tensor};

use crate::models::clip::Encoding;
use crate::{Error, Result};

/// Most cells of a map's side.
const SIDE: i64 = 32;

/// The maps of one trace in 8 bits.
pub(super) struct TokenAttention {
    /// [N, B, tokens, h, w] u8, of the tokens from start to end.
    pub maps: Tensor,
    /// The attention that 255 stands for, 0 to 1.
    pub largest: f64,
}

/// Height and width of the maps for latents of this size.
pub(super) fn attention_cells(latents: &Tensor) -> (i64, i64) {
    let size = latents.size();
    let (mut h, mut w) = (size[2], size[3]);
    while h.max(w) > SIDE {
        (h, w) = ((h + 1) / 2, (w + 1) / 2);
    }
    (h, w)
}

impl TokenAttention {
    /// From the maps [B, 77, h, w] of every step.
    pub fn new(steps: &[Tensor], encodings: &[Encoding]) -> Result<Self> {
        let tokens = encodings.iter().map(|encoding| encoding.text_end() + 1).max().unwrap_or(0);
        let all = Tensor::f_stack(steps, 0)?;
        if all.dim() != 5 || tokens == 0 || all.size()[2] < tokens as i64 {
            return Err(Error::shape("attention", format!("[N, B, {tokens} or more, h, w]"), &all.size()));
        }
        let all = all.narrow(2, 0, tokens as i64);
        // The start token takes most of the attention and would leave nothing to see of the others.
        let seen = if tokens > 1 { all.narrow(2, 1, tokens as i64 - 1) } else { all.shallow_clone() };
        let largest = seen.max().double_value(&[]).max(f64::MIN_POSITIVE);
        let maps = (all / largest * 255.).round().clamp(0., 255.).to_kind(Kind::Uint8);
        Ok(Self { maps, largest })
    }

    /// The bytes of picture `b`: steps, tokens, rows, columns.
    pub fn bytes(&self, b: usize) -> Result<Vec<u8>> {
        Ok(Vec::try_from(self.maps.f_select(1, b as i64)?.f_contiguous()?.f_flatten(0, -1)?)?)
    }
}
