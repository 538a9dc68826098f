//! `diffuscope explore`: prompts in, one interactive page out.

mod args;

use std::path::{Path, PathBuf};

use diffuscope::Result;
use diffuscope::explore::Recording;
use diffuscope::pipeline::{StableDiffusion, tiny_folder};
use diffuscope::write_file::write_new_file;
use tch::Tensor;

pub use args::ExploreArgs;

use crate::out::{check_apart, check_place, slug};
use crate::terminal::{bar, say};

/// Draws, decodes and writes one page.
pub fn run(args: ExploreArgs) -> Result<()> {
    args.check()?;
    let folder = args.model.clone().unwrap_or_else(tiny_folder);
    let stem = format!("diffuscope-{}", slug(&args.prompts[0]));
    let place = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{stem}.html")));
    check_place(&place)?;
    check_apart(&[("--out", &place)], &[("model", &folder)])?;
    let device = args.compute.device()?;
    let model = StableDiffusion::open(&folder, args.compute.dtype.kind(), device)?;
    let request = args.request(&model);
    for warning in model.warnings(&request)? {
        say(&format!("warning: {warning}"));
    }
    let scales = args.scales(&model, &request)?;
    let steps = model.plan(&request)?.steps.len();
    // A scale of 0 or 1 needs one prediction, and the page shows both.
    let second = scales.iter().filter(|scale| [0., 1.].contains(*scale)).count();
    let looks = if args.attention { scales.len() } else { 0 };
    let progress = bar(
        (steps * (scales.len() + second + looks)) as u64,
        "{bar:30} pass {pos}/{len} {eta} left",
    );
    let recording = Recording::draw(&model, &request, &scales, args.attention, || progress.inc(1))?;
    progress.finish_and_clear();
    let recording = recording
        .about("Command", command(&args, &scales))
        .about(
            "Model",
            args.model.as_ref().map_or("the embedded one".to_owned(), |m| m.display().to_string()),
        )
        .about("Weights", model.fingerprint()?);
    let progress = bar(0, "{spinner} {pos} pictures decoded");
    let decode = |latents: &Tensor| {
        let pictures = model.decode(latents)?;
        progress.inc(pictures.size()[0] as u64);
        Ok(pictures)
    };
    let page = recording.page(args.limit(), Some(&decode))?;
    progress.finish_and_clear();
    for note in page.notes() {
        say(&format!("note: {note}"));
    }
    println!("{}", write(&page, args.out.as_deref(), &stem)?.display());
    Ok(())
}

/// Writes the page where it was asked for, or under the first name that is free.
fn write(page: &diffuscope::explore::Page, out: Option<&Path>, stem: &str) -> Result<PathBuf> {
    if let Some(path) = out {
        page.save(path)?;
        return Ok(path.to_owned());
    }
    let numbered = |i: u32| match i {
        1 => PathBuf::from(format!("{stem}.html")),
        i => PathBuf::from(format!("{stem}-{i}.html")),
    };
    write_new_file((1..).map(numbered), page.html().as_bytes())
}

/// The command that makes the page again.
fn command(args: &ExploreArgs, scales: &[f64]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let list = |all: Vec<String>| all.join(",");
    let mut command = vec!["diffuscope explore".to_owned()];
    command.extend(args.prompts.iter().map(|prompt| quoted(prompt)));
    if !args.negative.is_empty() {
        command.push(format!("--negative {}", quoted(&args.negative)));
    }
    command.push(format!("--guidance {}", list(scales.iter().map(f64::to_string).collect())));
    command.push(format!("--seeds {}", list(args.seeds.iter().map(ToString::to_string).collect())));
    command.extend(args.sampler.map(|sampler| format!("--sampler {sampler}")));
    command.push(format!("--steps {}", args.steps));
    command.extend(args.attention.then(|| "--attention".to_owned()));
    command.extend(
        args.model.as_ref().map(|m| format!("--model {}", quoted(&m.display().to_string()))),
    );
    command.push(format!("--dtype {}", args.compute.dtype.name()));
    command.extend(args.full.then(|| "--full".to_owned()));
    command.join(" ")
}
