//! Where tensors live: CUDA if it is there, else the CPU, and why.

use std::fmt;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result, cpu};

/// The environment variable that overrides the choice: `cpu`, `cuda`, `cuda:1`, `mps`.
pub const VARIABLE: &str = "DIFFUSCOPE_DEVICE";

/// A device, and why it was picked.
#[derive(Debug, Clone)]
pub struct Picked {
    /// The device.
    pub device: Device,
    /// The reason, for a person.
    pub why: String,
}

impl fmt::Display for Picked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", name(self.device), self.why)
    }
}

/// The name that [`pick`] understands.
pub fn name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".into(),
        Device::Vulkan => "vulkan".into(),
    }
}

/// Whether CUDA can be used, and if not, what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cuda {
    /// This many GPUs can be used.
    Usable(i64),
    /// libtorch is set up for CPUs: without its CUDA library, or without those of NVIDIA's that it needs.
    CpuBuild,
    /// libtorch's CUDA library is there and could not be loaded; the linker's reason.
    NotLoaded(String),
    /// libtorch's CUDA library is loaded and no NVIDIA driver is installed.
    NoDriver,
    /// Library and driver are there and no GPU was found.
    NoGpu,
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cuda::Usable(count) => write!(f, "CUDA is usable, {count} GPU(s)"),
            Cuda::CpuBuild => write!(f, "this set-up has libtorch for CPUs"),
            Cuda::NotLoaded(reason) => {
                write!(f, "libtorch's CUDA library does not load ({reason})")
            }
            Cuda::NoDriver => write!(
                f,
                "libtorch_cuda is loaded; the NVIDIA driver (libcuda.so.1) is missing on this machine"
            ),
            Cuda::NoGpu => write!(f, "libtorch_cuda and the driver are loaded; no GPU was found"),
        }
    }
}

/// Loads libtorch's CUDA library and says whether CUDA can be used.
///
/// A linker drops `libtorch_cuda` from a program that refers to nothing in it, and libtorch then
/// reports that there is no CUDA. So it is loaded here, when the program runs.
pub fn cuda() -> Cuda {
    let loaded = load_cuda_once();
    if tch::Cuda::is_available() {
        return Cuda::Usable(tch::Cuda::device_count());
    }
    match loaded {
        Ok(()) if load(DRIVER.as_ref()).is_err() => Cuda::NoDriver,
        Ok(()) => Cuda::NoGpu,
        Err(None) => Cuda::CpuBuild,
        Err(Some(reason)) => Cuda::NotLoaded(reason.clone()),
    }
}

/// Refuses a GPU that is not there. Asked before the first tensor goes to a device that a program names itself, without
/// [`pick`]: libtorch knows no GPU before its CUDA library is loaded.
pub(crate) fn check_present(device: Device) -> Result<()> {
    match device {
        Device::Cuda(_) => named(&name(device), cuda).map(|_| ()),
        _ => Ok(()),
    }
}

/// The dtype that networks are trained in on `device`: bf16 where that is quicker, else f32. A CPU without instructions for
/// bf16 imitates it, which takes many times as long as f32.
pub fn training_kind(device: Device) -> Kind {
    match device {
        Device::Cuda(_) => Kind::BFloat16,
        Device::Cpu if cpu::has_bf16() => Kind::BFloat16,
        _ => Kind::Float,
    }
}

/// Refuses what would surely exhaust a device's memory: a system that runs out kills the program, or another one. Asked
/// before the memory is taken, by everything whose size a person or a file chooses.
///
/// # Errors
/// More `bytes` than are free, where the system says how many are.
pub fn check_memory(device: Device, what: impl fmt::Display, bytes: f64) -> Result<()> {
    // Asking takes longer than so little is worth.
    if bytes < 64e6 {
        return Ok(());
    }
    match free_memory(device).map(|free| free as f64) {
        Some(free) if bytes >= free => {
            let expected = format!("what fits into {:.1} GB, the memory that is free", free / 1e9);
            let got = format!("what needs about {:.1} GB", bytes / 1e9);
            Err(Error::argument(what, expected, got))
        }
        _ => Ok(()),
    }
}

/// Whether a device computes in f64. Apple's GPUs do not, nor does Vulkan.
fn has_f64(device: Device) -> bool {
    matches!(device, Device::Cpu | Device::Cuda(_))
}

