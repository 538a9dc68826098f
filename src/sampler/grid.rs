//! What a sampling visits: where each of its steps starts and ends.

use std::ops::Range;

use super::sigmas::{all_sigmas, sigma_at, timestep_of};
use super::{Coefficients, FinalSigma, Options, PlanSettings, PlannedStep, Position, Sigmas};
use crate::schedule::{Schedule, Spacing, steps, timesteps, timesteps_f64};
use crate::{Error, Result};

/// Where each step of a sampling starts and ends.
pub(super) struct Grid<'a> {
    /// The noise at every timestep.
    pub schedule: &'a Schedule,
    /// What the grid was made from.
    pub settings: &'a PlanSettings,
    /// The factor that makes standard noise the first sample.
    pub init_noise_sigma: f64,
    /// All steps, the skipped ones too.
    steps: Vec<(Position, Position)>,
    /// How many of the first steps are not taken.
    skipped: usize,
}

impl<'a> Grid<'a> {
    fn new(
        schedule: &'a Schedule,
        settings: &'a PlanSettings,
        steps: Vec<(Position, Position)>,
    ) -> Self {
        Self { schedule, settings, init_noise_sigma: 1., steps, skipped: 0 }
    }

    /// The steps along a list of positions, whose last one is the end.
    fn along(schedule: &'a Schedule, settings: &'a PlanSettings, positions: &[Position]) -> Self {
        let pairs = positions.windows(2).map(|pair| (pair[0], pair[1])).collect();
        Self::new(schedule, settings, pairs)
    }

    /// The steps along a list of timesteps, down to the picture.
    pub fn to_picture(
        schedule: &'a Schedule,
        settings: &'a PlanSettings,
        list: &[usize],
    ) -> Result<Self> {
        let pairs = steps(list).into_iter().map(|step| Position::of_step(schedule, step));
        Ok(Self::new(schedule, settings, pairs.collect::<Result<_>>()?))
    }

    /// The same grid without its first steps: they are not taken, and nothing is known of them.
    pub fn skipping(self, skipped: usize) -> Self {
        Self { skipped, ..self }
    }

    /// The number of all steps, the skipped ones too.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// The indices of the steps that are taken.
    pub fn taken(&self) -> Range<usize> {
        self.skipped..self.steps.len()
    }

    /// The start and the end of each step that is taken.
    pub fn steps(&self) -> &[(Position, Position)] {
        self.steps.get(self.skipped..).unwrap_or_default()
    }

    /// A plan of one evaluation per step.
    pub fn each_step(
        &self,
        coefficients: impl Fn(Position, Position) -> Result<Coefficients>,
    ) -> Result<Vec<PlannedStep>> {
        let planned = |(i, &(from, to)): (usize, &(Position, Position))| {
            Ok(PlannedStep::new(i, from, to, coefficients(from, to)?))
        };
        self.steps().iter().enumerate().map(planned).collect()
    }

    /// Step `i`, counted from the first one that is taken.
    pub fn number(&self, i: usize) -> usize {
        i - self.skipped
    }

    /// How many of the first steps are not taken.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The start and the end of step `i`.
    pub fn step(&self, i: usize) -> (Position, Position) {
        self.steps[i]
    }

    /// Where the model was evaluated when step `i` is taken: the newest positions first, at most `count`.
    pub fn evaluated(&self, i: usize, count: usize) -> Vec<Position> {
        let known = &self.steps[self.skipped..=i];
        known.iter().rev().take(count).map(|(from, _)| *from).collect()
    }

    /// Whether the last step ends on the picture.
    pub fn ends_on_picture(&self) -> bool {
        self.steps.last().is_some_and(|(_, end)| end.noise_rate == 0.)
    }

    /// The distance of two timesteps in diffusers: `T / N`, rounded down.
    pub fn stride(&self) -> usize {
        self.schedule.num_train_timesteps() / self.steps.len().max(1)
    }

    /// The position at a sigma where the picture is kept.
    pub fn at_sigma(&self, sigma: f64) -> Position {
        Position::in_sigma(timestep_of(self.schedule, sigma), sigma)
    }
}

/// Timesteps that the settings list: downwards, below T.
fn chosen(s: &Schedule, list: &[usize]) -> Result<Vec<usize>> {
    let down = list.windows(2).all(|w| w[0] > w[1]);
    let total = s.num_train_timesteps();
    match list.first() {
        Some(&first) if down && first < total => Ok(list.to_vec()),
        _ => {
            let expected = format!("one or more below {total}, each below the one before");
            Err(Error::argument("timesteps", expected, format!("{list:?}")))
        }
    }
}

/// The training timesteps that a sampler in time visits.
pub(super) fn time_list(s: &Schedule, n: usize, settings: &PlanSettings) -> Result<Vec<usize>> {
    match &settings.timesteps {
        Some(list) => chosen(s, list),
        None => timesteps(s, n, settings.spacing, settings.steps_offset),
    }
}

/// The visited timesteps, down to where [`PlanSettings::set_alpha_to_one`] says: DDIM, PNDM.
pub(super) fn in_time<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    _: &Options,
) -> Result<Grid<'a>> {
    let list = time_list(s, n, settings)?;
    let end = match settings.set_alpha_to_one {
        true => Position::PICTURE,
        false => Position::of(s, 0)?,
    };
    let stride = s.num_train_timesteps() / list.len().max(1);
    let next = |i: usize| match settings.as_diffusers {
        false => list.get(i + 1).copied(),
        true => list[i].checked_sub(stride),
    };
    let pair = |i: usize| {
        Ok((Position::of(s, list[i])?, next(i).map_or(Ok(end), |t| Position::of(s, t))?))
    };
    Ok(Grid::new(s, settings, (0..list.len()).map(pair).collect::<Result<_>>()?))
}

