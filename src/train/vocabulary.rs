//! The ids that captions use, out of CLIP's vocabulary.

use tch::{Device, Tensor};

use crate::Result;

/// The part of the vocabulary that the captions use. Only these rows of the token embedding are trained: all
/// 49408 rows would cost as much as the U-Net.
pub(super) struct Vocabulary {
    /// Ids in CLIP's numbering, ascending. Their positions are the ids during the training.
    pub ids: Vec<i64>,
    /// The number of ids in CLIP's numbering.
    size: i64,
}

impl Vocabulary {
    /// The ids in `ids` and in `more`.
    pub fn of(ids: &Tensor, more: &[Tensor], size: i64) -> Result<Self> {
        let mut all: Vec<i64> = Vec::try_from(ids.reshape([-1]))?;
        for ids in more {
            all.extend(Vec::<i64>::try_from(ids.reshape([-1]))?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self { ids: all, size })
    }

    /// CLIP's ids to those of the training. Every id must be in the vocabulary.
    pub fn renumber(&self, ids: &Tensor) -> Tensor {
        ids.bucketize(&Tensor::from_slice(&self.ids), false, false)
    }

    /// The trained rows in a table of CLIP's whole vocabulary, where the rows of all other words are zero.
    pub fn expand(&self, rows: &Tensor) -> Tensor {
        let rows = rows.to_device(Device::Cpu);
        Tensor::zeros([self.size, rows.size()[1]], (rows.kind(), Device::Cpu)).index_copy(
            0,
            &Tensor::from_slice(&self.ids),
            &rows,
        )
    }
}
