//! The figures that the chapters and the command line draw.

use tch::{Kind, Tensor};

use super::chart::{Panel, figure, panel};
use super::show::Figure;
use super::views::{Sheet, Tile, strip};
use crate::explore::{Moments, angle, norm};
use crate::schedule::Schedule;
use crate::trace::Trace;
use crate::train::scores::{Drawn, PromptMatch, Scores, Share};
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

/// What noise makes of a picture's mean and standard deviation: the law as lines
/// ([`Moments::noised`]), what was measured as points.
///
/// # Errors
/// A timestep outside the schedule; nothing measured.
pub fn moments_figure(
    schedule: &Schedule,
    start: Moments,
    measured: &[(usize, Moments)],
) -> Result<Figure> {
    let law: Vec<Moments> = (0..schedule.num_train_timesteps())
        .map(|t| start.noised(schedule, t))
        .collect::<Result<_>>()?;
    let chart = |title: &str, of: fn(&Moments) -> f64| {
        let law = law.iter().enumerate().map(|(t, m)| (t as f64, of(m))).collect();
        let points = measured.iter().map(|(t, m)| (*t as f64, of(m))).collect();
        panel(title).x("timestep t").line("law", law).points("measured", points)
    };
    let panels = vec![
        chart("mean", |m| m.mean).y("mean of xₜ"),
        chart("standard deviation", |m| m.std_dev).y("standard deviation of xₜ"),
    ];
    figure("", panels)
}

/// A picture at several timesteps, from clean to noise.
///
/// # Shapes
/// Every picture `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`.
///
/// # Errors
/// No pictures; another number of timesteps; a picture that cannot be shown.
pub fn noise_strip(
    timesteps: impl IntoIterator<Item = impl std::fmt::Display>,
    pictures: &[Tensor],
) -> Result<Sheet> {
    strip(pictures, timesteps.into_iter().map(|t| format!("t = {t}")))
}

/// How long the two noise predictions are and how they lie to each other, over the steps.
///
/// Measured by [`norm`] and [`angle`]. A batch is averaged, and the band reaches from its least to
/// its greatest.
///
/// # Errors
/// A trace without steps, or whose tensors do not fit each other; NaN or infinity.
pub fn guidance_geometry(trace: &Trace) -> Result<Figure> {
    let timesteps = timesteps(trace)?;
    let (noise_uncond, noise_cond) = (&trace.noise_uncond, &trace.noise_cond);
    let shape = steps_of("noise_uncond", noise_uncond, timesteps.len())?;
    if noise_cond.size() != shape {
        return Err(Error::shape("noise_cond", format!("{shape:?}"), &noise_cond.size()));
    }
    let difference = noise_cond - noise_uncond;
    let angle = angle(noise_uncond, noise_cond)?;

    let mut norms = panel("norms").y("norm / √n");
    let named =
        [("unconditional", noise_uncond), ("conditional", noise_cond), ("difference", &difference)];
    for (i, (name, x)) in named.into_iter().enumerate() {
        norms = over_steps(norms, name, i, &timesteps, &norm(x)?)?;
    }
    let angles = over_steps(panel("angle between them").y("degrees"), "", 3, &timesteps, &angle)?;
    // Sampling goes from the noisiest timestep to the picture: left to right.
    let from = timesteps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let to = timesteps.iter().copied().fold(f64::INFINITY, f64::min);
    let (from, to) = if from > to { (from, to) } else { (from + 1., to - 1.) };
    let panels = [norms, angles].map(|p| p.x("timestep t").x_range(from, to));
    figure("The two noise predictions", panels.into())
}

fn timesteps(trace: &Trace) -> Result<Vec<f64>> {
    let timesteps = Vec::<f64>::try_from(trace.timesteps.f_to_kind(Kind::Double)?)?;
    if timesteps.is_empty() {
        return Err(Error::argument("trace", "at least one step", "none", ""));
    }
    Ok(timesteps)
}

/// The shape of a tensor that has one entry a step, `[N, B, C, h, w]`.
fn steps_of(what: &str, tensor: &Tensor, steps: usize) -> Result<Vec<i64>> {
    let shape = tensor.size();
    if shape.len() != 5 || shape[0] != steps as i64 || tensor.numel() == 0 {
        return Err(Error::shape(what, format!("[{steps}, B, C, h, w], one a timestep"), &shape));
    }
    Ok(shape)
}

