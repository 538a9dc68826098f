//! What the forward process makes of a picture.

use tch::Tensor;

use crate::Result;
use crate::measure::Moments;
use crate::plot::{Figure, Sheet, figure, panel, strip};
use crate::schedule::Schedule;

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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn moments_and_strips_are_drawn_and_what_does_not_fit_is_refused() {
        let (s, start) = (Schedule::stable_diffusion(), Moments { mean: 0.2, std_dev: 0.6 });
        moments_figure(&s, start, &[(0, start), (999, start)]).unwrap();
        assert!(moments_figure(&s, start, &[]).is_err());
        let pictures: Vec<Tensor> =
            (0..3).map(|_| Tensor::zeros([3, 8, 8], (Kind::Float, Device::Cpu))).collect();
        noise_strip([0, 10, 20], &pictures).unwrap().png().unwrap();
        assert!(noise_strip([0, 10], &pictures).is_err());
    }
}
