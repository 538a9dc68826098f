//! The two predictions that guidance combines.

use tch::{Kind, Tensor};

use super::trace::timesteps;
use crate::device::in_f64_on_cpu;
use crate::measure::{angle, norm};
use crate::pipeline::Trace;
use crate::plot::{Figure, Panel, figure, panel};
use crate::{Error, Result};

/// How long the two noise predictions are and the angle between them, over the steps.
///
/// Measured by [`norm`] and [`angle`]. A batch is averaged, and the band reaches from its least to
/// its greatest. Steps that asked for one prediction alone are left out.
///
/// # Errors
/// A trace without steps, or whose tensors do not fit each other; NaN or infinity.
pub fn guidance_geometry(trace: &Trace) -> Result<Figure> {
    let trace = &trace.guided_steps()?;
    if trace.is_empty() {
        return Err(Error::argument("the trace", "steps with both predictions", "none")
            .hint("ask for a guidance scale other than 0 and 1"));
    }
    let timesteps = timesteps(trace)?;
    let (noise_uncond, noise_cond) = (&trace.noise_uncond()?, &trace.noise_cond()?);
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

/// The mean over the batch as a line, its extremes as a band. `values` is `[N, B]`.
fn over_steps(
    chart: Panel,
    name: &str,
    color: usize,
    timesteps: &[f64],
    values: &Tensor,
) -> Result<Panel> {
    let column = |x: Tensor| -> Result<Vec<f64>> { Ok(Vec::try_from(x)?) };
    let values = &in_f64_on_cpu(values)?;
    let mean = column(values.mean_dim(-1, false, Kind::Double))?;
    let (low, high) = (column(values.amin(-1, false))?, column(values.amax(-1, false))?);
    let t = timesteps.iter().copied();
    let line = t.clone().zip(mean).collect();
    let band = t.zip(low).zip(high).map(|((t, low), high)| (t, low, high)).collect();
    let chart = if values.size()[1] > 1 { chart.band("", band).color(color) } else { chart };
    Ok(chart.dotted_line(name, line).color(color))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::trace::random_trace;
    use crate::prediction::Prediction;

    #[test]
    fn the_geometry_is_drawn_and_refused_where_the_trace_does_not_fit() {
        for good in [random_trace(&[999., 500.5, 0.], 2), random_trace(&[20.], 1)] {
            guidance_geometry(&good).unwrap();
        }
        let mut short = random_trace(&[9., 1.], 1);
        short.output_cond[0] = short.output_cond[0].as_ref().map(|x| x.narrow(0, 0, 0));
        let mut nan = random_trace(&[9., 1.], 1);
        nan.output_cond[1] = nan.output_cond[1].as_ref().map(|x| x * f64::NAN);
        let mut unguided = random_trace(&[9., 1.], 1);
        unguided.output_uncond = vec![None, None];
        for bad in [random_trace(&[], 1), short, nan, unguided] {
            assert!(guidance_geometry(&bad).is_err());
        }
    }

    #[test]
    fn the_geometry_of_a_v_model_is_that_of_its_noise() -> Result<()> {
        let of_noise = random_trace(&[999., 500., 1.], 2);
        let mut of_v = random_trace(&[999., 500., 1.], 2);
        of_v.prediction = Prediction::V;
        of_v.x_t = of_noise.x_t.shallow_clone();
        // v = (eps - noise_rate x) / signal_rate of samples of variance 1.
        let v = |noises: &[Option<Tensor>]| {
            let of = |(i, noise): (i64, &Option<Tensor>)| {
                noise.as_ref().map(|noise| (noise - 0.8 * of_noise.x_t.get(i)) / 0.6)
            };
            (0..).zip(noises).map(of).collect::<Vec<_>>()
        };
        of_v.output_uncond = v(&of_noise.output_uncond);
        of_v.output_cond = v(&of_noise.output_cond);
        assert!((of_v.noise_cond()? - of_noise.noise_cond()?).abs().max().double_value(&[]) < 1e-5);
        let mut raw = random_trace(&[999., 500., 1.], 2);
        let same = |all: &[Option<Tensor>]| {
            all.iter().map(|x| x.as_ref().map(Tensor::shallow_clone)).collect::<Vec<_>>()
        };
        raw.output_uncond = same(&of_v.output_uncond);
        raw.output_cond = same(&of_v.output_cond);
        let pixels = |trace: &Trace| Ok::<_, Error>(guidance_geometry(trace)?.rgb8()?.pixels);
        let expected = pixels(&of_noise)?;
        let largest = |got: Vec<u8>| expected.iter().zip(got).map(|(a, b)| a.abs_diff(b)).max();
        assert!(largest(pixels(&of_v)?) <= Some(2) && largest(pixels(&raw)?) > Some(100));
        Ok(())
    }
}
