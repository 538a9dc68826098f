//! Replicas of a network, which share out a batch and are trained in parallel.

use tch::Tensor;

use super::parallel::at_once;
use super::task::{LossParts, Trainable};
use crate::Result;

/// A replica and its share of a batch.
pub(super) struct Replica<N> {
    pub network: N,
    samples: Vec<Tensor>,
    /// The share of the batch's samples that it has.
    share: f64,
}

impl<N: Trainable> Replica<N> {
    pub fn new(network: N) -> Self {
        Self { network, samples: Vec::new(), share: 1. }
    }

    /// Adds the gradients of its share of the loss to its own; returns that share.
    fn backward(&self) -> Result<(f64, LossParts)> {
        let (loss, mut parts) = self.network.loss(&self.samples)?;
        let loss = loss * self.share;
        loss.backward();
        parts.iter_mut().for_each(|(_, value)| *value *= self.share);
        Ok((loss.double_value(&[]), parts))
    }
}

/// Hands out a batch in shares that differ by at most one sample.
pub(super) fn share_batch<N>(replicas: &mut [Replica<N>], batch: &[Tensor]) {
    let total = batch.first().map_or(0, |tensor| tensor.size()[0]);
    let count = replicas.len() as i64;
    for (i, replica) in replicas.iter_mut().enumerate() {
        let (from, to) = (total * i as i64 / count, total * (i as i64 + 1) / count);
        replica.samples = batch.iter().map(|tensor| tensor.narrow(0, from, to - from)).collect();
        replica.share = (to - from) as f64 / total as f64;
    }
}

/// Computes the gradients of all replicas in parallel; returns the loss of the batch and its parts.
pub(super) fn backward<N: Trainable>(replicas: &mut [Replica<N>]) -> Result<(f64, LossParts)> {
    let mut all = at_once(replicas, |replica| replica.backward()).into_iter();
    let (mut loss, mut parts) = all.next().unwrap_or_else(|| Ok((0., Vec::new())))?;
    for one in all {
        let (more, others) = one?;
        loss += more;
        parts.iter_mut().zip(others).for_each(|((_, sum), (_, value))| *sum += value);
    }
    Ok((loss, parts))
}
