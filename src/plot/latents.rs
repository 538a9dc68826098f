//! Latents, one tile a channel, with a colour bar.

use std::fmt;

use plotters_backend::text_anchor::{HPos, VPos};
use tch::Tensor;

use super::axis::signed;
use super::canvas::{Canvas, Style, text_width, wrap};
use super::card_style::{GAP, MARGIN, WIDTH, caption, enlarge, label, title};
use super::display::shows_itself;
use super::latent_channels::{LatentChannels, moments};
use super::theme;
use crate::picture::Rgb8;
use crate::{Error, Result};

shows_itself!(LatentsView);

/// The channels of latents as tiles with one colour bar: blue below 0, white at 0, orange above.
#[derive(Clone)]
pub struct LatentsView {
    latents: LatentChannels,
    title: String,
    limit: Option<f64>,
}

/// Shows latents, one tile a channel.
///
/// # Shapes
/// `latents` `[1, C, h, w]` or `[C, h, w]`; Stable Diffusion has 4 channels.
///
/// # Errors
/// Another shape; NaN or infinity.
pub fn latents(latents: &Tensor) -> Result<LatentsView> {
    Ok(LatentsView { latents: LatentChannels::new(latents)?, title: String::new(), limit: None })
}

impl LatentsView {
    /// Writes a title above.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets the value at the ends of the colour bar, so that several views can be compared.
    ///
    /// Without it, the largest magnitude of the latents is taken. Values beyond have the colour of
    /// the end.
    ///
    /// # Errors
    /// A limit that is not above 0.
    pub fn limit(mut self, limit: f64) -> Result<Self> {
        if !(limit.is_finite() && limit > 0.) {
            return Err(Error::argument("limit", "a number above 0", limit));
        }
        self.limit = Some(limit);
        Ok(self)
    }

    fn summary(&self) -> String {
        let all = self.latents.channels.iter().flatten();
        let (mean, deviation) = moments(all.clone());
        let min = all.clone().copied().fold(f32::INFINITY, f32::min);
        let max = all.copied().fold(f32::NEG_INFINITY, f32::max);
        let [min, max, mean, deviation] =
            [f64::from(min), f64::from(max), mean, deviation].map(signed);
        format!(
            "{}×{}×{} · min {min} · max {max} · mean {mean} · std {deviation}",
            self.latents.channels.len(),
            self.latents.height,
            self.latents.width
        )
    }

