//! The machine's best: how long an operation takes with the fastest of the kernels that libtorch has for it.

use std::collections::BTreeMap;
use std::time::Instant;

use diffuscope::Result;
use tch::{Device, Kind, Tensor};

use crate::operations::{Operation, OperationCounts};
use crate::order::timed;

/// An operation is repeated for so many seconds, and at least so often; the shortest time counts.
const LEAST_SECONDS: f64 = 0.05;
const LEAST_TIMES: usize = 3;

/// The best time of every operation so far.
#[derive(Default)]
pub struct BestTimes(BTreeMap<(Operation, String), f64>);

impl BestTimes {
    /// How long all of these operations take, each at its best.
    pub fn of(&mut self, counts: &OperationCounts, kind: Kind, device: Device) -> Result<f64> {
        let mut seconds = 0.;
        for (operation, times) in &counts.0 {
            let key = (*operation, format!("{kind:?} {device:?}"));
            let best = match self.0.get(&key) {
                Some(&known) => known,
                None => {
                    let best = best_seconds(operation, kind, device)?;
                    self.0.insert(key, best);
                    best
                }
            };
            seconds += best * times;
        }
        Ok(seconds)
    }
}

/// Large products' and convolutions' GFLOP/s.
pub fn machine_rates(kind: Kind, device: Device) -> Result<(f64, f64)> {
    let matmul = Operation::Linear { rows: 2048, inputs: 2048, outputs: 2048 };
    let (inputs, outputs) = (320, 320);
    let convolution =
        Operation::Convolution { batch: 2, inputs, outputs, kernel: 3, stride: 1, side: 64 };
    let rate = |operation: Operation| -> Result<f64> {
        Ok(operation.count() / best_seconds(&operation, kind, device)? / 1e9)
    };
    Ok((rate(matmul)?, rate(convolution)?))
}

/// A way of computing an operation.
type Kernel = Box<dyn Fn() -> Tensor>;

fn best_seconds(operation: &Operation, kind: Kind, device: Device) -> Result<f64> {
    let kernels = match *operation {
        Operation::Convolution { batch, inputs, outputs, kernel, stride, side } => {
            let x = random(&[batch, inputs, side * stride, side * stride], kind, device);
            let weight = random(&[outputs, inputs, kernel, kernel], kind, device);
            convolutions(&x, &weight, stride, kernel / 2)
        }
        Operation::Linear { rows, inputs, outputs } => products(
            &random(&[rows, inputs], kind, device),
            &random(&[outputs, inputs], kind, device),
        ),
        Operation::Attention { batch, heads, queries, keys, width } => {
            let draw = |n| random(&[batch, heads, n, width], kind, device);
            return attention(&draw(queries), &draw(keys), &draw(keys));
        }
    };
    shortest(&kernels, device)
}

fn random(shape: &[i64], kind: Kind, device: Device) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device)).to_kind(kind)
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

fn on_mkldnn(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::BFloat16) && mkldnn()
}

fn mkldnn() -> bool {
    cfg!(target_arch = "x86_64")
}

/// In both orders of memory, and with weights in the order that oneDNN itself wants.
fn convolutions(x: &Tensor, weight: &Tensor, stride: i64, padding: i64) -> Vec<Kernel> {
    let plain = |x: Tensor, weight: Tensor| -> Kernel {
        Box::new(move || x.conv2d(&weight, None::<&Tensor>, stride, padding, 1, 1))
    };
    let mut kernels = vec![
        plain(x.shallow_clone(), weight.shallow_clone()),
        plain(channels_last(x), channels_last(weight)),
    ];
    if on_mkldnn(x)
        && let Some(packed) = packed(weight, x, stride, padding)
    {
        let x = channels_last(x);
        kernels.push(Box::new(move || {
            x.mkldnn_convolution(
                &packed,
                None::<&Tensor>,
                [padding, padding],
                [stride, stride],
                [1, 1],
                1,
            )
        }));
    }
    kernels
}

