//! Options that several commands have.

use clap::{Args, ValueEnum};
use diffuscope::device::{Picked, pick};
use diffuscope::sampler::Sampler;
use diffuscope::scenes::Split;
use diffuscope::{Error, Result};
use tch::{Device, Kind};

use crate::terminal::say;

// How a model draws. A doc comment here would replace that of the command.
#[derive(Args)]
pub struct SamplingArgs {
    /// The sampler, such as ddim, euler-a or dpm++2m-karras; an unknown name lists all of them [default: the one in
    /// the model's folder]
    #[arg(long)]
    pub sampler: Option<Sampler>,
    /// How strongly to follow the prompt: 0 is not at all, 1 is as predicted, 5 to 8 is usual; several scales,
    /// separated by commas, are compared
    #[arg(
        long,
        value_name = "W[,W...]",
        value_delimiter = ',',
        default_value = "5",
        allow_hyphen_values = true
    )]
    pub guidance: Vec<f64>,
}

impl SamplingArgs {
    pub fn check(&self) -> Result<()> {
        match self.guidance.iter().find(|scale| !scale.is_finite()) {
            Some(bad) => Err(Error::argument("--guidance", "finite numbers", bad)),
            None => Ok(()),
        }
    }
}

// Where a model computes, and in which dtype.
#[derive(Args)]
pub struct ComputeArgs {
    /// The dtype that the networks compute in
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    #[command(flatten)]
    device: DeviceOptionArgs,
}

impl ComputeArgs {
    /// Picks the device and tells the user.
    pub fn device(&self) -> Result<Device> {
        let picked = self.device.pick()?;
        say(&format!("device: {picked}"));
        Ok(picked.device)
    }
}

#[derive(Args)]
pub struct DeviceOptionArgs {
    /// cpu, cuda, cuda:N or mps [default: CUDA if available, otherwise the CPU]
    #[arg(long, value_name = "D")]
    device: Option<String>,
}

impl DeviceOptionArgs {
    pub fn pick(&self) -> Result<Picked> {
        pick(self.device.as_deref())
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

impl Dtype {
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Which combinations of colours and objects scenes may show.
#[derive(Clone, Copy, ValueEnum)]
pub enum SplitOption {
    Train,
    HeldOut,
    Any,
}

impl SplitOption {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

impl From<SplitOption> for Split {
    fn from(split: SplitOption) -> Self {
        match split {
            SplitOption::Train => Self::Train,
            SplitOption::HeldOut => Self::HeldOut,
            SplitOption::Any => Self::Any,
        }
    }
}
