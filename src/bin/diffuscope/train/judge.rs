//! `diffuscope train judge`: the classifier of scenes.

use clap::Args;
use diffuscope::Result;
use diffuscope::eval::questions::judge_config;
use diffuscope::train::judge::train_judge;

use super::args::TrainArgs;
use super::progress::show_progress;
use super::scenes::TrainingScenes;
use crate::terminal::say;

#[derive(Args)]
pub struct JudgeArgs {
    #[command(flatten)]
    common: TrainArgs,
}

pub fn run(args: JudgeArgs) -> Result<()> {
    let config = judge_config(args.common.size as i64);
    let settings = args.common.settings(&[])?;
    let scenes = TrainingScenes::compose(&args.common)?;
    let progress = show_progress(settings.steps);
    say(&train_judge(&scenes.pictures, &scenes.truths, &config, &settings, progress)?.to_string());
    Ok(())
}
