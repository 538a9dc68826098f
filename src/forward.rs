//! The forward process: noise goes in, in closed form or one step at a time.

use tch::Tensor;

use crate::Result;
use crate::schedule::Schedule;
use crate::timesteps::Timesteps;

/// Noises `x_0` straight to timestep `t`.
///
/// ```text
/// x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise      Ho et al. 2020, eq. 4
/// ```
///
/// # Shapes
/// `x_0`, `noise` [B, ...]; `t` one for all or `[B]`; returns [B, ...]
/// # Errors
/// `t` outside `0..num_train_timesteps` or between timesteps; shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::{forward::add_noise, noise::standard_normal, schedule::Schedule};
/// use tch::{Kind, Tensor};
/// let s = Schedule::stable_diffusion();
/// let x_0 = Tensor::ones([2, 4, 8, 8], tch::kind::FLOAT_CPU);
/// let noise = standard_normal(&[2, 4, 8, 8], 0)?;
/// let x_t = add_noise(&s, [0, 999], &x_0, &noise)?;
/// assert!((x_t.get(0).mean(Kind::Float).double_value(&[]) - 1.).abs() < 0.01);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn add_noise(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_0: &Tensor,
    noise: &Tensor,
) -> Result<Tensor> {
    s.rates(t)?.noised(x_0, noise)
}

/// One step of the forward process, from `t - 1` to `t`; before t = 0 is the picture.
///
/// ```text
/// x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise      Ho et al. 2020, eq. 2
/// ```
///
/// # Shapes
/// `x_prev`, `noise` [B, ...]; `t` one for all or `[B]`; returns [B, ...]
/// # Errors
/// `t` outside `0..num_train_timesteps` or between timesteps; shapes that differ.
pub fn noise_one_step(
    s: &Schedule,
    t: impl Into<Timesteps>,
    x_prev: &Tensor,
    noise: &Tensor,
) -> Result<Tensor> {
    s.rates_of_one_step(t)?.noised(x_prev, noise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{standard_normal, standard_normals};
    use tch::Kind;

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
        let x_t = add_noise(&s, t, &x_0, &noise)?;
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
        for t in [&[-1i64, 0][..], &[0, 1000], &[0, 1, 2], &[]] {
            assert!(add_noise(&s, t, &x, &x).is_err());
            assert!(noise_one_step(&s, t, &x, &x).is_err());
        }
        assert!(add_noise(&s, Tensor::from_slice(&[0.5f32]), &x, &x).is_err());
        assert!(add_noise(&s, 0, &x, &x.get(0)).is_err());
        assert!(noise_one_step(&s, 1000, &x, &x).is_err());
        assert!(add_noise(&s, [0, 1], &x.get(0).get(0), &x.get(0).get(0)).is_err());
    }

    #[test]
    fn one_step_of_every_sample_is_its_own() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let (x, noise) = (standard_normal(&[2, 3], 1)?, standard_normal(&[2, 3], 2)?);
        let both = noise_one_step(&s, [3, 900], &x, &noise)?;
        for (i, t) in [(0, 3), (1, 900)] {
            assert!(both.get(i).equal(&noise_one_step(&s, t, &x.get(i), &noise.get(i))?));
        }
        Ok(())
    }
}
