//! How this CPU computes fastest, and the switch that has it compute in libtorch's plain way.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use diffuscope_kernels::{Instructions, team};
use tch::{Device, Kind, Tensor};

/// The environment variable that turns all of our own faster ways off, unless it is empty or `0`: for doubt, and to see
/// what they win.
pub const PLAIN: &str = "DIFFUSCOPE_PLAIN";

/// Whether networks compute in libtorch's plain way.
pub(crate) fn plain() -> bool {
    static SAID: OnceLock<bool> = OnceLock::new();
    *SAID
        .get_or_init(|| std::env::var_os(PLAIN).is_some_and(|said| !said.is_empty() && said != "0"))
}

/// Whether this CPU computes in bf16 what is stored in bf16: it has instructions for it, and they are quicker than those
/// for f32, which a first call measures in some milliseconds. Some CPUs have them at half the speed of f32's.
pub(crate) fn has_bf16() -> bool {
    static MEASURED: OnceLock<bool> = OnceLock::new();
    *MEASURED.get_or_init(|| has_bf16_instructions() && (plain() || bf16_is_quicker()))
}

#[cfg(target_arch = "x86_64")]
fn has_bf16_instructions() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn has_bf16_instructions() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_bf16_instructions() -> bool {
    false
}

/// The best of a few products of matrices in either dtype, in turn.
fn bf16_is_quicker() -> bool {
    let ones = |kind| Tensor::ones([384, 384], (kind, Device::Cpu));
    let matrices = [ones(Kind::BFloat16), ones(Kind::Float)];
    let product = |matrix: &Tensor| matrix.matmul(matrix);
    let [bf16, f32] = best_of([&|| product(&matrices[0]), &|| product(&matrices[1])]);
    bf16 < f32
}

/// The shortest time of each, of several calls in turn.
fn best_of(works: [&dyn Fn() -> Tensor; 2]) -> [Duration; 2] {
    let mut best = [Duration::MAX; 2];
    for _ in 0..6 {
        for (work, best) in works.iter().zip(&mut best) {
            let start = Instant::now();
            let _ = tch::no_grad(work);
            *best = start.elapsed().min(*best);
        }
    }
    best
}

/// Whether libtorch's linear layers take much longer than convolutions of as many products, as they do on some CPUs: then
/// wide ones are computed as those. A first call measures it in some milliseconds.
pub(crate) fn linear_lags() -> bool {
    static MEASURED: OnceLock<bool> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let (rows, width) = (512, 640);
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        let (x, weight) = (ones(&[rows, width]), ones(&[width, width]));
        let picture = x.view([1, rows, 1, width]).permute([0, 3, 1, 2]);
        let window = weight.view([width, width, 1, 1]);
        let linear = || x.linear(&weight, None::<&Tensor>);
        let convolution = || picture.conv2d(&window, None::<&Tensor>, 1, 0, 1, 1);
        let [linear, convolution] = best_of([&linear, &convolution]);
        linear > convolution.mul_f64(1.4)
    })
}

/// What is in use on this CPU, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// The instructions of our own loops; `None` where libtorch computes everything.
    pub instructions: Option<Instructions>,
    /// Whether the samples of a batch are shared out among the cores.
    pub teams: bool,
    /// Whether bf16 is computed in bf16, or in f32.
    pub bf16: bool,
}

/// What is in use on this CPU.
pub fn ways() -> Ways {
    let instructions = Instructions::of_this_cpu().filter(|_| !plain());
    Ways { instructions, teams: team::has_teams() && !plain(), bf16: has_bf16() }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if plain() {
            return write!(f, "libtorch's plain ways, as {PLAIN} says");
        }
        match self.instructions {
            Some(instructions) => write!(f, "our own loops by {instructions}")?,
            None => {
                f.write_str("libtorch's loops (this CPU has none of the instructions of ours)")?
            }
        }
        if self.teams {
            f.write_str(", batches shared out among the cores")?;
        }
        let bf16 = if self.bf16 { "bf16" } else { "f32, which is no slower here" };
        write!(f, "; bf16 is computed in {bf16}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_what_is_in_use() {
        let some = Ways { instructions: Some(Instructions::Avx2), teams: true, bf16: false };
        let none = Ways { instructions: None, teams: false, bf16: true };
        if !plain() {
            assert_eq!(
                some.to_string(),
                "our own loops by AVX2, batches shared out among the cores; bf16 is computed in f32, which is no \
                 slower here"
            );
            assert_eq!(
                none.to_string(),
                "libtorch's loops (this CPU has none of the instructions of ours); bf16 is computed in bf16"
            );
        }
        assert!(has_bf16_instructions() || !has_bf16());
    }
}
