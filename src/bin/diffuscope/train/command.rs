//! Which network is trained.

use clap::Subcommand;
use diffuscope::Result;

use super::diffusion::{self, DiffusionArgs};
use super::judge::{self, JudgeArgs};
use super::vae::{self, VaeArgs};

#[derive(Subcommand)]
pub enum TrainCommand {
    /// Train the autoencoder: pictures to latents and back. Do this first
    Vae(VaeArgs),
    /// Train the text encoder and the U-Net together, on the latents of a trained autoencoder
    Diffusion(DiffusionArgs),
    /// Train the judge: a classifier of scenes, with which `diffuscope eval` scores pictures
    Judge(JudgeArgs),
}

pub fn run(command: TrainCommand) -> Result<()> {
    keep_memory();
    match command {
        TrainCommand::Vae(args) => vae::run(args),
        TrainCommand::Diffusion(args) => diffusion::run(args),
        TrainCommand::Judge(args) => judge::run(args),
    }
}

/// Every step allocates the same memory. By default, glibc returns it to the system after each step and has to
/// request it again.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets three parameters of the allocator, before the first thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 1 << 27);
    }
}
