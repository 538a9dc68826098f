//! How two predictions become one.

use std::fmt;

use tch::Tensor;

use crate::check::alike;
use crate::short::Few;
use crate::{Error, Result};

/// Classifier-free guidance.
///
/// ```text
/// noise_pred = uncond + guidance_scale (cond - uncond)      Ho & Salimans 2022, eq. 6, w = scale - 1
/// ```
///
/// 0 gives the unconditional prediction, 1 the conditional one, above 1 it goes past it.
///
/// # Shapes
/// `uncond` and `cond` alike; returns the same.
/// # Errors
/// Shapes that differ; a scale that is not finite.
///
/// # Examples
/// ```
/// use tch::Tensor;
/// let (uncond, cond) = (Tensor::from_slice(&[1.0]), Tensor::from_slice(&[3.0]));
/// let guided = diffuscope::guidance::guide(&uncond, &cond, 7.5)?;
/// assert_eq!(guided.double_value(&[0]), 1. + 7.5 * 2.);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn guide(uncond: &Tensor, cond: &Tensor, guidance_scale: f64) -> Result<Tensor> {
    alike("cond", cond, uncond)?;
    finite(guidance_scale)?;
    Ok(uncond + guidance_scale * (cond - uncond))
}

/// Brings a guided prediction back towards the spread of the conditional one.
///
/// ```text
/// rescaled = guided std(cond) / std(guided)        out = phi rescaled + (1 - phi) guided
/// ```
/// Lin et al. 2023, eq. 15 and 16, the standard deviation over each picture.
///
/// # Shapes
/// `guided` and `cond` [B, ...] alike; returns the same.
/// # Errors
/// Shapes that differ; `guidance_rescale` outside [0, 1].
pub fn rescale(guided: &Tensor, cond: &Tensor, guidance_rescale: f64) -> Result<Tensor> {
    alike("cond", cond, guided)?;
    if !(0. ..=1.).contains(&guidance_rescale) {
        let expected = "0 (as it is) to 1 (the conditional one's spread)";
        return Err(Error::argument("guidance_rescale", expected, guidance_rescale));
    }
    let spread = |x: &Tensor| x.std_dim(&each_picture(x)[..], true, true);
    let share = spread(cond) / spread(guided);
    Ok(guided * (share * guidance_rescale + (1. - guidance_rescale)))
}

/// Adaptive projected guidance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projection {
    /// How much is kept of the part along the conditional prediction: 1 is plain guidance.
    pub eta: f64,
    /// The largest length of the predictions' difference; a longer one is shortened to it. Infinite for no limit.
    pub norm_threshold: f64,
    /// How much of the previous steps' differences is added; a negative value takes it away.
    pub momentum: f64,
}

impl Default for Projection {
    /// The paper's for Stable Diffusion XL.
    fn default() -> Self {
        Self { eta: 0., norm_threshold: 15., momentum: -0.5 }
    }
}

/// Guidance without the part that points along the conditional prediction, which only saturates colours.
///
/// ```text
/// d = cond - uncond + momentum d_before        d = d min(1, r / |d|)
/// along = <d, cond> / |cond|^2 cond            out = cond + (guidance_scale - 1) (d - along + eta along)
/// ```
/// Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales", eq. 5 to 9; the predictions
/// are of x_0. Lengths are those of each picture. Returns the prediction, and `d` for the next step.
///
/// # Shapes
/// All [B, ...] alike; both outputs are the same.
/// # Errors
/// Shapes that differ; a scale that is not finite; a threshold that is not above 0.
pub fn guide_projected(
    uncond: &Tensor,
    cond: &Tensor,
    guidance_scale: f64,
    projection: &Projection,
    before: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    alike("cond", cond, uncond)?;
    finite(guidance_scale)?;
    if projection.norm_threshold.is_nan() || projection.norm_threshold <= 0. {
        let got = projection.norm_threshold;
        return Err(Error::argument("norm_threshold", "above 0; infinite for none", got));
    }
    let mut difference = cond - uncond;
    if let Some(before) = before {
        alike("the difference before", before, cond)?;
        difference += before * projection.momentum;
    }
    let dims = each_picture(cond);
    let length = |x: &Tensor| x.square().sum_dim_intlist(&dims[..], true, x.kind()).sqrt();
    let share = (length(&difference).reciprocal() * projection.norm_threshold).clamp_max(1.);
    let d = &difference * share;
    let unit = cond / length(cond).clamp_min(1e-12);
    let along = (&d * &unit).sum_dim_intlist(&dims[..], true, d.kind()) * unit;
    let kept = d - along * (1. - projection.eta);
    Ok((cond + kept * (guidance_scale - 1.), difference))
}

