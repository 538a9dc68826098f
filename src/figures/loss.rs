//! Losses over the steps of a training.

use crate::plot::{Figure, panel};
use crate::{Error, Result};

/// Losses over the steps, raw and smoothed, on a logarithmic axis.
///
/// ```text
/// m = d m + (1 - d) loss,   shown: m / (1 - d^i)        with d = 1 - 1 / window
/// ```
/// # Errors
/// No losses; a loss that is not above 0; a window below 1.
#[doc(alias = "loss")]
#[doc(alias = "training")]
pub fn loss_curve(losses: &[(&str, Vec<(usize, f64)>)], window: usize) -> Result<Figure> {
    if window == 0 {
        return Err(Error::argument("window", "at least 1 step", 0));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_drawn_and_what_does_not_fit_is_refused() {
        loss_curve(&[("train", vec![(0, 1.), (10, 0.5)])], 20).unwrap();
        assert!(loss_curve(&[("train", vec![(0, f64::NAN)])], 20).is_err());
        assert!(loss_curve(&[("train", vec![(0, 1.)])], 0).is_err());
        assert!(loss_curve(&[], 20).is_err());
    }
}
