//! Muon's orthogonalised step.

use tch::Tensor;

use crate::device::training_kind;

/// Approximately the nearest semi-orthogonal matrix: five Newton-Schulz iterations, which bring every singular
/// value of `gradient` [m, n] near 1.
///
/// ```text
/// X = G / |G|      five times: A = X X^T,  X = (3.4445 I + (-4.7750 I + 2.0315 A) A) X
/// ```
/// Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
pub fn orthogonal(gradient: &Tensor) -> Tensor {
    let tall = gradient.size()[0] > gradient.size()[1];
    let wide = |x: &Tensor| if tall { x.transpose(0, 1) } else { x.shallow_clone() };
    // The iterations tolerate bf16's rounding.
    let kind = training_kind(gradient.device());
    let mut x = wide(gradient).to_kind(kind);
    x /= x.norm().to_kind(kind) + 1e-7;
    for _ in 0..5 {
        let a = x.matmul(&x.transpose(0, 1));
        let inner = plus_identity(&a * 2.0315, -4.7750);
        x = plus_identity(inner.matmul(&a), 3.4445).matmul(&x);
    }
    wide(&x).to_kind(gradient.kind())
}

/// `x + scale I` for a square x.
fn plus_identity(x: Tensor, scale: f64) -> Tensor {
    let mut diagonal = x.diagonal(0, 0, 1);
    diagonal += scale;
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    #[test]
    fn orthogonal_brings_the_singular_values_near_one_and_keeps_the_vectors() {
        for size in [[12, 40], [40, 12]] {
            let gradient = standard_normal(&size, 1).unwrap() * 7.;
            let (u, _, v) = gradient.svd(true, true);
            let inner = u.transpose(0, 1).matmul(&orthogonal(&gradient)).matmul(&v);
            let values = inner.diagonal(0, 0, 1);
            let (low, high) = (values.min().double_value(&[]), values.max().double_value(&[]));
            assert!(low > 0.6 && high < 1.3, "{size:?}: {low} to {high}");
            let rest = (&inner - values.diag(0)).abs().max().double_value(&[]);
            assert!(rest < 0.05, "{size:?}: {rest}");
        }
    }
}
