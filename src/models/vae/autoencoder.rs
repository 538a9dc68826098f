//! The autoencoder: pictures to latents and back.

use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::VaeConfig;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::posterior::Posterior;
use super::tiling::Tiling;
use crate::device::{self, put};
use crate::memory::guarded;
use crate::models::layers::{Conv2d, carried_kind};
use crate::models::params::{Params, channels_last};
use crate::tensor_file::{read_config, weight_files};
use crate::{Error, Result};

/// The pixels that are encoded or decoded at once: 4 pictures of 512×512, whose widest layers take about 3 GB in f32.
const PIXELS_AT_ONCE: i64 = 1 << 20;

/// How many pictures of a batch an autoencoder with this factor encodes or decodes at once: of a large batch some after
/// others, which gives the same numbers and takes less memory.
pub(crate) fn pictures_at_once(
    width: i64,
    height: i64,
    factor: i64,
    tiling: Option<Tiling>,
) -> i64 {
    let tile = tiling.map_or(i64::MAX, |tiling| tiling.tile.saturating_mul(factor));
    let pixels = width.min(tile).saturating_mul(height.min(tile));
    (PIXELS_AT_ONCE / pixels.max(1)).max(1)
}

/// Runs `network` on so many samples of `x` at once.
fn in_slices(x: &Tensor, at_once: i64, network: impl Fn(&Tensor) -> Tensor) -> Tensor {
    if x.size()[0] <= at_once {
        return network(x);
    }
    Tensor::cat(&x.split(at_once, 0).iter().map(network).collect::<Vec<_>>(), 0)
}

/// Stable Diffusion's autoencoder.
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    kind: Kind,
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vae of {:?}", self.config)
    }
}

