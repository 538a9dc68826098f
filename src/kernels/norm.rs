//! Group norm and SiLU in one: the kernel of `diffuscope_kernels`, on tensors.

use diffuscope_kernels::{GroupNorm, Instructions, Number};
use tch::{Kind, Tensor};

/// The group norm of pictures whose channels lie side by side, and SiLU after it if `silu`; `None` where libtorch has to
/// do it.
pub(crate) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: i64,
    eps: f64,
    silu: bool,
) -> Option<Tensor> {
    let with = Instructions::of_this_cpu()?;
    let number = match x.kind() {
        Kind::Float => Number::F32,
        Kind::BFloat16 => Number::Bf16,
        _ => return None,
    };
    let size = x.size();
    let &[batch, channels, height, width] = size.as_slice() else { return None };
    let cells = height * width;
    let whole = channels % GroupNorm::CHANNELS as i64 == 0 && channels % groups == 0;
    if !whole || !channels_lie_side_by_side(x) || size.contains(&0) {
        return None;
    }
    let out = Tensor::f_empty([batch, height, width, channels], (x.kind(), x.device())).ok()?;
    let singles = |x: &Tensor| x.f_to_kind(Kind::Float).and_then(|x| x.f_contiguous());
    let (weight, bias) = (singles(weight).ok()?, singles(bias).ok()?);
    if [&weight, &bias].iter().any(|line| line.size() != [channels]) {
        return None;
    }
    // SAFETY: they hold this many numbers, one after another, until the end.
    let line = |x: &Tensor| unsafe {
        std::slice::from_raw_parts(x.data_ptr().cast::<f32>(), channels as usize)
    };
    let norm = GroupNorm {
        number,
        batch: batch as usize,
        cells: cells as usize,
        groups: groups as usize,
        eps: eps as f32,
        weight: line(&weight),
        bias: line(&bias),
        silu,
        x: x.data_ptr().cast(),
        out: out.data_ptr().cast(),
    };
    // SAFETY: both pictures have this size and order and live until the end; nobody else knows the new one.
    unsafe { norm.compute(with) };
    out.f_permute([0, 3, 1, 2]).ok()
}

/// Whether the numbers of a picture [B, C, H, W] lie cell by cell, with nothing in between.
fn channels_lie_side_by_side(x: &Tensor) -> bool {
    let (size, stride) = (x.size(), x.stride());
    let mut next = 1;
    // From the innermost out; a side of one cell may have any stride.
    [1, 3, 2, 0].into_iter().all(|dim| {
        let fits = size[dim] == 1 || stride[dim] == next;
        next *= size[dim];
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::in_f64;
    use crate::models::params::channels_last;
    use crate::noise::standard_normal;

    #[test]
    fn it_is_libtorchs_group_norm() {
        if Instructions::of_this_cpu().is_none() {
            return;
        }
        for (batch, channels, height, width, groups) in
            [(2, 64, 16, 16, 32), (1, 48, 5, 7, 4), (3, 32, 1, 1, 4), (1, 128, 70, 64, 32)]
        {
            let x = standard_normal(&[batch, channels, height, width], 1).unwrap() * 3. + 5.;
            let [weight, bias] = [2, 3].map(|seed| standard_normal(&[channels], seed).unwrap());
            for (kind, allowed) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
                let x = channels_last(&x.to_kind(kind));
                let [w, b] = [&weight, &bias].map(|line| line.to_kind(kind));
                for silu in [false, true] {
                    let made = group_norm(&x, &w, &b, groups, 1e-5, silu).unwrap();
                    assert_eq!((made.size(), made.kind()), (x.size(), kind));
                    assert!(channels_lie_side_by_side(&made));
                    let [x, w, b] = [&x, &w, &b].map(|t| in_f64(t).unwrap().contiguous());
                    let plain = x.group_norm(groups, Some(w), Some(b), 1e-5, false);
                    let plain = if silu { plain.silu() } else { plain };
                    let far = (in_f64(&made).unwrap() - &plain).abs().max().double_value(&[]);
                    let largest = plain.abs().max().double_value(&[]);
                    assert!(far <= allowed * largest, "{channels} channels: {far} of {largest}");
                }
            }
        }
    }

    #[test]
    fn what_it_does_not_compute_is_left_to_libtorch() {
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
        let line = ones(&[32]);
        let of = |x: &Tensor, line: &Tensor| group_norm(x, line, line, 4, 1e-5, false);
        let fine = channels_last(&ones(&[2, 32, 3, 3]));
        assert!(of(&fine, &line).is_some() || Instructions::of_this_cpu().is_none());
        assert!(of(&ones(&[2, 32, 3, 3]), &line).is_none(), "of plain order");
        assert!(of(&fine.to_kind(Kind::Half), &line).is_none());
        assert!(of(&fine, &ones(&[16])).is_none());
        assert!(of(&channels_last(&ones(&[1, 8, 3, 3])), &ones(&[8])).is_none());
        assert!(of(&channels_last(&ones(&[0, 32, 3, 3])), &line).is_none());
    }
}
