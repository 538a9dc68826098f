//! Decoded pictures, as many as fit: one lossless sheet a run and quantity.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tch::{Kind, Tensor};

use super::recording::{DecodeWith, Recording, scale_label};
use super::replay::{making, replay};
use crate::guidance::Guidance;
use crate::picture::{Rgb8, to_rgb8};
use crate::pipeline::Trace;
use crate::{Result, interrupt};

/// Pictures in a row of an atlas.
const COLUMNS: usize = 8;
/// Pixels that are decoded at once.
const AT_ONCE: usize = 1 << 19;
/// What is left out first: every step, every second ... and at last all but the end.
const STRIDES: [usize; 6] = [1, 2, 3, 5, 10, usize::MAX];

/// Pictures of one quantity of one run.
#[derive(Serialize)]
pub(super) struct Atlas {
    pub run: usize,
    pub what: &'static str,
    /// The guidance scale that it shows at the run's samples, if another than the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    pub steps: Vec<usize>,
    pub columns: usize,
    #[serde(skip)]
    pub png: Vec<u8>,
}

/// A quantity that can be decoded, under its name on the page.
#[derive(Clone, Copy, PartialEq)]
enum Quantity {
    X0,
    Xt,
    /// x_0 at the other scales.
    Fan,
    Cond,
    Uncond,
    Guided,
    Difference,
}

/// In the order in which they are let in.
const QUANTITIES: [(Quantity, &str, &str); 7] = [
    (Quantity::X0, "x0", "predicted x̂₀"),
    (Quantity::Xt, "xt", "xₜ"),
    (Quantity::Fan, "x0", "predicted x̂₀ at the other guidance scales"),
    (Quantity::Guided, "guided", "guided noise"),
    (Quantity::Cond, "cond", "noise with the prompt"),
    (Quantity::Uncond, "uncond", "noise without the prompt"),
    (Quantity::Difference, "difference", "difference of the noises"),
];

/// The atlases that fit into `room` bytes of HTML, and what a reader should know of those that do not.
pub(super) fn atlases(
    recording: &Recording,
    room: usize,
    decode: &DecodeWith<'_>,
) -> Result<(Vec<Atlas>, Vec<String>)> {
    let (mut all, mut notes, mut room, mut picture) = (Vec::new(), Vec::new(), room, 0);
    let first = usual(recording) * recording.traces[0].latents.size()[0] as usize;
    for (quantity, name, said) in QUANTITIES {
        let mut wanted = wanted(recording, quantity)?;
        if wanted.is_empty() {
            continue;
        }
        let steps = recording.traces[0].len();
        // A quantity that is seldom there is no film; of the predicted picture the end alone is worth showing.
        let strides = if quantity == Quantity::X0 { &STRIDES[..] } else { &STRIDES[..4] };
        let mut fitting = fit(&wanted, strides, room, &mut picture, decode)?;
        if fitting.is_none() && wanted.len() > 1 {
            // Some of the run that is shown first is worth more than nothing of all.
            wanted.sort_by_key(|atlas| atlas.run != first);
            wanted.truncate(1);
            fitting = fit(&wanted, strides, room, &mut picture, decode)?;
            if fitting.is_some() {
                notes.push(format!(
                    "{said}: decoded of one run alone, so that the page is not larger"
                ));
            }
        }
        let Some((stride, pngs)) = fitting else {
            notes.push(format!("{said}: not decoded, so that the page is not larger"));
            continue;
        };
        let shown = kept(steps, stride);
        if shown.len() < steps {
            let which = format!("decoded at {} of {steps} steps", shown.len());
            notes.push(format!("{said}: {which}, so that the page is not larger"));
        }
        for (wanted, png) in wanted.iter().zip(pngs) {
            room = room.saturating_sub(in_html(png.len(), shown.len()));
            let (run, at, steps) = (wanted.run, wanted.at, shown.clone());
            all.push(Atlas { run, what: name, at, steps, columns: COLUMNS, png });
        }
    }
    Ok((all, notes))
}

