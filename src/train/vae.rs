//! The autoencoder's training: pictures in, the same pictures out.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor, no_grad};

use super::export::write_component;
use super::initial_weights::load_initial_weights;
use super::losses::{edge_loss, perceptual_loss};
use super::optimizer::Optimizer;
use super::pictures::{check_pictures, near, rows, to_range};
use super::run::{TrainProgress, run};
use super::settings::TrainSettings;
use super::sheet::write_sheet;
use super::task::{LossParts, Trainable, TrainingTask};
use super::trained::Trained;
use crate::Result;
use crate::eval::distances::psnr;
use crate::models::judge::Judge;
use crate::models::params::Params;
use crate::models::vae::{Vae, VaeConfig};
use crate::noise::with_seed;
use crate::tensor_file::read_config;

/// The parts of the autoencoder's loss besides the pixels.
#[derive(Debug, Clone)]
pub struct VaeLossWeights {
    /// The weight of the differences between neighbouring pixels, which keeps edges sharp.
    pub edge: f64,
    /// The weight of the divergence of the latents' distribution from the standard normal one.
    pub kl: f64,
    /// The weight of [`perceptual_loss`].
    pub perceptual: f64,
    /// The folder of the judge whose feature maps it compares; without it, there is no such part.
    pub judge: Option<PathBuf>,
}

struct VaeTask<'a> {
    config: &'a VaeConfig,
    batch: i64,
    /// u8 [N, 3, H, W]
    pictures: &'a Tensor,
}

struct TrainableVae {
    vae: Vae,
    weights: VaeLossWeights,
    judge: Option<Judge>,
    device: Device,
}

impl Trainable for TrainableVae {
    /// `batch`: u8 pictures, and the noise of their latents.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, LossParts)> {
        let image = to_range(&batch[0].to_device(self.device));
        let posterior = self.vae.posterior(&image)?;
        let z = posterior.sample(&batch[1])?;
        let decoded = self.vae.decode(&self.vae.scale(&z))?;
        let pixel = (&decoded - &image).abs().mean(Kind::Float);
        let edge = edge_loss(&decoded, &image);
        let kl = posterior.kl();
        let mut total = &pixel + &edge * self.weights.edge + &kl * self.weights.kl;
        let mut parts =
            vec![("pixel", pixel), ("edge", edge), ("kl", kl), ("psnr", psnr(&decoded, &image)?)];
        if let Some(judge) = &self.judge {
            let perceptual = perceptual_loss(judge, &decoded, &image)?;
            total += &perceptual * self.weights.perceptual;
            parts.push(("perceptual", perceptual));
        }
        Ok((total, parts))
    }
}

impl TrainingTask for VaeTask<'_> {
    type Network = TrainableVae;

    fn batch(&self, seed: i64) -> Result<Vec<Tensor>> {
        let size = self.pictures.size();
        let side = |n: i64| n / self.config.factor();
        let latents = [self.batch, self.config.latent_channels, side(size[2]), side(size[3])];
        let (index, noise) = with_seed(seed, || {
            let index = Tensor::randint(size[0], [self.batch], (Kind::Int64, Device::Cpu));
            (index, Tensor::randn(latents, (Kind::Float, Device::Cpu)))
        });
        Ok(vec![rows(self.pictures, &index), noise])
    }

    /// Pictures above, their reconstructions below.
    fn sheet(&self, network: &TrainableVae, path: &Path) -> Result<()> {
        let count = self.pictures.size()[0].min(12);
        let image = to_range(&self.pictures.narrow(0, 0, count));
        let decoded = no_grad(|| network.vae.decode(&network.vae.encode(&image)?))?;
        let decoded = decoded.to_device(Device::Cpu);
        write_sheet(path, &Tensor::cat(&[image.to_device(Device::Cpu), decoded], 0), count)
    }

    fn export(&self, network: &TrainableVae, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let factor = optimizer.with_average(|| no_grad(|| self.scaling_factor(&network.vae)))?;
        let config = VaeConfig { scaling_factor: factor, ..self.config.clone() };
        write_component(&folder.join("vae"), "AutoencoderKL", &config, optimizer.average(), "")
    }
}

