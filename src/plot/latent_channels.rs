//! Latents as numbers, channel by channel.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// The channels of latents, as numbers.
#[derive(Clone)]
pub(super) struct LatentChannels {
    pub width: u32,
    pub height: u32,
    pub channels: Vec<Vec<f32>>,
}

impl LatentChannels {
    pub fn new(latents: &Tensor) -> Result<Self> {
        let shape = latents.size();
        let latents = match shape[..] {
            [c, h, w] if c > 0 && h > 0 && w > 0 => latents.shallow_clone(),
            [1, c, h, w] if c > 0 && h > 0 && w > 0 => latents.squeeze_dim(0),
            _ => return Err(Error::shape("latents", "[1, C, h, w] or [C, h, w]", &shape)),
        };
        if latents.numel() > 16_000_000 {
            return Err(Error::shape("latents", "at most 16 million values", &shape));
        }
        let latents = latents.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
        let (height, width) = (latents.size()[1], latents.size()[2]);
        let values = Vec::<f32>::try_from(latents.contiguous().flatten(0, -1))?;
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            let message = format!("{bad} of its {} values are NaN or infinite", values.len());
            return Err(Error::image("latents", message));
        }
        let plane = (width * height) as usize;
        Ok(Self {
            width: width as u32,
            height: height as u32,
            channels: values.chunks(plane).map(<[f32]>::to_vec).collect(),
        })
    }
}

/// Mean and standard deviation (of a sample: divided by N - 1), in f64.
pub(super) fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(|v| f64::from(*v)).sum::<f64>() / count;
    let square = values.map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
    (mean, (square / (count - 1.).max(1.)).sqrt())
}
