//! The autoencoder's training: pictures in, the same pictures out.

use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::run::begin_from;
use super::{Optimizer, Progress, Settings, Task, run};
use crate::models::vae::{Vae, VaeConfig};
use crate::noise::with_seed;
use crate::weights::{Params, write_file, write_tensors};
use crate::{Error, Result};

/// What counts besides the pixels.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The weight of the differences between neighbouring pixels: what makes edges crisp.
    pub edge: f64,
    /// The weight of the distance of the latents' distribution from the standard normal one.
    pub kl: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Self { edge: 1., kl: 1e-4 }
    }
}

struct Autoencoding<'a> {
    vae: Vae,
    config: VaeConfig,
    weights: Loss,
    batch: i64,
    /// u8 [N, 3, H, W]
    pictures: &'a Tensor,
}

/// u8 pictures to [-1, 1].
pub(super) fn to_range(pictures: &Tensor) -> Tensor {
    pictures.to_kind(Kind::Float) / 127.5 - 1.
}

/// `|difference|` of neighbouring pixels, of two pictures, along both sides.
fn edge_loss(a: &Tensor, b: &Tensor) -> Tensor {
    let along = |x: &Tensor, dim: i64| x.diff(1, dim, None::<Tensor>, None::<Tensor>);
    let of = |dim| (along(a, dim) - along(b, dim)).abs().mean(Kind::Float);
    of(2) + of(3)
}

impl Task for Autoencoding<'_> {
    fn loss(&self, seed: i64) -> Result<(Tensor, Vec<(&'static str, f64)>)> {
        let count = self.pictures.size()[0];
        let config = &self.config;
        let side = |n: i64| n / config.factor();
        let size = self.pictures.size();
        let latents = [self.batch, config.latent_channels, side(size[2]), side(size[3])];
        let (index, noise) = with_seed(seed, || {
            let index = Tensor::randint(count, [self.batch], (Kind::Int64, Device::Cpu));
            (index, Tensor::randn(latents, (Kind::Float, Device::Cpu)))
        });
        let image = to_range(&self.pictures.index_select(0, &index));
        let posterior = self.vae.posterior(&image)?;
        let z = posterior.sample(&noise)?;
        let image = image.to_device(z.device());
        let again = self.vae.decode(&self.vae.scale(&z))?;
        let pixel = (&again - &image).abs().mean(Kind::Float);
        let edge = edge_loss(&again, &image);
        let kl = posterior.kl();
        let total = &pixel + &edge * self.weights.edge + &kl * self.weights.kl;
        let mse = (&again - &image).square().mean(Kind::Float).double_value(&[]);
        let parts = vec![
            ("pixel", pixel.double_value(&[])),
            ("edge", edge.double_value(&[])),
            ("kl", kl.double_value(&[])),
            // The range [-1, 1] is 2 wide.
            ("psnr", 10. * (4. / mse).log10()),
        ];
        Ok((total, parts))
    }

    /// Pictures above, what the autoencoder makes of them below.
    fn sheet(&self, path: &Path) -> Result<()> {
        let count = self.pictures.size()[0].min(12);
        let image = to_range(&self.pictures.narrow(0, 0, count));
        let again = no_grad(|| self.vae.decode(&self.vae.encode(&image)?))?;
        let again = again.to_device(Device::Cpu);
        write_sheet(path, &Tensor::cat(&[image, again], 0), count)
    }

    fn export(&self, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let factor = optimizer.with_average(|| no_grad(|| self.scaling_factor()))?;
        let config = VaeConfig { scaling_factor: factor, ..self.config.clone() };
        write_component(&folder.join("vae"), "AutoencoderKL", &config, optimizer.average(), "")
    }
}

impl Autoencoding<'_> {
    /// One over the latents' standard deviation: the U-Net works on latents of variance 1;
    /// Rombach et al. 2022, appendix G.
    fn scaling_factor(&self) -> Result<f64> {
        let image = to_range(&self.pictures.narrow(0, 0, self.pictures.size()[0].min(256)));
        let mean = self.vae.posterior(&image)?.mean.to_kind(Kind::Float);
        Ok(1. / mean.std(true).double_value(&[]))
    }
}

/// Writes one PNG with `columns` pictures of [N, 3, H, W] a row, each enlarged three times.
pub(super) fn write_sheet(path: &Path, pictures: &Tensor, columns: i64) -> Result<()> {
    let size = pictures.size();
    let rows = size[0] / columns;
    let (h, w) = (3 * size[2], 3 * size[3]);
    let large = pictures.upsample_nearest2d([h, w], None, None);
    let grid = large
        .narrow(0, 0, rows * columns)
        .view([rows, columns, 3, h, w])
        .permute([2, 0, 3, 1, 4])
        .reshape([1, 3, rows * h, columns * w]);
    crate::picture::write_png(path, &grid, &[])
}

/// Writes a component of a diffusers folder: `config.json` and f16 weights, whose names lose `prefix`.
pub(super) fn write_component<'a>(
    folder: &Path,
    class: &str,
    config: &impl serde::Serialize,
    weights: impl Iterator<Item = (&'a str, &'a Tensor)>,
    prefix: &str,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join("config.json");
    let mut json = serde_json::to_value(config).map_err(|e| Error::config(&path, e))?;
    if let Some(keys) = json.as_object_mut() {
        let key = if class.starts_with("CLIP") { "architectures" } else { "_class_name" };
        let value = match key {
            "architectures" => serde_json::json!([class]),
            _ => serde_json::json!(class),
        };
        keys.insert(key.into(), value);
    }
    let text = serde_json::to_string_pretty(&json).map_err(|e| Error::config(&path, e))?;
    let weights: Vec<(String, Tensor)> = weights
        .filter_map(|(name, t)| {
            Some((name.strip_prefix(prefix)?.to_owned(), t.to_kind(Kind::Half)))
        })
        .collect();
    let stem = if class.starts_with("CLIP") { "model" } else { "diffusion_pytorch_model" };
    write_tensors(folder.join(format!("{stem}.safetensors")), &weights, &[])?;
    write_file(&path, format!("{text}\n").as_bytes())
}

/// Trains an autoencoder on u8 pictures [N, 3, H, W] and leaves it in `settings.out/model/vae/`.
///
/// # Errors
/// A configuration that cannot be built; whatever [`run`] refuses.
pub fn train_vae(
    pictures: &Tensor,
    config: &VaeConfig,
    weights: Loss,
    settings: &Settings,
    kind: Kind,
    device: Device,
    progress: impl FnMut(&Progress),
) -> Result<()> {
    if pictures.kind() != Kind::Uint8 || pictures.dim() != 4 || pictures.size()[1] != 3 {
        return Err(Error::shape("pictures", "u8 [N, 3, H, W]", &pictures.size()));
    }
    let params = Params::fresh(kind, device);
    let vae = with_seed(settings.seed, || Vae::new(&params, config))?;
    if let Some(folder) = &settings.from {
        begin_from(&params, "", &folder.join("vae"), None)?;
    }
    let (config, batch) = (config.clone(), settings.batch);
    let task = Autoencoding { vae, config, weights, batch, pictures };
    run(&params, settings, &task, progress)
}
