//! `diffuscope schedule`: the noise of a model over its timesteps.

use std::path::PathBuf;

use clap::Args;
use diffuscope::checkpoint::SchedulerConfig;
use diffuscope::checkpoint::hub::locate;
use diffuscope::figures::schedule_figure;
use diffuscope::pipeline::tiny_folder;
use diffuscope::{Error, Result};

use crate::out::{check_apart, check_place};

#[derive(Args)]
#[command(after_help = "\
Examples:
  diffuscope schedule
  diffuscope schedule --model ~/stable-diffusion-v1-5 --out schedule.png
  diffuscope schedule --model stabilityai/stable-diffusion-2-1")]
pub struct ScheduleArgs {
    /// The model: a folder with scheduler/scheduler_config.json, or OWNER/NAME on the Hugging Face hub, from which only
    /// this file is downloaded [default: the embedded model]
    #[arg(long, value_name = "FOLDER|ID")]
    model: Option<PathBuf>,
    /// The PNG file to write
    #[arg(long, value_name = "FILE.png", default_value = "schedule.png")]
    out: PathBuf,
}

pub fn run(args: ScheduleArgs) -> Result<()> {
    if args.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Err(Error::argument("--out", "FILE.png", args.out.display()));
    }
    check_place(&args.out)?;
    let file =
        args.model.unwrap_or_else(tiny_folder).join("scheduler").join("scheduler_config.json");
    check_apart(&[("--out", &args.out)], &[("model", &file)])?;
    let config = SchedulerConfig::open(locate(file)?)?;
    let schedule = config.schedule()?;
    let (betas, bars, snr) = (schedule.betas(), schedule.alphas_cumprod(), schedule.snr());
    let last = betas.len().saturating_sub(1);
    println!("{:>6} {:>12} {:>15} {:>12}", "t", "beta", "alphas_cumprod", "SNR");
    let mut shown: Vec<usize> = (0..=10).map(|i| i * last / 10).collect();
    shown.dedup();
    for t in shown {
        println!("{t:>6} {:>12.6} {:>15.6} {:>12.6}", betas[t], bars[t], snr[t]);
    }
    schedule_figure(&[("", &schedule)])?.save(&args.out)?;
    println!("{}", args.out.display());
    Ok(())
}
