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
    fn backward(&self) -> Result<(Tensor, LossParts)> {
        let (loss, parts) = self.network.loss(&self.samples)?;
        let loss = loss * self.share;
        loss.f_backward()?;
        Ok((loss, parts))
    }
}

/// What the replicas' backward passes came to, not read yet: reading waits for the device.
pub(super) struct Losses {
    /// Of every replica: its share of the loss, the parts, and the share of the samples that it had.
    replicas: Vec<(Tensor, LossParts, f64)>,
}

impl Losses {
    /// All numbers, to be read at once.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut all = Vec::new();
        for (loss, parts, _) in &self.replicas {
            all.push(loss);
            all.extend(parts.iter().map(|(_, part)| part));
        }
        all
    }

    /// The loss of the batch and its parts, once the numbers of [`Losses::tensors`] are read.
    pub fn sums(&self, numbers: &[f64]) -> (f64, Vec<(&'static str, f64)>) {
        let mut numbers = numbers.iter();
        let (mut loss, mut sums) = (0., Vec::new());
        for (i, (_, parts, share)) in self.replicas.iter().enumerate() {
            loss += numbers.next().unwrap_or(&f64::NAN);
            if i == 0 {
                sums = parts.iter().map(|(name, _)| (*name, 0.)).collect();
            }
            for ((_, sum), number) in sums.iter_mut().zip(numbers.by_ref().take(parts.len())) {
                *sum += number * share;
            }
        }
        (loss, sums)
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

/// Computes the gradients of all replicas in parallel; returns the losses.
pub(super) fn backward<N: Trainable>(replicas: &mut [Replica<N>]) -> Result<Losses> {
    let all = at_once(replicas, |replica| {
        let (loss, parts) = replica.backward()?;
        Ok((loss, parts, replica.share))
    });
    Ok(Losses { replicas: all.into_iter().collect::<Result<_>>()? })
}
