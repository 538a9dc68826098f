//! Where the picture looked in the prompts, as bytes.

use tch::{Kind, Tensor};

use crate::device::in_f64_on_cpu;
use crate::models::clip::Encoding;
use crate::{Error, Result};

/// Most cells of a map's side.
const SIDE: i64 = 32;

/// The maps of one trace in 8 bits.
pub(super) struct TokenAttention {
    /// [N, B, tokens, h, w] u8, of the tokens from start to end.
    pub maps: Tensor,
    /// The attention that 255 stands for, one a token: some draw far more than others.
    pub largest: Vec<f64>,
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
            return Err(Error::shape(
                "attention",
                format!("[N, B, {tokens} or more, h, w]"),
                &all.size(),
            ));
        }
        let all = all.narrow(2, 0, tokens as i64);
        let largest = all.f_amax(&[0i64, 1, 3, 4][..], true)?.clamp_min(1e-12);
        let maps = (&all / &largest * 255.).round().to_kind(Kind::Uint8);
        let largest = Vec::try_from(in_f64_on_cpu(&largest.f_flatten(0, -1)?)?)?;
        Ok(Self { maps, largest })
    }

    /// The bytes of picture `b`: steps, tokens, rows, columns.
    pub fn bytes(&self, b: usize) -> Result<Vec<u8>> {
        Ok(Vec::try_from(self.maps.f_select(1, b as i64)?.f_contiguous()?.f_flatten(0, -1)?)?)
    }
}