/// All dimensions but the first.
fn each_picture(x: &Tensor) -> Vec<i64> {
    (1..x.dim() as i64).collect()
}

fn finite(guidance_scale: f64) -> Result<()> {
    match guidance_scale.is_finite() {
        true => Ok(()),
        false => Err(Error::argument("guidance_scale", "a finite number", guidance_scale)),
    }
}

/// How two predictions become one at every step of a sampling.
///
/// # Examples
/// ```
/// use diffuscope::guidance::{Guidance, Projection};
/// let plain = Guidance::from(7.5);
/// let late = Guidance { interval: Some((0.2, 0.8)), ..7.5.into() };
/// assert_eq!((plain.scale_at(0, 10), late.scale_at(0, 10), late.scale_at(5, 10)), (7.5, 1., 7.5));
/// let projected = Guidance { projection: Some(Projection::default()), ..12.0.into() };
/// # let _ = projected;
/// ```
#[derive(Clone, PartialEq)]
pub struct Guidance {
    /// How far to go from the unconditional towards the conditional prediction, and past it.
    pub scale: f64,
    /// A scale for every step in place of `scale`; empty for none.
    pub scales: Vec<f64>,
    /// The part of the steps that is guided, from 0 (the first) to 1; outside it the conditional prediction is used
    /// alone. Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval".
    pub interval: Option<(f64, f64)>,
    /// How far [`rescale`] goes, 0 to 1.
    pub rescale: f64,
    /// Adaptive projected guidance in place of the plain rule: [`guide_projected`].
    pub projection: Option<Projection>,
}

impl fmt::Debug for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guidance")
            .field("scale", &self.scale)
            .field("scales", &Few(&self.scales))
            .field("interval", &self.interval)
            .field("rescale", &self.rescale)
            .field("projection", &self.projection)
            .finish()
    }
}

/// The predictions that a step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The one without the prompt.
    Uncond,
    /// The one with the prompt.
    Cond,
    /// Both.
    Both,
}

impl From<f64> for Guidance {
    /// The plain rule at one scale.
    fn from(scale: f64) -> Self {
        Self { scale, scales: Vec::new(), interval: None, rescale: 0., projection: None }
    }
}

impl Guidance {
    /// The scale at step `i` of `n`. Guided are the steps from `start n` up to, not including, `end n`, both rounded
    /// down.
    pub fn scale_at(&self, i: usize, n: usize) -> f64 {
        let scale = self.scales.get(i).copied().unwrap_or(self.scale);
        match self.interval {
            Some((start, end)) => {
                let at = |part: f64| (part * n as f64) as usize;
                if (at(start)..at(end)).contains(&i) { scale } else { 1. }
            }
            None => scale,
        }
    }

    /// Which of the two predictions the step `i` of `n` needs: at a scale of 1 only the conditional one, at a scale of 0
    /// only the unconditional one. Projected guidance remembers the difference of both, and a rescaled prediction needs
    /// the spread of the conditional one.
    pub fn needs(&self, i: usize, n: usize) -> Needs {
        let scale = self.scale_at(i, n);
        if self.projection.is_some_and(|projection| projection.momentum != 0.) {
            return Needs::Both;
        }
        match scale {
            1. => Needs::Cond,
            0. if self.rescale == 0. && self.projection.is_none() => Needs::Uncond,
            _ => Needs::Both,
        }
    }

