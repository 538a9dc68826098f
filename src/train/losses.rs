//! The losses: of the denoising U-Net, and of the autoencoder's pictures.

use tch::{Device, Kind, Tensor, no_grad};

use crate::check::{alike, same_shape};
use crate::models::judge::Judge;
use crate::schedule::Schedule;
use crate::{Error, Result};

/// `L = || eps - eps_theta(x_t, t, c) ||^2`, averaged over the numbers of a sample; Ho et al. 2020, eq. 14.
///
/// # Shapes
/// `noise_pred`, `noise` [B, ...]; returns `[B]` in f32.
/// # Errors
/// Shapes that differ.
pub fn denoising_loss(noise_pred: &Tensor, noise: &Tensor) -> Result<Tensor> {
    alike("noise_pred", noise_pred, noise)?;
    if noise.dim() < 2 {
        return Err(Error::shape("noise", "[B, ...]", &noise.size()));
    }
    let wide = |x: &Tensor| x.to_kind(Kind::Float);
    Ok((wide(noise_pred) - wide(noise)).square().flatten(1, -1).mean_dim(-1, false, Kind::Float))
}

/// The weight of each timestep's loss. It keeps timesteps with hardly any noise from dominating the training.
///
/// ```text
/// w_t = min(SNR_t, gamma) / SNR_t      Hang et al. 2023, section 3.4, for a prediction of the noise
/// ```
///
/// # Shapes
/// `t` `[B]` int64; returns `[B]` in f32.
/// # Errors
/// `gamma` not above 0; `t` outside `0..num_train_timesteps`.
pub fn min_snr_weight(s: &Schedule, t: &Tensor, gamma: f64) -> Result<Tensor> {
    if !(gamma.is_finite() && gamma > 0.) {
        return Err(Error::argument("min-SNR gamma", "above 0", gamma));
    }
    let all: Vec<f32> = s.snr().into_iter().map(|snr| (snr.min(gamma) / snr) as f32).collect();
    let total = all.len() as i64;
    if t.numel() == 0 || t.min().int64_value(&[]) < 0 || t.max().int64_value(&[]) >= total {
        return Err(Error::argument("t", format!("timesteps in 0..{total}"), "others"));
    }
    Ok(Tensor::from_slice(&all).index_select(0, &t.to_device(Device::Cpu)))
}

/// How differently two pictures change from pixel to pixel, along both sides.
pub(super) fn edge_loss(a: &Tensor, b: &Tensor) -> Tensor {
    let along = |x: &Tensor, dim: i64| x.diff(1, dim, None::<Tensor>, None::<Tensor>);
    let of = |dim| (along(a, dim) - along(b, dim)).abs().mean(Kind::Float);
    of(2) + of(3)
}

/// The distance of two pictures in a judge's feature maps, where small details such as eyes count more than in
/// pixels: at the pictures' own size, where the judge sees the finest details, and at every half of it down to the
/// judge's, where it sees whole things.
///
/// ```text
/// mean over sizes  sum over levels l of  mean over places |f_l(a) / |f_l(a)| - f_l(b) / |f_l(b)||^2
/// ```
/// Zhang et al. 2018, eq. 1, with equal weights for all channels and the judge as the network.
///
/// # Shapes
/// `a`, `b` [B, 3, H, W] in [-1, 1], of the judge's size or a power of 2 times it; only `a` gets a gradient.
/// # Errors
/// Pictures of another size.
pub fn perceptual_loss(judge: &Judge, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape("the pictures", a, b)?;
    let (size, side) = (a.size(), judge.config().sample_size);
    let times = size.get(2).map_or(0, |height| height / side);
    let known = size.len() == 4 && size[2..] == [side * times; 2];
    if !known || times.count_ones() != 1 {
        let expected = format!("[B, 3, {side}, {side}], or a power of 2 times that size");
        return Err(Error::shape("the pictures", expected, &size));
    }
    let (mut a, mut b) = (a.shallow_clone(), b.shallow_clone());
    let mut distances = vec![feature_distance(judge, &a, &b)?];
    while a.size()[2] > side {
        let half = |x: &Tensor| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
        (a, b) = (half(&a), half(&b));
        distances.push(feature_distance(judge, &a, &b)?);
    }
    Ok(Tensor::stack(&distances, 0).mean(Kind::Float))
}

