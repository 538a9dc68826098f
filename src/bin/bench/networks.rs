//! Works of one network: a pass of the U-Net, encoding and decoding.

use diffuscope::models::unet::{Conditions, UNet};
use diffuscope::models::vae::Vae;
use diffuscope::noise::standard_normal;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use diffuscope::{Error, Result};
use tch::{Kind, Tensor, no_grad};

use crate::operations::{TOKENS, unet_operations, vae_operations};
use crate::order::{ReadyWork, WorkOrder, WorkRun, timed};

/// The timestep of a pass.
const TIMESTEP: i64 = 501;

/// Inputs by name: those of the file, which this writes if there is none.
pub fn inputs(order: &WorkOrder, shapes: &[(&str, Vec<i64>)]) -> Result<Vec<Tensor>> {
    if !order.inputs.exists() {
        let draw = |(seed, (name, shape)): (usize, &(&str, Vec<i64>))| {
            Ok(((*name).to_owned(), standard_normal(shape, seed as i64)?))
        };
        let drawn = shapes.iter().enumerate().map(draw).collect::<Result<Vec<_>>>()?;
        write_tensors(&order.inputs, &drawn, &[])?;
    }
    let file = TensorFile::open(&order.inputs)?;
    shapes.iter().map(|(name, _)| file.tensor(name)).collect()
}

pub fn unet(order: &WorkOrder) -> Result<ReadyWork> {
    let device = order.device()?;
    let unet = UNet::open(order.folder.join("unet"), order.kind()?, device)?;
    let config = unet.config();
    let (batch, side) = (order.batch, order.side);
    let mut shapes = vec![
        ("sample", vec![batch, config.in_channels, side, side]),
        ("context", vec![batch, TOKENS, config.cross_attention_dim]),
    ];
    if let (Some(all), Some(each)) =
        (config.projection_class_embeddings_input_dim, config.addition_time_embed_dim)
    {
        shapes.push(("text_embeds", vec![batch, all - 6 * each]));
    }
    let mut given = inputs(order, &shapes)?.into_iter().map(|x| x.to_device(device));
    let (sample, context) = match (given.next(), given.next()) {
        (Some(sample), Some(context)) => (sample, context),
        _ => return Err(Error::argument("inputs", "sample and context", "fewer")),
    };
    let text_embeds = given.next();
    let pixels = Tensor::from(8. * side as f64).to_kind(Kind::Float).to_device(device);
    let time_ids = text_embeds.as_ref().map(|_| pixels.expand([batch, 6], false));
    let conditions = Conditions { text_embeds, time_ids, ..context.into() };
    let operations = unet_operations(&order.folder.join("unet"), batch, side)?;
    let timestep = Tensor::from_slice(&[TIMESTEP]);
    let run = move || {
        let pass = || no_grad(|| unet.forward(&sample, &timestep, &conditions));
        let (seconds, answer) = timed(device, pass)?;
        Ok(WorkRun { seconds, answer: Some(answer) })
    };
    Ok(ReadyWork { run: Box::new(run), operations })
}

pub fn vae(order: &WorkOrder, encode: bool) -> Result<ReadyWork> {
    let device = order.device()?;
    let vae = Vae::open(order.folder.join("vae"), order.kind()?, device)?;
    let (config, side) = (vae.config(), order.side);
    let pixels = side * config.factor();
    let (name, shape) = match encode {
        true => ("image", vec![order.batch, config.in_channels, pixels, pixels]),
        false => ("latents", vec![order.batch, config.latent_channels, side, side]),
    };
    let mut given = inputs(order, &[(name, shape)])?;
    let input = given.remove(0).to_device(device);
    let operations = vae_operations(&order.folder.join("vae"), order.batch, side, encode)?;
    let run = move || {
        let pass = || match encode {
            true => Ok(no_grad(|| vae.posterior(&input))?.mean),
            false => no_grad(|| vae.decode(&input)),
        };
        let (seconds, answer) = timed(device, pass)?;
        Ok(WorkRun { seconds, answer: Some(answer) })
    };
    Ok(ReadyWork { run: Box::new(run), operations })
}
