//! The only place that draws random numbers.
//!
//! A seed gives the numbers of `torch.Generator("cpu").manual_seed(seed)`. Everything is drawn on the CPU in f32 and then
//! moved, so that CPU and GPU get the same noise.

use std::sync::{Mutex, MutexGuard};

use tch::{Device, Kind, Tensor};

use crate::device::{check_memory, in_f64, load_cuda_once, put};
use crate::{Error, Result};

/// tch has only the global generator, so drawing holds this lock.
static GENERATOR: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    // Seeding asks for the GPUs, which have generators too.
    let _ = load_cuda_once();
    GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Draws `shape` from the standard normal distribution, as `torch.randn(shape, generator=g)` does
/// for `g = torch.Generator("cpu").manual_seed(seed)`.
///
/// # Errors
/// A negative length; more than fits into memory.
///
/// # Examples
/// ```
/// let x_t = diffuscope::noise::standard_normal(&[1, 4, 64, 64], 0)?;
/// assert!((x_t.double_value(&[0, 0, 0, 0]) + 1.1258).abs() < 1e-4);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn standard_normal(shape: &[i64], seed: i64) -> Result<Tensor> {
    Ok(standard_normals(shape, seed, 1)?.remove(0))
}

/// Draws `count` tensors of `shape` one after another from one generator, for a sampler that adds noise at every step.
///
/// # Errors
/// As [`standard_normal`].
pub fn standard_normals(shape: &[i64], seed: i64, count: usize) -> Result<Vec<Tensor>> {
    check(shape)?;
    check_memory(Device::Cpu, NOISE, bytes(shape, count))?;
    let _guard = lock();
    tch::manual_seed(seed);
    (0..count).map(|_| Ok(Tensor::f_randn(shape, (Kind::Float, Device::Cpu))?)).collect()
}

/// Draws tensors of `shapes` for every seed, one after another from that seed's generator, and stacks them to
/// [seeds, shape...] each. A seed gives the same numbers in a batch and alone.
///
/// # Errors
/// As [`standard_normal`]; no seed.
pub fn normals_of_seeds(seeds: &[i64], shapes: &[Vec<i64>]) -> Result<Vec<Tensor>> {
    if seeds.is_empty() {
        return Err(Error::argument("seeds", "one or more", "none"));
    }
    shapes.iter().try_for_each(|shape| check(shape))?;
    let all = shapes.iter().map(|shape| bytes(shape, seeds.len())).sum();
    check_memory(Device::Cpu, NOISE, all)?;
    let rows = |rows: usize, shape: &[i64]| [&[rows as i64], shape].concat();
    let float = (Kind::Float, Device::Cpu);
    let empty = |shape: &Vec<i64>| Ok(Tensor::f_empty(rows(seeds.len(), shape), float)?);
    let batches = shapes.iter().map(empty).collect::<Result<Vec<_>>>()?;
    for (row, &seed) in (0..).zip(seeds) {
        let _guard = lock();
        tch::manual_seed(seed);
        for (batch, shape) in batches.iter().zip(shapes) {
            // Into its place at once: all the noise of a long sampling is large, and is held once.
            batch.f_narrow(0, row, 1)?.f_copy_(&Tensor::f_randn(rows(1, shape), float)?)?;
        }
    }
    Ok(batches)
}

const NOISE: &str = "noise";

/// Refuses a shape that no tensor has.
fn check(shape: &[i64]) -> Result<()> {
    match shape.iter().all(|&n| n >= 0) {
        true => Ok(()),
        false => Err(Error::shape(NOISE, "lengths of 0 or more", shape)),
    }
}

/// The bytes of `count` tensors in f32.
fn bytes(shape: &[i64], count: usize) -> f64 {
    4. * count as f64 * shape.iter().map(|&n| n as f64).product::<f64>()
}

