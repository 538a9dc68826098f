//! Set-up in steps. A step writes its stamp last, so an interrupted one is repeated and a
//! finished one is never done twice.

use crate::progress::Progress;
use crate::project::{Project, output, remove, write};
use crate::{Result, kernel, prerequisites};
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

/// The libtorch that tch 0.26 wants, and no other.
pub const TORCH: &str = "2.13.0";
/// All that libtorch needs of CUDA to be loaded on a machine without a GPU.
const CPU_EXTRAS: [&str; 2] = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];
const UNFINISHED: &str = "unfinished";

/// Which libtorch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// What is installed; on a new set-up CUDA if there is an NVIDIA driver.
    Auto,
    Cpu,
    Cuda,
}

impl Flavour {
    /// Takes what the person asked for.
    pub fn ask(self, wanted: Flavour) -> Result<Flavour> {
        match self {
            Flavour::Auto => Ok(wanted),
            same if same == wanted => Ok(same),
            _ => Err("--cpu and --cuda exclude each other".into()),
        }
    }

    fn resolve(self, project: &Project) -> Flavour {
        if self != Flavour::Auto {
            return self;
        }
        installed(project).unwrap_or_else(|| {
            let cuda = !cfg!(target_os = "macos") && prerequisites::nvidia_driver();
            if cuda { Flavour::Cuda } else { Flavour::Cpu }
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Flavour::Auto => "auto",
            Flavour::Cpu => "cpu",
            Flavour::Cuda => "cuda",
        }
    }
}

/// The flavour of the libtorch that is installed.
pub fn installed(project: &Project) -> Option<Flavour> {
    let stamp = fs::read_to_string(project.lab("stamps/libtorch")).ok()?;
    [Flavour::Cpu, Flavour::Cuda].into_iter().find(|f| stamp.ends_with(f.name()))
}

/// One step: what it makes is described by its pin.
pub struct Step {
    pub name: &'static str,
    title: String,
    /// On two cores and a good network.
    expected: Duration,
    pin: String,
    /// What the step makes, in `.lab`.
    product: &'static str,
    work: fn(&Project, &Step, Before, &mut Progress) -> Result,
}

/// What an earlier attempt left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Interrupted,
    Other,
}

impl Step {
    pub fn is_done(&self, project: &Project) -> bool {
        self.read_stamp(project).is_some_and(|stamp| stamp == self.pin)
            && project.lab(self.product).exists()
    }

    fn read_stamp(&self, project: &Project) -> Option<String> {
        fs::read_to_string(project.lab("stamps").join(self.name)).ok()
    }

    fn stamp(&self, project: &Project, text: &str) -> Result {
        write(&project.lab("stamps").join(self.name), text)
    }
}

/// Every step, in order.
pub fn steps(project: &Project, flavour: Flavour) -> Vec<Step> {
    let flavour = flavour.resolve(project);
    let cuda = flavour == Flavour::Cuda;
    // Most of it is spent on what the library is built from, once.
    let warming = if project.lab("evcxr/warm/target").exists() { 60 } else { 240 };
    vec![
        Step {
            name: "python",
            title: "Python environment in .lab/venv".into(),
            expected: Duration::from_secs(5),
            pin: format!("for {}", project.root.display()),
            product: "venv/bin/python",
            work: make_venv,
        },
        Step {
            name: "jupyter",
            title: "JupyterLab".into(),
            expected: Duration::from_secs(30),
            pin: concat!(
                include_str!("../python/requirements.txt"),
                include_str!("../python/constraints.txt")
            )
            .into(),
            product: "venv/bin/jupyter-lab",
            work: install_jupyter,
        },
        Step {
            name: "libtorch",
            title: format!("libtorch {TORCH} for {}", if cuda { "CUDA" } else { "CPUs" }),
            expected: Duration::from_secs(if cuda { 300 } else { 60 }),
            pin: format!("torch {TORCH} {} {}", CPU_EXTRAS.join(" "), flavour.name()),
            product: "libtorch/lib",
            work: install_libtorch,
        },
        Step {
            name: "kernel",
            title: format!("Rust kernel evcxr_jupyter {}", kernel::EVCXR),
            expected: Duration::from_secs(360),
            pin: kernel::pin(),
            product: "bin/evcxr_jupyter",
            work: |project, _, _, progress| kernel::install(project, progress),
        },
        Step {
            name: "kernelspec",
            title: "Kernel \"Rust (Diffuscope)\"".into(),
            expected: Duration::from_secs(1),
            pin: kernel::spec_pin(project),
            product: "venv/share/jupyter/kernels/diffuscope/kernel.json",
            work: |project, _, _, _| kernel::write_spec(project),
        },
        Step {
            name: "warm",
            title: "The notebooks' dependency, built once".into(),
            expected: Duration::from_secs(warming),
            pin: kernel::warm_pin(project),
            product: kernel::WARM_ID,
            work: |project, step, _, progress| kernel::warm(project, &step.pin, progress),
        },
    ]
}