/// How far two pictures are apart in the judge's feature maps, of one size.
fn feature_distance(judge: &Judge, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let unit = |x: &Tensor| {
        let x = x.to_kind(Kind::Float);
        let norm = (x.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float) + 1e-6).sqrt();
        x / norm
    };
    let fixed = no_grad(|| judge.feature_maps(b))?;
    let levels = judge.feature_maps(a)?;
    let far = |(a, b): (&Tensor, &Tensor)| {
        let square = (unit(a) - unit(b)).square();
        square.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float)
    };
    Ok(levels.iter().zip(&fixed).map(far).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_one_until_the_signal_is_gamma_times_the_noise() -> Result<()> {
        let s = Schedule::stable_diffusion();
        let t: Vec<i64> = vec![0, 100, 999];
        let weight = Vec::<f32>::try_from(min_snr_weight(&s, &Tensor::from_slice(&t), 5.)?)?;
        for (t, weight) in t.into_iter().zip(weight) {
            let a = s.alphas_cumprod()[t as usize];
            let snr = a / (1. - a);
            assert!((f64::from(weight) - (5. / snr).min(1.)).abs() < 1e-6, "t {t}: {weight}");
        }
        for (t, gamma) in [(1000, 5.), (-1, 5.), (0, 0.), (0, f64::NAN)] {
            assert!(min_snr_weight(&s, &Tensor::from_slice(&[t as i64]), gamma).is_err());
        }
        Ok(())
    }

    /// The perceptual loss is 0 for equal pictures, and following its gradient makes pictures more alike.
    #[cfg(feature = "scenes")]
    #[test]
    fn a_judge_s_features_pull_a_picture_towards_another() -> Result<()> {
        let config = crate::eval::questions::judge_config(32);
        let params = crate::models::params::Params::fresh(Kind::Float, Device::Cpu);
        let judge = crate::noise::with_seed(1, || Judge::new(&params, &config))?;
        let picture = |side, seed| crate::noise::standard_normal(&[1, 3, side, side], seed);
        for side in [32, 128] {
            let (a, b) = (picture(side, 1)?.set_requires_grad(true), picture(side, 2)?);
            assert_eq!(perceptual_loss(&judge, &b, &b)?.double_value(&[]), 0.);
            let loss = perceptual_loss(&judge, &a, &b)?;
            loss.backward();
            let nearer = no_grad(|| &a - a.grad() / a.grad().norm() * (side as f64 / 32.));
            let less = perceptual_loss(&judge, &nearer, &b)?;
            assert!(less.double_value(&[]) < 0.98 * loss.double_value(&[]), "{less} after {loss}");
        }
        // Every size counts, and counts the same.
        let (a, b) = (picture(128, 1)?, picture(128, 2)?);
        let half = |x: &Tensor| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
        let sizes =
            [(a.copy(), b.copy()), (half(&a), half(&b)), (half(&half(&a)), half(&half(&b)))];
        let apart = sizes.map(|(a, b)| feature_distance(&judge, &a, &b).unwrap().double_value(&[]));
        let mean = apart.iter().sum::<f64>() / 3.;
        assert!((perceptual_loss(&judge, &a, &b)?.double_value(&[]) / mean - 1.).abs() < 1e-5);
        for side in [16, 48, 96] {
            let (a, b) = (picture(side, 1)?, picture(side, 2)?);
            assert!(perceptual_loss(&judge, &a, &b).is_err(), "{side}");
        }
        Ok(())
    }
}
