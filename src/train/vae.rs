//! The autoencoder's training: pictures in, the same pictures out.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor, no_grad};

use super::run::begin_from;
use super::{Learner, Optimizer, Parts, Progress, Settings, Task, run};
use crate::models::judge::Judge;
use crate::models::vae::{Vae, VaeConfig};
use crate::noise::with_seed;
use crate::weights::{Params, read_config, write_file, write_tensors};
use crate::{Error, Result};

/// What counts besides the pixels.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The weight of the differences between neighbouring pixels: what makes edges crisp.
    pub edge: f64,
    /// The weight of the distance of the latents' distribution from the standard normal one.
    pub kl: f64,
    /// The weight of [`perceptual_loss`].
    pub perceptual: f64,
    /// The folder of the judge whose features it compares.
    pub judge: Option<PathBuf>,
}

struct Autoencoding<'a> {
    config: &'a VaeConfig,
    batch: i64,
    /// u8 [N, 3, H, W]
    pictures: &'a Tensor,
}

struct Autoencoder {
    vae: Vae,
    weights: Loss,
    judge: Option<Judge>,
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

/// How differently a judge's levels see two pictures: features that pixels hardly show, such as eyes, count here.
///
/// ```text
/// sum over levels l of  mean over places |f_l(a) / |f_l(a)| - f_l(b) / |f_l(b)||^2
/// ```
/// Zhang et al. 2018, eq. 1, with all channels weighing the same and the judge for a network.
///
/// # Shapes
/// `a`, `b` [B, 3, H, W] in [-1, 1], of the judge's size; the gradient goes to `a`.
/// # Errors
/// Pictures of another size.
pub fn perceptual_loss(judge: &Judge, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let unit = |x: &Tensor| {
        let x = x.to_kind(Kind::Float);
        let norm = (x.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float) + 1e-6).sqrt();
        x / norm
    };
    let seen = no_grad(|| judge.levels(b))?;
    let levels = judge.levels(a)?;
    let far = |(a, b): (&Tensor, &Tensor)| {
        let square = (unit(a) - unit(b)).square();
        square.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float)
    };
    Ok(levels.iter().zip(&seen).map(far).sum())
}

impl Learner for Autoencoder {
    /// Of u8 pictures and the noise that their latents are drawn with.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, Parts)> {
        let image = to_range(&batch[0]);
        let posterior = self.vae.posterior(&image)?;
        let z = posterior.sample(&batch[1])?;
        let image = image.to_device(z.device());
        let again = self.vae.decode(&self.vae.scale(&z))?;
        let pixel = (&again - &image).abs().mean(Kind::Float);
        let edge = edge_loss(&again, &image);
        let kl = posterior.kl();
        let mut total = &pixel + &edge * self.weights.edge + &kl * self.weights.kl;
        let mut parts = vec![
            ("pixel", pixel.double_value(&[])),
            ("edge", edge.double_value(&[])),
            ("kl", kl.double_value(&[])),
            ("psnr", psnr(&again, &image).double_value(&[])),
        ];
        if let Some(judge) = &self.judge {
            let perceptual = perceptual_loss(judge, &again, &image)?;
            parts.push(("perceptual", perceptual.double_value(&[])));
            total += perceptual * self.weights.perceptual;
        }
        Ok((total, parts))
    }
}

/// `10 log10(2^2 / mse)`, in dB: the range [-1, 1] is 2 wide. The mean over pictures.
pub fn psnr(a: &Tensor, b: &Tensor) -> Tensor {
    let mse = (a - b).square().flatten(1, -1).mean_dim(-1, false, Kind::Float).clamp_min(1e-10);
    ((mse.reciprocal() * 4.).log10() * 10.).mean(Kind::Float)
}

impl Task for Autoencoding<'_> {
    type Network = Autoencoder;

    fn batch(&self, seed: i64) -> Result<Vec<Tensor>> {
        let size = self.pictures.size();
        let side = |n: i64| n / self.config.factor();
        let latents = [self.batch, self.config.latent_channels, side(size[2]), side(size[3])];
        let (index, noise) = with_seed(seed, || {
            let index = Tensor::randint(size[0], [self.batch], (Kind::Int64, Device::Cpu));
            (index, Tensor::randn(latents, (Kind::Float, Device::Cpu)))
        });
        Ok(vec![self.pictures.index_select(0, &index), noise])
    }

    /// Pictures above, what the autoencoder makes of them below.
    fn sheet(&self, network: &Autoencoder, path: &Path) -> Result<()> {
        let count = self.pictures.size()[0].min(12);
        let image = to_range(&self.pictures.narrow(0, 0, count));
        let again = no_grad(|| network.vae.decode(&network.vae.encode(&image)?))?;
        let again = again.to_device(Device::Cpu);
        write_sheet(path, &Tensor::cat(&[image, again], 0), count)
    }

    fn export(&self, network: &Autoencoder, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let factor = optimizer.with_average(|| no_grad(|| self.scaling_factor(&network.vae)))?;
        let config = VaeConfig { scaling_factor: factor, ..self.config.clone() };
        write_component(&folder.join("vae"), "AutoencoderKL", &config, optimizer.average(), "")
    }
}

