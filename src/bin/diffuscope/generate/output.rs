//! What `generate` writes: pictures, a sheet that compares them, a trace, and in each what it was made with.

use std::path::{Path, PathBuf};

use diffuscope::pipeline::Trace;
use diffuscope::plot::{self, Sheet};
use diffuscope::sampler::Sampler;
use diffuscope::{Error, Result, picture};
use tch::Tensor;

use super::args::{GenerateArgs, LoraFile};
use crate::options::Seed;
use crate::out::{Out, check_apart, is_png, same_file, slug};

/// Most pictures in a row of a contact sheet.
const COLUMNS: usize = 6;

/// The name of the sheet in a folder.
const SHEET: &str = "sheet";

/// The texts that a file carries: key and value.
pub type Texts = Vec<(String, String)>;

/// One picture and what is its own: prompt, seed, guidance scale.
pub struct DrawnPicture {
    pub image: Tensor,
    pub prompt: String,
    pub seed: Seed,
    pub guidance_scale: f64,
}

/// Writes all files of a call; returns their paths.
pub fn write(
    args: &GenerateArgs,
    out: &Out,
    several: bool,
    drawn: &[DrawnPicture],
    trace: Option<Trace>,
    settings: &Texts,
) -> Result<Vec<PathBuf>> {
    let texts_of_all = sheet_texts(args, drawn, settings);
    let mut files = Vec::new();
    if !several || out.is_folder() {
        for (i, one) in drawn.iter().enumerate() {
            let name = picture_name(args, i, &one.prompt, one.seed, one.guidance_scale);
            let mut picture = picture::to_rgb8(&one.image)?;
            files.push((name, picture.remove(0), texts(one, settings)));
        }
    }
    if several {
        let sheet = sheet(args, drawn, settings)?.rgb8()?;
        files.push((SHEET.to_owned(), sheet, texts_of_all.clone()));
    }
    let mut written = Vec::new();
    for (name, picture, texts) in files {
        written.push(out.write(&name, &picture.to_png(&texts)?)?);
    }
    if let (Some(path), Some(trace)) = (&args.trace, trace) {
        trace.save(path, &texts_of_all)?;
        written.push(path.clone());
    }
    Ok(written)
}

/// The name of the `i`th picture in a folder.
fn picture_name(args: &GenerateArgs, i: usize, prompt: &str, seed: Seed, scale: f64) -> String {
    let name = format!("{i:03}-{}-seed-{seed}", slug(prompt));
    match args.sampling.guidance.len() {
        1 => name,
        _ => format!("{name}-guidance-{scale}"),
    }
}

/// The names of all files that a call may write into a folder.
fn names(args: &GenerateArgs) -> Vec<String> {
    let prompts: Vec<&String> =
        args.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, args.count)).collect();
    let mut names = Vec::new();
    for &scale in &args.sampling.guidance {
        for (i, prompt) in prompts.iter().enumerate() {
            names.push(picture_name(args, names.len(), prompt, args.seed.after(i), scale));
        }
    }
    names.extend((names.len() > 1).then(|| SHEET.to_owned()));
    names
}

/// Refuses a file that would be written over another file of the same call.
pub fn check_places(args: &GenerateArgs, out: &Out) -> Result<()> {
    let mut inputs: Vec<(&str, &Path)> = args.inputs.paths().collect();
    for (what, path) in [("model", &args.model), ("configs", &args.configs)] {
        inputs.extend(path.as_deref().map(|path| (what, path)));
    }
    inputs.extend(args.loras.iter().map(|lora| ("lora", lora.path.as_path())));
    let replaced = out.replaced(names(args));
    let pictures: Vec<_> = replaced.iter().map(|path| ("--out", path.as_path())).collect();
    check_apart(&pictures, &inputs)?;
    let Some(trace) = &args.trace else { return Ok(()) };
    if is_png(trace) {
        let todo = "a PNG is a picture, which --out names";
        return Err(Error::argument("--trace", "F.safetensors", trace.display()).hint(todo));
    }
    if args.out.as_deref().is_some_and(|out| same_file(out, trace)) {
        let got = format!("{}, as --out", trace.display());
        return Err(Error::argument("--trace", "a file of its own", got));
    }
    check_apart(&[("--trace", trace)], &inputs)
}

