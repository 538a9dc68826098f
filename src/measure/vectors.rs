//! Predictions as vectors: how long they are, and the angle between them.
//!
//! A prediction [C, h, w] is one vector of n = C h w numbers. Whatever comes before these three
//! dimensions (steps, a batch) stays: [N, B, C, h, w] gives [N, B].

use tch::{Kind, Tensor};

use crate::check::same_shape;
use crate::device::in_f64_on_cpu;
use crate::{Error, Result};

/// The vectors as f64 [..., n] on the CPU.
fn vectors(what: &str, x: &Tensor) -> Result<Tensor> {
    if x.dim() < 3 || x.numel() == 0 {
        return Err(Error::shape(what, "[..., C, h, w]", &x.size()));
    }
    Ok(in_f64_on_cpu(x)?.flatten(-3, -1))
}

fn inner(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist(-1, false, Kind::Double)
}

/// The length of every prediction, divided by sqrt(n): noise from a standard normal has about 1.
///
/// ```text
/// |x| / sqrt(n) = sqrt((1/n) sum_i x_i^2)
/// ```
/// # Shapes
/// `x` [..., C, h, w]; returns [...] in f64 on the CPU.
/// # Errors
/// Fewer dimensions; no numbers.
///
/// # Examples
/// ```
/// let noise = diffuscope::noise::standard_normal(&[2, 4, 64, 64], 0)?;
/// let norm = diffuscope::measure::norm(&noise)?;
/// assert_eq!(norm.size(), [2]);
/// assert!((norm.double_value(&[0]) - 1.).abs() < 0.02);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn norm(x: &Tensor) -> Result<Tensor> {
    let x = vectors("x", x)?;
    Ok((inner(&x, &x) / x.size()[x.dim() - 1] as f64).sqrt())
}

/// The angle between predictions, in degrees: 0 for one direction, 90 for independent noises, 180
/// for opposite directions, NaN where one is all 0.
///
/// ```text
/// angle = arccos(<a, b> / (|a| |b|))
/// ```
/// # Shapes
/// `a` and `b` [..., C, h, w] alike; returns [...] in f64 on the CPU.
/// # Errors
/// Fewer dimensions; no numbers; shapes that differ.
pub fn angle(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape("b", b, a)?;
    let (a, b) = (vectors("a", a)?, vectors("b", b)?);
    let cosine = inner(&a, &b) / (inner(&a, &a) * inner(&b, &b)).sqrt();
    // Rounding can lead just past 1.
    Ok(cosine.clamp(-1., 1.).acos() * (180. / std::f64::consts::PI))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use tch::Device;

    #[test]
    fn angles_that_are_known() -> Result<()> {
        let vector = |x: f64, y: f64| Tensor::from_slice(&[x, y]).view([2, 1, 1]);
        let right = vector(2., 0.);
        for (other, degrees) in
            [((5., 0.), 0.), ((1., 1.), 45.), ((0., 3.), 90.), ((-1., 0.), 180.)]
        {
            let got = angle(&right, &vector(other.0, other.1))?.double_value(&[]);
            assert!((got - degrees).abs() < 1e-6, "{other:?}: {got}");
        }
        assert!(angle(&right, &vector(0., 0.))?.double_value(&[]).is_nan());
        assert!((norm(&vector(3., 4.))?.double_value(&[]) - 12.5f64.sqrt()).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn norms_and_angle_obey_the_law_of_cosines() -> Result<()> {
        let a = standard_normal(&[3, 2, 4, 8, 8], 1)?;
        let b = standard_normal(&[3, 2, 4, 8, 8], 2)? + &a * 0.5;
        let (na, nb, angle) = (norm(&a)?, norm(&b)?, angle(&a, &b)?);
        assert_eq!(angle.size(), [3, 2]);
        let cosine = (angle * (std::f64::consts::PI / 180.)).cos();
        let law = na.square() + nb.square() - &na * &nb * cosine * 2.;
        let exact = |x: &Tensor| x.to_kind(Kind::Double);
        let gap = norm(&(exact(&a) - exact(&b)))?.square() - law;
        assert!(gap.abs().max().double_value(&[]) < 1e-12);
        Ok(())
    }

    #[test]
    fn what_is_no_prediction_is_refused() {
        let x = Tensor::zeros([4, 8], (Kind::Float, Device::Cpu));
        assert!(norm(&x).is_err());
        assert!(norm(&x.view([1, 4, 8])).is_ok());
        assert!(angle(&x.view([1, 4, 8]), &x.view([2, 2, 8])).is_err());
    }
}