/// Sets up all that is missing.
pub fn all(project: &Project, flavour: Flavour) -> Result {
    // Set up twice at once, and the second waits, then finds everything done.
    let _lock = lock(project)?;
    let steps = steps(project, flavour);
    // What a step made is what the steps after it were made from.
    let first = steps.iter().position(|step| !step.is_done(project));
    let Some(first) = first else { return Ok(()) };
    let remade = ["python"].contains(&steps[first].name);
    let missing: Vec<&Step> =
        steps.iter().filter(|step| remade || !step.is_done(project)).collect();
    check_machine(project, &missing)?;
    take(project, &missing)
}

/// Sets up no more than what this library is built with.
pub fn libtorch(project: &Project) -> Result {
    let _lock = lock(project)?;
    let mut steps = steps(project, Flavour::Auto);
    steps.retain(|step| ["python", "libtorch"].contains(&step.name));
    let Some(first) = steps.iter().position(|step| !step.is_done(project)) else { return Ok(()) };
    let missing: Vec<&Step> = steps[first..].iter().collect();
    check_machine(project, &missing)?;
    take(project, &missing)
}

/// Takes the steps in order, up to the first one that fails.
fn take(project: &Project, missing: &[&Step]) -> Result {
    for (i, step) in missing.iter().enumerate() {
        let heading = format!("[{}/{}] {}", i + 1, missing.len(), step.title);
        let before = match step.read_stamp(project) {
            None => Before::Nothing,
            Some(stamp) if stamp == UNFINISHED => Before::Interrupted,
            Some(_) => Before::Other,
        };
        let mut progress = Progress::start(project, step.name, heading, step.expected)?;
        let result = step
            .stamp(project, UNFINISHED)
            .and_then(|()| (step.work)(project, step, before, &mut progress))
            .and_then(|()| step.stamp(project, &step.pin));
        progress.end(result)?;
    }
    Ok(())
}

fn lock(project: &Project) -> Result<File> {
    let path = project.lab("lock");
    let problem = |error| format!("could not write {}: {error}", path.display());
    fs::create_dir_all(project.lab("")).map_err(problem)?;
    let file = File::create(&path).map_err(problem)?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        println!("Another set-up is under way; waiting for it.");
        file.lock().map_err(problem)?;
    }
    Ok(file)
}

/// Fails before anything is downloaded if the machine lacks what the missing steps need.
fn check_machine(project: &Project, missing: &[&Step]) -> Result {
    let needs = |name: &str| missing.iter().any(|step| step.name == name);
    prerequisites::rust()?;
    if needs("kernel") || needs("warm") {
        prerequisites::compiler()?;
    }
    if needs("python") {
        prerequisites::python()?;
    }
    let cuda = missing.iter().any(|step| step.name == "libtorch" && step.pin.ends_with("cuda"));
    let needed = match (needs("libtorch"), cuda) {
        (true, true) => 10.0,
        (true, false) => 5.0,
        _ if needs("warm") && !project.lab("evcxr/warm").exists() => 2.0,
        _ => 0.2,
    };
    prerequisites::disk(&project.lab(""), needed)?;
    Ok(())
}

fn make_venv(project: &Project, _: &Step, _: Before, progress: &mut Progress) -> Result {
    let venv = project.lab("venv");
    remove(&venv)?;
    for later in ["jupyter", "libtorch", "kernelspec"] {
        remove(&project.lab("stamps").join(later))?;
    }
    let (python, _) = prerequisites::python()?;
    progress.run(
        std::process::Command::new(python).args(["-m", "venv"]).arg(&venv),
        "Python could not make a virtual environment; install its venv module \
         (`sudo apt install python3-venv`) and run this again",
    )
}

/// Where pip puts what has arrived until it is unpacked.
fn downloads(project: &Project) -> PathBuf {
    project.lab("downloads")
}

fn pip(project: &Project, before: Before) -> Result<std::process::Command> {
    let folder = downloads(project);
    remove(&folder)?;
    fs::create_dir_all(&folder)
        .map_err(|error| format!("could not make {}: {error}", folder.display()))?;
    let mut command = project.python_command();
    command.args(["-m", "pip", "install", "--disable-pip-version-check"]);
    command.args(["--progress-bar", "off"]).env("TMPDIR", downloads(project));
    // An unpacking that was cut off can look complete to pip.
    if before == Before::Interrupted {
        command.arg("--force-reinstall");
    }
    Ok(command)
}

fn install_jupyter(project: &Project, _: &Step, before: Before, progress: &mut Progress) -> Result {
    progress.run(
        pip(project, before)?.arg("-r").arg(project.root.join("xtask/python/requirements.txt")),
        "pip could not install JupyterLab (its message is above); check the network and run this \
         again",
    )?;
    // Nothing on the page asks the network.
    write(
        &project.lab("jupyter/config/labconfig/page_config.json"),
        r#"{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}"#,
    )
}

