//! How far pictures are from each other: the Fréchet distance, nearest neighbours, the Kolmogorov-Smirnov
//! statistic, diversity, and PSNR.

use tch::{Kind, Tensor};

use crate::check::{alike, same_device};
use crate::device::in_f64;
use crate::{Error, Result};

/// The Fréchet distance of two sets of feature vectors, each taken as a normal distribution.
///
/// ```text
/// |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))        Heusel et al. 2017, eq. 6
/// ```
///
/// # Shapes
/// `a` [N, d], `b` [M, d]; computed in f64.
/// # Errors
/// Fewer than two vectors, or vectors of different lengths.
///
/// # Examples
/// ```
/// use diffuscope::eval::distances::frechet_distance;
/// use diffuscope::noise::standard_normal;
/// let a = standard_normal(&[4000, 3], 0)?;
/// let moved = &a + 2.; // the same cloud, 2 further along each of 3 axes
/// assert!((frechet_distance(&a, &moved)? - 12.).abs() < 1e-3);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    for (name, x) in [("a", a), ("b", b)] {
        if x.dim() != 2 || x.size()[0] < 2 || x.size()[1] != b.size()[1] {
            return Err(Error::shape(name, "[2 or more, d], with one d for both", &x.size()));
        }
    }
    same_device("a", a.device(), b.device())?;
    let moments = |x: &Tensor| {
        let x = in_f64(x)?;
        let mean = x.mean_dim([0i64].as_slice(), true, Kind::Double);
        let centred = &x - &mean;
        let covariance = centred.transpose(0, 1).matmul(&centred) / (x.size()[0] - 1) as f64;
        Ok::<_, Error>((mean, covariance))
    };
    let ((mean_a, cov_a), (mean_b, cov_b)) = (moments(a)?, moments(b)?);
    // The root's trace is that of the symmetric (C_a^(1/2) C_b C_a^(1/2))^(1/2).
    let (values, vectors) = cov_a.f_linalg_eigh("L")?;
    let root =
        vectors.matmul(&values.clamp_min(0.).sqrt().diag(0)).matmul(&vectors.transpose(0, 1));
    let inner = root.matmul(&cov_b).matmul(&root);
    let inner = (&inner + inner.transpose(0, 1)) * 0.5;
    let cross = inner.f_linalg_eigvalsh("L")?.clamp_min(0.).sqrt().sum(Kind::Double);
    let apart = (mean_a - mean_b).square().sum(Kind::Double);
    let spread = cov_a.trace() + cov_b.trace() - cross * 2.;
    Ok((apart + spread).double_value(&[]).max(0.))
}

/// The distance of each vector of `of` [N, d] to the nearest one of `among` [M, d]: `[N]`.
///
/// # Errors
/// Vectors of different lengths; no vectors in `among`.
pub fn nearest_distances(of: &Tensor, among: &Tensor) -> Result<Tensor> {
    if of.dim() != 2 || among.dim() != 2 || of.size()[1] != among.size()[1] || among.size()[0] == 0
    {
        return Err(Error::shape("among", format!("[M, {:?}]", of.size().last()), &among.size()));
    }
    same_device("among", among.device(), of.device())?;
    let mut nearest = Vec::new();
    for start in (0..of.size()[0]).step_by(256) {
        let some = of.narrow(0, start, 256.min(of.size()[0] - start));
        let distances = Tensor::f_cdist(&some, among, 2., 1)?;
        nearest.push(distances.amin([1i64].as_slice(), false));
    }
    Ok(if nearest.is_empty() {
        Tensor::zeros([0], (Kind::Float, of.device()))
    } else {
        Tensor::cat(&nearest, 0)
    })
}

/// The Kolmogorov-Smirnov statistic of two samples: the largest distance of their cumulative distributions;
/// Smirnov 1939. 0: they agree; 1: they do not overlap.
///
/// # Errors
/// An empty sample.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Result<f64> {
    if a.is_empty() || b.is_empty() {
        return Err(Error::argument("samples", "at least one number in each", "none"));
    }
    let sorted = |x: &[f64]| {
        let mut x = x.to_vec();
        x.sort_by(f64::total_cmp);
        x
    };
    let (a, b) = (sorted(a), sorted(b));
    let below = |x: &[f64], value: f64| x.partition_point(|&y| y <= value) as f64 / x.len() as f64;
    let gap = |&value: &f64| (below(&a, value) - below(&b, value)).abs();
    Ok(a.iter().chain(&b).map(gap).fold(0., f64::max))
}