/// The trace that the page shows first: the one whose guidance scale is nearest to 7.
pub(super) fn usual(recording: &Recording) -> usize {
    let apart = |trace: &Trace| {
        trace.making.as_ref().map_or(f64::INFINITY, |made| (made.guidance.scale - 7.).abs())
    };
    let all: Vec<f64> = recording.traces.iter().map(apart).collect();
    (0..all.len()).fold(0, |best, k| if all[k] < all[best] { k } else { best })
}

/// The bytes that a sheet of some steps takes on the page: its base64, the element around it, and the list of its steps.
pub(super) fn in_html(bytes: usize, steps: usize) -> usize {
    bytes.div_ceil(3) * 4 + 200 + 5 * steps
}

/// The latents of one atlas, [N, C, h, w].
struct WantedAtlas {
    run: usize,
    at: Option<f64>,
    latents: Tensor,
}

/// The steps that are kept: the last one and those at whole strides before it.
fn kept(steps: usize, stride: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..steps).rev().step_by(stride.min(steps)).collect();
    kept.reverse();
    kept
}

/// The finest stride at which all of these fit, and their sheets. `picture` is what one takes, as far as that is known: what
/// cannot fit is not decoded.
fn fit(
    wanted: &[WantedAtlas],
    strides: &[usize],
    room: usize,
    picture: &mut usize,
    decode: &DecodeWith<'_>,
) -> Result<Option<(usize, Vec<Vec<u8>>)>> {
    let steps = wanted[0].latents.size()[0] as usize;
    let fits = |picture: usize, stride: usize| {
        let shown = kept(steps, stride).len();
        in_html(picture * shown, shown) * wanted.len() <= room
    };
    if !strides.last().is_some_and(|&stride| fits(*picture / 2, stride)) {
        return Ok(None);
    }
    let mut decoded: Vec<DecodedSteps> = wanted.iter().map(|_| BTreeMap::new()).collect();
    // What a picture takes is known from three of the first run.
    let samples = BTreeSet::from([0, steps / 2, steps - 1]).into_iter().collect::<Vec<_>>();
    decode_steps(&wanted[0].latents, &samples, &mut decoded[0], decode)?;
    *picture = sheet(&decoded[0], &samples)?.len() / samples.len();
    for &stride in strides.iter().filter(|stride| fits(*picture, **stride)) {
        let shown = kept(steps, stride);
        let (mut sheets, mut taken) = (Vec::new(), 0);
        for (each, decoded) in wanted.iter().zip(&mut decoded) {
            interrupt::check(|| "while pictures were decoded".to_owned())?;
            decode_steps(&each.latents, &shown, decoded, decode)?;
            sheets.push(sheet(decoded, &shown)?);
            taken += in_html(sheets[sheets.len() - 1].len(), shown.len());
            if taken > room {
                break;
            }
        }
        if taken <= room {
            return Ok(Some((stride, sheets)));
        }
    }
    Ok(None)
}

/// The pictures of some steps.
type DecodedSteps = BTreeMap<usize, Rgb8>;

/// Decodes the steps that are not decoded yet.
fn decode_steps(
    latents: &Tensor,
    steps: &[usize],
    decoded: &mut DecodedSteps,
    decode: &DecodeWith<'_>,
) -> Result<()> {
    let missing: Vec<usize> = steps.iter().copied().filter(|i| !decoded.contains_key(i)).collect();
    let (mut rest, mut at_once) = (missing.as_slice(), 1);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(at_once));
        let index: Vec<i64> = now.iter().map(|&i| i as i64).collect();
        let latents = latents.f_index_select(0, &Tensor::from_slice(&index))?;
        decoded.extend(now.iter().copied().zip(to_rgb8(&decode(&latents)?)?));
        let pixels = decoded.values().next().map_or(1, |p| (p.width * p.height).max(1));
        (rest, at_once) = (later, (AT_ONCE / pixels as usize).clamp(1, 32));
    }
    Ok(())
}