impl Vae {
    /// Builds the autoencoder from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built, or weights that do not fit it.
    pub fn new(params: &Params, config: &VaeConfig) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        let vae = Self {
            encoder: Encoder::new(&(params / "encoder"), config),
            decoder: Decoder::new(&(params / "decoder"), config),
            quant_conv: config
                .use_quant_conv
                .then(|| Conv2d::new(&(params / "quant_conv"), 2 * latent, 2 * latent, 1)),
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| Conv2d::new(&(params / "post_quant_conv"), latent, latent, 1)),
            config: config.clone(),
            kind: params.kind(),
        };
        params.finish()?;
        Ok(vae)
    }

    /// Opens the folder `vae/`. An autoencoder that overflows in f16 (`force_upcast`) is opened in f32 when
    /// f16 is asked for: see [`Vae::kind`].
    ///
    /// # Errors
    /// As [`Vae::new`], and files that cannot be read.
    pub fn open(folder: impl AsRef<Path>, kind: Kind, device: Device) -> Result<Self> {
        let path = folder.as_ref().join("config.json");
        let config: VaeConfig = read_config(&path)?;
        let params = Params::open(&weight_files(&folder)?, config.kind(kind), device)?;
        Self::new(&params, &config).map_err(|e| e.in_config(&path))
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The dtype of its weights, and of its products where the device has instructions for it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The distribution of a picture's unscaled latents.
    ///
    /// # Shapes
    /// `image` [B, 3, H, W] in [-1, 1]; the posterior's tensors are [B, latent_channels, H/f, W/f].
    /// # Errors
    /// Another number of channels; sides that are not multiples of the factor f.
    pub fn posterior(&self, image: &Tensor) -> Result<Posterior> {
        self.posterior_tiled(image, None)
    }

    /// The same, tile by tile if the picture is larger than one tile.
    ///
    /// # Errors
    /// As [`Vae::posterior`]; an overlap that is not smaller than the tile.
    pub fn posterior_tiled(&self, image: &Tensor, tiling: Option<Tiling>) -> Result<Posterior> {
        let (size, channels, f) = (image.size(), self.config.in_channels, self.config.factor());
        if size.len() != 4
            || size[1] != channels
            || size[2] < f
            || size[3] < f
            || size[2] % f != 0
            || size[3] % f != 0
        {
            let expected = format!("[B, {channels}, H, W] with H and W multiples of {f}");
            return Err(Error::shape("image", expected, &size));
        }
        let tiling = tiling.map(Tiling::check).transpose()?;
        let network = |x: &Tensor| {
            let h = self.encoder.forward(x);
            self.quant_conv.as_ref().map_or(h.shallow_clone(), |conv| conv.forward(&h))
        };
        let some = |image: &Tensor| match tiling {
            Some(tiling) => tiling.run(image, f, 1, network),
            None => network(image),
        };
        self.guarded("encoding", &size, || {
            let image = channels_last(&self.carried(image));
            let moments = in_slices(&image, pictures_at_once(size[3], size[2], f, tiling), some);
            let latent = self.config.latent_channels;
            let mean = moments.narrow(1, 0, latent);
            let logvar = moments.narrow(1, latent, latent).clamp(-30., 20.);
            Ok(Posterior { mean, logvar })
        })
    }

    /// Moves a tensor to the network's device and to the dtype that it keeps between its layers.
    fn carried(&self, x: &Tensor) -> Tensor {
        let weight = self.decoder.weight();
        put(x, carried_kind(weight, true), weight.device())
    }

    /// Calls `body`, which may run out of memory with pictures of this size, [B, 3, H, W].
    fn guarded<T>(&self, what: &str, size: &[i64], body: impl FnOnce() -> Result<T>) -> Result<T> {
        let doing = || {
            let device = device::name(self.decoder.weight().device());
            let (count, height, width) = (size[0], size[2], size[3]);
            format!("{what} {count} of {width}×{height} pixels in {:?} on {device}", self.kind)
        };
        let advice = "use tiles, smaller pictures, or f16 or bf16";
        guarded(doing, advice, body)
    }

    /// Scales the posterior's latents to those that the U-Net works on:
    /// `latents = (z - shift_factor) scaling_factor`, Rombach et al. 2022, appendix G.
    pub fn scale(&self, z: &Tensor) -> Tensor {
        (z - self.config.shift_factor.unwrap_or(0.)) * self.config.scaling_factor
    }

    /// The mean of a picture's scaled latents.
    ///
    /// # Shapes
    /// `image` [B, 3, H, W] in [-1, 1]; returns [B, latent_channels, H/f, W/f].
    /// # Errors
    /// As [`Vae::posterior`].
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        Ok(self.scale(&self.posterior(image)?.mean))
    }

    /// The picture of scaled latents: `D(latents / scaling_factor + shift_factor)`.
    ///
    /// # Shapes
    /// `latents` [B, latent_channels, h, w]; returns [B, 3, h f, w f], about [-1, 1], in f32.
    /// # Errors
    /// Another number of channels; a side of length 0.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_tiled(latents, None)
    }

    /// The same, tile by tile if the picture is larger than one tile.
    ///
    /// # Errors
    /// As [`Vae::decode`]; an overlap that is not smaller than the tile.
    pub fn decode_tiled(&self, latents: &Tensor, tiling: Option<Tiling>) -> Result<Tensor> {
        let (size, channels) = (latents.size(), self.config.latent_channels);
        if size.len() != 4 || size[1] != channels || size.contains(&0) {
            return Err(Error::shape("latents", format!("[B, {channels}, h, w]"), &size));
        }
        let (tiling, f) = (tiling.map(Tiling::check).transpose()?, self.config.factor());
        let network = |z: &Tensor| {
            let z = self.post_quant_conv.as_ref().map_or(z.shallow_clone(), |conv| conv.forward(z));
            self.decoder.forward(&z).to_kind(Kind::Float)
        };
        let some = |z: &Tensor| match tiling {
            Some(tiling) => tiling.run(z, 1, f, network),
            None => network(z),
        };
        let (height, width) = (size[2].saturating_mul(f), size[3].saturating_mul(f));
        self.guarded("decoding", &[size[0], 3, height, width], || {
            let z = self.carried(latents) / self.config.scaling_factor
                + self.config.shift_factor.unwrap_or(0.);
            let z = channels_last(&z);
            Ok(in_slices(&z, pictures_at_once(width, height, f, tiling), some))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_where_it_has_more_pixels_than_go_at_once() {
        let tiles = |tile| Some(Tiling { tile, overlap: 0 });
        for (width, height, tiling, expected) in [
            (512, 512, None, 4),
            (1024, 1024, None, 1),
            (4096, 4096, None, 1),
            (4096, 4096, tiles(64), 4),
            (64, 64, None, 256),
            (i64::MAX, i64::MAX, tiles(i64::MAX), 1),
        ] {
            assert_eq!(pictures_at_once(width, height, 8, tiling), expected, "{width}×{height}");
        }
        let x = Tensor::from_slice(&[1f32, 2., 3., 4., 5.]).view([5, 1]);
        let counts = std::cell::RefCell::new(Vec::new());
        let network = |x: &Tensor| {
            counts.borrow_mut().push(x.size()[0]);
            x * 2.
        };
        assert!(in_slices(&x, 2, network).equal(&(&x * 2.)));
        assert!(in_slices(&x, 5, network).equal(&(&x * 2.)));
        assert_eq!(*counts.borrow(), [2, 2, 1, 5]);
    }
}
