//! Every stage of a checkpoint on given inputs, one after another, with its time and the memory that it took:
//!
//! ```text
//! cargo run --release --example stages -- CHECKPOINT INPUTS.safetensors OUTPUTS.safetensors [f32|bf16|f16]
//! ```
//! The inputs are `ids` [B, 77], `sample` [B, 4, h, w], `timestep` [B], `image` [B, 3, H, W] and `latents`
//! [B, 4, h, w]; the outputs `context`, `noise_pred`, `mean` (the image's latents, not scaled) and `decoded`.

use std::error::Error;
use std::time::Instant;

use diffuscope::device;
use diffuscope::pipeline::StableDiffusion;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use tch::{Kind, Tensor, no_grad};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, inputs, outputs, dtype @ ..] = args.as_slice() else {
        return Err("expected CHECKPOINT INPUTS OUTPUTS [f32|bf16|f16]".into());
    };
    let kind = match dtype.first().map_or("f32", String::as_str) {
        "f32" => Kind::Float,
        "bf16" => Kind::BFloat16,
        "f16" => Kind::Half,
        other => return Err(format!("dtype: expected f32, bf16 or f16, got {other}").into()),
    };
    let device = device::pick(None)?.device;
    report("libtorch", 0.);

    let start = Instant::now();
    let model = StableDiffusion::open(checkpoint, kind, device)?;
    report("loading", start.elapsed().as_secs_f64());

    let inputs = TensorFile::open(inputs)?;
    let given = |name: &str| inputs.tensor(name);
    let timed = |stage: &str, run: &dyn Fn() -> diffuscope::Result<Tensor>| {
        let start = Instant::now();
        let made = no_grad(run)?.to_device(tch::Device::Cpu).to_kind(Kind::Float);
        report(stage, start.elapsed().as_secs_f64());
        Ok::<_, diffuscope::Error>(made)
    };
    let ids = given("ids")?;
    let context = timed("text encoder", &|| model.text_encoder.encode(&ids))?;
    let (sample, timestep) = (given("sample")?, given("timestep")?);
    let noise_pred = timed("U-Net", &|| model.unet.forward(&sample, &timestep, &context))?;
    let image = given("image")?;
    let mean = timed("VAE encoder", &|| Ok(model.vae.posterior(&image)?.mean))?;
    let latents = given("latents")?;
    let decoded = timed("VAE decoder", &|| model.vae.decode(&latents))?;

    let made =
        [("context", context), ("noise_pred", noise_pred), ("mean", mean), ("decoded", decoded)];
    write_tensors(outputs, &made.map(|(name, tensor)| (name.to_owned(), tensor)), &[])?;
    Ok(())
}

/// Seconds, and the most memory so far, where the system says it.
fn report(stage: &str, seconds: f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let gb = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kb.map_or("?".into(), |kb| format!("{:.2} GB", kb * 1024. / 1e9))
    };
    let (peak, own, files) = (gb("VmHWM:"), gb("RssAnon:"), gb("RssFile:"));
    println!("{stage:<13} {seconds:>7.1} s   peak {peak}, now {own} its own and {files} of files");
}
