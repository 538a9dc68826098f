//! Options of `generate` for what a picture is drawn from beside its prompt: other pictures, other noise.

use std::path::{Path, PathBuf};

use clap::Args;
use diffuscope::models::vae::Tiling;
use diffuscope::pipeline::{DepthMap, InitImage, LowResImage, Request, StableDiffusion, Variation};
use diffuscope::tensor_file::TensorFile;
use diffuscope::{Error, Result, picture};
use tch::Tensor;

use crate::options::Seed;

#[derive(Args)]
pub struct ImageInputs {
    /// A PNG or JPEG picture to start from
    #[arg(long, value_name = "IMAGE", requires = "strength")]
    init: Option<PathBuf>,
    /// How much of that picture is redrawn: 0 is nothing, 1 is everything
    #[arg(long, value_name = "0..1", requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Which part of that picture is redrawn: where this one is white
    #[arg(long, value_name = "IMAGE", requires = "init")]
    mask: Option<PathBuf>,
    /// Depth to image: a depth map, black for far and white for near
    #[arg(long, value_name = "IMAGE")]
    depth: Option<PathBuf>,
    /// The x4 upscaler: the small picture, which also gives the size
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["width", "height"])]
    small: Option<PathBuf>,
    /// The x4 upscaler: the timestep up to which the small picture is noised
    #[arg(
        long,
        value_name = "N",
        requires = "small",
        default_value_t = 20,
        allow_negative_numbers = true
    )]
    noise_level: usize,
    /// Noise to start from, in place of the seed's: a tensor `latents` [B, 4, h, w], as diffusers takes it as
    /// `latents=`; it also gives the size
    #[arg(long, value_name = "F.safetensors", conflicts_with = "init")]
    initial_latents: Option<PathBuf>,
    /// Pictures near the seed's: its noise turned towards another seed's, 0 is not at all, 1 is all the way
    #[arg(
        long,
        value_name = "SEED,0..1",
        conflicts_with = "initial_latents",
        allow_hyphen_values = true
    )]
    variation: Option<String>,
    /// How many of the text encoder's last layers to skip: 0 is none (the webui's "clip skip 2" is 1)
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    clip_skip: usize,
    /// Encode and decode pictures in tiles of this many pixels, for pictures that do not fit into memory
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    tile: Option<i64>,
}

impl ImageInputs {
    /// What can be said before a model is opened.
    pub fn check(&self) -> Result<()> {
        self.variation()?;
        match self.strength {
            Some(strength) if !(0. ..=1.).contains(&strength) => {
                let expected = "0 (the picture as it is) to 1 (nothing of it)";
                Err(Error::argument("--strength", expected, strength))
            }
            _ => Ok(()),
        }
    }

    /// The files that are read, and what they are.
    pub fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [
            ("init", &self.init),
            ("mask", &self.mask),
            ("depth", &self.depth),
            ("small", &self.small),
            ("initial_latents", &self.initial_latents),
        ];
        all.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)))
    }

    fn variation(&self) -> Result<Option<Variation>> {
        let Some(text) = &self.variation else { return Ok(None) };
        let read = || {
            let (seed, weight) = text.split_once(',')?;
            let (seed, weight) = (seed.trim().parse::<Seed>().ok()?, weight.trim().parse().ok()?);
            let variation = Variation { seed: seed.signed(), weight };
            (0. ..=1.).contains(&weight).then_some(variation)
        };
        let expected = "a seed and a number from 0 to 1: 7,0.2";
        read().map(Some).ok_or_else(|| Error::argument("--variation", expected, text))
    }

    /// How the pictures of a model are cut for the autoencoder.
    pub fn tiling(&self, model: &StableDiffusion) -> Result<Option<Tiling>> {
        let factor = model.vae.config().factor();
        let Some(pixels) = self.tile else { return Ok(None) };
        let most = 1 << 16;
        if !(4 * factor..=most).contains(&pixels) || pixels % factor != 0 {
            let expected = format!("a multiple of {factor} from {} to {most}", 4 * factor);
            return Err(Error::argument("--tile", expected, pixels));
        }
        let tile = pixels / factor;
        Ok(Some(Tiling { tile, overlap: tile / 4 }))
    }

    /// The request with all of this in it.
    pub fn fill(&self, request: Request, model: &StableDiffusion) -> Result<Request> {
        let size = || model.size(request.width, request.height);
        let mask = |path: &Path| -> Result<Tensor> {
            let (width, height) = size()?;
            picture::read_mask(path, width as u32, height as u32)
        };
        let init = |(path, strength): (&PathBuf, f64)| -> Result<InitImage> {
            let (width, height) = size()?;
            let image = picture::read(path, width as u32, height as u32)?;
            let mask = self.mask.as_deref().map(mask).transpose()?;
            Ok(InitImage { mask, ..InitImage::new(image, strength) })
        };
        let low_res = |path: &PathBuf| -> Result<LowResImage> {
            let (width, height) = picture::size(path)?;
            let image = picture::read(path, width, height)?;
            Ok(LowResImage { image, noise_level: self.noise_level })
        };
        let latents = |path: &PathBuf| TensorFile::open(path)?.tensor("latents");
        Ok(Request {
            init: self.init.as_ref().zip(self.strength).map(init).transpose()?,
            depth: self.depth.as_deref().map(picture::read_depth).transpose()?.map(DepthMap),
            low_res: self.small.as_ref().map(low_res).transpose()?,
            initial_latents: self.initial_latents.as_ref().map(latents).transpose()?,
            variation: self.variation()?,
            clip_skip: self.clip_skip.into(),
            ..request
        })
    }

    /// What the PNG of a picture records of this.
    pub fn texts(&self) -> Vec<(&'static str, String)> {
        let mut texts: Vec<_> =
            self.paths().map(|(key, path)| (key, path.display().to_string())).collect();
        texts.extend(self.strength.map(|strength| ("strength", strength.to_string())));
        texts.extend(self.small.as_ref().map(|_| ("noise_level", self.noise_level.to_string())));
        texts.extend(self.variation.iter().map(|variation| ("variation", variation.clone())));
        texts.extend((self.clip_skip > 0).then(|| ("clip_skip", self.clip_skip.to_string())));
        texts
    }
}
