//! One picture with a caption.

use std::fmt;

use image::imageops::FilterType;
use tch::Tensor;

use super::canvas::{Canvas, wrap};
use super::card_style::{caption, fit};
use super::display::shows_itself;
use crate::Result;
use crate::picture::{self, Rgb8};

shows_itself!(Picture);

/// The longest side at which one picture is shown.
const PICTURE_SIDE: u32 = 384;

/// One picture, enlarged to 384 pixels; a picture that is larger keeps its size up to 1024.
///
/// It is enlarged with a Catmull-Rom filter. For the pixels as they are, write the tensor with
/// [`picture::write_png`].
#[derive(Clone)]
pub struct Picture {
    image: Rgb8,
    caption: String,
}

/// Shows one picture.
///
/// # Shapes
/// `image` `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`; see [`picture::to_rgb8`] for values outside.
///
/// # Errors
/// Another shape; NaN or infinity.
#[doc(alias = "image")]
#[doc(alias = "show")]
#[doc(alias = "imshow")]
pub fn picture(image: &Tensor) -> Result<Picture> {
    Ok(Picture { image: picture::one(image)?, caption: String::new() })
}

impl Picture {
    /// Writes a caption below the picture.
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    /// The picture as it is shown.
    ///
    /// # Errors
    /// A picture too large to draw.
    pub fn rgb8(&self) -> Result<Rgb8> {
        let longest = self.image.width.max(self.image.height);
        let shown = fit(&self.image, longest.clamp(PICTURE_SIDE, 1024), FilterType::CatmullRom)?;
        if self.caption.is_empty() {
            return Ok(shown);
        }
        let margin = 12;
        let lines = wrap(&self.caption, caption(), shown.width as f32, 6)?;
        let text = caption().line_height() * lines.len() as u32;
        let mut canvas =
            Canvas::card(shown.width + 2 * margin, shown.height + text + 2 * margin + 6)?;
        canvas.lay(margin, margin, &shown);
        let top = (margin + shown.height + 8) as f32;
        canvas.lines(margin as f32, top, &lines, caption())?;
        Ok(canvas.into_rgb8())
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture {}×{}", self.image.width, self.image.height)?;
        if self.caption.is_empty() { Ok(()) } else { write!(f, ": {}", self.caption) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn noise(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).clamp(-1., 1.)
    }

    #[test]
    fn a_small_picture_is_shown_large() {
        let shown = picture(&noise(&[1, 3, 64, 64])).unwrap().rgb8().unwrap();
        assert_eq!((shown.width, shown.height), (384, 384));
        let wide = picture(&noise(&[3, 32, 64])).unwrap().rgb8().unwrap();
        assert_eq!((wide.width, wide.height), (384, 192));
        let large = picture(&noise(&[3, 512, 512])).unwrap();
        assert_eq!(large.rgb8().unwrap(), picture::one(&noise_of(&large)).unwrap());
    }

    fn noise_of(picture: &Picture) -> Tensor {
        picture.image.to_tensor().unwrap()
    }

    #[test]
    fn what_is_not_a_picture_is_refused() {
        assert!(picture(&noise(&[2, 3, 8, 8])).is_err());
        assert!(picture(&noise(&[1, 4, 8, 8])).is_err());
        assert!(picture(&noise(&[8, 8])).is_err());
        let nan = noise(&[3, 8, 8]);
        let _ = nan.get(1).get(2).get(3).fill_(f64::NAN);
        let message = picture(&nan).unwrap_err().to_string();
        assert!(message.contains("1 of its 192 values are NaN"), "{message}");
    }
}
