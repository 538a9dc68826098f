//! The figures that the chapters and the command line draw.

use tch::{Kind, Tensor};

use super::chart::{Panel, figure, panel};
use super::show::Figure;
use super::views::{Sheet, sheet, strip};
use crate::schedule::Schedule;
use crate::{Error, Result};

/// Most pictures in a row of a figure over the steps.
const MOST_COLUMNS: usize = 8;

/// Schedules over the timesteps: betas, alphas_cumprod and the signal-to-noise ratio.
///
/// ```text
/// alpha_bar_t = product of (1 - beta_s), s <= t      SNR(t) = alpha_bar_t / (1 - alpha_bar_t)
/// ```
/// # Errors
/// No schedule.
///
/// # Examples
/// ```
/// use diffuscope::{plot, schedule::Schedule};
/// let figure = plot::schedule_figure(&[("Stable Diffusion", &Schedule::stable_diffusion())])?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn schedule_figure(schedules: &[(&str, &Schedule)]) -> Result<Figure> {
    let over_t = |mut chart: Panel, values: &dyn Fn(&Schedule) -> Vec<f64>| {
        for (name, schedule) in schedules {
            let points = values(schedule).into_iter().enumerate();
            chart = chart.line(*name, points.map(|(t, y)| (t as f64, y)).collect());
        }
        chart.x("timestep t")
    };
    let panels = vec![
        over_t(panel("betas").y("βₜ").log_y(), &|s| s.betas().to_vec()),
        over_t(panel("alphas_cumprod").y("ᾱₜ").y_range(0., 1.02), &|s| {
            s.alphas_cumprod().to_vec()
        }),
        over_t(panel("signal-to-noise ratio").y("SNR = ᾱₜ / (1 − ᾱₜ)").log_y(), &Schedule::snr),
    ];
    figure("Noise schedules", panels)
}

/// A picture at several timesteps, from clean to noise.
///
/// # Shapes
/// Every picture `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`.
///
/// # Errors
/// No pictures; another number of timesteps; a picture that cannot be shown.
pub fn noise_strip(timesteps: &[i64], pictures: &[Tensor]) -> Result<Sheet> {
    strip(pictures, timesteps.iter().map(|t| format!("t = {t}")))
}

/// How long the two noise predictions are and how they lie to each other, over the steps.
///
/// ```text
/// angle = arccos(<uncond, cond> / (|uncond| |cond|))
/// ```
/// Norms are divided by the square root of the number of elements, so noise from a standard normal
/// has norm 1. A batch is averaged, and the band reaches from its least to its greatest.
///
/// # Shapes
/// `noise_uncond`, `noise_cond` `[N, B, ...]`, one entry a timestep.
///
/// # Errors
/// Shapes that differ or do not fit the timesteps; NaN or infinity.
pub fn guidance_geometry(
    timesteps: &[i64],
    noise_uncond: &Tensor,
    noise_cond: &Tensor,
) -> Result<Figure> {
    let shape = noise_uncond.size();
    if shape.len() < 3 || shape[0] != timesteps.len() as i64 || noise_uncond.numel() == 0 {
        let expected = format!("[{}, B, ...], one a timestep", timesteps.len());
        return Err(Error::shape("noise_uncond", expected, &shape));
    }
    if noise_cond.size() != shape {
        return Err(Error::shape("noise_cond", format!("{shape:?}"), &noise_cond.size()));
    }
    let flat = |x: &Tensor| -> Result<Tensor> {
        let x = x.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?;
        Ok(x.flatten(2, -1))
    };
    let (uncond, cond) = (flat(noise_uncond)?, flat(noise_cond)?);
    let difference = &cond - &uncond;
    let root = (uncond.size()[2] as f64).sqrt();
    let norm = |x: &Tensor| x.square().sum_dim_intlist(-1, false, Kind::Double).sqrt();
    let inner = (&uncond * &cond).sum_dim_intlist(-1, false, Kind::Double);
    let cosine = (inner / (norm(&uncond) * norm(&cond))).clamp(-1., 1.);
    let angle = cosine.acos() * (180. / std::f64::consts::PI);

    let mut norms = panel("norms").y("norm / √n");
    let named = [("unconditional", &uncond), ("conditional", &cond), ("difference", &difference)];
    for (i, (name, x)) in named.into_iter().enumerate() {
        norms = over_steps(norms, name, i, timesteps, &(norm(x) / root))?;
    }
    let angles = over_steps(panel("angle between them").y("degrees"), "", 3, timesteps, &angle)?;
    let ends =
        [timesteps.iter().max(), timesteps.iter().min()].map(|t| t.map_or(0., |t| *t as f64));
    // Sampling goes from the noisiest timestep to the picture: left to right.
    let (from, to) =
        if ends[0] > ends[1] { (ends[0], ends[1]) } else { (ends[0] + 1., ends[0] - 1.) };
    let panels = [norms, angles].map(|p| p.x("timestep t").x_range(from, to));
    figure("The two noise predictions", panels.into())
}

