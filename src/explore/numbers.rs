//! The numbers of a trace as the page reads them: samples, predictions, drawn noise.

use serde::Serialize;
use tch::{Kind, Tensor};

use super::replay::{making, replay};
use crate::Result;
use crate::pipeline::Trace;

/// The largest residual with which numbers are kept in 16 bits: half of what the page promises.
const FINE: f64 = 5e-4;

/// How a number is kept.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NumberFormat {
    /// A whole number of 16 bits times the tensor's own factor: finer than f16 where numbers are of one size.
    I16,
    F32,
}

/// The numbers of one trace, a picture after the other.
pub(super) struct TraceNumbers {
    pub format: NumberFormat,
    /// One a picture.
    pub pictures: Vec<PictureNumbers>,
}

/// For every step the sample, the predictions that there are and the noise that was drawn; then the result.
pub(super) struct PictureNumbers {
    pub bytes: Vec<u8>,
    /// How far the page's steps will be from the recorded ones.
    pub residual: f64,
}

/// What a step has beside its sample, as bits.
pub(super) const UNCOND: u8 = 1;
pub(super) const COND: u8 = 2;
pub(super) const NOISE: u8 = 4;

/// What each step of a trace has.
pub(super) fn parts(trace: &Trace) -> Result<Vec<u8>> {
    let steps = &making(trace)?.plan.steps;
    let bit = |on: bool, bit: u8| if on { bit } else { 0 };
    let of = |i: usize| {
        bit(trace.output_uncond[i].is_some(), UNCOND)
            | bit(trace.output_cond[i].is_some(), COND)
            | bit(steps[i].adds_noise(), NOISE)
    };
    Ok((0..trace.len()).map(of).collect())
}

/// The bytes that a trace of this many numbers takes at least.
pub(super) fn least_bytes(trace: &Trace) -> Result<usize> {
    let tensors: u32 = parts(trace)?.iter().map(|parts| 1 + parts.count_ones()).sum();
    Ok((tensors as usize + 1) * (trace.latents.numel() * 2 + 4))
}

/// Packs a trace, in 16 bits where its steps can be taken again from them.
pub(super) fn pack(trace: &Trace) -> Result<TraceNumbers> {
    let coarse = rounded(trace)?;
    let residuals = replay(&coarse, &making(trace)?.guidance)?.residuals;
    if residuals.iter().all(|residual| *residual < FINE) {
        return packed(trace, NumberFormat::I16, residuals);
    }
    let residuals = replay(trace, &making(trace)?.guidance)?.residuals;
    packed(trace, NumberFormat::F32, residuals)
}

fn packed(trace: &Trace, format: NumberFormat, residuals: Vec<f64>) -> Result<TraceNumbers> {
    let noises = &making(trace)?.noises;
    let mut pictures = Vec::new();
    for (b, residual) in residuals.into_iter().enumerate() {
        let (mut bytes, mut noise) = (Vec::new(), noises.iter());
        let mut put = |x: &Tensor| put(&mut bytes, &x.f_get(b as i64)?, format);
        for (i, parts) in parts(trace)?.into_iter().enumerate() {
            put(&trace.x_t.f_get(i as i64)?)?;
            trace.output_uncond[i].iter().try_for_each(&mut put)?;
            trace.output_cond[i].iter().try_for_each(&mut put)?;
            noise.by_ref().take(usize::from(parts & NOISE != 0)).try_for_each(&mut put)?;
        }
        put(&trace.latents)?;
        pictures.push(PictureNumbers { bytes, residual });
    }
    Ok(TraceNumbers { format, pictures })
}

/// Appends a tensor: its factor and its whole numbers, or its numbers as they are; little-endian.
fn put(bytes: &mut Vec<u8>, x: &Tensor, format: NumberFormat) -> Result<()> {
    match format {
        NumberFormat::F32 => {
            let values = values(x)?;
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NumberFormat::I16 => {
            let (whole, factor) = whole(&x.f_unsqueeze(0)?)?;
            bytes.extend((values(&factor)?[0]).to_le_bytes());
            bytes.extend(values(&whole)?.iter().flat_map(|value| (*value as i16).to_le_bytes()));
        }
    }
    Ok(())
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::try_from(x.f_to_kind(Kind::Float)?.f_contiguous()?.f_flatten(0, -1)?)?)
}

/// Pictures [B, ...] as whole numbers of -32767 to 32767, and each picture's factor [B, 1, 1, 1].
fn whole(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let x = x.f_to_kind(Kind::Float)?;
    let largest = x.f_abs()?.f_amax(&[1i64, 2, 3][..], true)?;
    let factor = largest.f_where_self(&largest.f_gt(0.)?, &largest.f_ones_like()?)? / 32767.;
    Ok(((x / &factor).round(), factor))
}

/// A trace with its numbers as 16 bits keep them.
fn rounded(trace: &Trace) -> Result<Trace> {
    let near = |x: &Tensor| -> Result<Tensor> {
        let (whole, factor) = whole(x)?;
        Ok(whole * factor)
    };
    let all = |outputs: &[Option<Tensor>]| {
        outputs.iter().map(|x| x.as_ref().map(near).transpose()).collect::<Result<Vec<_>>>()
    };
    let mut coarse = trace.shallow_clone();
    let x_t: Vec<Tensor> = trace.x_t.unbind(0).iter().map(near).collect::<Result<_>>()?;
    coarse.x_t = Tensor::f_stack(&x_t, 0)?;
    coarse.output_uncond = all(&trace.output_uncond)?;
    coarse.output_cond = all(&trace.output_cond)?;
    coarse.latents = near(&trace.latents)?;
    if let Some(made) = &mut coarse.making {
        made.noises = made.noises.iter().map(near).collect::<Result<_>>()?;
    }
    Ok(coarse)
}
