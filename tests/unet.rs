//! U-Nets against diffusers: folders that `UNet2DConditionModel.save_pretrained` wrote.

mod golden;

use diffuscope::Result;
use diffuscope::models::unet::UNet;
use golden::Worst;
use tch::{Device, Kind, Tensor};

#[test]
fn predictions_of_diffusers() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    for (name, folder) in golden::folders("unet") {
        let numbers = golden::numbers(&folder);
        let unet = UNet::open(&folder, Kind::Float, Device::Cpu)?;
        let [sample, timestep, context] =
            ["sample", "timestep", "context"].map(|name| numbers.tensor(name).unwrap());
        let noise_pred = unet.forward(&sample, &timestep, &context)?;
        worst.compare(&name, &noise_pred, &numbers.tensor("noise_pred")?);
        let between = unet.forward(&sample, &Tensor::from(344.4828f32), &context)?;
        worst.compare(&name, &between, &numbers.tensor("fractional")?);

        // Looking at the attention changes nothing, and every row of a map is a distribution.
        let (same, maps) = unet.forward_with_attention(&sample, &timestep, &context)?;
        assert!(same.equal(&noise_pred), "{name}");
        assert!(!maps.is_empty());
        for map in maps {
            let sums = map.weights.sum_dim_intlist(-1, false, Kind::Float);
            worst.compare(&map.layer, &sums, &sums.ones_like());
            let (height, width) = map.cells;
            assert_eq!(map.weights.size()[2], height * width, "{name} {}", map.layer);
            let keys = if map.cross { context.size()[1] } else { height * width };
            assert_eq!(map.weights.size()[3], keys, "{name} {}", map.layer);
        }
    }
    worst.finish("U-Nets");
    Ok(())
}