    /// Refuses guidance that does not fit a sampling of `n` steps.
    ///
    /// # Errors
    /// A scale that is not finite; another number of scales than steps; an interval or a rescaling outside [0, 1].
    pub fn check(&self, n: usize) -> Result<()> {
        finite(self.scale)?;
        self.scales.iter().try_for_each(|&scale| finite(scale))?;
        if !self.scales.is_empty() && self.scales.len() != n {
            let expected = format!("{n}, one a step");
            return Err(Error::argument("guidance scales", expected, self.scales.len()));
        }
        if let Some((start, end)) = self.interval
            && !(0. <= start && start <= end && end <= 1.)
        {
            let got = format!("{start} to {end}");
            return Err(Error::argument("guidance interval", "0 to 1, upwards", got));
        }
        if !(0. ..=1.).contains(&self.rescale) {
            return Err(Error::argument("guidance_rescale", "0 to 1", self.rescale));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gates_the_scale() {
        let uncond = Tensor::from_slice(&[0.5f32, -2., 1.]);
        let cond = Tensor::from_slice(&[1.5f32, 3., 1.]);
        assert!(guide(&uncond, &cond, 0.).unwrap().equal(&uncond));
        assert!(guide(&uncond, &cond, 1.).unwrap().equal(&cond));
        let past = guide(&uncond, &cond, -1.).unwrap();
        assert!(past.equal(&Tensor::from_slice(&[-0.5f32, -7., 1.])));
        assert!(guide(&uncond, &cond, f64::NAN).is_err());
        assert!(guide(&uncond, &cond.narrow(0, 0, 2), 1.).is_err());
    }

    #[test]
    fn rescaling_gives_the_conditional_ones_spread() -> Result<()> {
        let cond = crate::noise::standard_normal(&[2, 4, 3, 3], 1)?;
        let guided = &cond * 3. + 0.5;
        let whole = rescale(&guided, &cond, 1.)?;
        let spread = |x: &Tensor| x.get(1).std(true).double_value(&[]);
        assert!((spread(&whole) - spread(&cond)).abs() < 1e-5);
        assert!(rescale(&guided, &cond, 0.)?.equal(&guided));
        assert!(rescale(&guided, &cond, 1.5).is_err());
        Ok(())
    }

    #[test]
    fn projected_guidance_is_plain_where_all_is_kept_and_adds_nothing_along_otherwise() -> Result<()>
    {
        let draw = |seed| crate::noise::standard_normal(&[2, 4, 3, 3], seed);
        let (uncond, cond) = (draw(1)?, draw(2)?);
        let all = Projection { eta: 1., norm_threshold: f64::INFINITY, momentum: 0. };
        let (plain, difference) = guide_projected(&uncond, &cond, 7., &all, None)?;
        assert!((plain - guide(&uncond, &cond, 7.)?).abs().max().double_value(&[]) < 1e-4);
        assert!(difference.equal(&(&cond - &uncond)));
        let (out, _) = guide_projected(&uncond, &cond, 7., &Projection { eta: 0., ..all }, None)?;
        let along = ((out - &cond) * &cond).get(0).sum(tch::Kind::Float).double_value(&[]);
        assert!(along.abs() < 1e-3, "{along}");
        let short = Projection { norm_threshold: 0.5, ..all };
        let (out, _) = guide_projected(&uncond, &cond, 2., &short, None)?;
        assert!(((out - &cond).get(1).norm().double_value(&[]) - 0.5).abs() < 1e-4);
        let once = Projection { momentum: -0.5, ..all };
        let (_, twice) = guide_projected(&uncond, &cond, 2., &once, Some(&difference))?;
        assert!((twice - difference * 0.5).abs().max().double_value(&[]) < 1e-6);
        Ok(())
    }

    #[test]
    fn only_what_counts_is_asked_for() {
        let needs = |guidance: Guidance| guidance.needs(0, 10);
        for (scale, expected) in
            [(0., Needs::Uncond), (1., Needs::Cond), (0.5, Needs::Both), (-1., Needs::Both)]
        {
            assert_eq!(needs(scale.into()), expected, "{scale}");
        }
        let late = Guidance { interval: Some((0.5, 1.)), ..7.5.into() };
        assert_eq!((late.needs(4, 10), late.needs(5, 10)), (Needs::Cond, Needs::Both));
        let list = Guidance { scales: vec![1., 3., 0.], ..5.0.into() };
        assert_eq!([0, 1, 2].map(|i| list.needs(i, 3)), [Needs::Cond, Needs::Both, Needs::Uncond]);
        // What is not asked for must not count.
        assert_eq!(needs(Guidance { rescale: 0.7, ..0.0.into() }), Needs::Both);
        assert_eq!(needs(Guidance { rescale: 0.7, ..1.0.into() }), Needs::Cond);
        let projection = |momentum| Some(Projection { momentum, ..Projection::default() });
        assert_eq!(needs(Guidance { projection: projection(-0.5), ..1.0.into() }), Needs::Both);
        assert_eq!(needs(Guidance { projection: projection(0.), ..1.0.into() }), Needs::Cond);
        assert_eq!(needs(Guidance { projection: projection(0.), ..0.0.into() }), Needs::Both);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let good = Guidance::from(5.);
        assert!(good.check(10).is_ok());
        for bad in [
            Guidance::from(f64::NAN),
            Guidance { scales: vec![1.; 9], ..good.clone() },
            Guidance { interval: Some((0.5, 0.2)), ..good.clone() },
            Guidance { interval: Some((0., 1.1)), ..good.clone() },
            Guidance { rescale: -0.1, ..good.clone() },
        ] {
            assert!(bad.check(10).is_err(), "{bad:?}");
        }
        let list = Guidance { scales: (0..10).map(f64::from).collect(), ..good };
        assert_eq!(list.scale_at(7, 10), 7.);
    }
}