impl VaeTask<'_> {
    /// One over the standard deviation of the latents, so that the U-Net works on latents of variance 1;
    /// Rombach et al. 2022, appendix G.
    fn scaling_factor(&self, vae: &Vae) -> Result<f64> {
        let image = to_range(&self.pictures.narrow(0, 0, self.pictures.size()[0].min(256)));
        let mean = vae.posterior(&image)?.mean.to_kind(Kind::Float);
        Ok(1. / mean.std(true).double_value(&[]))
    }
}

/// The name of a tensor of an autoencoder with `levels` levels in the same autoencoder without the outermost
/// level, which makes the same latents of pictures half as large. `None` for tensors that only the larger one has.
fn name_without_outer_level(name: &str, levels: usize) -> Option<String> {
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
    // Up blocks are counted from the innermost. The outermost has no upsampler.
    match level("decoder.up_blocks.") {
        Some((level, _)) if level + 1 == levels => None,
        Some((level, rest)) if level + 2 == levels && rest.starts_with("upsamplers.") => None,
        _ => Some(name.to_owned()),
    }
}

/// Trains an autoencoder on u8 pictures [N, 3, H, W] and writes it to `settings.out/model/vae/`. That of
/// `settings.from` may have one level fewer: the outermost level is then fresh, and the others continue.
///
/// # Errors
/// A configuration that cannot be built; whatever [`run`] refuses.
pub fn train_vae(
    pictures: &Tensor,
    config: &VaeConfig,
    weights: &VaeLossWeights,
    settings: &TrainSettings,
    progress: impl FnMut(&TrainProgress),
) -> Result<Trained> {
    check_pictures(pictures)?;
    let (kind, device) = (settings.kind, settings.device);
    let build = || {
        let params = Params::fresh(kind, device);
        let vae = with_seed(settings.seed, || Vae::new(&params, config))?;
        if let Some(folder) = &settings.from {
            let folder = folder.join("vae");
            let old: VaeConfig = read_config(folder.join("config.json"))?;
            let [levels, old] = [config, &old].map(|c| c.block_out_channels.len());
            let known_as = |name: &str| match levels == old + 1 {
                true => name_without_outer_level(name, levels),
                false => Some(name.to_owned()),
            };
            load_initial_weights(&params, &folder, known_as, None)?;
        }
        let open = |folder: &PathBuf| Judge::open(folder, kind, device);
        let judge = weights.judge.as_ref().map(open).transpose()?;
        Ok((params, TrainableVae { vae, weights: weights.clone(), judge, device }))
    };
    let pictures = &near(pictures, settings.device)?;
    run(build, settings, &VaeTask { config, batch: settings.batch, pictures }, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Growing keeps every tensor of the smaller autoencoder except those at its edge.
    #[test]
    fn an_autoencoder_grows_by_an_outer_level() -> Result<()> {
        let config = |widths: &[i64]| VaeConfig {
            block_out_channels: widths.to_vec(),
            down_block_types: vec!["DownEncoderBlock2D".into(); widths.len()],
            up_block_types: vec!["UpDecoderBlock2D".into(); widths.len()],
            norm_num_groups: 4,
            sample_size: 16,
            scaling_factor: 1.,
            ..VaeConfig::default()
        };
        let shapes = |widths: &[i64]| -> Result<std::collections::HashMap<String, Vec<i64>>> {
            let params = Params::fresh(Kind::Float, Device::Cpu);
            Vae::new(&params, &config(widths))?;
            Ok(params.variables().into_iter().map(|(name, t)| (name, t.size())).collect())
        };
        let (small, large) = (shapes(&[8, 16])?, shapes(&[8, 8, 16])?);
        let known: Vec<(&String, String)> = large
            .keys()
            .filter_map(|name| Some((name, name_without_outer_level(name, 3)?)))
            .collect();
        for (name, old) in &known {
            assert_eq!(small.get(old), large.get(*name), "{name} from {old}");
        }
        // The convolutions to and from pixels, with their norm, are at the edge.
        assert_eq!(known.len(), small.len() - 6);
        Ok(())
    }
}
