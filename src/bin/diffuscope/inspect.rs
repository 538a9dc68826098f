//! `diffuscope inspect`: the checkpoint doctor.

use std::path::PathBuf;

use clap::Args;
use diffuscope::checkpoint::hub::locate_headers;
use diffuscope::checkpoint::{Checkpoint, NetworkReport, OpenOptions, Report, examine};
use diffuscope::prediction::Prediction;
use diffuscope::{Error, Result};

#[derive(Args)]
#[command(after_help = "\
Examples:
  diffuscope inspect ~/stable-diffusion-v1-5
  diffuscope inspect v2-1_768-ema-pruned.safetensors
  diffuscope inspect v1-5-pruned-emaonly.ckpt --json
  diffuscope inspect stable-diffusion-v1-5/stable-diffusion-v1-5

Only headers are read: a large file takes no longer than a small one. A .ckpt is read without executing
anything in it. Of a .safetensors on the Hugging Face hub only the header is downloaded; a .ckpt or .bin is
downloaded whole, once.")]
pub struct Inspect {
    /// A diffusers folder, a component folder, a .safetensors or .ckpt file, or a name on the Hugging Face
    /// hub: OWNER/NAME, OWNER/NAME@REVISION, OWNER/NAME/FILE.safetensors
    #[arg(value_name = "PATH_OR_ID")]
    path: PathBuf,
    /// What the model predicts, if its file does not say: epsilon, v_prediction or sample
    #[arg(long, value_name = "TYPE")]
    prediction: Option<Prediction>,
    /// A diffusers folder whose configurations are used for a single file, instead of inferring them
    #[arg(long, value_name = "FOLDER")]
    configs: Option<PathBuf>,
    /// Print everything as JSON, with every key
    #[arg(long)]
    json: bool,
}

/// The most keys of one kind that are shown without `--json`.
const SHOWN: usize = 12;

pub fn run(args: Inspect) -> Result<()> {
    let options = OpenOptions { prediction: args.prediction, configs: args.configs };
    let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let path = locate_headers(&args.path, &folder)?;
    let report = examine(&Checkpoint::open_with(path, &options)?);
    let report = Report { path: args.path, ..report };
    let text = match args.json {
        true => serde_json::to_string_pretty(&report)
            .map_err(|e| Error::argument("report", "JSON", e))?,
        false => text(&report),
    };
    // The names in a file must not control the terminal.
    let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    println!("{}", text.chars().map(plain).collect::<String>().trim_end());
    Ok(())
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("{}: {}", report.path.display(), report.family)];
    lines.extend(report.evidence.iter().map(|evidence| format!("  because {evidence}")));
    lines.push(format!("keys         {}", report.key_style));
    if let Some(prediction) = &report.prediction {
        let how = if report.prediction_known { "known" } else { "assumed" };
        lines.push(format!("prediction   {prediction} ({how}: {})", report.prediction_reason));
    }
    lines.extend(report.notes.iter().map(|note| format!("note         {note}")));
    for network in &report.networks {
        lines.push(String::new());
        lines.extend(of_network(network));
    }
    if report.networks.len() > 1 {
        lines.push(String::new());
        lines.push(format!("all together need {}", sizes(&report.memory)));
    }
    if !report.leftovers.is_empty() {
        lines.push(String::new());
        lines.push("known but not needed:".into());
        for (why, names) in &report.leftovers {
            lines.push(format!("  {why} ({}): {}", names.len(), some(names, 3)));
        }
    }
    lines.extend(keys("tensors of no known network", &report.unknown));
    if !report.networks.is_empty() {
        lines.push(String::new());
        lines.push(match report.is_whole() {
            true => "every tensor is there and has the right shape".into(),
            false => "the tensors do not fit: see above".into(),
        });
    }
    lines.join("\n")
}

fn of_network(network: &NetworkReport) -> Vec<String> {
    let dtypes: Vec<_> = network.dtypes.keys().map(String::as_str).collect();
    let files: Vec<_> = network
        .files
        .iter()
        .filter_map(|file| file.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut lines = vec![
        format!(
            "{:<12} {:.1} M parameters in {} tensors, {}, from {}",
            network.name,
            network.parameters as f64 / 1e6,
            network.tensors,
            dtypes.join(" and "),
            some(&files, 4)
        ),
        format!("  needs {}", sizes(&network.memory)),
    ];
    lines.extend(network.refused.iter().map(|why| format!("  cannot be built: {why}")));
    for (what, names) in [
        ("missing", &network.missing),
        ("of another shape", &network.misshaped),
        ("not of this network", &network.unused),
    ] {
        lines.extend(keys(what, names));
    }
    lines
}

fn keys(what: &str, names: &[String]) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("  {} {what}:", names.len())];
    lines.extend(names.iter().take(SHOWN).map(|name| format!("    {name}")));
    if names.len() > SHOWN {
        lines.push(format!("    and {} more; --json lists all", names.len() - SHOWN));
    }
    lines
}

fn some(names: &[String], most: usize) -> String {
    let dots = if names.len() > most { ", ..." } else { "" };
    format!("{}{dots}", names.iter().take(most).cloned().collect::<Vec<_>>().join(", "))
}

fn sizes(memory: &std::collections::BTreeMap<String, u64>) -> String {
    let size =
        |(dtype, bytes): (&String, &u64)| format!("{:.2} GB in {dtype}", *bytes as f64 / 1e9);
    memory.iter().map(size).collect::<Vec<_>>().join(", ")
}