/// The mean over the batch as a line, its extremes as a band. `values` is `[N, B]`.
fn over_steps(
    chart: Panel,
    name: &str,
    color: usize,
    timesteps: &[i64],
    values: &Tensor,
) -> Result<Panel> {
    let column = |x: Tensor| -> Result<Vec<f64>> { Ok(Vec::try_from(x)?) };
    let mean = column(values.mean_dim(-1, false, Kind::Double))?;
    let (low, high) = (column(values.amin(-1, false))?, column(values.amax(-1, false))?);
    let t = timesteps.iter().map(|t| *t as f64);
    let line = t.clone().zip(mean).collect();
    let band = t.zip(low).zip(high).map(|((t, low), high)| (t, low, high)).collect();
    let chart = if values.size()[1] > 1 { chart.band("", band).color(color) } else { chart };
    Ok(chart.dotted_line(name, line).color(color))
}

/// Losses over the steps, raw and smoothed, on a logarithmic axis.
///
/// ```text
/// m = d m + (1 - d) loss,   shown: m / (1 - d^i)        with d = 1 - 1 / window
/// ```
/// # Errors
/// No losses; a loss that is not above 0; a window below 1.
pub fn loss_curve(losses: &[(&str, Vec<(usize, f64)>)], window: usize) -> Result<Figure> {
    if window == 0 {
        return Err(Error::argument("window", "at least 1 step", 0, ""));
    }
    let decay = 1. - 1. / window as f64;
    let mut chart = panel("Loss").x("step").y("loss").log_y();
    for (i, (name, losses)) in losses.iter().enumerate() {
        let raw: Vec<(f64, f64)> = losses.iter().map(|(step, l)| (*step as f64, *l)).collect();
        let (mut mean, mut weight) = (0., 0.);
        let smooth = raw
            .iter()
            .map(|(step, loss)| {
                mean = decay * mean + (1. - decay) * loss;
                weight = decay * weight + (1. - decay);
                (*step, mean / weight)
            })
            .collect();
        if window > 1 {
            chart = chart.thin_line(raw).color(i);
        }
        chart = chart.line(*name, smooth).color(i);
    }
    chart.draw()
}

/// A generation: `x_t` above, the predicted `x_0` below, over the steps. Both are decoded pictures.
///
/// Of more than eight steps, eight are shown: the first, the last and those between at equal distances;
/// the note says so.
///
/// # Shapes
/// Every picture `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`; one of each a timestep.
///
/// # Errors
/// No steps; numbers that differ; a picture that cannot be shown.
pub fn trace_figure(timesteps: &[i64], x_t: &[Tensor], x_0: &[Tensor]) -> Result<Sheet> {
    for (what, pictures) in [("x_t", x_t), ("x_0", x_0)] {
        if pictures.len() != timesteps.len() {
            let expected = format!("{} pictures, one a timestep", timesteps.len());
            return Err(Error::argument(what, expected, pictures.len(), ""));
        }
    }
    let shown = spread(timesteps.len(), MOST_COLUMNS);
    let row = |x: &[Tensor]| shown.iter().map(|i| x[*i].shallow_clone()).collect::<Vec<_>>();
    let sheet = sheet(&[row(x_t), row(x_0)])?
        .row_labels(["xₜ", "predicted x₀"])?
        .column_labels(shown.iter().map(|i| format!("t = {}", timesteps[*i])))?;
    let note = format!("{} of {} steps", shown.len(), timesteps.len());
    Ok(if shown.len() < timesteps.len() { sheet.note(note) } else { sheet })
}

/// At most `most` of `count` places, at equal distances, with both ends.
fn spread(count: usize, most: usize) -> Vec<usize> {
    match count {
        0 => Vec::new(),
        _ if count <= most => (0..count).collect(),
        _ => (0..most).map(|i| (i * (count - 1) + (most - 1) / 2) / (most - 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

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
    fn figures_are_drawn_and_refuse_what_does_not_fit() {
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (t, a, b) = ([999, 500, 0], normal(&[3, 2, 4, 8, 8]), normal(&[3, 2, 4, 8, 8]));
        guidance_geometry(&t, &a, &b).unwrap();
        guidance_geometry(&t[..1], &a.narrow(0, 0, 1), &b.narrow(0, 0, 1)).unwrap();
        assert!(guidance_geometry(&t[..2], &a, &b).is_err());
        assert!(guidance_geometry(&t, &a, &normal(&[3, 1, 4, 8, 8])).is_err());
        assert!(guidance_geometry(&t, &(a * f64::NAN), &b).is_err());

        loss_curve(&[("train", vec![(0, 1.), (10, 0.5)])], 20).unwrap();
        assert!(loss_curve(&[("train", vec![(0, f64::NAN)])], 20).is_err());
        assert!(loss_curve(&[("train", vec![(0, 1.)])], 0).is_err());
        assert!(loss_curve(&[], 20).is_err());
        assert!(schedule_figure(&[]).is_err());

        let picture = || normal(&[3, 8, 8]).clamp(-1., 1.);
        let pictures: Vec<Tensor> = (0..3).map(|_| picture()).collect();
        trace_figure(&t, &pictures, &pictures).unwrap().png().unwrap();
        assert!(trace_figure(&t, &pictures[..2], &pictures).is_err());
        assert!(noise_strip(&t[..2], &pictures).is_err());
    }
}