/// The visited timesteps, down to the picture: DDPM.
pub(super) fn in_time_to_picture<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    _: &Options,
) -> Result<Grid<'a>> {
    Grid::to_picture(s, settings, &time_list(s, n, settings)?)
}

/// The positions of a sampler in sigma (Euler, Heun, LMS ...), where `signal_rate` is 1.
///
/// Linspace visits positions between training timesteps. The sigmas of Karras and others lie between the first and the
/// last of the visited timesteps.
pub(super) fn in_sigma<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    _: &Options,
) -> Result<Grid<'a>> {
    sigma_grid(s, n, settings, |t| t)
}

/// The same, with the timesteps of Karras' sigmas rounded: DPM2.
pub(super) fn in_sigma_whole_karras<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    _: &Options,
) -> Result<Grid<'a>> {
    let karras = settings.sigmas == Sigmas::Karras;
    sigma_grid(s, n, settings, |t| if karras { t.round_ties_even() } else { t })
}

fn sigma_grid<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    told: impl Fn(f64) -> f64,
) -> Result<Grid<'a>> {
    let list: Vec<f64> = match (&settings.timesteps, settings.spacing) {
        (None, Spacing::Linspace) => timesteps_f64(s, n, settings.spacing, settings.steps_offset)?,
        _ => time_list(s, n, settings)?.into_iter().map(|t| t as f64).collect(),
    };
    let all = all_sigmas(s);
    let own: Vec<f64> = list.iter().map(|&t| sigma_at(&all, t)).collect();
    let mut positions: Vec<Position> = match settings.sigmas {
        Sigmas::Own => {
            list.iter().zip(&own).map(|(&t, &sigma)| Position::in_sigma(t, sigma)).collect()
        }
        sigmas => {
            let (high, low) = own.first().copied().zip(own.last().copied()).unwrap_or((1., 1.));
            let sigmas = sigmas.between(high, low, own.len())?.into_iter();
            sigmas.map(|sigma| Position::in_sigma(told(timestep_of(s, sigma)), sigma)).collect()
        }
    };
    let largest = positions.first().map_or(1., Position::sigma);
    positions.push(match settings.final_sigma {
        Some(FinalSigma::SigmaMin) => Position::in_sigma(0., all[0]),
        _ => Position::PICTURE,
    });
    let init_noise_sigma = match settings.spacing {
        Spacing::Leading => largest.hypot(1.),
        _ => largest,
    };
    Ok(Grid { init_noise_sigma, ..Grid::along(s, settings, &positions) })
}

/// The positions of UniPC: in lambda, where the settings do not say otherwise down to the picture, or of the noise, which
/// is not defined there, down to timestep 0.
pub(super) fn in_lambda_of_unipc<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    options: &Options,
) -> Result<Grid<'a>> {
    let end = if options.unipc.predict_x0 { FinalSigma::Zero } else { FinalSigma::SigmaMin };
    in_lambda(s, n, settings, settings.spacing, end)
}

/// The positions of a sampler in lambda, down to timestep 0 where the settings do not say otherwise: DEIS.
pub(super) fn in_lambda_to_sigma_min<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    _: &Options,
) -> Result<Grid<'a>> {
    in_lambda(s, n, settings, settings.spacing, FinalSigma::SigmaMin)
}

/// The positions of a sampler of the DPM-Solver kind: the variance is kept, and the model is given whole timesteps. `end`
/// is where they end if the settings do not say.
///
/// Leading and linspace divide by `n + 1`, so that the cleanest timestep is not visited. The sigmas of Karras and others
/// lie between the noisiest and the cleanest of all training timesteps.
pub(super) fn in_lambda<'a>(
    s: &'a Schedule,
    n: usize,
    settings: &'a PlanSettings,
    spacing: Spacing,
    end: FinalSigma,
) -> Result<Grid<'a>> {
    let total = s.num_train_timesteps();
    let list = match (&settings.timesteps, spacing) {
        (Some(list), _) => chosen(s, list)?,
        (None, Spacing::Trailing) => timesteps(s, n, Spacing::Trailing, 0)?,
        (None, spacing) => {
            let offset = if spacing == Spacing::Leading { settings.steps_offset } else { 0 };
            if n == 0 || n >= total {
                let advice = "this sampler leaves out the cleanest timestep";
                let expected = format!("1 to {}", total - 1);
                return Err(Error::argument("steps", expected, n).hint(advice));
            }
            let mut list = timesteps(s, n + 1, spacing, offset)?;
            list.pop();
            list
        }
    };
    let all = all_sigmas(s);
    let (low, high) = (all[0], all[total - 1]);
    let mut positions: Vec<Position> = match settings.sigmas {
        Sigmas::Own => list.iter().map(|&t| Position::in_time(t as f64, all[t])).collect(),
        sigmas => sigmas
            .between(high, low, list.len())?
            .into_iter()
            .map(|sigma| {
                let t = timestep_of(s, sigma);
                // diffusers rounds the timesteps of Karras' sigmas and cuts off the others' fractions.
                let t = if sigmas == Sigmas::Karras { t.round_ties_even() } else { t.floor() };
                Position::in_time(t, sigma)
            })
            .collect(),
    };
    positions.push(match settings.final_sigma.unwrap_or(end) {
        FinalSigma::Zero => Position::PICTURE,
        FinalSigma::SigmaMin => Position::in_time(0., low),
    });
    Ok(Grid::along(s, settings, &positions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_timesteps_must_go_down() {
        let s = Schedule::stable_diffusion();
        assert!(chosen(&s, &[999, 500, 0]).is_ok());
        for list in [&[][..], &[1000], &[5, 5], &[1, 2]] {
            assert!(chosen(&s, list).is_err(), "{list:?}");
        }
    }
}
