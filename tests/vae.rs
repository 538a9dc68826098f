//! Autoencoders against diffusers: folders that `AutoencoderKL.save_pretrained` wrote.

mod golden;

use diffuscope::Result;
use diffuscope::models::vae::Vae;
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
