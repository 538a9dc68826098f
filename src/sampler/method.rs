//! Which sampler: a method with its options, and the sigmas that it visits.

use std::fmt;

use super::grid::Grid;
use super::{Options, PlanSettings, PlannedStep, Sigmas};
use crate::Result;
use crate::schedule::Schedule;
use crate::short::Few;

/// How one step follows from what is known: a row of [`METHODS`](super::METHODS).
pub struct Method {
    /// Its names, each with the options that it stands for. The last one is the name of options that none stands for.
    pub names: &'static [Name],
    /// Which positions are visited in a number of steps.
    pub(super) grid:
        for<'a> fn(&'a Schedule, usize, &'a PlanSettings, &Options) -> Result<Grid<'a>>,
    /// The coefficients of every step along a grid.
    pub(super) plan: fn(&Grid<'_>, &Options) -> Result<Vec<PlannedStep>>,
    /// Whether steps with these options add fresh noise.
    pub(super) is_stochastic: fn(&Options) -> bool,
    /// How often the model is evaluated in one of its steps.
    pub evaluations_per_step: usize,
    /// Whether clipping the predicted picture leaves the predicted noise as it was; otherwise the noise follows from the
    /// clipped picture.
    pub keeps_noise_when_clipped: bool,
}

/// A name of a method on the command line.
#[derive(Clone, Copy, PartialEq)]
pub struct Name {
    /// The name.
    pub name: &'static str,
    /// Other names, diffusers' class among them.
    pub aliases: &'static [&'static str],
    /// The options that the name stands for.
    pub options: Options,
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Name")
            .field("name", &self.name)
            .field("aliases", &Few(self.aliases))
            .finish()
    }
}

impl Method {
    /// Whether this is one of its names.
    pub fn is(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.name == name)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names.first().map_or("", |name| name.name))
    }
}

/// No two methods share a name.
impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

/// A sampler: a method with its options, and the sigmas that it visits.
///
/// # Examples
/// ```
/// use diffuscope::sampler::{Sampler, Sigmas};
/// let sampler: Sampler = "dpm++2m-karras".parse()?;
/// assert_eq!(sampler, "DPM++ 2M Karras".parse()?);
/// assert_eq!(sampler.sigmas, Some(Sigmas::Karras));
/// # Ok::<(), diffuscope::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq)]
pub struct Sampler {
    /// How a step is taken.
    pub method: &'static Method,
    /// The method's options.
    pub options: Options,
    /// The sigmas; `None` for those that the model's folder names.
    pub sigmas: Option<Sigmas>,
    /// Follow diffusers where it departs from its own equations, see [`PlanSettings::as_diffusers`].
    pub as_diffusers: bool,
}

/// The end of a name that asks for diffusers' behaviour.
pub(super) const AS_DIFFUSERS: &str = "-diffusers";

impl Sampler {
    /// The name on the command line, without its sigmas.
    pub fn name(self) -> &'static str {
        let shared = |name: &&Name| name.options.share_a_name(&self.options);
        let names = self.method.names;
        names.iter().find(shared).or(names.last()).map_or("", |name| name.name)
    }

    /// diffusers' class that takes these steps; `None` for a sampler that only k-diffusion has.
    pub fn class_name(self) -> Option<&'static str> {
        let class = |name: &Name| name.aliases.iter().find(|alias| alias.ends_with("Scheduler"));
        let is_single = self.options.dpm_solver.single;
        let named = self.method.names.iter().filter(|n| n.options.dpm_solver.single == is_single);
        named.filter_map(class).next().copied()
    }

    /// Whether its steps add fresh noise.
    pub fn is_stochastic(self) -> bool {
        (self.method.is_stochastic)(&self.options)
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        f.write_str(match self.sigmas {
            None => "",
            Some(Sigmas::Own) => "-own",
            Some(Sigmas::Karras) => "-karras",
            Some(Sigmas::Exponential) => "-exponential",
            Some(Sigmas::Beta) => "-beta",
        })?;
        f.write_str(if self.as_diffusers { AS_DIFFUSERS } else { "" })
    }
}

/// The name, and the options where the name does not stand for them.
impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self.method.names.iter().any(|name| name.options == self.options) {
            true => Ok(()),
            false => write!(f, " with {:?}", self.options),
        }
    }
}