fn install_libtorch(
    project: &Project,
    step: &Step,
    before: Before,
    progress: &mut Progress,
) -> Result {
    let cuda = step.pin.ends_with("cuda");
    progress.downloads(downloads(project), if cuda { 3000 } else { 530 });
    let torch = format!("torch=={TORCH}");
    let problem = "pip could not install libtorch (its message is above); check the network and \
                   the disk, and run this again";
    if cuda {
        progress.run(pip(project, before)?.arg(&torch), problem)?;
    } else {
        if before == Before::Other {
            remove_cuda(project, progress)?;
        }
        let mut command = pip(project, before)?;
        command.args(["--no-deps", &torch]);
        if !cfg!(target_os = "macos") {
            command.args(CPU_EXTRAS);
        }
        progress.run(&mut command, problem)?;
    }
    let packages = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let packages = output(project.python_command().args(["-c", packages]))
        .ok_or("the virtual environment does not answer; remove .lab and run this again")?;
    let link = project.libtorch();
    remove(&downloads(project))?;
    remove(&link)?;
    std::os::unix::fs::symlink(std::path::Path::new(&packages).join("torch"), &link)
        .map_err(|error| format!("could not link {}: {error}", link.display()))?;
    load_libtorch(project, progress)
}

/// Loads libtorch, as the kernel will.
fn load_libtorch(project: &Project, progress: &mut Progress) -> Result {
    let suffix = if cfg!(target_os = "macos") { "dylib" } else { "so" };
    let library = project.libtorch().join(format!("lib/libtorch_cpu.{suffix}"));
    progress.run(
        project
            .python_command()
            .args(["-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])"])
            .arg(&library),
        "libtorch is installed and does not load (the reason is above); run `cargo xtask doctor`",
    )
}

/// Takes away what only the CUDA flavour has.
fn remove_cuda(project: &Project, progress: &mut Progress) -> Result {
    let list = "import importlib.metadata as m\n\
                names = {d.metadata['Name'].lower() for d in m.distributions()}\n\
                print(*sorted(n for n in names if n.startswith(('nvidia-', 'cuda-')) \
                or n == 'triton'))";
    let Some(names) = output(project.python_command().args(["-c", list])) else { return Ok(()) };
    let keep: Vec<&str> = CPU_EXTRAS.iter().filter_map(|pin| pin.split("==").next()).collect();
    let names: Vec<&str> = names.split_whitespace().filter(|name| !keep.contains(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    progress.run(
        project.python_command().args(["-m", "pip", "uninstall", "-y"]).args(names),
        "pip could not remove the CUDA libraries; remove .lab and run this again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavours_exclude_each_other() {
        assert_eq!(Flavour::Auto.ask(Flavour::Cpu), Ok(Flavour::Cpu));
        assert_eq!(Flavour::Cpu.ask(Flavour::Cpu), Ok(Flavour::Cpu));
        assert!(Flavour::Cpu.ask(Flavour::Cuda).is_err());
    }

    fn fake(
        name: &'static str,
        work: fn(&Project, &Step, Before, &mut Progress) -> Result,
    ) -> Step {
        let (title, expected) = (name.into(), Duration::from_secs(1));
        Step { name, title, expected, pin: "1".into(), product: "made", work }
    }

    #[test]
    fn a_failed_step_ends_the_set_up_and_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        let fail = |_: &Project, _: &Step, before, _: &mut Progress| match before {
            Before::Interrupted => Ok(()),
            _ => Err("it failed".into()),
        };
        let steps = [fake("one", |_, _, _, _| Ok(())), fake("two", fail)];
        let three = fake("three", |_, _, _, _| Err("never reached".into()));
        let error = take(&project, &[&steps[0], &steps[1], &three]).unwrap_err();
        assert!(error.starts_with("it failed; the whole log is "), "{error}");
        assert!(error.ends_with(".lab/logs/two.log"), "{error}");
        assert_eq!(steps[0].read_stamp(&project).as_deref(), Some("1"));
        assert_eq!(steps[1].read_stamp(&project).as_deref(), Some(UNFINISHED));
        assert_eq!(three.read_stamp(&project), None);
        take(&project, &[&steps[1]]).unwrap();
        assert_eq!(steps[1].read_stamp(&project).as_deref(), Some("1"));
    }

    #[test]
    fn a_step_is_done_when_its_stamp_has_its_pin() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        let step = fake("s", |_, _, _, _| Ok(()));
        assert!(!step.is_done(&project));
        step.stamp(&project, UNFINISHED).unwrap();
        assert!(!step.is_done(&project));
        step.stamp(&project, "1").unwrap();
        assert!(!step.is_done(&project), "what it made is gone");
        std::fs::write(project.lab("made"), "").unwrap();
        assert!(step.is_done(&project));
    }

    #[test]
    fn the_installed_flavour_stays() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        assert_eq!(installed(&project), None);
        for flavour in [Flavour::Cpu, Flavour::Cuda] {
            let step = &steps(&project, flavour)[2];
            step.stamp(&project, &step.pin).unwrap();
            assert_eq!(installed(&project), Some(flavour));
            assert_eq!(Flavour::Auto.resolve(&project), flavour);
        }
    }
}