/// Spherical interpolation from `a` to `b`, for every sample of a batch: the result between two draws of noise is as long as
/// they are, and so is like a draw itself.
///
/// ```text
/// slerp(a, b, w) = (sin((1 - w) theta) a + sin(w theta) b) / sin(theta)      Shoemake 1985, section 3.3
/// ```
///
/// `theta` is the angle between them; where it is 0 or half a turn, the interpolation is linear.
///
/// # Shapes
/// `a` and `b` [B, ...] alike; returns the same.
/// # Errors
/// Shapes that differ.
///
/// # Examples
/// ```
/// use diffuscope::noise::{slerp, standard_normal};
/// let (a, b) = (standard_normal(&[1, 4, 64, 64], 0)?, standard_normal(&[1, 4, 64, 64], 1)?);
/// let between = slerp(&a, &b, 0.5)?;
/// assert!((between.std(true).double_value(&[]) - 1.).abs() < 0.02);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn slerp(a: &Tensor, b: &Tensor, weight: f64) -> Result<Tensor> {
    crate::check::alike("b", b, a)?;
    if a.dim() == 0 {
        return Err(Error::shape("a", "[B, ...]", &a.size()));
    }
    let flat = |x: &Tensor| Ok::<_, Error>(in_f64(x)?.reshape([a.size()[0], -1]));
    let (from, to) = (flat(a)?, flat(b)?);
    let dot = |x: &Tensor, y: &Tensor| (x * y).sum_dim_intlist(-1, true, Kind::Double);
    let cos = dot(&from, &to) / (dot(&from, &from) * dot(&to, &to)).sqrt();
    let theta = cos.clamp(-1., 1.).acos();
    let sin = theta.sin();
    let linear = sin.abs().lt(1e-7);
    let share = |w: f64| ((&theta * w).sin() / &sin).where_scalarother(&linear.logical_not(), w);
    let mixed = share(1. - weight) * from + share(weight) * to;
    Ok(put(&mixed.reshape(a.size()), a.kind(), a.device()))
}

/// Runs `draw` with torch's global generator seeded with `seed`, and locked for all others.
pub fn with_seed<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    let _guard = lock();
    tch::manual_seed(seed);
    draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_a_batch_is_the_same_alone() -> Result<()> {
        let shapes = [vec![3, 4, 4], vec![4, 8, 8], vec![7]];
        let batch = normals_of_seeds(&[5, 6, 7], &shapes)?;
        let alone = normals_of_seeds(&[7], &shapes)?;
        for ((all, one), shape) in batch.iter().zip(&alone).zip(&shapes) {
            assert_eq!(all.size(), [&[3], &shape[..]].concat());
            assert!(all.narrow(0, 2, 1).equal(one));
        }
        assert!(alone[0].equal(&standard_normal(&[1, 3, 4, 4], 7)?));
        Ok(())
    }

    #[test]
    fn what_cannot_be_drawn_is_refused_before_memory_is_taken() {
        for shape in [&[1 << 40][..], &[1 << 20, 1 << 20, 1 << 20], &[i64::MAX, i64::MAX], &[-1]] {
            assert!(standard_normal(shape, 0).is_err(), "{shape:?}");
            assert!(normals_of_seeds(&[0], &[shape.to_vec()]).is_err(), "{shape:?}");
        }
        assert!(standard_normals(&[1 << 20], 0, usize::MAX).is_err());
        assert!(normals_of_seeds(&[], &[vec![1]]).is_err());
    }

    #[test]
    fn interpolation_on_the_sphere_turns_evenly_and_ends_where_it_should() -> Result<()> {
        let (a, b) = (standard_normal(&[2, 3, 50], 1)?, standard_normal(&[2, 3, 50], 2)?);
        let near = |x: &Tensor, y: &Tensor| (x - y).abs().max().double_value(&[]) < 1e-6;
        assert!(near(&slerp(&a, &b, 0.)?, &a) && near(&slerp(&a, &b, 1.)?, &b));
        assert!(near(&slerp(&a, &a, 0.3)?, &a), "no angle");
        assert!(near(&slerp(&a, &(-&a), 0.5)?, &a.zeros_like()), "half a turn");
        // Unit vectors: halfway twice is a quarter, then half.
        let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2., [1, 2], true);
        let (a, b) = (unit(&a), unit(&b));
        let half = slerp(&a, &b, 0.5)?;
        assert!(near(&slerp(&a, &half, 0.5)?, &slerp(&a, &b, 0.25)?));
        assert!((half.norm().double_value(&[]) - 2f64.sqrt()).abs() < 1e-6, "both of length 1");
        assert!(slerp(&a, &b.get(0), 0.5).is_err());
        Ok(())
    }
}
