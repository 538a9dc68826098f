//! Options that several commands have.

use std::fmt;
use std::str::FromStr;

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

/// A seed as torch takes one, -2^63 to 2^64 - 1, whichever half of it other programs use. Both halves are the same 64
/// bits, and so the same numbers; a seed is shown as it was written.
#[derive(Clone, Copy)]
pub struct Seed {
    bits: u64,
    negative: bool,
}

impl Seed {
    /// The seed that comes `i` after this one; after the last one comes 0.
    pub fn after(self, i: usize) -> Self {
        Self { bits: self.bits.wrapping_add(i as u64), ..self }
    }

    /// As torch takes it.
    pub fn signed(self) -> i64 {
        self.bits as i64
    }

    /// As scenes take it.
    pub fn unsigned(self) -> u64 {
        self.bits
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.negative {
            true => write!(f, "{}", self.signed()),
            false => write!(f, "{}", self.bits),
        }
    }
}

impl FromStr for Seed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let negative = text.starts_with('-');
        let bits = match negative {
            true => text.parse::<i64>().ok().map(|seed| seed as u64),
            false => text.parse().ok(),
        };
        let expected = "a whole number from -2^63 to 2^64 - 1";
        let bits = bits.ok_or_else(|| Error::argument("seed", expected, text))?;
        Ok(Self { bits, negative })
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
