//! The latents of captioned pictures, encoded once: what the U-Net is trained on.

use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::pictures::to_range;
use crate::models::clip::Tokenizer;
use crate::models::vae::Vae;
use crate::tensor_file::{TensorFile, write_tensors};
use crate::{Error, Result, interrupt};

/// Latents with their captions, on the CPU whatever device encodes them.
pub struct CaptionedLatents {
    /// Scaled latents [N, 4, h, w].
    pub latents: Tensor,
    /// Token ids of each caption [N, 77].
    pub ids: Tensor,
}

impl fmt::Debug for CaptionedLatents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaptionedLatents {{ latents: {:?} }}", self.latents.size())
    }
}

impl CaptionedLatents {
    /// Encodes u8 pictures [N, 3, H, W] and their captions.
    ///
    /// # Errors
    /// Pictures that the VAE cannot encode; a number of captions that is not that of the pictures.
    pub fn encode(
        pictures: &Tensor,
        captions: &[String],
        vae: &Vae,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let count = pictures.size()[0];
        if captions.len() as i64 != count {
            return Err(Error::argument(
                "captions",
                format!("{count}, one per picture"),
                captions.len(),
            ));
        }
        let mut latents = Vec::new();
        for start in (0..count).step_by(256) {
            interrupt::check(|| format!("after {start} of {count} latents"))?;
            let some = pictures.narrow(0, start, 256.min(count - start));
            let encoded = no_grad(|| vae.encode(&to_range(&some)))?;
            latents.push(encoded.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?);
        }
        let mut ids = Vec::with_capacity(captions.len() * 77);
        for caption in captions {
            ids.extend(tokenizer.encode(caption)?.ids);
        }
        Ok(Self {
            latents: Tensor::cat(&latents, 0),
            ids: Tensor::from_slice(&ids).view([count, 77]),
        })
    }

    /// Several of them as one.
    ///
    /// # Errors
    /// None of them; latents of several sizes.
    pub fn cat(parts: &[Self]) -> Result<Self> {
        let all =
            |of: fn(&Self) -> &Tensor| Tensor::f_cat(&parts.iter().map(of).collect::<Vec<_>>(), 0);
        Ok(Self { latents: all(|part| &part.latents)?, ids: all(|part| &part.ids)? })
    }

    /// Writes them, marked with the `source` that they were encoded from.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path, source: &str) -> Result<()> {
        let tensors = [("latents", &self.latents), ("ids", &self.ids)]
            .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        write_tensors(path, &tensors, &[("source".into(), source.into())])
    }

    /// Reads them if the file is there and has the same `source`.
    ///
    /// # Errors
    /// A damaged file.
    pub fn load(path: &Path, source: &str) -> Result<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        let file = TensorFile::open(path)?;
        if file.metadata().get("source").map(String::as_str) != Some(source) {
            return Ok(None);
        }
        Ok(Some(Self { latents: file.tensor("latents")?, ids: file.tensor("ids")? }))
    }
}
