//! Noise schedules over the timesteps.

use crate::Result;
use crate::plot::{Figure, Panel, figure, panel};
use crate::schedule::Schedule;

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
/// use diffuscope::{figures, schedule::Schedule};
/// let figure = figures::schedule_figure(&[("Stable Diffusion", &Schedule::stable_diffusion())])?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[doc(alias = "schedule")]
#[doc(alias = "schedules")]
#[doc(alias = "compare_schedules")]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_drawn_and_none_are_refused() {
        schedule_figure(&[("Stable Diffusion", &Schedule::stable_diffusion())]).unwrap();
        assert!(schedule_figure(&[]).is_err());
    }
}