impl GenerateArgs {
    /// What all pictures of this call have in common.
    pub fn settings(&self, sampler: Sampler, folder: &Path) -> Texts {
        let mut texts = vec![
            ("negative_prompt", self.negative.clone()),
            ("sampler", sampler.to_string()),
            ("num_inference_steps", self.steps.to_string()),
            ("eta", self.eta.to_string()),
            ("dtype", self.compute.dtype.name().to_owned()),
            ("model", folder.display().to_string()),
            ("Software", concat!("diffuscope ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        texts.extend(self.inputs.texts());
        if !self.loras.is_empty() {
            let each = |lora: &LoraFile| format!("{}:{}", lora.path.display(), lora.strength);
            texts.push(("lora", self.loras.iter().map(each).collect::<Vec<_>>().join(", ")));
        }
        if self.guidance_rescale != 0. {
            texts.push(("guidance_rescale", self.guidance_rescale.to_string()));
        }
        if let [from, to] = self.guidance_interval[..] {
            texts.push(("guidance_interval", format!("{from}, {to}")));
        }
        for (key, on) in [("projected", self.projected), ("weighted", self.weighted)] {
            texts.extend(on.then(|| (key, "true".to_owned())));
        }
        texts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn texts(one: &DrawnPicture, settings: &Texts) -> Texts {
    let size = one.image.size();
    let own = [
        ("prompt", one.prompt.clone()),
        ("seed", one.seed.to_string()),
        ("guidance_scale", one.guidance_scale.to_string()),
        ("width", size[2].to_string()),
        ("height", size[1].to_string()),
    ];
    own.into_iter().map(|(k, v)| (k.to_owned(), v)).chain(settings.iter().cloned()).collect()
}

fn sheet_texts(args: &GenerateArgs, drawn: &[DrawnPicture], settings: &Texts) -> Texts {
    let size = drawn[0].image.size();
    let of_one_scale = &drawn[..drawn.len() / args.sampling.guidance.len()];
    let seeds: Vec<String> = of_one_scale.iter().map(|one| one.seed.to_string()).collect();
    let scales: Vec<String> = args.sampling.guidance.iter().map(ToString::to_string).collect();
    let own = [
        ("prompts", format!("{:?}", args.prompts)),
        ("seeds", seeds.join(", ")),
        ("guidance_scales", scales.join(", ")),
        ("width", size[2].to_string()),
        ("height", size[1].to_string()),
    ];
    own.into_iter().map(|(k, v)| (k.to_owned(), v)).chain(settings.iter().cloned()).collect()
}

/// The pictures with what differs between them: guidance scales in columns, or one after another.
fn sheet(args: &GenerateArgs, drawn: &[DrawnPicture], settings: &Texts) -> Result<Sheet> {
    let (scales, per_scale) =
        (args.sampling.guidance.len(), drawn.len() / args.sampling.guidance.len());
    let setting = |key: &str| settings.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v);
    let mut note = format!("{}, {} steps", setting("sampler"), args.steps);
    if !args.negative.is_empty() {
        note += &format!(", negative prompt: {}", args.negative);
    }
    let image = |one: &DrawnPicture| one.image.shallow_clone();
    let one_prompt = args.prompts.len() == 1;
    let title = if one_prompt { args.prompts[0].as_str() } else { "" };
    if scales > 1 {
        let rows: Vec<Vec<Tensor>> = (0..per_scale)
            .map(|i| (0..scales).map(|k| image(&drawn[k * per_scale + i])).collect())
            .collect();
        let labels = drawn[..per_scale].iter().map(|one| match one_prompt {
            true => format!("seed {}", one.seed),
            false if one.prompt.trim().is_empty() => format!("(no text), seed {}", one.seed),
            false => format!("{}, seed {}", one.prompt, one.seed),
        });
        let columns = args.sampling.guidance.iter().map(|scale| format!("guidance {scale}"));
        return Ok(plot::sheet(&rows)?
            .row_labels(labels)?
            .column_labels(columns)?
            .title(title)
            .note(note));
    }
    note += &format!(", guidance {}", args.sampling.guidance[0]);
    let columns = if one_prompt || args.count == 1 { drawn.len().min(COLUMNS) } else { args.count };
    let rows: Vec<Vec<Tensor>> =
        drawn.chunks(columns.min(COLUMNS)).map(|row| row.iter().map(image).collect()).collect();
    let captions = drawn.iter().map(|one| match one_prompt {
        true => format!("seed {}", one.seed),
        false if one.prompt.trim().is_empty() => format!("(no text), seed {}", one.seed),
        false => format!("{}, seed {}", one.prompt, one.seed),
    });
    Ok(plot::sheet(&rows)?.captions(captions)?.title(title).note(note))
}
