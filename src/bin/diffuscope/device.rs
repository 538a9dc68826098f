//! `diffuscope device`: the device that the networks would run on, and why.

use clap::Args;
use diffuscope::Result;
use diffuscope::device::{cuda, pick};

#[derive(Args)]
pub struct DeviceArgs {
    /// The device to check: cpu, cuda, cuda:N or mps [default: the one that would be picked]
    device: Option<String>,
}

pub fn run(args: DeviceArgs) -> Result<()> {
    println!("device:  {}", pick(args.device.as_deref())?);
    println!("CUDA:    {}", cuda());
    println!("threads: {}", tch::get_num_threads());
    Ok(())
}
