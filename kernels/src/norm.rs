//! Group norm of pictures with their channels side by side, and the SiLU that follows it, in two passes over the numbers.

use crate::attention::{Instructions, Number};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512, Lanes};
#[cfg(target_arch = "x86_64")]
use crate::team::share_out;

/// A whole group norm.
///
/// ```text
/// y = (x - mean) / sqrt(var + eps) weight + bias      over the cells and the channels of a group, Wu and He 2018
/// y sigmoid(y)                                        after it, with `silu`
/// ```
#[derive(Clone, Copy)]
pub struct GroupNorm<'a> {
    /// What the pictures' numbers are stored in.
    pub number: Number,
    /// Pictures.
    pub batch: usize,
    /// Cells of a picture.
    pub cells: usize,
    /// Groups, which divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// One a channel; as many as there are channels, a multiple of [`GroupNorm::CHANNELS`].
    pub weight: &'a [f32],
    /// One a channel.
    pub bias: &'a [f32],
    /// Whether SiLU follows.
    pub silu: bool,
    /// The pictures, [batch, cells, channels].
    pub x: *const u8,
    /// The results, in the same order.
    pub out: *mut u8,
}

// SAFETY: the pointers are only used in `compute`, whose caller promises that the numbers are there.
unsafe impl Sync for GroupNorm<'_> {}

/// Numbers of a piece of work: few enough to stay in a core's own cache.
const PIECE: usize = 1 << 14;
/// Cells whose sums are kept in f32.
const SHORT: usize = 64;

impl GroupNorm<'_> {
    /// A vector's numbers on every CPU, of which a channel count has to be a multiple.
    pub const CHANNELS: usize = 16;

    /// Computes it, with these instructions, on as many threads as OpenMP has.
    ///
    /// # Safety
    /// All pictures are there and of this size; nobody else writes them or reads the results meanwhile; the CPU has the
    /// instructions.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn compute(&self, with: Instructions) {
        let channels = self.weight.len();
        let cells = (PIECE / channels).clamp(1, self.cells);
        let pieces = self.cells.div_ceil(cells);
        let count = self.batch * pieces;
        let range = |i: usize| {
            let from = i % pieces * cells;
            (i / pieces * self.cells + from, (self.cells - from).min(cells))
        };
        let mut sums = vec![0f64; count * 2 * self.groups];
        let places = Places(sums.as_mut_ptr());
        share_out(count, Vec::new, |rows, i| {
            let (from, cells) = range(i);
            // SAFETY: the caller's promise, and every piece of work has sums of its own.
            unsafe {
                let shift = self.first(i / pieces);
                self.sum(with, from, cells, shift, rows);
                self.by_group(rows, places.at(i * 2 * self.groups, 2 * self.groups));
            }
        });
        let lines: Vec<Vec<f32>> =
            (0..self.batch).map(|b| unsafe { self.line(b, &sums, pieces) }).collect();
        share_out(
            count,
            || (),
            |(), i| {
                let (from, cells) = range(i);
                // SAFETY: the caller's promise, and every piece of work has results of its own.
                unsafe { self.apply(with, from, cells, &lines[i / pieces]) }
            },
        );
    }

    /// Computes nothing: no such CPU has the instructions.
    ///
    /// # Safety
    /// There is nothing to promise.
    #[cfg(not(target_arch = "x86_64"))]
    pub unsafe fn compute(&self, _: Instructions) {}
}

/// Where the pieces of work put their sums.
#[cfg(target_arch = "x86_64")]
struct Places(*mut f64);

// SAFETY: every piece of work has a place of its own.
#[cfg(target_arch = "x86_64")]
unsafe impl Sync for Places {}

#[cfg(target_arch = "x86_64")]
impl Places {
    /// # Safety
    /// Nobody else has these places.
    #[allow(clippy::mut_from_ref)]
    unsafe fn at(&self, from: usize, count: usize) -> &mut [f64] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(from), count) }
    }
}

