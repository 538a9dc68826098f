//! How two predictions become one.

use tch::Tensor;

use crate::{Error, Result};

/// Classifier-free guidance.
///
/// ```text
/// noise_pred = uncond + guidance_scale (cond - uncond)      Ho & Salimans 2022, eq. 6, w = scale - 1
/// ```
///
/// 0 gives the unconditional prediction, 1 the conditional one, above 1 it goes past it.
///
/// # Shapes
/// `uncond` and `cond` alike; returns the same.
/// # Errors
/// Shapes that differ; a scale that is not finite.
///
/// # Examples
/// ```
/// use tch::Tensor;
/// let (uncond, cond) = (Tensor::from_slice(&[1.0]), Tensor::from_slice(&[3.0]));
/// let guided = diffuscope::guidance::guide(&uncond, &cond, 7.5)?;
/// assert_eq!(guided.double_value(&[0]), 1. + 7.5 * 2.);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn guide(uncond: &Tensor, cond: &Tensor, guidance_scale: f64) -> Result<Tensor> {
    if uncond.size() != cond.size() {
        return Err(Error::shape("cond", format!("{:?}, as uncond", uncond.size()), &cond.size()));
    }
    if !guidance_scale.is_finite() {
        return Err(Error::argument("guidance_scale", "a finite number", guidance_scale, ""));
    }
    Ok(uncond + guidance_scale * (cond - uncond))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gates_the_scale() {
        let uncond = Tensor::from_slice(&[0.5f32, -2., 1.]);
        let cond = Tensor::from_slice(&[1.5f32, 3., 1.]);
        assert!(guide(&uncond, &cond, 0.).unwrap().equal(&uncond));
        assert!(guide(&uncond, &cond, 1.).unwrap().equal(&cond));
        let past = guide(&uncond, &cond, -1.).unwrap();
        assert!(past.equal(&Tensor::from_slice(&[-0.5f32, -7., 1.])));
        assert!(guide(&uncond, &cond, f64::NAN).is_err());
        assert!(guide(&uncond, &cond.narrow(0, 0, 2), 1.).is_err());
    }
}
