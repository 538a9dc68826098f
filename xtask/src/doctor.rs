//! What is in place, what is not, and what to do about it.

use crate::project::{Project, output};
use crate::setup::{self, Flavour, TORCH};
use crate::{Result, kernel, prerequisites};
use std::process::ExitCode;

/// What was found, or what is wrong and what to do.
enum Finding {
    Good(String),
    /// Wrong, but nothing that is needed.
    Note(String),
    Wrong(String),
}
use Finding::{Good, Note, Wrong};

impl From<Result<String>> for Finding {
    fn from(result: Result<String>) -> Self {
        result.map_or_else(Wrong, Good)
    }
}

const SET_UP: &str = "run `cargo xtask lab`";

pub fn run(project: &Project) -> Result<ExitCode> {
    let findings = [
        ("Rust", prerequisites::rust().into()),
        ("Rust's sources", prerequisites::rust_sources().into()),
        ("C++ compiler", prerequisites::compiler().into()),
        (
            "Python",
            prerequisites::python().map(|(name, version)| format!("{version} ({name})")).into(),
        ),
        ("set-up", set_up(project)),
        ("libtorch", libtorch(project)),
        ("CUDA", cuda(project)),
        ("kernel", evcxr(project)),
        ("embedded model", model(project)),
        ("threads", threads()),
        ("disk", disk(project)),
    ];
    let mut wrong = 0;
    for (name, finding) in &findings {
        let (mark, text) = match finding {
            Good(text) => ("ok   ", text),
            Note(text) => ("note ", text),
            Wrong(text) => ("WRONG", text),
        };
        wrong += usize::from(matches!(finding, Wrong(_)));
        println!("{mark}  {name:<15} {text}");
    }
    if wrong == 0 {
        println!("\nNothing that is needed is missing.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{wrong} of {} findings are wrong; each says what to do.", findings.len());
    Ok(ExitCode::FAILURE)
}

fn set_up(project: &Project) -> Finding {
    let steps = setup::steps(project, Flavour::Auto);
    let missing: Vec<&str> =
        steps.iter().filter(|step| !step.is_done(project)).map(|step| step.name).collect();
    if missing.is_empty() {
        return Good(format!(
            "all {} steps are done, in {}",
            steps.len(),
            project.lab("").display()
        ));
    }
    if missing == ["warm"] || missing == ["kernelspec"] || missing == ["kernelspec", "warm"] {
        let what = "the code changed since the notebooks' dependency was built";
        return Note(format!("{what}; the next `cargo xtask lab` builds it"));
    }
    Wrong(format!("not done: {}; {SET_UP}", missing.join(", ")))
}

fn libtorch(project: &Project) -> Finding {
    let Ok(version) = std::fs::read_to_string(project.libtorch().join("version.py")) else {
        return Wrong(format!("not installed; {SET_UP}"));
    };
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = "))
        .unwrap_or("unknown")
        .trim_matches(['\'', '"'])
        .to_owned();
    if version.split('+').next() != Some(TORCH) {
        return Wrong(format!(
            "{version} is installed and {TORCH} is needed; remove .lab and {SET_UP}"
        ));
    }
    let flavour = setup::installed(project).map_or("unknown", Flavour::name);
    Good(format!("{version}, installed as {flavour}, in {}", project.libtorch().display()))
}

/// Loads libtorch's CUDA part in a process of its own and asks the driver.
fn cuda(project: &Project) -> Finding {
    if cfg!(target_os = "macos") {
        return Good("not on macOS; libtorch has MPS".into());
    }
    if !project.python().exists() {
        return Wrong(format!("not known before set-up; {SET_UP}"));
    }
    let mut command = project.python_command();
    command.arg(project.root.join("xtask/python/cuda.py")).arg(project.libtorch().join("lib"));
    command.envs(project.libtorch_environment());
    let Some(found) = output(&mut command) else {
        return Wrong("the check itself did not run; remove .lab/venv and set up again".into());
    };
    let driver = prerequisites::nvidia_driver();
    match found.split_once(' ') {
        Some(("usable", devices)) => Good(format!("usable: {devices}")),
        Some(("library", missing)) if driver => Wrong(format!(
            "not usable: this set-up is for the CPU ({missing}), and there is an NVIDIA driver; \
             run `cargo xtask lab --cuda`"
        )),
        Some(("library", missing)) => {
            Good(format!("not used: no NVIDIA driver, and this set-up is for the CPU ({missing})"))
        }
        Some(("driver", why)) => Note(format!(
            "not usable: libtorch_cuda is loaded; what is missing is the NVIDIA driver ({why}); \
             install the driver, or go on with the CPU"
        )),
        _ => Wrong(format!("not usable: {found}")),
    }
}

fn evcxr(project: &Project) -> Finding {
    let path = kernel::program(project);
    if !path.exists() {
        return Wrong(format!("evcxr_jupyter {} is not installed; {SET_UP}", kernel::EVCXR));
    }
    let spec = project.lab("venv/share/jupyter/kernels/diffuscope/kernel.json");
    if !spec.exists() {
        return Wrong(format!("the kernel \"Rust (Diffuscope)\" is not registered; {SET_UP}"));
    }
    Good(format!("\"Rust (Diffuscope)\", evcxr_jupyter {} in {}", kernel::EVCXR, path.display()))
}

/// The files that diffusers wants of a Stable Diffusion folder.
const MODEL: [&str; 9] = [
    "model_index.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
];

fn model(project: &Project) -> Finding {
    let folder = project.root.join("data/tiny");
    let empty = |name: &&&str| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len()) == 0;
    let missing: Vec<&&str> = MODEL.iter().filter(empty).collect();
    if missing.is_empty() {
        return Good("data/tiny has all its files".into());
    }
    let missing: Vec<String> = missing.iter().map(|name| name.to_string()).collect();
    Wrong(format!("data/tiny lacks {}; run `git checkout -- data/tiny`", missing.join(", ")))
}

fn threads() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match std::env::var("OMP_NUM_THREADS") {
        Ok(set) => Note(format!("{cores} available; OMP_NUM_THREADS={set} limits libtorch")),
        Err(_) => Good(format!("{cores} available")),
    }
}

fn disk(project: &Project) -> Finding {
    prerequisites::disk(&project.root, 1.0).into()
}