fn packed(weight: &Tensor, x: &Tensor, stride: i64, padding: i64) -> Option<Tensor> {
    let (padding, stride) = ([padding, padding], [stride, stride]);
    let weight = weight.f_to_mkldnn(weight.kind()).ok()?;
    weight.f_mkldnn_reorder_conv2d_weight(padding, stride, [1, 1], 1, &x.size()[..]).ok()
}

/// As a linear layer, as a product with the weight transposed in memory, and as a convolution of 1x1.
fn products(x: &Tensor, weight: &Tensor) -> Vec<Kernel> {
    let (rows, inputs) = (x.size()[0], x.size()[1]);
    let (x1, weight1) = (x.shallow_clone(), weight.shallow_clone());
    let (x2, transposed) = (x.shallow_clone(), weight.tr().contiguous());
    let mut kernels: Vec<Kernel> = vec![
        Box::new(move || x1.linear(&weight1, None::<&Tensor>)),
        Box::new(move || x2.matmul(&transposed)),
    ];
    let cells = x.view([1, rows, 1, inputs]).permute([0, 3, 1, 2]);
    let weight = weight.view([weight.size()[0], inputs, 1, 1]);
    kernels.extend(convolutions(&cells, &weight, 1, 0));
    kernels
}

/// libtorch's own, or its two products alone, whichever is quicker: no kernel does it without them.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<f64> {
    let device = q.device();
    let none = None::<&Tensor>;
    let (q1, k1, v1) = (q.shallow_clone(), k.shallow_clone(), v.shallow_clone());
    let fused: Kernel = Box::new(move || {
        Tensor::scaled_dot_product_attention(&q1, &k1, &v1, none, 0., false, None::<f64>, false)
    });
    let (q, k, v) = (q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1));
    let weights = q.bmm(&k);
    let products: [Kernel; 2] = [Box::new(move || q.bmm(&k)), Box::new(move || weights.bmm(&v))];
    let mut seconds = 0.;
    for product in products {
        seconds += shortest(&[product], device)?;
    }
    Ok(seconds.min(shortest(&[fused], device)?))
}

fn shortest(kernels: &[Kernel], device: Device) -> Result<f64> {
    let mut best = f64::INFINITY;
    for kernel in kernels {
        drop(kernel());
        let (started, mut times) = (Instant::now(), 0);
        while times < LEAST_TIMES || started.elapsed().as_secs_f64() < LEAST_SECONDS {
            best = best.min(timed(device, || Ok(kernel()))?.0);
            times += 1;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_time_and_all_kernels_give_the_same() -> Result<()> {
        let draw = |shape: &[i64]| random(shape, Kind::Float, Device::Cpu);
        let same = |kernels: Vec<Kernel>| {
            let answers: Vec<Tensor> = kernels.iter().map(|kernel| kernel()).collect();
            let first = answers[0].flatten(0, -1);
            for other in &answers[1..] {
                // A product as a convolution has its rows in the cells.
                let other = match (answers[0].dim(), other.dim()) {
                    (2, 4) => other.permute([0, 2, 3, 1]).flatten(0, -1),
                    _ => other.flatten(0, -1),
                };
                assert!((&first - other).abs().max().double_value(&[]) < 1e-3);
            }
        };
        same(convolutions(&draw(&[2, 16, 8, 8]), &draw(&[32, 16, 3, 3]), 1, 1));
        same(convolutions(&draw(&[2, 16, 8, 8]), &draw(&[32, 16, 3, 3]), 2, 1));
        same(products(&draw(&[24, 16]), &draw(&[32, 16])));
        let mut counts = OperationCounts::default();
        let attention = Operation::Attention { batch: 1, heads: 2, queries: 8, keys: 6, width: 16 };
        counts.0.insert(attention, 2.);
        let mut best = BestTimes::default();
        let twice = best.of(&counts, Kind::Float, Device::Cpu)?;
        counts.0.insert(attention, 1.);
        assert_eq!(best.of(&counts, Kind::Float, Device::Cpu)? * 2., twice);
        assert!(twice > 0. && twice.is_finite());
        Ok(())
    }
}