/// The mean distance between the feature vectors of the pictures of a prompt, over all prompts.
///
/// # Shapes
/// `features` [prompts, pictures, d]
/// # Errors
/// Fewer than two pictures per prompt.
pub fn diversity(features: &Tensor) -> Result<f64> {
    let size = features.size();
    if size.len() != 3 || size[0] == 0 || size[1] < 2 {
        return Err(Error::shape("features", "[prompts, 2 or more pictures, d]", &size));
    }
    let features = in_f64(features)?;
    let distances = Tensor::f_cdist(&features, &features, 2., 2)?;
    let pairs = (size[0] * size[1] * (size[1] - 1)) as f64;
    Ok(distances.sum(Kind::Double).double_value(&[]) / pairs)
}

/// The peak signal-to-noise ratio, `10 log10(2^2 / mse)` in dB, for pictures in [-1, 1]: the mean over pictures.
///
/// # Errors
/// Pictures of different sizes or devices.
pub fn psnr(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    alike("b", b, a)?;
    let mse = (a - b).square().flatten(1, -1).mean_dim(-1, false, Kind::Float).clamp_min(1e-10);
    Ok(((mse.reciprocal() * 4.).log10() * 10.).mean(Kind::Float))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::noise::standard_normal;

    #[test]
    fn the_frechet_distance_of_normal_clouds_is_the_closed_form() -> Result<()> {
        let cloud = standard_normal(&[50_000, 2], 1)?;
        let scale = Tensor::from_slice(&[2f32, 0.5]);
        let move_ = Tensor::from_slice(&[1f32, -1.]);
        // |m|^2 + sum (s - 1)^2 = 2 + 1 + 0.25
        let distance = frechet_distance(&cloud, &(&cloud * scale + move_))?;
        assert!((distance - 3.25).abs() < 0.03, "{distance}");
        assert!(frechet_distance(&cloud, &cloud)? < 1e-9);
        assert!(frechet_distance(&cloud, &standard_normal(&[5, 3], 1)?).is_err());
        Ok(())
    }

    #[test]
    fn twenty_decibels_are_a_tenth_of_the_range() -> Result<()> {
        let a = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        assert!((psnr(&a, &(&a + 0.2))?.double_value(&[]) - 20.).abs() < 1e-4);
        // The mean over pictures: one of 20 dB, one of 40 dB.
        let far = Tensor::from_slice(&[0.2f32, 0.02]).view([2, 1, 1, 1]);
        assert!((psnr(&a, &(&a + far))?.double_value(&[]) - 30.).abs() < 1e-3);
        assert!(psnr(&a, &a.narrow(0, 0, 1)).is_err());
        Ok(())
    }

    #[test]
    fn distances_to_neighbours_and_between_distributions() -> Result<()> {
        let among = Tensor::from_slice(&[0f32, 0., 3., 4.]).view([2, 2]);
        let of = Tensor::from_slice(&[0f32, 1., 3., 4.]).view([2, 2]);
        assert_eq!(Vec::<f32>::try_from(nearest_distances(&of, &among)?)?, [1., 0.]);
        assert!(nearest_distances(&of, &Tensor::zeros([0, 2], tch::kind::FLOAT_CPU)).is_err());
        assert_eq!(kolmogorov_smirnov(&[1., 2., 3., 4.], &[3., 4., 5., 6.])?, 0.5);
        assert_eq!(kolmogorov_smirnov(&[1., 2.], &[1., 2.])?, 0.);
        assert!(kolmogorov_smirnov(&[], &[1.]).is_err());
        // Two pictures 5 apart, and three at one place.
        let features = Tensor::from_slice(&[0f32, 0., 3., 4.]).view([1, 2, 2]);
        assert!((diversity(&features)? - 5.).abs() < 1e-9);
        assert_eq!(diversity(&Tensor::zeros([1, 3, 2], tch::kind::FLOAT_CPU))?, 0.);
        Ok(())
    }
}
