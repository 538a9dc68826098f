//! Attention of many heads: which loops, and how the work is shared out.

use std::fmt;
use std::sync::OnceLock;

use crate::head::{Bf16, Head, Rows, Stored};
#[cfg(target_arch = "x86_64")]
use crate::pairs::Pairs;
#[cfg(target_arch = "x86_64")]
use crate::singles::Singles;
use crate::team::share_out;

/// The instructions that there are loops for. Each has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Vectors of 8 numbers.
    Avx2,
    /// Vectors of 16 numbers.
    Avx512,
    /// Products of pairs of bf16 numbers.
    Avx512Bf16,
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Bf16 => "AVX-512 with bf16",
        })
    }
}

impl Instructions {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The best that this CPU has; `None` if it has none of them.
    pub fn of_this_cpu() -> Option<Self> {
        static FOUND: OnceLock<Option<Instructions>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                let five =
                    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
                if five && is_x86_feature_detected!("avx512bf16") {
                    return Some(Self::Avx512Bf16);
                }
                if five {
                    return Some(Self::Avx512);
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return Some(Self::Avx2);
                }
            }
            None
        })
    }
}

/// What the numbers of all matrices are stored in. Sums are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// 32 bits.
    F32,
    /// The upper half of 32 bits.
    Bf16,
}

/// The matrices [B, heads, rows, width] of a tensor, whose rows' numbers lie side by side.
#[derive(Clone, Copy)]
pub struct Matrices {
    /// The first number.
    pub first: *mut u8,
    /// How many numbers the next sample, head and row are away.
    pub strides: [usize; 3],
}

// SAFETY: a pointer is only used in `Attention::compute`, whose caller promises that the numbers are there.
unsafe impl Send for Matrices {}
// SAFETY: as above; every row of the results is written by one thread.
unsafe impl Sync for Matrices {}

/// A whole attention.
#[derive(Clone, Copy)]
pub struct Attention {
    /// What the numbers are stored in.
    pub number: Number,
    /// Samples.
    pub batch: usize,
    /// Heads of a sample.
    pub heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head, 1 or more.
    pub keys: usize,
    /// Numbers of a query, a key and a value, 1 or more.
    pub width: usize,
    /// A query sees the keys up to its own place only.
    pub causal: bool,
    /// The queries.
    pub q: Matrices,
    /// The keys.
    pub k: Matrices,
    /// The values.
    pub v: Matrices,
    /// The results, one row a query.
    pub out: Matrices,
}

/// Query rows of a piece of work, a multiple of those that are worked on at once.
const PIECE: usize = 120;

impl Attention {
    /// Computes it, with these instructions, on as many threads as OpenMP has.
    ///
    /// # Safety
    /// All matrices are there and of this size; nobody else writes any of them or reads the results meanwhile; the CPU has
    /// the instructions.
    pub unsafe fn compute(&self, with: Instructions) {
        match self.number {
            // SAFETY: the caller's promise.
            Number::F32 => unsafe { self.compute_as::<f32>(with) },
            // SAFETY: the caller's promise.
            Number::Bf16 => unsafe { self.compute_as::<Bf16>(with) },
        }
    }

    unsafe fn compute_as<T: Stored>(&self, with: Instructions) {
        let pieces = self.queries.div_ceil(PIECE);
        let count = self.batch * self.heads * pieces;
        share_out(count, Packed::default, |packed, i| {
            let (i, piece) = (i / pieces, i % pieces);
            let (from, to) = (piece * PIECE, self.queries.min((piece + 1) * PIECE));
            // SAFETY: the caller's promise, and every piece of work has rows of its own.
            unsafe { packed.rows(&self.head::<T>(i), i, with, from, to) }
        });
    }

    fn head<T>(&self, i: usize) -> Head<T> {
        let rows = |matrices: Matrices| {
            let [of_sample, of_head, stride] = matrices.strides;
            let at = i / self.heads * of_sample + i % self.heads * of_head;
            Rows { first: matrices.first.cast::<T>().wrapping_add(at), stride }
        };
        let [q, k, v, out] = [self.q, self.k, self.v, self.out].map(rows);
        Head { q, k, v, out, keys: self.keys, width: self.width, causal: self.causal }
    }
}

