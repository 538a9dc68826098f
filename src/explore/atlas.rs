//! Decoded pictures, as many as fit: one lossless sheet a run and quantity.

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
const AT_ONCE: i64 = 1 << 19;
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
    let (mut all, mut notes, mut room) = (Vec::new(), Vec::new(), room);
    for (quantity, name, said) in QUANTITIES {
        let mut wanted = wanted(recording, quantity)?;
        if wanted.is_empty() {
            continue;
        }
        let steps = recording.traces[0].len();
        let mut fitting = fit(&wanted, steps, room, decode)?;
        if fitting.is_none() && wanted.len() > 1 {
            // One run whole is worth more than none.
            wanted.truncate(1);
            fitting = fit(&wanted, steps, room, decode)?;
            if fitting.is_some() {
                notes.push(format!("{said}: decoded of one run alone, so that the page is not larger"));
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
            room = room.saturating_sub(in_html(png.len()));
            let (run, at, steps) = (wanted.run, wanted.at, shown.clone());
            all.push(Atlas { run, what: name, at, steps, columns: COLUMNS, png });
        }
    }
    Ok((all, notes))
}

/// The bytes that a sheet takes on the page: its base64, and the element around it.
pub(super) fn in_html(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4 + 200
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

/// The finest stride at which all of these fit, and their sheets.
fn fit(
    wanted: &[WantedAtlas],
    steps: usize,
    room: usize,
    decode: &DecodeWith<'_>,
) -> Result<Option<(usize, Vec<Vec<u8>>)>> {
    // What one picture takes is known from one of the middle.
    let sample = sheet(&wanted[0].latents, &[steps / 2], decode)?.len();
    for stride in STRIDES {
        let count = kept(steps, stride).len();
        if in_html(sample).saturating_mul(count * wanted.len()) / 2 > room {
            continue;
        }
        let (mut sheets, mut taken) = (Vec::new(), 0);
        for each in wanted {
            interrupt::check(|| "while pictures were decoded".to_owned())?;
            let png = sheet(&each.latents, &kept(steps, stride), decode)?;
            taken += in_html(png.len());
            if taken > room {
                break;
            }
            sheets.push(png);
        }
        if taken <= room {
            return Ok(Some((stride, sheets)));
        }
    }
    Ok(None)
}

/// The pictures of these steps in rows.
fn sheet(latents: &Tensor, steps: &[usize], decode: &DecodeWith<'_>) -> Result<Vec<u8>> {
    let index: Vec<i64> = steps.iter().map(|&i| i as i64).collect();
    let latents = latents.f_index_select(0, &Tensor::from_slice(&index))?;
    let mut pictures: Vec<Rgb8> = Vec::new();
    let mut at_once = 1;
    while (pictures.len() as i64) < latents.size()[0] {
        let from = pictures.len() as i64;
        let count = at_once.min(latents.size()[0] - from);
        pictures.extend(to_rgb8(&decode(&latents.narrow(0, from, count))?)?);
        let pixels = i64::from(pictures[0].width) * i64::from(pictures[0].height);
        at_once = (AT_ONCE / pixels.max(1)).clamp(1, 32);
    }
    let (width, height) = (pictures[0].width as usize, pictures[0].height as usize);
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
        if quantity == Quantity::Fan {
            let made = making(trace)?;
            for other in recording.traces.iter().filter(|t| scale_label(t) != scale_label(trace)) {
                let scale = making(other)?.guidance.scale;
                let plain = Guidance { scale, scales: Vec::new(), interval: None, ..made.guidance.clone() };
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
            let length = difference.square().mean_dim(&[-1i64, -2, -3][..], true, Kind::Float).sqrt();
            Some(difference / length.clamp_min(1e-12))
        }
        Quantity::Fan | Quantity::Cond | Quantity::Uncond | Quantity::Difference => None,
    })
}
