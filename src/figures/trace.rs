//! A generation over its steps.

use tch::Tensor;

use crate::device::in_f64_on_cpu;
use crate::pipeline::Trace;
use crate::plot::{Sheet, Tile};
use crate::{Error, Result};

/// Most pictures in a row.
const MOST_COLUMNS: usize = 8;

/// A generation as pictures: `x_t` above, the predicted `x_0` below, over the steps.
///
/// `decode` turns latents `[1, 4, h, w]` into a picture; it is called for what is shown only. Of
/// more than eight steps, eight are shown: the first, the last and those between at equal
/// distances; the note says so. Every picture of a batch has two rows.
///
/// ```no_run
/// use diffuscope::{figures, pipeline::{Request, StableDiffusion}};
/// let sd = StableDiffusion::tiny()?;
/// let trace = sd.trace(&Request::new("a red apple on the grass"))?;
/// figures::trace_figure(&trace, |latents| sd.decode(latents))?.save("steps.png")?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
/// # Errors
/// A trace without steps, or whose tensors do not fit each other; what `decode` cannot decode.
#[doc(alias = "trace")]
#[doc(alias = "steps")]
pub fn trace_figure(trace: &Trace, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Sheet> {
    trace_sheet(trace, |latents| Tile::picture(&decode(latents)?))
}

/// A generation as latents: `x_t` above, the predicted `x_0` below, over the steps; the four
/// channels of each side by side, blue below 0 and orange above, with one limit for all.
///
/// # Errors
/// A trace without steps, or whose tensors do not fit each other; NaN or infinity.
pub fn trace_latents(trace: &Trace) -> Result<Sheet> {
    trace_sheet(trace, latent_tile(trace)?)
}

/// Draws latents of a trace, with one limit for all of it.
fn latent_tile(trace: &Trace) -> Result<impl Fn(&Tensor) -> Result<Tile>> {
    let largest = |x: &Tensor| -> Result<f64> {
        if x.numel() == 0 { Ok(0.) } else { Ok(f64::try_from(x.f_abs()?.f_max()?)?) }
    };
    let limit = largest(&trace.x_t)?.max(largest(&trace.x_0)?);
    let limit = if limit == 0. { 1. } else { limit };
    Ok(move |latents: &Tensor| Tile::latents(latents, limit))
}

/// The film strip of a trace, without a decoder: its latents, and the picture that the steps end on.
pub(crate) fn trace_strip(trace: &Trace) -> Result<Sheet> {
    let (mut rows, mut labels) = trace_rows(trace, latent_tile(trace)?)?;
    for (b, row) in rows.iter_mut().skip(1).step_by(2).enumerate() {
        row.push(Tile::picture(&trace.image.narrow(0, b as i64, 1))?);
    }
    labels.columns.push("picture".to_owned());
    let note = "figures::trace_figure(&trace, |latents| sd.decode(latents)) draws them as pictures";
    let note = match labels.note.as_str() {
        "" => note.to_owned(),
        some => format!("{some}; {note}"),
    };
    sheet_of(rows, TraceLabels { note, ..labels })
}

fn trace_sheet(trace: &Trace, tile: impl Fn(&Tensor) -> Result<Tile>) -> Result<Sheet> {
    let (rows, labels) = trace_rows(trace, tile)?;
    sheet_of(rows, labels)
}

/// What stands around the tiles of a trace.
struct TraceLabels {
    rows: Vec<String>,
    columns: Vec<String>,
    note: String,
}

fn sheet_of(rows: Vec<Vec<Tile>>, labels: TraceLabels) -> Result<Sheet> {
    let sheet = Sheet::new(rows)?.row_labels(labels.rows)?.column_labels(labels.columns)?;
    Ok(if labels.note.is_empty() { sheet } else { sheet.note(labels.note) })
}

/// Two rows for every picture: `x_t`, and the predicted `x_0`.
fn trace_rows(
    trace: &Trace,
    tile: impl Fn(&Tensor) -> Result<Tile>,
) -> Result<(Vec<Vec<Tile>>, TraceLabels)> {
    let timesteps = timesteps(trace)?;
    let shape = steps_of("x_t", &trace.x_t, timesteps.len())?;
    if trace.x_0.size() != shape {
        return Err(Error::shape("x_0", format!("{shape:?}"), &trace.x_0.size()));
    }
    let shown = spread(timesteps.len(), MOST_COLUMNS);
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for b in 0..shape[1] {
        for (name, x) in [("xₜ", &trace.x_t), ("predicted x₀", &trace.x_0)] {
            let at = |i: &usize| tile(&x.get(*i as i64).narrow(0, b, 1));
            rows.push(shown.iter().map(at).collect::<Result<Vec<_>>>()?);
            labels.push(if shape[1] > 1 { format!("{name}, {b}") } else { name.to_owned() });
        }
    }
    let said = |t: f64| if t.fract() == 0. { format!("t = {t}") } else { format!("t = {t:.1}") };
    let columns = shown.iter().map(|i| said(timesteps[*i])).collect();
    let note = match shown.len() < timesteps.len() {
        true => format!("{} of {} steps", shown.len(), timesteps.len()),
        false => String::new(),
    };
    Ok((rows, TraceLabels { rows: labels, columns, note }))
}

/// At most `most` of `count` places, at equal distances, with both ends.
fn spread(count: usize, most: usize) -> Vec<usize> {
    match count {
        0 => Vec::new(),
        _ if count <= most => (0..count).collect(),
        _ => (0..most).map(|i| (i * (count - 1) + (most - 1) / 2) / (most - 1)).collect(),
    }
}

/// The timesteps of every step.
pub(super) fn timesteps(trace: &Trace) -> Result<Vec<f64>> {
    let timesteps = Vec::<f64>::try_from(in_f64_on_cpu(&trace.timesteps)?)?;
    if timesteps.is_empty() {
        return Err(Error::argument("trace", "at least one step", "none"));
    }
    Ok(timesteps)
}

/// The shape of a tensor that has one entry a step, `[N, B, C, h, w]`.
pub(super) fn steps_of(what: &str, tensor: &Tensor, steps: usize) -> Result<Vec<i64>> {
    let shape = tensor.size();
    if shape.len() != 5 || shape[0] != steps as i64 || tensor.numel() == 0 {
        return Err(Error::shape(what, format!("[{steps}, B, C, h, w], one a timestep"), &shape));
    }
    Ok(shape)
}

/// A trace of random numbers, for tests.
#[cfg(test)]
pub(super) fn random_trace(timesteps: &[f32], batch: i64) -> Trace {
    let n = timesteps.len() as i64;
    use tch::Kind;
    let normal = || Tensor::randn([n, batch, 4, 8, 8], (Kind::Float, tch::Device::Cpu));
    Trace {
        prediction: crate::prediction::Prediction::Epsilon,
        timesteps: Tensor::from_slice(timesteps),
        signal_rates: Tensor::full([n], 0.6, (Kind::Double, tch::Device::Cpu)),
        noise_rates: Tensor::full([n], 0.8, (Kind::Double, tch::Device::Cpu)),
        x_t: normal(),
        output_uncond: (0..n).map(|i| Some(normal().get(i))).collect(),
        output_cond: (0..n).map(|i| Some(normal().get(i))).collect(),
        output: normal(),
        noise_pred: normal(),
        x_0: normal(),
        coefficients: Tensor::zeros([n, 13], (Kind::Double, tch::Device::Cpu)),
        latents: Tensor::zeros([batch, 4, 8, 8], (Kind::Float, tch::Device::Cpu)),
        image: Tensor::zeros([batch, 3, 8, 8], (Kind::Float, tch::Device::Cpu)),
        notes: Vec::new(),
        making: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_has_both_ends_and_no_place_twice() {
        assert_eq!(spread(3, 10), [0, 1, 2]);
        for count in 11..200 {
            let shown = spread(count, 10);
            assert_eq!((shown.len(), shown[0], shown[9]), (10, 0, count - 1), "{count}");
            assert!(shown.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn a_trace_is_drawn_and_refused_where_it_does_not_fit() {
        let decode = |latents: &Tensor| Ok(latents.narrow(1, 0, 3).tanh());
        for good in [random_trace(&[999., 500.5, 0.], 2), random_trace(&[20.], 1)] {
            trace_figure(&good, decode).unwrap().png().unwrap();
            trace_latents(&good).unwrap().png().unwrap();
        }
        let mut short = random_trace(&[9., 1.], 1);
        short.x_0 = short.x_0.narrow(0, 0, 1);
        let mut nan = random_trace(&[9., 1.], 1);
        nan.x_0 = &nan.x_0 * f64::NAN;
        for bad in [random_trace(&[], 1), short, nan] {
            assert!(trace_figure(&bad, decode).is_err());
            assert!(trace_latents(&bad).is_err());
        }
    }
}