/// A tensor's numbers in f64: where it is, or on the CPU if its device has no f64.
pub(crate) fn in_f64(x: &Tensor) -> Result<Tensor> {
    let here = if has_f64(x.device()) { x.device() } else { Device::Cpu };
    Ok(moved(x, here)?.f_to_kind(Kind::Double)?)
}

/// A tensor's numbers in f64 on the CPU, to be read or measured.
pub(crate) fn in_f64_on_cpu(x: &Tensor) -> Result<Tensor> {
    in_f64(&moved(x, Device::Cpu)?)
}

/// A tensor on this device: itself, if it is there.
pub(crate) fn moved(x: &Tensor, device: Device) -> Result<Tensor> {
    if x.device() == device { Ok(x.shallow_clone()) } else { Ok(x.f_to_device(device)?) }
}

/// A tensor in this dtype on this device. It is converted first: a device without f64 does not take f64 either.
pub(crate) fn put(x: &Tensor, kind: Kind, device: Device) -> Tensor {
    let x = x.to_kind(kind);
    if x.device() == device { x } else { x.to_device(device) }
}

/// The same without waiting for what a GPU is still computing; for small tensors.
pub(crate) fn send(x: &Tensor, kind: Kind, device: Device) -> Tensor {
    let x = x.to_kind(kind);
    if x.device() == device {
        return x;
    }
    // Only this way, from the CPU to CUDA, are the numbers copied before the call returns.
    let unwaited = x.device() == Device::Cpu && device.is_cuda();
    x.to_dtype_layout((kind, device), unwaited, false)
}

/// The bytes of memory that a device has free, where the system says so: the CPU's on Linux.
pub fn free_memory(device: Device) -> Option<u64> {
    if device != Device::Cpu {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(windows)]
const LIBRARY: &str = "torch_cuda.dll";
#[cfg(not(windows))]
const LIBRARY: &str = "libtorch_cuda.so";
#[cfg(windows)]
const DRIVER: &str = "nvcuda.dll";
#[cfg(not(windows))]
const DRIVER: &str = "libcuda.so.1";

fn load(library: &std::ffi::OsStr) -> std::result::Result<(), String> {
    // SAFETY: libtorch's and NVIDIA's libraries may be initialised at any time.
    let library = unsafe { libloading::Library::new(library) }
        .map_err(|e| std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string))?;
    // Registered kernels point into the library: it stays for the life of the process.
    std::mem::forget(library);
    Ok(())
}

/// Loads libtorch's CUDA library, if there is one, the first time that it is called. libtorch looks for it when it is first
/// asked to seed its generators or to count GPUs, and remembers what it found: this has to come before.
pub(crate) fn load_cuda_once() -> &'static std::result::Result<(), Option<String>> {
    static LOADED: OnceLock<std::result::Result<(), Option<String>>> = OnceLock::new();
    LOADED.get_or_init(load_cuda_library)
}

/// `Err(None)`: there is no such library. `Err(Some(reason))`: it is there and does not load.
fn load_cuda_library() -> std::result::Result<(), Option<String>> {
    let from_folder = std::env::var_os("LIBTORCH")
        .map(|root| std::path::Path::new(&root).join("lib").join(LIBRARY))
        .filter(|path| path.exists());
    let target = from_folder.clone().map_or_else(|| LIBRARY.into(), |p| p.into_os_string());
    load(&target).map_err(|reason| {
        let for_cpus = lacks_nvidia(&reason) || (from_folder.is_none() && lacks(&reason, LIBRARY));
        (!for_cpus).then_some(reason)
    })
}

fn lacks(reason: &str, library: &str) -> bool {
    reason.contains(&format!("{library}: cannot open shared object file"))
}

/// Whether the linker missed one of NVIDIA's libraries: a set-up for CPUs leaves them out.
fn lacks_nvidia(reason: &str) -> bool {
    let missing = reason.split(':').next().unwrap_or_default();
    let nvidia = ["libcu", "libnv", "libnccl"].iter().any(|start| missing.starts_with(start));
    nvidia && lacks(reason, missing)
}

