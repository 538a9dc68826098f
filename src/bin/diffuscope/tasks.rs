//! What a picture is drawn from beside its prompt: other pictures, other seeds.

use std::path::{Path, PathBuf};

use clap::Args;
use diffuscope::models::vae::Tiling;
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::weights::TensorFile;
use diffuscope::{Error, Result, picture};
use tch::{Kind, Tensor};

#[derive(Args)]
pub struct Tasks {
    /// A PNG or JPEG picture to start from, in place of noise
    #[arg(long, value_name = "IMAGE", requires = "strength")]
    init: Option<PathBuf>,
    /// How much of the picture to start from is redrawn: 0 nothing, 1 everything
    #[arg(long, value_name = "0..1", requires = "init", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Which part of the picture to start from is redrawn: the white part of this one
    #[arg(long, value_name = "IMAGE", requires = "init")]
    mask: Option<PathBuf>,
    /// Depth to image: how near everything is, from black for far to white for near
    #[arg(long, value_name = "IMAGE")]
    depth: Option<PathBuf>,
    /// The x4 upscaler: the small picture; it gives the size
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
    /// Noise to start from, in place of the seed's: a tensor `latents` [B, 4, h, w], what diffusers
    /// takes as `latents=`; it gives the size
    #[arg(long, value_name = "F.safetensors", conflicts_with = "init")]
    initial_latents: Option<PathBuf>,
    /// Pictures near a seed's: its noise turned towards another seed's, 0 not at all, 1 all the way
    #[arg(
        long,
        value_name = "SEED,0..1",
        conflicts_with = "initial_latents",
        allow_hyphen_values = true
    )]
    variation: Option<String>,
    /// How many of the text encoder's last layers are skipped: 0 for none (the webui's \"clip skip 2\" is 1)
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    clip_skip: usize,
    /// Decode and encode pictures in tiles of this many pixels, for those that do not fit into memory
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    tile: Option<i64>,
}

impl Tasks {
    /// What can be said before a model is opened.
    pub fn check(&self) -> Result<()> {
        self.variation()?;
        match self.strength {
            Some(strength) if !(0. ..=1.).contains(&strength) => {
                let expected = "0 (the picture as it is) to 1 (nothing of it)";
                Err(Error::argument("--strength", expected, strength, ""))
            }
            _ => Ok(()),
        }
    }

    fn variation(&self) -> Result<Option<(i64, f64)>> {
        let Some(text) = &self.variation else { return Ok(None) };
        let read = || {
            let (seed, weight) = text.split_once(',')?;
            Some((seed.trim().parse().ok()?, weight.trim().parse().ok()?))
        };
        match read() {
            Some((seed, weight)) if (0. ..=1.).contains(&weight) => Ok(Some((seed, weight))),
            _ => Err(Error::argument(
                "--variation",
                "a seed and a number from 0 to 1: 7,0.2",
                text,
                "",
            )),
        }
    }

    /// How the pictures of a model are cut for the autoencoder.
    pub fn tiling(&self, model: &StableDiffusion) -> Result<Option<Tiling>> {
        let factor = model.vae.config().factor();
        let Some(pixels) = self.tile else { return Ok(None) };
        if pixels < 4 * factor || pixels % factor != 0 {
            let expected = format!("a multiple of {factor} from {}", 4 * factor);
            return Err(Error::argument("--tile", expected, pixels, ""));
        }
        let tile = pixels / factor;
        Ok(Some(Tiling { tile, overlap: tile / 4 }))
    }

    /// The request with all of this in it.
    pub fn fill(&self, request: Request, model: &StableDiffusion) -> Result<Request> {
        let size = || model.size(request.width, request.height);
        let grey = |path: &Path, width: i64, height: i64| -> Result<Tensor> {
            let image = picture::read(path, width as u32, height as u32)?;
            Ok((image.mean_dim([1i64].as_slice(), true, Kind::Float) + 1) / 2)
        };
        let init = match (&self.init, self.strength) {
            (Some(path), Some(strength)) => {
                let (width, height) = size()?;
                Some((picture::read(path, width as u32, height as u32)?, strength))
            }
            _ => None,
        };
        let in_size = |path: &Option<PathBuf>| {
            let read =
                |path: &PathBuf| size().and_then(|(width, height)| grey(path, width, height));
            path.as_ref().map(read).transpose()
        };
        let small = self.small.as_ref().map(|path| {
            let (width, height) = picture::size(path)?;
            picture::read(path, width, height)
        });
        let latents = |path: &PathBuf| TensorFile::open(path)?.tensor("latents");
        Ok(Request {
            init,
            mask: in_size(&self.mask)?,
            depth: in_size(&self.depth)?,
            small: small.transpose()?,
            noise_level: self.noise_level,
            initial_latents: self.initial_latents.as_ref().map(latents).transpose()?,
            variation: self.variation()?,
            clip_skip: self.clip_skip,
            ..request
        })
    }

    /// What a picture's file says of it.
    pub fn texts(&self) -> Vec<(&'static str, String)> {
        let paths = [
            ("init", &self.init),
            ("mask", &self.mask),
            ("depth", &self.depth),
            ("small", &self.small),
            ("initial_latents", &self.initial_latents),
        ];
        let mut texts: Vec<_> = paths
            .into_iter()
            .filter_map(|(key, path)| Some((key, path.as_ref()?.display().to_string())))
            .collect();
        texts.extend(self.strength.map(|strength| ("strength", strength.to_string())));
        texts.extend(self.small.as_ref().map(|_| ("noise_level", self.noise_level.to_string())));
        texts.extend(self.variation.iter().map(|variation| ("variation", variation.clone())));
        texts.extend((self.clip_skip > 0).then(|| ("clip_skip", self.clip_skip.to_string())));
        texts
    }
}
