//! Convolutions whose weights lie in the order that the CPU's loops want. libtorch reorders them at every call otherwise.

use std::fmt;
use std::sync::{Arc, Mutex};

use tch::{Device, Kind, TchError, Tensor};

use super::version::Version;
use crate::device::free_memory;

/// A convolution's weights, reordered when they are first used, and again when they have changed.
#[derive(Default)]
pub(crate) struct PackedWeight {
    packed: Mutex<Option<Arc<Packed>>>,
}

/// Reordered weights, and what they were made from.
struct Packed {
    weight: Tensor,
    of: (Version, Kind),
}

// SAFETY: they are only read, and libtorch's tensors may be read by several threads at once.
unsafe impl Send for Packed {}
// SAFETY: as above.
unsafe impl Sync for Packed {}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackedWeight")
    }
}

/// A convolution's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub stride: i64,
    pub padding: i64,
}

impl PackedWeight {
    /// The convolution of `x` with these weights, or `None` where libtorch has to do it.
    pub fn convolve(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        window: Window,
    ) -> Option<Tensor> {
        let packed = self.packed(x, weight, window, |weight| Some(weight.shallow_clone()))?;
        let bias = bias.map(|bias| bias.f_to_kind(x.kind())).transpose().ok()?;
        onednn::convolve(x, &packed.weight, bias.as_ref(), window)
    }

