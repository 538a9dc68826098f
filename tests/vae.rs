//! Autoencoders against diffusers: folders that `AutoencoderKL.save_pretrained` wrote.

mod golden;

use diffuscope::Result;
use diffuscope::models::vae::{Tiling, Vae};
use golden::Worst;
use tch::{Device, Kind};

#[test]
fn pictures_and_latents_of_diffusers() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    for (name, folder) in golden::folders("vae") {
        let numbers = golden::numbers(&folder);
        let vae = Vae::open(&folder, Kind::Float, Device::Cpu)?;
        let image = numbers.tensor("image")?;
        let posterior = vae.posterior(&image)?;
        worst.compare(&name, &posterior.mean, &numbers.tensor("mean")?);
        worst.compare(&name, &posterior.logvar, &numbers.tensor("logvar")?);
        worst.compare(&name, &vae.encode(&image)?, &numbers.tensor("encoded")?);
        worst.compare(
            &name,
            &vae.decode(&numbers.tensor("latents")?)?,
            &numbers.tensor("decoded")?,
        );
    }
    worst.finish("autoencoders");
    Ok(())
}

#[test]
fn tiles_of_diffusers() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    let folder = golden::path("vae/sd");
    let vae = Vae::open(&folder, Kind::Float, Device::Cpu)?;
    let numbers = golden::open("vae_tiles");
    let [image, latents] = ["image", "latents"].map(|name| numbers.tensor(name).unwrap());
    let tiling = Some(Tiling { tile: 4, overlap: 1 });
    let posterior = vae.posterior_tiled(&image, tiling)?;
    worst.compare("mean", &posterior.mean, &numbers.tensor("mean")?);
    worst.compare("decoded", &vae.decode_tiled(&latents, tiling)?, &numbers.tensor("decoded")?);
    worst.finish("autoencoders in tiles");

    // A single tile for everything gives the whole picture; cells outside the overlaps are those of their tile.
    let whole = vae.decode(&latents)?;
    assert!(vae.decode_tiled(&latents, Some(Tiling { tile: 11, overlap: 3 }))?.equal(&whole));
    let tiled = vae.decode_tiled(&latents, tiling)?;
    assert_eq!(tiled.size(), whole.size());
    let (first, cells) = (vae.decode(&latents.narrow(2, 0, 4).narrow(3, 0, 4))?, 3 * 8);
    let corner = |x: &tch::Tensor| x.narrow(2, 0, cells).narrow(3, 0, cells);
    assert!(corner(&tiled).equal(&corner(&first)));
    for (tile, overlap) in [(0, 0), (4, 4), (4, -1)] {
        assert!(vae.decode_tiled(&latents, Some(Tiling { tile, overlap })).is_err());
    }
    Ok(())
}

#[test]
fn an_autoencoder_that_overflows_in_f16_computes_in_f32() -> Result<()> {
    // diffusers writes `force_upcast` by default.
    let folder = golden::path("families/sdxl/vae");
    assert_eq!(Vae::open(&folder, Kind::Half, Device::Cpu)?.kind(), Kind::Float);
    assert_eq!(Vae::open(&folder, Kind::BFloat16, Device::Cpu)?.kind(), Kind::BFloat16);
    Ok(())
}