#[cfg(target_arch = "x86_64")]
impl GroupNorm<'_> {
    /// A number of the picture, near which the others may lie: sums of differences from it keep their digits.
    unsafe fn first(&self, picture: usize) -> f32 {
        let at = picture * self.cells * self.weight.len();
        unsafe {
            match self.number {
                Number::F32 => *self.x.cast::<f32>().add(at),
                Number::Bf16 => f32::from_bits(u32::from(*self.x.cast::<u16>().add(at)) << 16),
            }
        }
    }

    unsafe fn sum(
        &self,
        with: Instructions,
        from: usize,
        cells: usize,
        shift: f32,
        rows: &mut Vec<f32>,
    ) {
        unsafe {
            match with {
                Instructions::Avx2 => self.sum_avx2(from, cells, shift, rows),
                _ => self.sum_avx512(from, cells, shift, rows),
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn sum_avx2(&self, from: usize, cells: usize, shift: f32, rows: &mut Vec<f32>) {
        unsafe { self.sum_with::<Avx2>(from, cells, shift, rows) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn sum_avx512(&self, from: usize, cells: usize, shift: f32, rows: &mut Vec<f32>) {
        unsafe { self.sum_with::<Avx512>(from, cells, shift, rows) }
    }

    /// For every short run of cells, the sums over them of every channel's differences, and of their squares.
    #[inline(always)]
    unsafe fn sum_with<L: Lanes>(
        &self,
        from: usize,
        cells: usize,
        shift: f32,
        rows: &mut Vec<f32>,
    ) {
        let channels = self.weight.len();
        rows.clear();
        rows.resize(cells.div_ceil(SHORT) * 2 * channels, 0.);
        unsafe {
            let shift = L::splat(shift);
            for (run, row) in (0..cells).step_by(SHORT).zip(rows.chunks_exact_mut(2 * channels)) {
                let run = run..(run + SHORT).min(cells);
                for c in (0..channels).step_by(L::N) {
                    let (mut sum, mut squares) = (L::splat(0.), L::splat(0.));
                    for cell in run.clone() {
                        let x = L::sub(self.load::<L>((from + cell) * channels + c), shift);
                        sum = L::add(sum, x);
                        squares = L::fma(x, x, squares);
                    }
                    L::store(row.as_mut_ptr().add(c), sum);
                    L::store(row.as_mut_ptr().add(channels + c), squares);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(&self, at: usize) -> L::V {
        unsafe {
            match self.number {
                Number::F32 => L::load(self.x.cast::<f32>().add(at)),
                Number::Bf16 => L::widen(self.x.cast::<u16>().add(at)),
            }
        }
    }

    /// Adds up what [`GroupNorm::sum`] left, group by group: first all sums, then all sums of squares.
    fn by_group(&self, rows: &[f32], sums: &mut [f64]) {
        let channels = self.weight.len();
        let each = channels / self.groups;
        for (i, row) in rows.chunks_exact(channels).enumerate() {
            let kind = i % 2;
            for (g, group) in row.chunks_exact(each).enumerate() {
                sums[kind * self.groups + g] += group.iter().map(|x| f64::from(*x)).sum::<f64>();
            }
        }
    }

    /// What is subtracted from every channel of a picture, what it is multiplied by, and what is then added.
    unsafe fn line(&self, picture: usize, sums: &[f64], pieces: usize) -> Vec<f32> {
        let (channels, groups) = (self.weight.len(), self.groups);
        let each = channels / groups;
        let shift = f64::from(unsafe { self.first(picture) });
        let mut line = vec![0f32; 3 * channels];
        let of_picture = &sums[picture * pieces * 2 * groups..][..pieces * 2 * groups];
        for g in 0..groups {
            let total = |kind: usize| -> f64 {
                of_picture.chunks_exact(2 * groups).map(|piece| piece[kind * groups + g]).sum()
            };
            let count = (self.cells * each) as f64;
            let mean = total(0) / count;
            let variance = (total(1) / count - mean * mean).max(0.);
            let scale = 1. / (variance + f64::from(self.eps)).sqrt();
            for c in g * each..(g + 1) * each {
                line[c] = (mean + shift) as f32;
                line[channels + c] = (f64::from(self.weight[c]) * scale) as f32;
                line[2 * channels + c] = self.bias[c];
            }
        }
        line
    }

    unsafe fn apply(&self, with: Instructions, from: usize, cells: usize, line: &[f32]) {
        unsafe {
            match with {
                Instructions::Avx2 => self.apply_avx2(from, cells, line),
                _ => self.apply_avx512(from, cells, line),
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn apply_avx2(&self, from: usize, cells: usize, line: &[f32]) {
        unsafe { self.apply_with::<Avx2>(from, cells, line) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn apply_avx512(&self, from: usize, cells: usize, line: &[f32]) {
        unsafe { self.apply_with::<Avx512>(from, cells, line) }
    }

    #[inline(always)]
    unsafe fn apply_with<L: Lanes>(&self, from: usize, cells: usize, line: &[f32]) {
        let channels = self.weight.len();
        let (mean, line) = line.split_at(channels);
        let (weight, bias) = line.split_at(channels);
        unsafe {
            let (one, e) = (L::splat(1.), L::splat(-std::f32::consts::LOG2_E));
            for cell in from..from + cells {
                for c in (0..channels).step_by(L::N) {
                    let at = cell * channels + c;
                    let (w, b) = (L::load(weight.as_ptr().add(c)), L::load(bias.as_ptr().add(c)));
                    let x = L::sub(self.load::<L>(at), L::load(mean.as_ptr().add(c)));
                    let mut y = L::fma(x, w, b);
                    if self.silu {
                        y = L::div(y, L::add(one, L::exp2(L::mul(y, e))));
                    }
                    match self.number {
                        Number::F32 => L::store(self.out.cast::<f32>().add(at), y),
                        Number::Bf16 => L::narrow(self.out.cast::<u16>().add(at), y),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(x: f32) -> u16 {
        (x.to_bits().wrapping_add(0x7fff + ((x.to_bits() >> 16) & 1)) >> 16) as u16
    }

    fn wide(x: u16) -> f32 {
        f32::from_bits(u32::from(x) << 16)
    }

    #[test]
    fn every_shape_is_what_f64_says() {
        let mut state = 9u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let shapes =
            [(1, 1, 16, 1), (2, 7, 32, 32), (1, 300, 48, 16), (3, 1024, 64, 4), (2, 5, 960, 32)];
        for (batch, cells, channels, groups) in shapes {
            for (far, silu) in [(0., false), (0., true), (100., false), (-30., true)] {
                let x: Vec<f32> =
                    (0..batch * cells * channels).map(|_| next() * 4. + far).collect();
                let [weight, bias] =
                    [0, 1].map(|_| (0..channels).map(|_| next() * 2.).collect::<Vec<f32>>());
                for number in [Number::F32, Number::Bf16] {
                    let short: Vec<u16> = x.iter().map(|x| narrow(*x)).collect();
                    let x: Vec<f64> = match number {
                        Number::F32 => x.iter().map(|x| f64::from(*x)).collect(),
                        Number::Bf16 => short.iter().map(|x| f64::from(wide(*x))).collect(),
                    };
                    let singles: Vec<f32> = x.iter().map(|x| *x as f32).collect();
                    let mut out = vec![0xffu8; 4 * x.len()];
                    let norm = GroupNorm {
                        number,
                        batch,
                        cells,
                        groups,
                        eps: 1e-5,
                        weight: &weight,
                        bias: &bias,
                        silu,
                        x: match number {
                            Number::F32 => singles.as_ptr().cast(),
                            Number::Bf16 => short.as_ptr().cast(),
                        },
                        out: out.as_mut_ptr(),
                    };
                    let best = Instructions::of_this_cpu();
                    for with in Instructions::ALL
                        .into_iter()
                        .filter(|with| best.is_some_and(|best| *with <= best))
                    {
                        // SAFETY: the pictures are there, and the CPU has the instructions.
                        unsafe { norm.compute(with) };
                        let (mut gap, mut largest) = (0f64, 0f64);
                        for b in 0..batch {
                            for g in 0..groups {
                                let each = channels / groups;
                                let at = |i: usize| {
                                    (b * cells + i / each) * channels + g * each + i % each
                                };
                                let count = cells * each;
                                let mean = (0..count).map(|i| x[at(i)]).sum::<f64>() / count as f64;
                                let var =
                                    (0..count).map(|i| (x[at(i)] - mean).powi(2)).sum::<f64>()
                                        / count as f64;
                                for i in 0..count {
                                    let c = g * each + i % each;
                                    let y = (x[at(i)] - mean) / (var + 1e-5).sqrt()
                                        * f64::from(weight[c])
                                        + f64::from(bias[c]);
                                    let y = if silu { y / (1. + (-y).exp()) } else { y };
                                    let got = match number {
                                        Number::F32 => f32::from_ne_bytes(
                                            out[4 * at(i)..][..4].try_into().unwrap(),
                                        ),
                                        Number::Bf16 => wide(u16::from_ne_bytes(
                                            out[2 * at(i)..][..2].try_into().unwrap(),
                                        )),
                                    };
                                    let off = (f64::from(got) - y).abs();
                                    gap = if off.is_nan() { f64::INFINITY } else { gap.max(off) };
                                    largest = largest.max(y.abs());
                                }
                            }
                        }
                        // A number far from 0 has few digits after the point: what is left of it has fewer.
                        let allowed = match number {
                            Number::F32 => 2e-6 + 2e-7 * f64::from(far).abs(),
                            Number::Bf16 => 5e-3,
                        };
                        assert!(
                            gap <= allowed * largest.max(1e-3),
                            "{:?} {number:?} {with:?} far {far} silu {silu}: {gap:e} of {largest:e}",
                            (batch, cells, channels, groups)
                        );
                    }
                }
            }
        }
    }
}
