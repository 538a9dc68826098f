//! Attention by blocks of queries and keys: the kernel of `diffuscope_kernels`, on tensors.

use diffuscope_kernels::{Attention, Instructions, Matrices, Number};
use tch::{Kind, Tensor};

use crate::cpu;

/// Values wider than this fill the nearest cache by themselves: libtorch's products of whole matrices are quicker then.
const WIDEST: i64 = 160;

/// `softmax(q k^T / sqrt(d)) v` of [B, heads, n, d] by the CPU's own loops, or `None` where libtorch's are as good.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Option<Tensor> {
    let with = Instructions::of_this_cpu()?;
    let number = match q.kind() {
        Kind::Float => Number::F32,
        Kind::BFloat16 => Number::Bf16,
        _ => return None,
    };
    let with = if cpu::has_bf16() { with } else { with.min(Instructions::Avx512) };
    let (size, keys) = (q.size(), k.size());
    let &[batch, heads, queries, width] = size.as_slice() else { return None };
    let same = keys == [batch, heads, keys[2], width] && v.size() == keys;
    let kinds = k.kind() == q.kind() && v.kind() == q.kind();
    if !same || !kinds || !(1..=WIDEST).contains(&width) || keys[2] == 0 || size.contains(&0) {
        return None;
    }
    // A sample's rows of all heads side by side, as the layer that comes next takes them.
    let out = Tensor::f_empty([batch, queries, heads, width], (q.kind(), q.device())).ok()?;
    let out = out.f_transpose(1, 2).ok()?;
    let [q_, k_, v_, out_] = [matrices(q)?, matrices(k)?, matrices(v)?, matrices(&out)?];
    let attention = Attention {
        number,
        batch: batch as usize,
        heads: heads as usize,
        queries: queries as usize,
        keys: keys[2] as usize,
        width: width as usize,
        causal,
        q: q_,
        k: k_,
        v: v_,
        out: out_,
    };
    // SAFETY: the tensors have these sizes and strides and live until the end; nobody else knows the new one.
    unsafe { attention.compute(with) };
    Some(out)
}

/// The numbers of a tensor whose rows are not scattered.
fn matrices(x: &Tensor) -> Option<Matrices> {
    let stride = x.stride();
    let strides = [stride[0], stride[1], stride[2]];
    let fine = stride[3] == 1 && strides.iter().all(|stride| *stride >= 0);
    fine.then(|| Matrices { first: x.data_ptr().cast(), strides: strides.map(|s| s as usize) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::in_f64;
    use crate::noise::standard_normal;

    #[test]
    fn it_is_libtorchs_attention() {
        if Instructions::of_this_cpu().is_none() {
            return;
        }
        for (batch, heads, queries, keys, width, causal) in [
            (2, 4, 64, 64, 32, false),
            (1, 8, 100, 77, 40, false),
            (3, 1, 77, 77, 24, true),
            (1, 2, 1, 1, 160, false),
        ] {
            // Heads as a layer splits them: their rows are not side by side.
            let split = |rows, seed| {
                let x = standard_normal(&[batch, rows, heads * width], seed).unwrap();
                x.view([batch, rows, heads, width]).transpose(1, 2)
            };
            let (q, k, v) = (split(queries, 1), split(keys, 2), split(keys, 3));
            for (kind, allowed) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
                let [q, k, v] = [&q, &k, &v].map(|x| x.to_kind(kind));
                let made = attention(&q, &k, &v, causal).unwrap();
                assert_eq!((made.size(), made.kind()), (q.size(), kind));
                let [q, k, v] = [&q, &k, &v].map(|x| in_f64(x).unwrap());
                let none = (None::<&Tensor>, None::<f64>);
                let plain = Tensor::scaled_dot_product_attention(
                    &q, &k, &v, none.0, 0., causal, none.1, false,
                );
                let far = (in_f64(&made).unwrap() - &plain).abs().max().double_value(&[]);
                let largest = plain.abs().max().double_value(&[]);
                assert!(far < allowed * largest, "{queries} queries, {kind:?}: {far} of {largest}");
            }
        }
    }

    #[test]
    fn what_it_does_not_compute_is_left_to_libtorch() {
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
        let fine = ones(&[1, 2, 5, 8]);
        let refused = |q: &Tensor, k: &Tensor, v: &Tensor| {
            assert!(attention(q, k, v, false).is_none(), "{:?} {:?}", q.size(), k.size());
        };
        refused(&fine.to_kind(Kind::Half), &fine, &fine);
        refused(&fine, &fine.to_kind(Kind::BFloat16), &fine);
        refused(&fine, &ones(&[1, 1, 5, 8]), &ones(&[1, 1, 5, 8]));
        refused(&fine, &ones(&[1, 2, 5, 8]), &ones(&[1, 2, 6, 8]));
        refused(&fine, &ones(&[1, 2, 0, 8]), &ones(&[1, 2, 0, 8]));
        let wide = ones(&[1, 1, 2, WIDEST + 1]);
        refused(&wide, &wide, &wide);
        let scattered = ones(&[1, 2, 8, 8]).transpose(2, 3);
        refused(&scattered, &scattered, &scattered);
    }
}