/// The mean over the batch as a line, its extremes as a band. `values` is `[N, B]`.
fn over_steps(
    chart: Panel,
    name: &str,
    color: usize,
    timesteps: &[f64],
    values: &Tensor,
) -> Result<Panel> {
    let column = |x: Tensor| -> Result<Vec<f64>> { Ok(Vec::try_from(x)?) };
    let mean = column(values.mean_dim(-1, false, Kind::Double))?;
    let (low, high) = (column(values.amin(-1, false))?, column(values.amax(-1, false))?);
    let t = timesteps.iter().copied();
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

/// What a guidance scale, or a number of steps, does to a model's pictures: how often they show what their
/// captions say, how far they are from true scenes, how unlike each other. Bands are intervals of 95 %.
///
/// # Errors
/// No scores.
pub fn score_curves(scores: &Scores) -> Result<Figure> {
    let drawn = &scores.drawn;
    let over_steps = drawn.windows(2).any(|w| w[0].num_inference_steps != w[1].num_inference_steps);
    let x = |d: &Drawn| if over_steps { d.num_inference_steps as f64 } else { d.guidance_scale };
    let label = if over_steps { "number of steps" } else { "guidance scale w" };
    let curve = |chart: Panel, name: &str, color: usize, of: &dyn Fn(&Drawn) -> [f64; 3]| {
        let band = drawn.iter().map(|d| (x(d), of(d)[0], of(d)[2])).collect();
        let line = drawn.iter().map(|d| (x(d), of(d)[1])).collect();
        chart.band("", band).color(color).dotted_line(name, line).color(color)
    };
    let mut matched = panel("Prompt match").y("share of pictures").y_range(0., 1.);
    type Part = (&'static str, fn(&PromptMatch) -> Share);
    let parts: [Part; 3] = [
        ("one thing: all right", |m| m.single),
        ("two things: both there", |m| m.pair_objects),
        ("whole caption", |m| m.caption),
    ];
    for (i, (name, part)) in parts.into_iter().enumerate() {
        let of = |d: &Drawn| {
            let share = part(&d.prompt_match);
            [share.low, share.share, share.high]
        };
        matched = curve(matched, name, i, &of);
    }
    let distance = |d: &Drawn| {
        [-1.96, 0., 1.96].map(|k| (d.frechet_distance + k * d.frechet_deviation).max(0.))
    };
    let apart = curve(panel("Fréchet distance").y("to true scenes"), "", 3, &distance)
        .rule("true scenes to others", scores.frechet_floor);
    let line = drawn.iter().map(|d| (x(d), d.diversity)).collect();
    let unlike = panel("Diversity").y("of one prompt's pictures").dotted_line("", line).color(4);
    let unlike = unlike.rule("true scenes", 1.);
    let panels = [matched, apart, unlike].map(|panel| panel.x(label));
    let held = match (over_steps, drawn.first()) {
        (true, Some(first)) => format!("guidance scale {}", first.guidance_scale),
        (false, Some(first)) => format!("{} steps", first.num_inference_steps),
        _ => String::new(),
    };
    figure(
        format!("{} pictures a point, seed {}, {held}", scores.count, scores.seed),
        panels.into(),
    )
}

/// A generation as pictures: `x_t` above, the predicted `x_0` below, over the steps.
///
/// `decode` turns latents `[1, 4, h, w]` into a picture; it is called for what is shown only. Of
/// more than eight steps, eight are shown: the first, the last and those between at equal
/// distances; the note says so. Every picture of a batch has two rows.
///
/// ```no_run
/// use diffuscope::{pipeline::{Request, StableDiffusion}, plot};
/// let sd = StableDiffusion::tiny()?;
/// let trace = sd.trace(&Request::new("a red apple on the grass"))?;
/// plot::trace_figure(&trace, |latents| sd.decode(latents))?.save("steps.png")?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
/// # Errors
/// A trace without steps, or whose tensors do not fit each other; what `decode` cannot decode.
pub fn trace_figure(trace: &Trace, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Sheet> {
    trace_sheet(trace, |latents| Tile::picture(&decode(latents)?))
}

/// A generation as latents: `x_t` above, the predicted `x_0` below, over the steps; the four
/// channels of each side by side, blue below 0 and orange above, with one limit for all.
///
/// # Errors
/// A trace without steps, or whose tensors do not fit each other; NaN or infinity.
pub fn trace_latents(trace: &Trace) -> Result<Sheet> {
    let largest = |x: &Tensor| -> Result<f64> {
        if x.numel() == 0 { Ok(0.) } else { Ok(f64::try_from(x.f_abs()?.f_max()?)?) }
    };
    let limit = largest(&trace.x_t)?.max(largest(&trace.x_0)?);
    let limit = if limit == 0. { 1. } else { limit };
    trace_sheet(trace, |latents| Tile::latents(latents, limit))
}

fn trace_sheet(trace: &Trace, tile: impl Fn(&Tensor) -> Result<Tile>) -> Result<Sheet> {
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
    let sheet = Sheet::new(rows)?
        .row_labels(labels)?
        .column_labels(shown.iter().map(|i| said(timesteps[*i])))?;
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

    fn trace(timesteps: &[f32], batch: i64) -> Trace {
        let n = timesteps.len() as i64;
        let normal = || Tensor::randn([n, batch, 4, 8, 8], (Kind::Float, Device::Cpu));
        Trace {
            timesteps: Tensor::from_slice(timesteps),
            x_t: normal(),
            noise_uncond: normal(),
            noise_cond: normal(),
            noise_pred: normal(),
            x_0: normal(),
            coefficients: Tensor::zeros([n, 13], (Kind::Double, Device::Cpu)),
            latents: Tensor::zeros([batch, 4, 8, 8], (Kind::Float, Device::Cpu)),
            image: Tensor::zeros([batch, 3, 8, 8], (Kind::Float, Device::Cpu)),
        }
    }

    #[test]
    fn a_trace_is_drawn_and_refused_where_it_does_not_fit() {
        let decode = |latents: &Tensor| Ok(latents.narrow(1, 0, 3).tanh());
        for good in [trace(&[999., 500.5, 0.], 2), trace(&[20.], 1)] {
            guidance_geometry(&good).unwrap();
            trace_figure(&good, decode).unwrap().png().unwrap();
            trace_latents(&good).unwrap().png().unwrap();
        }
        let empty = trace(&[], 1);
        let mut short = trace(&[9., 1.], 1);
        short.x_0 = short.x_0.narrow(0, 0, 1);
        short.noise_cond = short.noise_cond.narrow(0, 0, 1);
        let mut nan = trace(&[9., 1.], 1);
        nan.noise_cond = &nan.noise_cond * f64::NAN;
        nan.x_0 = &nan.x_0 * f64::NAN;
        for bad in [empty, short, nan] {
            assert!(guidance_geometry(&bad).is_err());
            assert!(trace_figure(&bad, decode).is_err());
            assert!(trace_latents(&bad).is_err());
        }
    }

    #[test]
    fn figures_are_drawn_and_refuse_what_does_not_fit() {
        loss_curve(&[("train", vec![(0, 1.), (10, 0.5)])], 20).unwrap();
        assert!(loss_curve(&[("train", vec![(0, f64::NAN)])], 20).is_err());
        assert!(loss_curve(&[("train", vec![(0, 1.)])], 0).is_err());
        assert!(loss_curve(&[], 20).is_err());
        schedule_figure(&[("Stable Diffusion", &Schedule::stable_diffusion())]).unwrap();
        assert!(schedule_figure(&[]).is_err());
        let (s, start) = (Schedule::stable_diffusion(), Moments { mean: 0.2, std_dev: 0.6 });
        moments_figure(&s, start, &[(0, start), (999, start)]).unwrap();
        assert!(moments_figure(&s, start, &[]).is_err());
        let pictures: Vec<Tensor> =
            (0..3).map(|_| Tensor::zeros([3, 8, 8], (Kind::Float, Device::Cpu))).collect();
        noise_strip([0, 10, 20], &pictures).unwrap().png().unwrap();
        assert!(noise_strip([0, 10], &pictures).is_err());
    }
}
