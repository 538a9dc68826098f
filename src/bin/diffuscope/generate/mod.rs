//! `diffuscope generate`: prompts in, pictures out.

mod args;
mod output;

use std::ops::ControlFlow;
use std::path::Path;

use diffuscope::Result;
use diffuscope::checkpoint::{Checkpoint, Lora};
use diffuscope::device::check_memory;
use diffuscope::pipeline::{Request, StableDiffusion, Trace, tiny_folder};
use tch::Device;

pub use args::GenerateArgs;
use args::LoraFile;
use output::{DrawnPicture, check_places, write};

use crate::out::{Out, check_place};
use crate::terminal::{bar, say};

/// Draws and writes; a run that is interrupted ends early and writes what it has.
pub fn run(mut args: GenerateArgs) -> Result<()> {
    args.check()?;
    let out = Out::new(args.out.as_deref(), &args.prompts[0])?;
    check_places(&args, &out)?;
    if let Some(path) = &args.trace {
        check_place(path)?;
    }
    let folder = args.model.clone().unwrap_or_else(tiny_folder);
    let model = open(&args, &folder)?;
    let mut request = args.request(&model)?;
    for warning in model.warnings(&request)? {
        say(&format!("warning: {warning}"));
    }
    request.prompts =
        request.prompts.iter().flat_map(|p| std::iter::repeat_n(p.clone(), args.count)).collect();
    let sampler = request.sampler.unwrap_or_else(|| model.scheduler.sampler());
    let several = args.sampling.guidance.len() * args.prompts.len() * args.count > 1;
    let Drawn { pictures, trace, stopped } = draw(&args, &model, &mut request)?;
    if let Some(stopped) = &stopped {
        say(stopped);
        // What was not reached is in no sheet.
        args.sampling.guidance.truncate(pictures.len() / request.prompts.len());
    }
    let settings = args.settings(sampler, &folder);
    for path in write(&args, &out, several, &pictures, trace, &settings)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Opens the model with its low-rank changes, where it is to compute.
fn open(args: &GenerateArgs, folder: &Path) -> Result<StableDiffusion> {
    let device = args.compute.device()?;
    let checkpoint = Checkpoint::open_with(folder, &args.open_options())?;
    let home = if args.offload { Device::Cpu } else { device };
    let mut model = StableDiffusion::from_checkpoint(&checkpoint, args.compute.dtype.kind(), home)?;
    if args.offload {
        model = model.offloaded(device);
    }
    let mut loras = Vec::new();
    for LoraFile { path, strength } in &args.loras {
        let lora = Lora::open(path)?;
        let layers = lora.networks();
        let layers: Vec<_> =
            layers.iter().map(|(name, n)| format!("{n} layers of {name}")).collect();
        say(&format!(
            "lora: {} changes {}, strength {strength}",
            path.display(),
            layers.join(", ")
        ));
        loras.push((lora, *strength));
    }
    model.set_loras(&loras)?;
    model.tiling = args.inputs.tiling(&model)?;
    Ok(model)
}

/// What came of all guidance scales.
struct Drawn {
    pictures: Vec<DrawnPicture>,
    trace: Option<Trace>,
    /// Where the run was stopped, in words.
    stopped: Option<String>,
}

/// Draws the request once for every guidance scale.
fn draw(args: &GenerateArgs, model: &StableDiffusion, request: &mut Request) -> Result<Drawn> {
    let steps = model.plan(request)?.steps.len() * args.sampling.guidance.len();
    // A picture that is given may say the size instead.
    let (width, height) = model.size(request.width, request.height).unwrap_or_default();
    let each = 12. * width as f64 * height as f64;
    let all = request.prompts.len() as f64 * args.sampling.guidance.len() as f64;
    check_memory(Device::Cpu, "the pictures of all guidance scales", all * each)?;
    let bar = bar(steps as u64, "{bar:30} step {pos}/{len} {msg} {eta} left");
    let mut drawn = Drawn { pictures: Vec::new(), trace: None, stopped: None };
    let mut prepared = model.prepare(request)?;
    for &scale in &args.sampling.guidance {
        // Of all that is prepared, only this is another at another scale.
        request.guidance = args.rule(scale)?;
        prepared.guide(&request.guidance);
        bar.set_message(format!("guidance {scale}"));
        let step = || {
            bar.inc(1);
            ControlFlow::Continue(())
        };
        let (image, finished) = if args.trace.is_some() {
            let trace = model.trace_with(request, |_| step())?;
            let drawn_image = (trace.image.shallow_clone(), trace.len() == steps);
            drawn.trace = Some(trace);
            drawn_image
        } else {
            let generation = model.run(&prepared, |_| step())?;
            (generation.image, generation.finished)
        };
        for (i, prompt) in request.prompts.iter().enumerate() {
            drawn.pictures.push(DrawnPicture {
                image: image.get(i as i64),
                prompt: prompt.clone(),
                seed: args.seed.after(i),
                guidance_scale: scale,
            });
        }
        if !finished {
            let done = bar.position();
            drawn.stopped = Some(format!(
                "stopped after {done} of {steps} steps: pictures as they looked from there"
            ));
            break;
        }
    }
    bar.finish_and_clear();
    Ok(drawn)
}