impl Autoencoding<'_> {
    /// One over the latents' standard deviation: the U-Net works on latents of variance 1;
    /// Rombach et al. 2022, appendix G.
    fn scaling_factor(&self, vae: &Vae) -> Result<f64> {
        let image = to_range(&self.pictures.narrow(0, 0, self.pictures.size()[0].min(256)));
        let mean = vae.posterior(&image)?.mean.to_kind(Kind::Float);
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

/// What a tensor of an autoencoder of `levels` levels is called in one that has no outermost level: pictures
/// twice as large become the same latents. `None` for what only the larger one has.
fn grown_from(name: &str, levels: usize) -> Option<String> {
    let outer = ["encoder.conv_in.", "decoder.conv_norm_out.", "decoder.conv_out."];
    if outer.iter().any(|part| name.starts_with(part)) {
        return None;
    }
    let level = |prefix: &str| {
        let (level, rest) = name.strip_prefix(prefix)?.split_once('.')?;
        Some((level.parse::<usize>().ok()?, rest.to_owned()))
    };
    if let Some((level, rest)) = level("encoder.down_blocks.") {
        return level.checked_sub(1).map(|inner| format!("encoder.down_blocks.{inner}.{rest}"));
    }
    // Its up blocks are counted from the innermost; the outermost does not enlarge.
    match level("decoder.up_blocks.") {
        Some((level, _)) if level + 1 == levels => None,
        Some((level, rest)) if level + 2 == levels && rest.starts_with("upsamplers.") => None,
        _ => Some(name.to_owned()),
    }
}

/// Trains an autoencoder on u8 pictures [N, 3, H, W] and leaves it in `settings.out/model/vae/`. `settings.from`
/// may have a level less: the outermost is then fresh, and the others go on.
///
/// # Errors
/// A configuration that cannot be built; whatever [`run`] refuses.
pub fn train_vae(
    pictures: &Tensor,
    config: &VaeConfig,
    weights: &Loss,
    settings: &Settings,
    kind: Kind,
    device: Device,
    progress: impl FnMut(&Progress),
) -> Result<()> {
    if pictures.kind() != Kind::Uint8 || pictures.dim() != 4 || pictures.size()[1] != 3 {
        return Err(Error::shape("pictures", "u8 [N, 3, H, W]", &pictures.size()));
    }
    let build = || {
        let params = Params::fresh(kind, device);
        let vae = with_seed(settings.seed, || Vae::new(&params, config))?;
        if let Some(folder) = &settings.from {
            let folder = folder.join("vae");
            let old: VaeConfig = read_config(folder.join("config.json"))?;
            let [levels, old] = [config, &old].map(|c| c.block_out_channels.len());
            let known_as = |name: &str| match levels == old + 1 {
                true => grown_from(name, levels),
                false => Some(name.to_owned()),
            };
            begin_from(&params, &folder, known_as, None)?;
        }
        let open = |folder: &PathBuf| Judge::open(folder, kind, device);
        let judge = weights.judge.as_ref().map(open).transpose()?;
        Ok((params, Autoencoder { vae, weights: weights.clone(), judge }))
    };
    run(build, settings, &Autoencoding { config, batch: settings.batch, pictures }, progress)
}

#[cfg(all(test, feature = "scenes"))]
mod tests {
    use super::*;

    #[test]
    fn twenty_decibels_are_a_tenth_of_the_range() {
        let a = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        assert!((psnr(&a, &(&a + 0.2)).double_value(&[]) - 20.).abs() < 1e-4);
        // The mean over pictures: one of 20 dB, one of 40 dB.
        let far = Tensor::from_slice(&[0.2f32, 0.02]).view([2, 1, 1, 1]);
        assert!((psnr(&a, &(&a + far)).double_value(&[]) - 30.).abs() < 1e-3);
    }

    /// The perceptual loss is 0 for equal pictures, and following its gradient makes pictures more alike.
    #[test]
    fn a_judge_s_features_pull_a_picture_towards_another() -> Result<()> {
        let config = super::super::judge::judge_config(32);
        let params = Params::fresh(Kind::Float, Device::Cpu);
        let judge = with_seed(1, || Judge::new(&params, &config))?;
        let picture = |seed| crate::noise::standard_normal(&[1, 3, 32, 32], seed);
        let (a, b) = (picture(1)?.set_requires_grad(true), picture(2)?);
        assert_eq!(perceptual_loss(&judge, &b, &b)?.double_value(&[]), 0.);
        let loss = perceptual_loss(&judge, &a, &b)?;
        loss.backward();
        let nearer = no_grad(|| &a - a.grad() / a.grad().norm());
        let less = perceptual_loss(&judge, &nearer, &b)?;
        assert!(less.double_value(&[]) < 0.98 * loss.double_value(&[]), "{less} after {loss}");
        Ok(())
    }

    /// Growing keeps every tensor of the smaller autoencoder but those at its edge.
    #[test]
    fn an_autoencoder_grows_by_an_outer_level() -> Result<()> {
        let config = |widths: &[i64]| VaeConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: widths.to_vec(),
            down_block_types: vec!["DownEncoderBlock2D".into(); widths.len()],
            up_block_types: vec!["UpDecoderBlock2D".into(); widths.len()],
            layers_per_block: 1,
            norm_num_groups: 4,
            act_fn: "silu".into(),
            sample_size: 16,
            scaling_factor: 1.,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            force_upcast: false,
            latents_mean: None,
        };
        let shapes = |widths: &[i64]| -> Result<std::collections::HashMap<String, Vec<i64>>> {
            let params = Params::fresh(Kind::Float, Device::Cpu);
            Vae::new(&params, &config(widths))?;
            Ok(params.variables().into_iter().map(|(name, t)| (name, t.size())).collect())
        };
        let (small, large) = (shapes(&[8, 16])?, shapes(&[8, 8, 16])?);
        let known: Vec<(&String, String)> =
            large.keys().filter_map(|name| Some((name, grown_from(name, 3)?))).collect();
        for (name, old) in &known {
            assert_eq!(small.get(old), large.get(*name), "{name} from {old}");
        }
        // The convolutions to and from pixels, with their norm, are at the edge.
        assert_eq!(known.len(), small.len() - 6);
        Ok(())
    }
}
