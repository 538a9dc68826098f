//! The axes of the page's instruments, drawn once; the page moves points and lines on them.

use std::fmt::Write;

use crate::short::Digits;

/// The drawing's size, and the plot within it: left, right, top, bottom.
const SIZE: (u32, u32) = (240, 140);
const PLOT: [f64; 4] = [30., 232., 8., 104.];

/// What a chart is of.
pub(super) struct ChartAxes<'a> {
    pub id: &'a str,
    /// The smallest and the largest value.
    pub range: (f64, f64),
    /// Whether the values are decimal logarithms.
    pub log: bool,
    /// The timesteps, in the order of the steps.
    pub timesteps: &'a [f64],
}

impl ChartAxes<'_> {
    /// The chart without its lines, as SVG with the classes of the page. The page reads the range and the plot from it.
    pub fn svg(&self) -> String {
        let [left, right, top, bottom] = PLOT;
        let (low, high) = self.range;
        let at = |value: f64| bottom - (value - low) / (high - low) * (bottom - top);
        let mut svg = format!(
            "<svg id=\"chart-{}\" viewBox=\"0 0 {} {}\" data-range=\"{low} {high}\" data-plot=\"{left} {right} {top} {bottom}\" \
             role=\"img\" aria-label=\"\"><g class=\"axes\" aria-hidden=\"true\">",
            self.id, SIZE.0, SIZE.1
        );
        for value in ticks(low, high, self.log) {
            let y = at(value);
            let label = match self.log {
                true => format!("10<tspan dy=\"-4\" font-size=\"8\">{value}</tspan>"),
                false => Digits(value).to_string(),
            };
            let _ = write!(
                svg,
                "<path d=\"M{left} {y:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - 5.,
                y + 4.
            );
        }
        let last = self.timesteps.len().saturating_sub(1);
        let shown = [0, last / 2, last];
        for (k, &i) in shown.iter().enumerate().filter(|(k, i)| *k == 0 || **i != shown[k - 1]) {
            let x = left + (right - left) * i as f64 / last.max(1) as f64;
            let anchor = ["start", "middle", "end"][k];
            let t = self.timesteps.get(i).map_or(0., |t| t.round());
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"119\" text-anchor=\"{anchor}\">{t}</text>");
        }
        let middle = (left + right) / 2.;
        let _ = write!(
            svg,
            "<text x=\"{middle}\" y=\"136\" text-anchor=\"middle\">timestep t</text></g></svg>"
        );
        svg
    }
}

/// Three to six round numbers within the range; of logarithms, whole ones.
fn ticks(low: f64, high: f64, log: bool) -> Vec<f64> {
    let rough = (high - low) / 4.;
    let power = 10f64.powf(rough.log10().floor());
    let nice = [1., 2., 5., 10.].map(|m| m * power).into_iter().find(|step| *step >= rough);
    let step = nice.unwrap_or(rough).max(if log { 1. } else { 0. });
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(0., 1., false), [0., 0.5, 1.]);
        assert_eq!(ticks(0., 2.2, false), [0., 1., 2.]);
        assert_eq!(ticks(-4.2, 3.1, true), [-4., -2., 0., 2.]);
        assert_eq!(ticks(-0.5, 0.7, true), [0.]);
        for high in [0.003, 0.7, 18., 95., 1e4] {
            let ticks = ticks(0., high, false);
            assert!(
                (2..=6).contains(&ticks.len()) && ticks.iter().all(|t| *t <= high),
                "{ticks:?}"
            );
        }
    }
}
