//! Colours, sizes and the font: one light card, legible on a light page and on a dark one.

use ab_glyph::FontRef;

use crate::{Error, Result};

/// A colour in sRGB.
pub type Color = [u8; 3];

/// The card that every figure lies on.
pub const CARD: Color = [253, 253, 251];
/// The card's edge.
pub const EDGE: Color = [222, 221, 216];
/// Text.
pub const INK: Color = [32, 33, 36];
/// Text of less weight: units, captions, ticks.
pub const SOFT_INK: Color = [92, 94, 99];
/// Grid lines.
pub const GRID: Color = [230, 229, 225];

/// Colours of the series of a chart, told apart by people with any colour vision.
///
/// The colours of Okabe and Ito (2008), without their yellow, which is too light on a white card.
pub const SERIES: [Color; 7] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [180, 90, 150],
    [86, 180, 233],
    [230, 159, 0],
    [80, 80, 80],
];

/// The colour of series `index`; colours repeat after the seventh.
pub fn series(index: usize) -> Color {
    SERIES[index % SERIES.len()]
}

/// Dark to light for `value` from 0 to 1, in equal steps of lightness (OKLab).
///
/// Values outside are drawn as the nearest end.
pub fn sequential(value: f64) -> Color {
    let v = value.clamp(0., 1.);
    oklch(0.20 + 0.75 * v, 0.15, 305. - 205. * v)
}

/// Blue for -1, white for 0, orange for 1: equal lightness for values of equal size (OKLab).
///
/// Values outside are drawn as the nearest end.
pub fn diverging(value: f64) -> Color {
    let v = value.clamp(-1., 1.);
    let size = v.abs();
    oklch(0.98 - 0.50 * size, 0.17 * size.powf(0.85), if v < 0. { 255. } else { 48. })
}

/// `color` mixed with the card: 1 is the colour, 0 the card.
pub fn tint(color: Color, amount: f64) -> Color {
    std::array::from_fn(|i| {
        (f64::from(color[i]) * amount + f64::from(CARD[i]) * (1. - amount)).round() as u8
    })
}

/// A colour of lightness, chroma and hue (degrees) in OKLab (Ottosson 2020); chroma is lowered
/// until the colour exists in sRGB.
fn oklch(lightness: f64, chroma: f64, hue: f64) -> Color {
    let linear = |c: f64| {
        let (a, b) = (c * hue.to_radians().cos(), c * hue.to_radians().sin());
        let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
        let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
        let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
        [
            4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
            -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
            -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
        ]
    };
    let exists = |c: f64| linear(c).iter().all(|v| (-1e-4..=1.0001).contains(v));
    let (mut low, mut high) = (0., chroma);
    if !exists(high) {
        for _ in 0..20 {
            let middle = (low + high) / 2.;
            if exists(middle) { low = middle } else { high = middle }
        }
        high = low;
    }
    linear(high).map(|v| {
        let v = v.clamp(0., 1.);
        let gamma = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1. / 2.4) - 0.055 };
        (gamma * 255.).round() as u8
    })
}

/// How heavy letters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Labels.
    Regular,
    /// Titles.
    SemiBold,
}

/// The embedded font: parts of Inter, under the SIL Open Font License (`data/fonts`).
pub(super) fn font(weight: Weight) -> Result<FontRef<'static>> {
    let bytes: &'static [u8] = match weight {
        Weight::Regular => include_bytes!("../../data/fonts/Inter-Regular.otf"),
        Weight::SemiBold => include_bytes!("../../data/fonts/Inter-SemiBold.otf"),
    };
    FontRef::try_from_slice(bytes).map_err(|e| Error::Figure(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance (WCAG 2).
    fn luminance(color: Color) -> f64 {
        let [r, g, b] = color.map(|c| {
            let v = f64::from(c) / 255.;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    fn contrast(a: Color, b: Color) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_has_contrast_on_the_card() {
        assert!(contrast(INK, CARD) > 12.);
        assert!(contrast(SOFT_INK, CARD) > 5.5);
        for color in SERIES {
            assert!(contrast(color, CARD) > 2., "{color:?}");
        }
    }

    #[test]
    fn maps_keep_their_order_of_lightness() {
        for i in 0..100 {
            let (a, b) = (f64::from(i) / 100., f64::from(i + 1) / 100.);
            assert!(luminance(sequential(a)) < luminance(sequential(b)), "{a}");
            assert!(luminance(diverging(a)) > luminance(diverging(b)), "{a}");
            assert!(luminance(diverging(-a)) > luminance(diverging(-b)), "-{a}");
        }
        let zero = diverging(0.);
        assert!(zero[0].abs_diff(zero[2]) <= 1 && zero[0] > 245, "{zero:?}");
        let (minus, plus) = (luminance(diverging(-1.)), luminance(diverging(1.)));
        assert!((minus / plus - 1.).abs() < 0.25, "{minus} {plus}");
    }
}
