//! What the checks ran on.

use std::process::Command;

use diffuscope::device;
use diffuscope::environment::environment;
use serde::Serialize;
use tch::Device;
use time::OffsetDateTime;

use crate::bench::said_by;

/// What the checks ran on, as the report has it. Null is what nobody says.
#[derive(Debug, Serialize)]
pub struct MachineFacts {
    pub device: String,
    /// The GPU's name, or the processor's.
    pub name: Option<String>,
    pub driver: Option<String>,
    pub cuda: Option<String>,
    pub libtorch: Option<String>,
    pub diffuscope: &'static str,
    /// In UTC.
    pub date: String,
}

impl MachineFacts {
    pub fn of(device: Device) -> Self {
        let (name, driver) = match device {
            Device::Cpu => (processor(), None),
            _ => (smi(device, "name"), smi(device, "driver_version")),
        };
        Self {
            device: device::name(device),
            name,
            driver,
            cuda: (device != Device::Cpu).then(driver_s_cuda).flatten(),
            libtorch: environment().ok().and_then(|found| found.libtorch),
            diffuscope: env!("CARGO_PKG_VERSION"),
            date: OffsetDateTime::now_utc().date().to_string(),
        }
    }

    pub fn lines(&self) -> String {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        let (device, name, date) = (&self.device, or(&self.name), &self.date);
        let first = format!("{device}: {name}, {date}\nlibtorch {}", or(&self.libtorch));
        match device.as_str() {
            "cpu" => first,
            _ => format!("{first}, driver {}, CUDA {}", or(&self.driver), or(&self.cuda)),
        }
    }
}

/// What nvidia-smi says of a GPU.
pub fn smi(device: Device, what: &str) -> Option<String> {
    let Device::Cuda(index) = device else { return None };
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let query = [format!("--query-gpu={what}"), "--format=csv,noheader,nounits".into()];
    said_by(Command::new("nvidia-smi").args(query).args(["-i", &smi_number(index, &visible)])).ok()
}

/// nvidia-smi counts all GPUs, and a process only those that CUDA_VISIBLE_DEVICES lists.
fn smi_number(index: usize, visible: &str) -> String {
    match visible.split(',').nth(index).map(str::trim) {
        Some(listed) if !listed.is_empty() => listed.to_owned(),
        _ => index.to_string(),
    }
}

/// The CUDA version that the driver supports.
fn driver_s_cuda() -> Option<String> {
    let text = said_by(&mut Command::new("nvidia-smi")).ok()?;
    let (_, rest) = text.split_once("CUDA Version:")?;
    Some(rest.split_whitespace().next()?.to_owned())
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The bytes in use: on a GPU by everybody, on the CPU by this process for itself.
pub fn used_memory(device: Device) -> Option<f64> {
    if device != Device::Cpu {
        return Some(smi(device, "memory.used")?.parse::<f64>().ok()? * f64::from(1 << 20));
    }
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_found_behind_the_list_of_visible_ones() {
        assert_eq!(smi_number(1, ""), "1");
        assert_eq!(smi_number(1, "4, 6"), "6");
        assert_eq!(smi_number(0, "GPU-1b2c"), "GPU-1b2c");
    }

    #[test]
    fn what_a_process_uses_of_the_cpu_s_memory_is_known_on_linux() {
        assert_eq!(used_memory(Device::Cpu).is_some(), cfg!(target_os = "linux"));
    }
}
