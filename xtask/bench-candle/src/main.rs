//! A contestant of `cargo xtask bench`: Stable Diffusion's networks in candle. docs/bench.md describes the lines that it
//! reads and writes.

use candle_core::{DType, Device, Error, Result, Tensor, safetensors};
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use candle_transformers::models::stable_diffusion::vae::{AutoEncoderKL, AutoEncoderKLConfig};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// The timestep of a pass.
const TIMESTEP: f64 = 501.;

/// A work that is ready, and where its answer goes until it is there.
struct Work {
    run: Box<dyn Fn() -> Result<Option<Tensor>>>,
    answer: Option<String>,
    rest: Option<u64>,
}

fn main() {
    let mut work = None;
    for line in std::io::stdin().lines().map_while(std::io::Result::ok) {
        let answer =
            answer(&line, &mut work).unwrap_or_else(|error| json!({ "error": first_line(&error) }));
        println!("{answer}");
        let _ = std::io::stdout().flush();
    }
}

fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn answer(line: &str, work: &mut Option<Work>) -> Result<Value> {
    let order: Value = serde_json::from_str(line).map_err(Error::wrap)?;
    match order["do"].as_str() {
        Some("hello") => Ok(json!({ "versions": { "candle": "0.11.1" } })),
        Some("prepare") => {
            *work = None;
            let run = prepare(&order)?;
            let answer = order["answer"].as_str().map(str::to_owned);
            *work = Some(Work { run, answer, rest: memory("VmRSS:") });
            Ok(json!({ "ready": true }))
        }
        Some("run") => {
            let work = work.as_mut().ok_or_else(|| Error::Msg("nothing is prepared".into()))?;
            let _ = fs::write("/proc/self/clear_refs", "5");
            let started = Instant::now();
            let made = (work.run)()?;
            let seconds = started.elapsed().as_secs_f64();
            let peak = memory("VmHWM:");
            if let (Some(made), Some(path)) = (made, work.answer.take()) {
                let answer = HashMap::from([("answer", made.to_dtype(DType::F32)?)]);
                safetensors::save(&answer, path)?;
            }
            Ok(json!({ "seconds": seconds, "peak": peak, "rest": work.rest }))
        }
        _ => Err(Error::Msg("there is no such order".into())),
    }
}

fn memory(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

type Run = Box<dyn Fn() -> Result<Option<Tensor>>>;

fn prepare(order: &Value) -> Result<Run> {
    let text = |name: &str| order[name].as_str().unwrap_or_default();
    let dtype = match text("dtype") {
        "f32" => DType::F32,
        "bf16" => DType::BF16,
        _ => DType::F16,
    };
    if text("device") != "cpu" {
        return Err(Error::Msg("it is built for CPUs".into()));
    }
    let inputs = || safetensors::load(text("inputs"), &Device::Cpu);
    let given = |name: &str| -> Result<Tensor> {
        let inputs = inputs()?;
        let found =
            inputs.get(name).ok_or_else(|| Error::Msg(format!("there is no input {name}")))?;
        found.to_dtype(dtype)
    };
    let folder = Path::new(text("folder"));
    match text("work") {
        "unet" => {
            let unet = unet(&folder.join("unet"), dtype)?;
            let (sample, context) = (given("sample")?, given("context")?);
            Ok(Box::new(move || unet.forward(&sample, TIMESTEP, &context).map(Some)))
        }
        "vae-decode" => {
            let (vae, scale) = vae(&folder.join("vae"), dtype)?;
            let latents = (given("latents")? / scale)?;
            Ok(Box::new(move || vae.decode(&latents).map(Some)))
        }
        "vae-encode" => {
            let (vae, _) = vae(&folder.join("vae"), dtype)?;
            let image = given("image")?;
            // It draws from the latents' distribution and does not tell their mean.
            Ok(Box::new(move || vae.encode(&image)?.sample().map(|_| None)))
        }
        _ => Err(Error::Msg("its networks alone are measured".into())),
    }
}

fn config(folder: &Path) -> Result<Value> {
    serde_json::from_str(&fs::read_to_string(folder.join("config.json"))?).map_err(Error::wrap)
}

fn weights(folder: &Path, dtype: DType) -> Result<VarBuilder<'static>> {
    let path = folder.join("diffusion_pytorch_model.safetensors");
    // SAFETY: nothing changes the file meanwhile.
    unsafe { VarBuilder::from_mmaped_safetensors(&[path], dtype, &Device::Cpu) }
}

fn number(config: &Value, name: &str, default: usize) -> usize {
    config[name].as_u64().map_or(default, |n| n as usize)
}

fn numbers(config: &Value, name: &str) -> Vec<usize> {
    let all = config[name].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(Value::as_u64).map(|n| n as usize).collect()
}

fn unet(folder: &Path, dtype: DType) -> Result<UNet2DConditionModel> {
    let config = config(folder)?;
    if !config["addition_embed_type"].is_null() {
        return Err(Error::Msg("its U-Net takes no pooled text and no sizes".into()));
    }
    let types = config["down_block_types"].as_array().cloned().unwrap_or_default();
    let block = |(out_channels, kind): (usize, &Value)| BlockConfig {
        out_channels,
        use_cross_attn: (kind == "CrossAttnDownBlock2D").then_some(1),
        attention_head_dim: number(&config, "attention_head_dim", 8),
    };
    let blocks =
        numbers(&config, "block_out_channels").into_iter().zip(&types).map(block).collect();
    let built = UNet2DConditionModelConfig {
        blocks,
        layers_per_block: number(&config, "layers_per_block", 2),
        cross_attention_dim: number(&config, "cross_attention_dim", 768),
        norm_num_groups: number(&config, "norm_num_groups", 32),
        ..UNet2DConditionModelConfig::default()
    };
    UNet2DConditionModel::new(weights(folder, dtype)?, 4, 4, false, built)
}

/// The autoencoder, and the factor of its latents.
fn vae(folder: &Path, dtype: DType) -> Result<(AutoEncoderKL, f64)> {
    let config = config(folder)?;
    let built = AutoEncoderKLConfig {
        block_out_channels: numbers(&config, "block_out_channels"),
        layers_per_block: number(&config, "layers_per_block", 2),
        norm_num_groups: number(&config, "norm_num_groups", 32),
        ..AutoEncoderKLConfig::default()
    };
    let scale = config["scaling_factor"].as_f64().unwrap_or(0.18215);
    Ok((AutoEncoderKL::new(weights(folder, dtype)?, 3, 3, built)?, scale))
}
