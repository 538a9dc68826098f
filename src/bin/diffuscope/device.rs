//! `diffuscope device`: what the networks would run on, and why.

use clap::Args;
use diffuscope::Result;
use diffuscope::device::{cuda, pick};

#[derive(Args)]
pub struct Device {
    /// cpu, cuda, cuda:N or mps: whether it can be used [default: what would be picked]
    device: Option<String>,
}

pub fn run(args: Device) -> Result<()> {
    println!("device:  {}", pick(args.device.as_deref())?);
    println!("CUDA:    {}", cuda());
    println!("threads: {}", tch::get_num_threads());
    Ok(())
}