    /// The view as it is shown.
    ///
    /// # Errors
    /// Latents too large to draw.
    pub fn rgb8(&self) -> Result<Rgb8> {
        let LatentChannels { width: w, height: h, channels } = &self.latents;
        let magnitude = channels.iter().flatten().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        // Latents that are all 0 still need a bar with two ends.
        let limit = self.limit.unwrap_or(if magnitude > 0. { magnitude } else { 1. });
        let columns = channels.len().min(4) as u32;
        let rows = channels.len().div_ceil(4) as u32;

        let bar_room = 86;
        let side = (WIDTH - 2 * MARGIN - bar_room - 3 * GAP) / 4;
        let longest = *w.max(h);
        let factor = ((side + longest / 2) / longest).max(1);
        let tiles: Vec<Rgb8> = channels
            .iter()
            .map(|channel| {
                let pixels =
                    channel.iter().flat_map(|v| theme::diverging(f64::from(*v) / limit)).collect();
                enlarge(&Rgb8 { width: *w, height: *h, pixels }, factor)
            })
            .collect::<Result<_>>()?;
        let (tile_w, tile_h) = (tiles[0].width, tiles[0].height);
        let small = Style::new(14., theme::SOFT_INK);
        let (above, below) = (label().line_height() + 2, small.line_height() + 6);
        let row_height = above + tile_h + below;
        let grid = columns * tile_w + (columns - 1) * GAP;

        let summary = wrap(&self.summary(), caption(), (grid + bar_room).max(300) as f32, 3)?;
        let heading = wrap(&self.title, title(), (grid + bar_room).max(300) as f32, 3)?;
        let mut text = 0f32;
        for (lines, style) in [(&summary, caption()), (&heading, title())] {
            for line in lines {
                text = text.max(text_width(line, style)?);
            }
        }
        let head = title().line_height() * heading.len() as u32
            + caption().line_height() * summary.len() as u32
            + 10;
        let width = (grid + bar_room).max(text.ceil() as u32) + 2 * MARGIN;
        let mut canvas = Canvas::card(width, head + rows * row_height + 2 * MARGIN)?;
        let x0 = MARGIN as f32;
        let mut y = MARGIN;
        y += canvas.lines(x0, y as f32, &heading, title())?;
        canvas.lines(x0, y as f32, &summary, caption())?;
        let top = MARGIN + head;
        for (i, (tile, channel)) in tiles.iter().zip(channels).enumerate() {
            let x = MARGIN + i as u32 % 4 * (tile_w + GAP);
            let y = top + i as u32 / 4 * row_height;
            let centre = x as f32 + tile_w as f32 / 2.;
            let middle = |style: Style| style.at(HPos::Center, VPos::Top);
            canvas.text(centre, y as f32, &format!("channel {i}"), middle(label()))?;
            canvas.lay(x, y + above, tile);
            let (mean, deviation) = moments(channel.iter());
            let line = format!("{} ± {}", signed(mean), signed(deviation));
            canvas.text(centre, (y + above + tile_h + 4) as f32, &line, middle(small))?;
        }
        let bar_x = (MARGIN + grid + 18) as i32;
        let bar = (rows * row_height - above - below).max(60);
        colour_bar(&mut canvas, (bar_x, (top + above) as i32), bar, 16, (-limit, limit), small)?;
        Ok(canvas.into_rgb8())
    }
}

impl fmt::Display for LatentsView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.title.is_empty() {
            write!(f, "Latents {}", self.summary())
        } else {
            write!(f, "{}: latents {}", self.title, self.summary())
        }
    }
}

/// A vertical bar of the diverging colours, with numbers on its right.
fn colour_bar(
    canvas: &mut Canvas,
    (x, y): (i32, i32),
    height: u32,
    width: u32,
    (low, high): (f64, f64),
    style: Style,
) -> Result<()> {
    for row in 0..height {
        let part = 1. - (f64::from(row) + 0.5) / f64::from(height);
        canvas.fill(x, y + row as i32, width, 1, theme::diverging(2. * part - 1.));
    }
    for part in [0., 0.25, 0.5, 0.75, 1.] {
        let at = y as f32 + (1. - part as f32) * (height - 1) as f32;
        canvas.fill(x + width as i32, at.round() as i32, 4, 1, theme::SOFT_INK);
        let value = signed(low + (high - low) * part);
        let style = style.at(HPos::Left, VPos::Center);
        canvas.text((x + width as i32 + 8) as f32, at, &value, style)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn noise(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).clamp(-1., 1.)
    }

    #[test]
    fn what_are_not_latents_is_refused() {
        assert!(latents(&noise(&[2, 4, 8, 8])).is_err());
        assert!(latents(&noise(&[4, 0, 8])).is_err());
        assert!(latents(&(noise(&[4, 8, 8]) * f64::NAN)).is_err());
    }

    #[test]
    fn latents_of_any_size_can_be_shown() {
        for shape in [[4, 16, 16], [4, 64, 96], [1, 1, 1], [16, 8, 8], [4, 300, 20]] {
            let view = latents(&noise(&shape)).unwrap();
            assert!(view.to_string().contains("std"), "{view}");
            view.rgb8().unwrap();
        }
        let zeros = Tensor::zeros([4, 2, 2], (Kind::Float, Device::Cpu));
        latents(&zeros).unwrap().png().unwrap();
    }
}