    /// The 3x3 convolution of `x` after its sides were doubled by repeating every cell: a cell of the answer sees only
    /// 2x2 cells of `x`, so that less than half of the products have to be computed.
    ///
    /// ```text
    /// (w_0, w_1, w_2) of a row's three cells    becomes    (w_0, w_1 + w_2) for an even row, (w_0 + w_1, w_2) for an odd one
    /// ```
    pub fn convolve_doubled(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Option<Tensor> {
        let window = Window { stride: 1, padding: 1 };
        let packed = self.packed(x, weight, window, |weight| phases(weight).ok())?;
        let bias = bias.f_to_kind(x.kind()).and_then(|bias| bias.f_repeat([4])).ok()?;
        let all = onednn::convolve(x, &packed.weight, Some(&bias), window)?;
        interleaved(&all, &x.size()).ok()
    }

    /// `y = x W^T + b` for the rows of `x`, as a convolution of a picture that is one cell wide.
    pub fn multiply(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Tensor> {
        let (mut size, shape) = (x.size(), weight.size());
        let &[outputs, inputs] = shape.as_slice() else { return None };
        if size.pop() != Some(inputs) {
            return None;
        }
        let picture = x.f_reshape([1, -1, 1, inputs]).and_then(|x| x.f_permute([0, 3, 1, 2]));
        let weight = weight.f_view([outputs, inputs, 1, 1]).ok()?;
        let window = Window { stride: 1, padding: 0 };
        let made = self.convolve(&picture.ok()?, &weight, bias, window)?;
        size.push(outputs);
        made.f_permute([0, 2, 3, 1]).and_then(|made| made.f_reshape(size)).ok()
    }

    fn packed(
        &self,
        x: &Tensor,
        weight: &Tensor,
        window: Window,
        prepare: impl FnOnce(&Tensor) -> Option<Tensor>,
    ) -> Option<Arc<Packed>> {
        let of = (Version::of(weight), x.kind());
        let mut packed = self.packed.lock().ok()?;
        if let Some(packed) = packed.as_ref().filter(|packed| packed.of == of) {
            return Some(Arc::clone(packed));
        }
        if !room_for(weight) {
            return None;
        }
        let (stride, padding, kind) = ([window.stride; 2], [window.padding; 2], x.kind());
        let weight = prepare(weight)?
            .f_to_kind(kind)
            .and_then(|weight| weight.f_to_mkldnn(kind))
            .and_then(|w| w.f_mkldnn_reorder_conv2d_weight(padding, stride, [1, 1], 1, x.size()))
            .ok()?;
        let new = Arc::new(Packed { weight, of });
        *packed = Some(Arc::clone(&new));
        Some(new)
    }
}

/// Whether there is memory enough for other things beside the weights once more: without it, the plain way is the one that
/// ends. Of small weights nobody asks.
fn room_for(weight: &Tensor) -> bool {
    const SPARE: u64 = 2 << 30;
    let bytes = 4 * weight.numel() as u64;
    bytes < 4 << 20 || free_memory(Device::Cpu).is_none_or(|free| free >= SPARE + 2 * bytes)
}

/// The weights [4 out, in, 2, 2] of the four cells that a cell becomes, in f32: of rows above and below, each left and right.
fn phases(weight: &Tensor) -> Result<Tensor, TchError> {
    let weight = weight.f_to_kind(Kind::Float)?;
    let halves = |w: &Tensor, dim: i64| -> Result<[Tensor; 2], TchError> {
        let one = |i| w.f_narrow(dim, i, 1);
        let sum = |i| w.f_narrow(dim, i, 2)?.f_sum_dim_intlist(dim, true, Kind::Float);
        Ok([Tensor::f_cat(&[one(0)?, sum(1)?], dim)?, Tensor::f_cat(&[sum(0)?, one(2)?], dim)?])
    };
    let mut all = Vec::new();
    for rows in halves(&weight, 2)? {
        all.extend(halves(&rows, 3)?);
    }
    Tensor::f_cat(&all, 0)
}

/// The pictures [B, out, 2 h, 2 w] of the four cells' convolutions [B, 4 out, h + 1, w + 1].
fn interleaved(all: &Tensor, size: &[i64]) -> Result<Tensor, TchError> {
    let (batch, height, width, channels) = (size[0], size[2], size[3], all.size()[1] / 4);
    let shape = [batch, height, 2, width, 2, channels];
    let out = Tensor::f_empty(shape, (all.kind(), all.device()))?;
    for (i, cells) in all.f_chunk(4, 1)?.iter().enumerate() {
        let (row, column) = (i as i64 / 2, i as i64 % 2);
        let cells = cells.f_narrow(2, row, height)?.f_narrow(3, column, width)?;
        let mut place = out.f_select(4, column)?.f_select(2, row)?;
        place.f_copy_(&cells.f_permute([0, 2, 3, 1])?)?;
    }
    out.f_view([batch, 2 * height, 2 * width, channels])?.f_permute([0, 3, 1, 2])
}

/// What libtorch exports for compiled models (`torch/csrc/inductor/aoti_torch/c/shim_cpu.h`).
#[cfg(target_os = "linux")]
mod onednn {
    use std::ffi::{c_char, c_void};
    use std::ptr::{null, null_mut};

    use tch::Tensor;

    use super::Window;

    type Handle = *mut c_void;

    unsafe extern "C" {
        fn aoti_torch_cpu_mkldnn__convolution_pointwise(
            x: Handle,
            weight: Handle,
            bias: *mut Handle,
            padding: *const i64,
            paddings: i64,
            stride: *const i64,
            strides: i64,
            dilation: *const i64,
            dilations: i64,
            groups: i64,
            attribute: *const c_char,
            scalars: *const *const f64,
            scalar_count: i64,
            algorithm: *const *const c_char,
            result: *mut Handle,
        ) -> i32;
        fn aoti_torch_delete_tensor_object(tensor: Handle) -> i32;
    }

    pub fn convolve(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        window: Window,
    ) -> Option<Tensor> {
        let (padding, stride) = ([window.padding; 2], [window.stride; 2]);
        let handle = |x: &Tensor| x.as_ptr().cast_mut().cast::<c_void>();
        let (mut bias, mut result) = (bias.map(handle), null_mut());
        let algorithm = c"".as_ptr();
        // SAFETY: the declaration is libtorch's; all handles and arrays outlive the call. A failure is answered by a
        // number, and then there is no result.
        unsafe {
            let failed = aoti_torch_cpu_mkldnn__convolution_pointwise(
                handle(x),
                handle(weight),
                bias.as_mut().map_or(null_mut(), |bias| bias),
                padding.as_ptr(),
                2,
                stride.as_ptr(),
                2,
                [1, 1].as_ptr(),
                2,
                1,
                c"none".as_ptr(),
                null(),
                0,
                &algorithm,
                &mut result,
            );
            if failed != 0 {
                return None;
            }
            let made = Tensor::clone_from_ptr(result.cast());
            aoti_torch_delete_tensor_object(result);
            Some(made)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod onednn {
    use tch::Tensor;

    use super::Window;

    pub fn convolve(_: &Tensor, _: &Tensor, _: Option<&Tensor>, _: Window) -> Option<Tensor> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::device::in_f64;
    use crate::models::params::channels_last;
    use crate::noise::standard_normal;

    fn gap(got: &Tensor, expected: &Tensor) -> f64 {
        assert_eq!(got.size(), expected.size());
        let wide = |x: &Tensor| in_f64(x).unwrap();
        let far = (wide(got) - wide(expected)).abs().max().double_value(&[]);
        far / expected.abs().max().double_value(&[])
    }

    #[test]
    fn packed_convolutions_are_the_plain_ones() {
        for (inputs, outputs, kernel, stride, side, batch) in
            [(4, 64, 3, 1, 16, 1), (32, 48, 3, 2, 9, 2), (64, 4, 3, 1, 8, 3), (48, 20, 1, 1, 5, 2)]
        {
            let numbers = |shape: &[i64], seed| standard_normal(shape, seed).unwrap();
            let x = channels_last(&numbers(&[batch, inputs, side, side], 1));
            let weight = channels_last(&numbers(&[outputs, inputs, kernel, kernel], 2));
            let (bias, padding) = (numbers(&[outputs], 3), kernel / 2);
            let plain = x.conv2d(&weight, Some(&bias), stride, padding, 1, 1);
            let packed = PackedWeight::default();
            let made = packed.convolve(&x, &weight, Some(&bias), Window { stride, padding });
            let made = made.unwrap();
            assert!(gap(&made, &plain) < 1e-5, "{inputs} to {outputs}: {}", gap(&made, &plain));
            assert_eq!(made.stride(), plain.stride());
            let once = packed.convolve(&x, &weight, None, Window { stride, padding }).unwrap();
            assert!(gap(&(once + bias.view([-1, 1, 1])), &plain) < 1e-5);
        }
    }

    #[test]
    fn a_convolution_of_a_doubled_picture_sees_four_cells() {
        for (inputs, outputs, height, width, batch) in [(16, 32, 8, 8, 1), (3, 5, 4, 7, 2)] {
            let x = channels_last(&standard_normal(&[batch, inputs, height, width], 1).unwrap());
            let weight = channels_last(&standard_normal(&[outputs, inputs, 3, 3], 2).unwrap());
            let bias = standard_normal(&[outputs], 3).unwrap();
            let doubled = x.upsample_nearest2d([2 * height, 2 * width], None, None);
            let plain = doubled.conv2d(&weight, Some(&bias), 1, 1, 1, 1);
            let made = PackedWeight::default().convolve_doubled(&x, &weight, &bias).unwrap();
            assert!(gap(&made, &plain) < 1e-5, "{}", gap(&made, &plain));
            assert_eq!(made.stride(), channels_last(&plain).stride());
        }
    }

    #[test]
    fn a_linear_layer_is_a_convolution_of_one_column() {
        let [x, weight] = [[2i64, 70, 64], [1, 48, 64]].map(|s| standard_normal(&s, 4).unwrap());
        let (weight, bias) = (weight.squeeze_dim(0), standard_normal(&[48], 5).unwrap());
        let plain = x.linear(&weight, Some(&bias));
        let packed = PackedWeight::default();
        let made = packed.multiply(&x, &weight, Some(&bias)).unwrap();
        assert!(gap(&made, &plain) < 1e-5);
        assert!(packed.multiply(&x.narrow(2, 0, 63), &weight, Some(&bias)).is_none());
    }

    #[test]
    fn changed_weights_are_packed_again() {
        let x = channels_last(&standard_normal(&[1, 8, 4, 4], 1).unwrap());
        let mut weight = channels_last(&standard_normal(&[8, 8, 3, 3], 2).unwrap());
        let (packed, window) = (PackedWeight::default(), Window { stride: 1, padding: 1 });
        for change in 0..3 {
            let plain = x.conv2d(&weight, None::<&Tensor>, 1, 1, 1, 1);
            let made = packed.convolve(&x, &weight, None, window).unwrap();
            assert!(gap(&made, &plain) < 1e-5, "after {change} changes");
            let other = standard_normal(&[8, 8, 3, 3], 3 + change).unwrap();
            match change {
                0 => weight.copy_(&other),
                // As a network's tensors are when they are lent to another device.
                _ => weight.set_data(&channels_last(&other)),
            };
        }
    }
}
