//! Timesteps as a caller writes them: a number, a list or a tensor.

use tch::Tensor;

use crate::device::in_f64_on_cpu;
use crate::{Error, Result};

/// The timesteps of a call: one for the whole batch, or one per sample.
///
/// A function that takes `impl Into<Timesteps>` takes a number, a list or a tensor. Networks also take fractional
/// timesteps, which lie between two training timesteps; a schedule has whole ones only.
///
/// # Examples
/// ```
/// use diffuscope::{forward::add_noise, schedule::Schedule};
/// use tch::Tensor;
/// let s = Schedule::stable_diffusion();
/// let x = Tensor::ones([2, 3], tch::kind::FLOAT_CPU);
/// let one = add_noise(&s, 500, &x, &x)?;
/// assert!(one.equal(&add_noise(&s, [500, 500], &x, &x)?));
/// assert!(one.equal(&add_noise(&s, Tensor::from_slice(&[500i64, 500]), &x, &x)?));
/// assert!(add_noise(&s, 0.5, &x, &x).is_err());
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Debug)]
pub struct Timesteps(Tensor);

impl Timesteps {
    /// The numbers as they were given: `[B]`, or one number. Integers are int64; an `f64` is stored as f32, the dtype
    /// that networks embed.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// The numbers, checked to be one for all or one per sample of a batch: `[1]` or `[batch]`.
    ///
    /// # Errors
    /// Another count; none at all.
    pub fn for_batch(&self, batch: i64) -> Result<Tensor> {
        if self.0.numel() != 1 && (self.0.size() != [batch] || batch == 0) {
            let expected = format!("one number, or [{batch}], one per sample");
            return Err(Error::shape("timestep", expected, &self.0.size()));
        }
        Ok(self.0.reshape([-1]))
    }

    /// The numbers as training timesteps in `0..num_train_timesteps`.
    ///
    /// # Errors
    /// No number; a list of more than one dimension; a fraction; a number outside the range.
    pub(crate) fn whole(&self, num_train_timesteps: usize) -> Result<Vec<usize>> {
        if self.0.numel() == 0 || (self.0.dim() > 1 && self.0.numel() != 1) {
            return Err(Error::shape("timestep", "one number, or one per sample", &self.0.size()));
        }
        let numbers = in_f64_on_cpu(&self.0)?.f_reshape([-1])?;
        let training = |t: f64| {
            if t.fract() != 0. {
                let advice = "a schedule has no noise between its timesteps";
                return Err(Error::argument("timestep", "a whole number", t).hint(advice));
            }
            if !(0. ..num_train_timesteps as f64).contains(&t) {
                let expected = format!("0..{num_train_timesteps}");
                let advice = "timesteps are numbered from 0";
                return Err(Error::argument("timestep", expected, t).hint(advice));
            }
            Ok(t as usize)
        };
        Vec::<f64>::try_from(numbers)?.into_iter().map(training).collect()
    }
}

impl From<&Timesteps> for Timesteps {
    fn from(t: &Timesteps) -> Self {
        Self(t.0.shallow_clone())
    }
}

impl From<Tensor> for Timesteps {
    fn from(t: Tensor) -> Self {
        Self(t)
    }
}

impl From<&Tensor> for Timesteps {
    fn from(t: &Tensor) -> Self {
        Self(t.shallow_clone())
    }
}

impl From<f64> for Timesteps {
    fn from(t: f64) -> Self {
        Self(Tensor::from_slice(&[t as f32]))
    }
}

impl From<i64> for Timesteps {
    fn from(t: i64) -> Self {
        Self::from([t])
    }
}

impl From<i32> for Timesteps {
    fn from(t: i32) -> Self {
        Self::from([i64::from(t)])
    }
}

impl From<usize> for Timesteps {
    fn from(t: usize) -> Self {
        Self::from(&[t][..])
    }
}

impl From<&[i64]> for Timesteps {
    fn from(t: &[i64]) -> Self {
        Self(Tensor::from_slice(t))
    }
}

impl<const N: usize> From<[i64; N]> for Timesteps {
    fn from(t: [i64; N]) -> Self {
        Self::from(&t[..])
    }
}

impl From<Vec<i64>> for Timesteps {
    fn from(t: Vec<i64>) -> Self {
        Self::from(&t[..])
    }
}

impl From<&[usize]> for Timesteps {
    fn from(t: &[usize]) -> Self {
        // What does not fit is outside every schedule.
        let wide = |&t: &usize| i64::try_from(t).unwrap_or(i64::MAX);
        Self::from(t.iter().map(wide).collect::<Vec<i64>>())
    }
}

impl From<Vec<usize>> for Timesteps {
    fn from(t: Vec<usize>) -> Self {
        Self::from(&t[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_timesteps_gives_the_same() -> Result<()> {
        let lists: [Timesteps; 8] = [
            [0, 999].into(),
            vec![0i64, 999].into(),
            vec![0usize, 999].into(),
            (&[0i64, 999][..]).into(),
            (&[0usize, 999][..]).into(),
            Tensor::from_slice(&[0i64, 999]).into(),
            Tensor::from_slice(&[0i32, 999]).into(),
            (&Tensor::from_slice(&[0f32, 999.])).into(),
        ];
        for list in &lists {
            assert_eq!(list.whole(1000)?, [0, 999], "{list:?}");
            assert_eq!(list.for_batch(2)?.size(), [2]);
            assert!(list.for_batch(3).is_err() && list.for_batch(1).is_err());
        }
        let ones: [Timesteps; 6] =
            [7.into(), 7i64.into(), 7usize.into(), 7.0.into(), Tensor::from(7).into(), [7].into()];
        for one in &ones {
            assert_eq!(one.whole(1000)?, [7], "{one:?}");
            assert_eq!(Timesteps::from(one).for_batch(5)?.size(), [1]);
        }
        Ok(())
    }

    #[test]
    fn what_is_no_training_timestep_is_refused_and_said_why() {
        let said = |t: Timesteps| t.whole(1000).unwrap_err().to_string();
        assert_eq!(
            said(1000.into()),
            "timestep: expected 0..1000, got 1000; timesteps are numbered from 0"
        );
        assert!(said((-1).into()).contains("got -1"));
        assert!(said(usize::MAX.into()).contains("expected 0..1000"));
        assert!(said(0.5.into()).contains("a whole number, got 0.5"));
        assert!(said(f64::NAN.into()).contains("a whole number"));
        assert!(said(f64::INFINITY.into()).contains("a whole number"));
        for none in
            [Timesteps::from(Vec::<i64>::new()), Tensor::zeros([2, 2], tch::kind::INT64_CPU).into()]
        {
            assert!(none.for_batch(0).is_err());
            assert!(said(none).contains("one number, or one per sample"));
        }
    }
}