/// Picks a device: `choice`, else the variable `DIFFUSCOPE_DEVICE`, else CUDA if it can be used,
/// else the CPU.
///
/// # Errors
/// A name that is not a device; CUDA, where it cannot be used.
///
/// # Examples
/// ```
/// let picked = diffuscope::device::pick(Some("cpu"))?;
/// println!("{picked}");
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn pick(choice: Option<&str>) -> Result<Picked> {
    let (asked, why) = match (choice, std::env::var(VARIABLE)) {
        (Some(choice), _) => (choice.to_owned(), "as asked for".to_owned()),
        (None, Ok(variable)) if !variable.is_empty() => (variable, format!("from {VARIABLE}")),
        _ => {
            return Ok(match cuda() {
                Cuda::Usable(_) => Picked { device: Device::Cuda(0), why: "CUDA is usable".into() },
                reason => Picked { device: Device::Cpu, why: reason.to_string() },
            });
        }
    };
    let device = named(&asked, cuda)?;
    Ok(Picked { device, why })
}

/// The device of a name, where there is one.
fn named(asked: &str, cuda: impl FnOnce() -> Cuda) -> Result<Device> {
    let refuse = |reason: String| Error::Device { asked: asked.to_owned(), reason };
    Ok(match asked.to_ascii_lowercase().as_str() {
        "cpu" => Device::Cpu,
        "mps" if tch::utils::has_mps() => Device::Mps,
        "mps" => return Err(refuse("this machine has no MPS; use cpu".into())),
        other => {
            let index = match other.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
                None => None,
            };
            let index = index.ok_or_else(|| {
                refuse("is not a device; expected cpu, cuda, cuda:N or mps".into())
            })?;
            match cuda() {
                Cuda::Usable(count) if i64::try_from(index).is_ok_and(|index| index < count) => {
                    Device::Cuda(index)
                }
                Cuda::Usable(count) => {
                    return Err(refuse(format!("there are {count} GPU(s), numbered from 0")));
                }
                reason => {
                    return Err(refuse(format!("{reason}; use cpu, or see `cargo xtask doctor`")));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_f64_is_not_asked_for_it() -> Result<()> {
        assert!(has_f64(Device::Cpu) && has_f64(Device::Cuda(1)));
        assert!(!has_f64(Device::Mps) && !has_f64(Device::Vulkan));
        let x = Tensor::from_slice(&[0.1f32]);
        assert_eq!(in_f64(&x)?.double_value(&[0]), f64::from(0.1f32));
        assert!(put(&x, Kind::Float, Device::Cpu).equal(&send(&x, Kind::Float, Device::Cpu)));
        Ok(())
    }

    #[test]
    fn a_set_up_for_cpus_is_told_from_a_broken_one() {
        let missing = "cannot open shared object file: No such file or directory";
        for library in ["libcusparse.so.12", "libnvshmem_host.so.3", "libnccl.so.2"] {
            assert!(lacks_nvidia(&format!("{library}: {missing}")), "{library}");
        }
        assert!(!lacks_nvidia(&format!("libgomp.so.1: {missing}")));
        assert!(!lacks_nvidia("libcudart.so.13: version `libcudart.so.13' not found"));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_whatever_its_number() {
        let two = || Cuda::Usable(2);
        assert_eq!(named("CUDA:1", two).unwrap(), Device::Cuda(1));
        for name in ["cuda:2", "cuda:9223372036854775808", "cuda:18446744073709551615"] {
            let said = named(name, two).unwrap_err().to_string();
            assert!(said.ends_with("there are 2 GPU(s), numbered from 0"), "{said}");
        }
        assert!(named("cuda:18446744073709551616", two).is_err());
    }

    #[test]
    fn what_does_not_fit_into_memory_is_refused() {
        assert!(check_memory(Device::Cpu, "a number", 8.).is_ok());
        for bytes in [1e18, f64::INFINITY] {
            let refused = check_memory(Device::Cpu, "all numbers", bytes);
            let said = refused.map_err(|e| e.to_string());
            if free_memory(Device::Cpu).is_some() {
                assert!(said.unwrap_err().starts_with("all numbers: expected what fits into "));
            }
        }
    }

    #[test]
    fn a_set_up_for_cpus_is_named_without_the_linkers_words() {
        let picked = Picked { device: Device::Cpu, why: Cuda::CpuBuild.to_string() };
        assert_eq!(picked.to_string(), "cpu (this set-up has libtorch for CPUs)");
        if let Cuda::NotLoaded(reason) = cuda() {
            panic!("libtorch_cuda does not load: {reason}");
        }
    }
}
