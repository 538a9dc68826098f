//! Axes: their ends, their ticks and what is written there.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) log: bool,
    pub(super) range: Option<(f64, f64)>,
    pub(super) ticks: Option<Vec<(f64, String)>>,
}

impl Axis {
    /// Where a value lies on the axis.
    pub(super) fn place(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    /// Ticks and what is written there, between the ends, for about `wanted` of them.
    pub(super) fn ticks(&self, (from, to): (f64, f64), wanted: usize) -> Vec<(f64, String)> {
        let (low, high) = (from.min(to), from.max(to));
        let slack = (high - low) * 1e-9;
        let inside = |at: &f64| *at >= low - slack && *at <= high + slack;
        if let Some(ticks) = &self.ticks {
            return ticks
                .iter()
                .map(|(at, l)| (self.place(*at), l.clone()))
                .filter(|(at, _)| inside(at))
                .collect();
        }
        if !self.log {
            return linear_ticks(low, high, wanted);
        }
        if high - low < 0.7 {
            // A part of a decade: round numbers, placed by their logarithm.
            return linear_ticks(10f64.powf(low), 10f64.powf(high), wanted)
                .into_iter()
                .filter(|(value, _)| *value > 0.)
                .map(|(value, label)| (value.log10(), label))
                .collect();
        }
        if high - low < 2.5 {
            return (low.floor() as i32..=high.ceil() as i32)
                .flat_map(|power| [1, 2, 5].map(|digit| (power, digit)))
                .map(|(power, digit)| {
                    let at = f64::from(power) + f64::from(digit).log10();
                    (at, decimal(digit, power))
                })
                .filter(|(at, _)| inside(at))
                .collect();
        }
        let stride = ((high - low) / wanted as f64).ceil().max(1.) as i32;
        let first = (low.ceil() as i32).div_euclid(stride) * stride;
        (0..)
            .map(|i| first + i * stride)
            .take_while(|power| f64::from(*power) <= high + slack)
            .filter(|power| inside(&f64::from(*power)))
            .map(|power| (f64::from(power), power_of_ten(power)))
            .collect()
    }
}

/// An axis as plotters draws it: its ends and its ticks.
#[derive(Clone)]
pub(super) struct Ruler {
    pub(super) range: (f64, f64),
    pub(super) ticks: Vec<(f64, String)>,
}

impl Ranged for Ruler {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.range.0) / (self.range.1 - self.range.0);
        from + (f64::from(to - from) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        let here = self.ticks.iter().find(|(at, _)| at == value);
        here.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// The least and the greatest value.
pub(super) struct Extent {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Extent {
    pub(super) fn new() -> Self {
        Self { low: f64::INFINITY, high: f64::NEG_INFINITY }
    }

    pub(super) fn add(&mut self, value: f64) -> &mut Self {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        self
    }

    /// Both ends with room beyond them; something to see even where all values are equal.
    pub(super) fn padded(&self, part: f64) -> (f64, f64) {
        if self.low > self.high {
            return (0., 1.);
        }
        let span = self.high - self.low;
        if span <= f64::EPSILON * self.high.abs().max(1e-300) {
            let half = if self.high == 0. { 1. } else { self.high.abs() * 0.1 };
            return (self.low - half, self.high + half);
        }
        (self.low - span * part, self.high + span * part)
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
pub(super) fn linear_ticks(low: f64, high: f64, wanted: usize) -> Vec<(f64, String)> {
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1., 2., 5., 10.]
        .map(|m| m * power)
        .into_iter()
        .find(|step| *step >= rough * 0.7)
        .unwrap_or(power * 10.);
    if !(step.is_finite() && step > 0.) {
        return Vec::new();
    }
    let decimals = (-step.log10().floor()).max(0.) as usize;
    let largest = low.abs().max(high.abs());
    let first = (low / step - 1e-9).ceil();
    let count = ((high / step + 1e-9).floor() - first).clamp(-1., 100.) as i64;
    (0..=count)
        .map(|i| (first + i as f64) * step)
        .map(|value| {
            // Adding 0 makes a negative zero positive.
            let value = if value.abs() < step * 1e-6 { 0. } else { value };
            let label = if !(1e-3..1e6).contains(&largest) {
                let exponent = largest.log10().floor() as i32;
                let part = (exponent - step.log10().floor() as i32).clamp(0, 12) as usize;
                if value == 0. {
                    "0".to_owned()
                } else {
                    let mantissa = value / 10f64.powi(exponent);
                    format!("{mantissa:.part$}×{}", power_of_ten(exponent))
                }
            } else {
                format!("{value:.decimals$}")
            };
            (value, label.replace('-', "−"))
        })
        .collect()
}

/// "0.05" for 5 and -2.
fn decimal(digit: u32, power: i32) -> String {
    match power {
        -4..0 => {
            format!("{:.*}", power.unsigned_abs() as usize, f64::from(digit) * 10f64.powi(power))
        }
        0..=4 => format!("{digit}{}", "0".repeat(power as usize)),
        _ => format!("{digit}×{}", power_of_ten(power)),
    }
}

/// A number with as many decimals as are useful, and a true minus sign.
pub(super) fn signed(value: f64) -> String {
    let size = value.abs();
    let text = if value == 0. {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        let power = size.log10().floor() as i32;
        format!("{:.1}×{}", value / 10f64.powi(power), power_of_ten(power))
    } else if size < 0.1 {
        format!("{value:.3}")
    } else if size < 100. {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    };
    text.replace('-', "−")
}

/// "10⁻³"; 1 and 10 as they are written.
pub(super) fn power_of_ten(power: i32) -> String {
    match power {
        0 => "1".to_owned(),
        1 => "10".to_owned(),
        _ => {
            let digits = power.to_string();
            let raised = digits.chars().map(|c| match c {
                '-' => '⁻',
                '1' => '¹',
                '2' => '²',
                '3' => '³',
                _ => char::from_u32(c as u32 - '0' as u32 + '⁰' as u32).unwrap_or(c),
            });
            "10".chars().chain(raised).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[(f64, String)]) -> Vec<&str> {
        ticks.iter().map(|(_, l)| l.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        let axis = Axis::default();
        assert_eq!(labels(&axis.ticks((0., 999.), 5)), ["0", "200", "400", "600", "800"]);
        assert_eq!(labels(&axis.ticks((-1., 1.), 4)), ["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(labels(&axis.ticks((2., 0.), 4)), ["0.0", "0.5", "1.0", "1.5", "2.0"]);
        let log = Axis { log: true, ..Axis::default() };
        assert_eq!(labels(&log.ticks((-3.2, 1.5), 6)), ["10⁻³", "10⁻²", "10⁻¹", "1", "10"]);
        assert_eq!(labels(&log.ticks((-1.4, 0.2), 6)), ["0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels(&log.ticks((0.69, 2.), 6)), ["5", "10", "20", "50", "100"]);
        assert_eq!(labels(&log.ticks((-0.1, 0.1), 5)), ["0.8", "0.9", "1.0", "1.1", "1.2"]);
        assert_eq!(labels(&log.ticks((-12., 4.), 5)), ["10⁻¹²", "10⁻⁸", "10⁻⁴", "1", "10⁴"]);
    }

    #[test]
    fn ticks_of_any_range_differ_and_are_few() {
        for low in [-1e9f64, -3.7, -1e-7, 0., 2e-5, 41.] {
            for span in [1e-8, 0.013, 1., 7.3, 2e4, 1e12] {
                if span < 1e-13 * low.abs() {
                    continue;
                }
                let ticks = linear_ticks(low, low + span, 6);
                assert!((2..=13).contains(&ticks.len()), "{low} {span}: {ticks:?}");
                for pair in ticks.windows(2) {
                    assert!(pair[0].0 < pair[1].0, "{low} {span}");
                    assert_ne!(pair[0].1, pair[1].1, "{low} {span}");
                }
            }
        }
    }
}
