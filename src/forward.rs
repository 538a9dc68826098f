//! The forward process: noise goes in, in closed form or one step at a time.

use tch::{Kind, Tensor};

use crate::schedule::Schedule;
use crate::{Error, Result};

/// Noises `x_0` straight to timestep `t`.
///
/// ```text
/// x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise      Ho et al. 2020, eq. 4
/// ```
///
/// # Shapes
/// `x_0`, `noise` [B, ...]; `t` `[B]` int64, or one number for all; returns [B, ...]
/// # Errors
/// `t` outside `0..num_train_timesteps`; shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::{forward::add_noise, noise::standard_normal, schedule::Schedule};
/// use tch::{Kind, Tensor};
/// let s = Schedule::stable_diffusion();
/// let x_0 = Tensor::ones([2, 4, 8, 8], tch::kind::FLOAT_CPU);
/// let noise = standard_normal(&[2, 4, 8, 8], 0)?;
/// let x_t = add_noise(&s, &Tensor::from_slice(&[0i64, 999]), &x_0, &noise)?;
/// assert!((x_t.get(0).mean(Kind::Float).double_value(&[]) - 1.).abs() < 0.01);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn add_noise(s: &Schedule, t: &Tensor, x_0: &Tensor, noise: &Tensor) -> Result<Tensor> {
    same_shape("noise", noise, x_0)?;
    let alpha_bar_t = alpha_bar_at(s, t, x_0)?;
    let rest = (&alpha_bar_t * -1.) + 1.;
    let to = |x: Tensor| x.to_kind(x_0.kind()).to_device(x_0.device());
    Ok(to(alpha_bar_t.sqrt()) * x_0 + to(rest.sqrt()) * noise)
}

/// One step of the forward process, from `t - 1` to `t`; before t = 0 is the picture.
///
/// ```text
/// x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise      Ho et al. 2020, eq. 2
/// ```
///
/// # Shapes
/// `x_prev` and `noise` alike; returns the same.
/// # Errors
/// `t` outside `0..num_train_timesteps`; shapes that differ.
pub fn noise_one_step(s: &Schedule, t: usize, x_prev: &Tensor, noise: &Tensor) -> Result<Tensor> {
    same_shape("noise", noise, x_prev)?;
    s.alpha_bar(t)?;
    let beta_t = s.betas()[t];
    Ok((1. - beta_t).sqrt() * x_prev + beta_t.sqrt() * noise)
}

pub(crate) fn same_shape(what: &str, got: &Tensor, as_this: &Tensor) -> Result<()> {
    if got.size() == as_this.size() {
        return Ok(());
    }
    Err(Error::shape(what, format!("{:?}", as_this.size()), &got.size()))
}

/// `alpha_bar_t` of every sample as f64 [B, 1, ...] on the CPU.
fn alpha_bar_at(s: &Schedule, t: &Tensor, x: &Tensor) -> Result<Tensor> {
    let batch = x.size().first().copied().unwrap_or(1);
    if t.kind() != Kind::Int64 {
        return Err(Error::argument("t", "int64", format!("{:?}", t.kind()), ""));
    }
    let t = t.to_device(tch::Device::Cpu).reshape([-1]);
    if t.numel() != 1 && t.size() != [batch] {
        return Err(Error::shape("t", format!("[{batch}], one a sample"), &t.size()));
    }
    let n = s.num_train_timesteps() as i64;
    let (low, high) = (t.min().int64_value(&[]), t.max().int64_value(&[]));
    if low < 0 || high >= n {
        let got = if low < 0 { low } else { high };
        let todo = "timesteps are numbered from 0";
        return Err(Error::argument("t", format!("0..{n}"), got, todo));
    }
    let mut shape = vec![1; x.dim().max(1)];
    shape[0] = -1;
    Ok(Tensor::from_slice(s.alphas_cumprod()).index_select(0, &t).reshape(shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{standard_normal, standard_normals};

    #[test]
    fn the_closed_form_has_the_moments_of_many_small_steps() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let x_0 = Tensor::ones([20_000], (Kind::Double, tch::Device::Cpu));
        let mut x = x_0.shallow_clone();
        for (t, noise) in standard_normals(&[20_000], 1, 400)?.into_iter().enumerate() {
            x = noise_one_step(&s, t, &x, &noise.to_kind(Kind::Double))?;
        }
        let a = s.alphas_cumprod()[399];
        assert!((x.mean(Kind::Double).double_value(&[]) - a.sqrt()).abs() < 0.02);
        assert!((x.var(true).double_value(&[]) - (1. - a)).abs() < 0.02);
        Ok(())
    }

    #[test]
    fn the_equation_is_what_runs() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let noise = standard_normal(&[3, 2, 2], 5)?.to_kind(Kind::Double);
        let x_0 = standard_normal(&[3, 2, 2], 6)?.to_kind(Kind::Double);
        let t = [0i64, 500, 999];
        let x_t = add_noise(&s, &Tensor::from_slice(&t), &x_0, &noise)?;
        for (i, &t) in t.iter().enumerate() {
            let a = s.alphas_cumprod()[t as usize];
            let own = a.sqrt() * x_0.get(i as i64) + (1. - a).sqrt() * noise.get(i as i64);
            assert!((own - x_t.get(i as i64)).abs().max().double_value(&[]) < 1e-14);
        }
        Ok(())
    }

    #[test]
    fn bad_timesteps_and_shapes_are_refused() {
        let s = Schedule::stable_diffusion();
        let x = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU);
        for t in [&[-1i64, 0][..], &[0, 1000], &[0, 1, 2]] {
            assert!(add_noise(&s, &Tensor::from_slice(t), &x, &x).is_err());
        }
        assert!(add_noise(&s, &Tensor::from_slice(&[0.5f32]), &x, &x).is_err());
        assert!(add_noise(&s, &Tensor::from_slice(&[0i64]), &x, &x.get(0)).is_err());
        assert!(noise_one_step(&s, 1000, &x, &x).is_err());
    }
}
