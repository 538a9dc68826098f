//! How far apart two tensors are.

use tch::{Kind, Tensor};

use crate::Result;
use crate::check::same_shape;
use crate::device::in_f64_on_cpu;

/// `a - b` as f64 on the CPU.
fn difference(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape("b", b, a)?;
    Ok(in_f64_on_cpu(a)? - in_f64_on_cpu(b)?)
}

/// The largest difference of any element: 0 for tensors that are equal, NaN where one is NaN.
///
/// ```text
/// max_i |a_i - b_i|
/// ```
/// # Shapes
/// `a` and `b` alike.
/// # Errors
/// Shapes that differ.
///
/// # Examples
/// ```
/// use tch::Tensor;
/// let (a, b) = (Tensor::from_slice(&[1., 2.]), Tensor::from_slice(&[1., 1.5]));
/// assert_eq!(diffuscope::measure::largest_difference(&a, &b)?, 0.5);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    let difference = difference(a, b)?;
    Ok(if difference.numel() == 0 { 0. } else { difference.abs().max().double_value(&[]) })
}

/// The mean square of the differences: what a denoiser is trained to make small.
///
/// ```text
/// (1/n) sum_i (a_i - b_i)^2
/// ```
/// For `b` drawn from a standard normal, the answer 0 for everything has a mean square of 1.
///
/// # Shapes
/// `a` and `b` alike.
/// # Errors
/// Shapes that differ.
pub fn mean_square(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok(difference(a, b)?.square().mean(Kind::Double).double_value(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_elements_do_not_cancel() -> Result<()> {
        let (a, b) = (Tensor::from_slice(&[1f32, 5., 2.]), Tensor::from_slice(&[3f32, 1., 2.]));
        assert_eq!(largest_difference(&a, &b)?, 4.);
        assert_eq!(largest_difference(&a, &a)?, 0.);
        assert_eq!(mean_square(&a, &b)?, 20. / 3.);
        let nan = Tensor::from_slice(&[0f32, f32::NAN, 0.]);
        assert!(largest_difference(&a, &nan)?.is_nan());
        assert!(largest_difference(&a, &b.narrow(0, 0, 2)).is_err());
        assert!(mean_square(&a, &b.narrow(0, 0, 2)).is_err());
        Ok(())
    }
}