/// The pictures of these steps in rows.
fn sheet(decoded: &DecodedSteps, steps: &[usize]) -> Result<Vec<u8>> {
    let pictures: Vec<&Rgb8> = steps.iter().filter_map(|i| decoded.get(i)).collect();
    let (width, height) =
        pictures.first().map_or((0, 0), |p| (p.width as usize, p.height as usize));
    let columns = pictures.len().min(COLUMNS);
    let rows = pictures.len().div_ceil(COLUMNS);
    let mut pixels = vec![0; columns * width * rows * height * 3];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (i % COLUMNS * width, i / COLUMNS * height);
        for (y, row) in picture.pixels.chunks(width * 3).enumerate() {
            let to = ((top + y) * columns * width + left) * 3;
            pixels[to..to + width * 3].copy_from_slice(row);
        }
    }
    Rgb8 { width: (columns * width) as u32, height: (rows * height) as u32, pixels }.to_png(&[])
}

/// All atlases of a quantity; none where a prediction is missing.
fn wanted(recording: &Recording, quantity: Quantity) -> Result<Vec<WantedAtlas>> {
    let mut wanted = Vec::new();
    for (k, trace) in recording.traces.iter().enumerate() {
        let batch = trace.latents.size()[0] as usize;
        let mut push = |latents: Tensor, at: Option<f64>| -> Result<()> {
            for b in 0..batch {
                let latents = latents.f_select(1, b as i64)?;
                wanted.push(WantedAtlas { run: k * batch + b, at, latents });
            }
            Ok(())
        };
        let both = |outputs: &[Option<Tensor>]| outputs.iter().all(Option::is_some);
        if quantity == Quantity::Fan {
            if !both(&trace.output_uncond) || !both(&trace.output_cond) {
                continue;
            }
            let made = making(trace)?;
            for other in recording.traces.iter().filter(|t| scale_label(t) != scale_label(trace)) {
                let scale = making(other)?.guidance.scale;
                let plain =
                    Guidance { scale, scales: Vec::new(), interval: None, ..made.guidance.clone() };
                let steps = replay(trace, &plain)?.steps;
                let x_0: Vec<&Tensor> = steps.iter().map(|step| &step.x_0).collect();
                push(Tensor::f_stack(&x_0, 0)?, Some(scale))?;
            }
        } else if let Some(latents) = of_quantity(trace, quantity)? {
            push(latents, None)?;
        }
    }
    Ok(wanted)
}

/// A quantity over the steps, [N, B, C, h, w]; `None` where a step lacks a prediction.
fn of_quantity(trace: &Trace, quantity: Quantity) -> Result<Option<Tensor>> {
    let both = |all: &[Option<Tensor>]| all.iter().all(Option::is_some);
    let (uncond, cond) = (both(&trace.output_uncond), both(&trace.output_cond));
    Ok(match quantity {
        Quantity::X0 => Some(trace.x_0.shallow_clone()),
        Quantity::Guided => Some(trace.noise_pred.shallow_clone()),
        Quantity::Xt => {
            // As the network sees it: samplers in sigma have larger samples.
            let steps = making(trace)?.plan.steps.iter().take(trace.len());
            let scales: Vec<f64> = steps.map(|step| step.position.input_scale()).collect();
            let scales = Tensor::from_slice(&scales).to_kind(Kind::Float).view([-1, 1, 1, 1, 1]);
            Some(&trace.x_t * scales)
        }
        Quantity::Cond if cond => Some(trace.noise_cond()?),
        Quantity::Uncond if uncond => Some(trace.noise_uncond()?),
        Quantity::Difference if cond && uncond => {
            let difference = trace.noise_cond()? - trace.noise_uncond()?;
            let length =
                difference.square().mean_dim(&[-1i64, -2, -3][..], true, Kind::Float).sqrt();
            Some(difference / length.clamp_min(1e-12))
        }
        Quantity::Fan | Quantity::Cond | Quantity::Uncond | Quantity::Difference => None,
    })
}