/// A thread's packed head.
#[derive(Default)]
struct Packed {
    /// Which head it is.
    of: Option<usize>,
    #[cfg(target_arch = "x86_64")]
    singles: Singles,
    #[cfg(target_arch = "x86_64")]
    pairs: Pairs,
}

impl Packed {
    /// Writes some rows of a head, whose keys and values are packed first if they are not.
    ///
    /// # Safety
    /// The head's matrices are there, nobody else writes these rows, and the CPU has the instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe fn rows<T: Stored>(
        &mut self,
        head: &Head<T>,
        i: usize,
        with: Instructions,
        from: usize,
        to: usize,
    ) {
        let new = self.of.replace(i) != Some(i);
        if let (Some(head), Instructions::Avx512Bf16) = (T::bf16(head), with) {
            // SAFETY: the caller's promise.
            unsafe {
                if new {
                    self.pairs.pack(&head);
                }
                return self.pairs.rows(&head, from, to);
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            if new {
                self.singles.pack(head);
            }
            match with {
                Instructions::Avx2 => self.singles.rows_avx2(head, from, to),
                _ => self.singles.rows_avx512(head, from, to),
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn rows<T: Stored>(
        &mut self,
        _: &Head<T>,
        _: usize,
        _: Instructions,
        _: usize,
        _: usize,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of about unit variance, the same everywhere.
    struct Dice(u64);

    impl Dice {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            self.0 >> 33
        }

        fn between(&mut self, least: usize, most: usize) -> usize {
            least + self.next() as usize % (most - least + 1)
        }

        fn normal(&mut self) -> f32 {
            (0..12).map(|_| self.next() as f32 / (1u64 << 31) as f32).sum::<f32>() - 6.
        }
    }

    struct Case {
        attention: Attention,
        /// q, k and v as they are stored, widened again.
        wide: [Vec<f32>; 3],
        stored: [Vec<u8>; 4],
    }

    /// Numbers as [B, rows, heads, width], seen as [B, heads, rows, width].
    fn case(dice: &mut Dice, number: Number, shape: [usize; 5], causal: bool, spread: f32) -> Case {
        let [batch, heads, queries, keys, width] = shape;
        let mut fill = |rows: usize, spread: f32| {
            let all: Vec<f32> =
                (0..batch * rows * heads * width).map(|_| dice.normal() * spread).collect();
            match number {
                Number::F32 => (all.iter().flat_map(|x| x.to_ne_bytes()).collect(), all),
                Number::Bf16 => {
                    let all: Vec<Bf16> = all.into_iter().map(Bf16::narrow).collect();
                    let bytes: Vec<u8> = all.iter().flat_map(|x| x.0.to_ne_bytes()).collect();
                    (bytes, all.into_iter().map(Stored::wide).collect::<Vec<f32>>())
                }
            }
        };
        let (q, k, v) = (fill(queries, spread), fill(keys, spread), fill(keys, 1.));
        let out = vec![0xffu8; q.0.len()];
        let mut stored = [q.0, k.0, v.0, out];
        let [q_, k_, v_, out_] = stored.each_mut().map(|bytes| bytes.as_mut_ptr());
        let of =
            |first, rows| Matrices { first, strides: [rows * heads * width, width, heads * width] };
        let (q_, k_, v_, out_) = (of(q_, queries), of(k_, keys), of(v_, keys), of(out_, queries));
        let attention = Attention {
            number,
            batch,
            heads,
            queries,
            keys,
            width,
            causal,
            q: q_,
            k: k_,
            v: v_,
            out: out_,
        };
        Case { attention, wide: [q.1, k.1, v.1], stored }
    }

    impl Case {
        /// The largest difference from f64, as a share of the largest number.
        fn gap(&self, with: Instructions) -> f64 {
            // SAFETY: the case has its matrices, and `with` is one of the CPU's.
            unsafe { self.attention.compute(with) };
            let Attention { number, batch, heads, queries, keys, width, causal, .. } =
                self.attention;
            let got = |i: usize| match number {
                Number::F32 => f32::from_ne_bytes(self.stored[3][4 * i..][..4].try_into().unwrap()),
                Number::Bf16 => {
                    Bf16(u16::from_ne_bytes(self.stored[3][2 * i..][..2].try_into().unwrap()))
                        .wide()
                }
            };
            let [q, k, v] = &self.wide;
            let (mut far, mut largest) = (0f64, 0f64);
            for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
                let at = |rows: usize, row: usize| ((b * rows + row) * heads + h) * width;
                for row in 0..queries {
                    let seen = if causal { keys.min(row + 1) } else { keys };
                    let of = |x: &[f32], from: usize, d: usize| f64::from(x[from + d]);
                    let dot = |key: usize| -> f64 {
                        (0..width)
                            .map(|d| of(q, at(queries, row), d) * of(k, at(keys, key), d))
                            .sum()
                    };
                    let scores: Vec<f64> =
                        (0..seen).map(|key| dot(key) / (width as f64).sqrt()).collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for d in 0..width {
                        let sum: f64 = weights
                            .iter()
                            .enumerate()
                            .map(|(key, w)| w * of(v, at(keys, key), d))
                            .sum();
                        let expected = sum / total;
                        let gap = (f64::from(got(at(queries, row) + d)) - expected).abs();
                        far = if gap.is_nan() { f64::INFINITY } else { far.max(gap) };
                        largest = largest.max(expected.abs());
                    }
                }
            }
            far / largest
        }
    }

    fn known() -> impl Iterator<Item = Instructions> {
        let best = Instructions::of_this_cpu();
        Instructions::ALL.into_iter().filter(move |with| best.is_some_and(|best| *with <= best))
    }

    #[test]
    fn every_shape_is_what_f64_says() {
        let mut dice = Dice(7);
        for i in 0..60 {
            let mut shape = [
                dice.between(1, 2),
                dice.between(1, 3),
                dice.between(1, 140),
                dice.between(1, 200),
                dice.between(1, 170),
            ];
            let causal = i % 4 == 0;
            if causal {
                shape[3] = shape[2];
            }
            for (number, allowed) in [(Number::F32, 5e-6), (Number::Bf16, 2e-2)] {
                let case = case(&mut dice, number, shape, causal, 1.5);
                for with in known() {
                    let gap = case.gap(with);
                    assert!(
                        gap < allowed,
                        "{shape:?}, causal {causal}, {number:?}, {with:?}: {gap:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_key_far_above_the_others_gives_its_value_alone() {
        let mut dice = Dice(3);
        let case = case(&mut dice, Number::F32, [1, 2, 70, 130, 40], false, 10.);
        for with in known() {
            let gap = case.gap(with);
            assert!(gap < 1e-4, "{with:?}: {gap:e}");
        }
    }

    #[test]
    fn a_query_that_is_no_number_gives_none_and_spoils_no_other() {
        let mut dice = Dice(5);
        for with in known() {
            let mut case = case(&mut dice, Number::F32, [1, 2, 20, 70, 8], false, 1.);
            // Of [20, 2, 8]: the query 5 of head 1.
            let at = 4 * ((5 * 2 + 1) * 8 + 3);
            case.stored[0][at..at + 4].copy_from_slice(&f32::NAN.to_ne_bytes());
            // SAFETY: as in `gap`.
            unsafe { case.attention.compute(with) };
            for (i, row) in case.stored[3].chunks_exact(4 * 8).enumerate() {
                let nan =
                    row.chunks_exact(4).all(|x| f32::from_ne_bytes(x.try_into().unwrap()).is_nan());
                assert_eq!(nan, i == 5 * 2 + 1, "{with:?}, row {i}");
            }
        }
    }
}
