//! `diffuscope scenes`: the training pictures, as files.

use std::path::PathBuf;

use clap::Args;
use diffuscope::scenes::{Scenes, Truth, sheet};
use diffuscope::write_file::write_file;
use diffuscope::{Error, Result, picture};
use serde::Serialize;

use crate::options::{Seed, SplitOption};
use crate::out::check_place;
use crate::terminal::bar;

/// Most pictures on the contact sheet.
const ON_SHEET: usize = 64;

#[derive(Args)]
#[command(after_help = "\
Example:
  diffuscope scenes --count 64 --out scenes

Writes 00000.png, 00001.png, ..., captions.jsonl with a line {\"file\", \"seed\", \"caption\", \"truth\"} for each
picture, and sheet.png with the first 64.")]
pub struct ScenesArgs {
    /// Number of pictures
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: usize,
    /// The folder, which is created if necessary
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Seed of the first picture; each further picture has the next seed
    #[arg(long, value_name = "S", default_value = "0", allow_negative_numbers = true)]
    seed: Seed,
    /// Side of the pictures, in pixels
    #[arg(long, default_value_t = 64, allow_negative_numbers = true)]
    size: usize,
    /// Which combinations of colours and objects to show: those in the training, those held out of it, or any
    #[arg(long, value_enum, default_value_t = SplitOption::Train)]
    split: SplitOption,
}

/// A line of `captions.jsonl`.
#[derive(Serialize)]
struct CaptionLine<'a> {
    file: &'a str,
    seed: u64,
    caption: &'a str,
    truth: &'a Truth,
}

pub fn run(args: ScenesArgs) -> Result<()> {
    if !(1..=1_000_000).contains(&args.count) {
        return Err(Error::argument("--count", "1 to 1000000", args.count));
    }
    if !(16..=1024).contains(&args.size) {
        return Err(Error::argument("--size", "16 to 1024 pixels", args.size));
    }
    let scenes = Scenes::new(args.size)?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, e))?;
    let list = args.out.join("captions.jsonl");
    check_place(&list)?;
    let bar = bar(args.count as u64, "{bar:30} {pos}/{len} scenes, {eta} left");
    let (mut lines, mut first) = (String::new(), Vec::new());
    for i in 0..args.count {
        let seed = args.seed.after(i).unsigned();
        let scene = scenes.scene(seed, args.split.into())?;
        let file = format!("{i:05}.png");
        let text = [("caption".to_owned(), scene.caption.clone())];
        picture::write_png(args.out.join(&file), &scene.picture.to_tensor()?, &text)?;
        let line = CaptionLine { file: &file, seed, caption: &scene.caption, truth: &scene.truth };
        lines += &serde_json::to_string(&line).map_err(|e| Error::config(&list, e))?;
        lines.push('\n');
        if first.len() < ON_SHEET {
            first.push(scene.picture);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let sheet = sheet(&first, 8, (128 / args.size).max(1))?.to_tensor()?;
    picture::write_png(args.out.join("sheet.png"), &sheet, &[])?;
    write_file(&list, lines.as_bytes())?;
    println!("{} scenes in {}", args.count, args.out.display());
    Ok(())
}
