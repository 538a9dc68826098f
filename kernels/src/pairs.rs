//! The loops in bf16: each instruction multiplies pairs of numbers and adds them up in f32.

use std::arch::x86_64::*;

use crate::head::{BLOCK, Bf16, Head, ROWS, Stored, padded};
use crate::lanes::{Avx512, Lanes, Softmax, load_tile, store_tile};

/// A head's keys and values in the order of the loops, two neighbours in one u32, and the tiles of a few rows.
#[derive(Default)]
pub(crate) struct Pairs {
    /// [blocks][pairs of the width][BLOCK]
    keys: Vec<u32>,
    /// [pairs of keys][padded width]
    values: Vec<u32>,
    /// [pairs of the width][ROWS]
    queries: Vec<u32>,
    /// [ROWS][padded width]
    sums: Vec<f32>,
}

fn pair(low: Bf16, high: Bf16) -> u32 {
    u32::from(low.0) | u32::from(high.0) << 16
}

impl Pairs {
    /// Takes over a head's keys and values.
    ///
    /// # Safety
    /// The head's matrices are there.
    pub unsafe fn pack(&mut self, head: &Head<Bf16>) {
        let (blocks, pairs) = (head.keys.div_ceil(BLOCK), head.width.div_ceil(2));
        let wide = padded(head.width);
        let zeros = |all: &mut Vec<u32>, len: usize| {
            all.clear();
            all.resize(len, 0);
        };
        zeros(&mut self.keys, blocks * pairs * BLOCK);
        zeros(&mut self.values, blocks * BLOCK / 2 * wide);
        zeros(&mut self.queries, pairs * ROWS);
        self.sums.clear();
        self.sums.resize(ROWS * wide, 0.);
        for i in 0..head.keys {
            let block = &mut self.keys[i / BLOCK * pairs * BLOCK..][..pairs * BLOCK];
            let values = &mut self.values[i / 2 * wide..][..wide];
            for d in 0..head.width {
                // SAFETY: the head has `keys` rows of `width` numbers.
                let (k, v) = unsafe { (head.k.at(i, d), head.v.at(i, d)) };
                block[d / 2 * BLOCK + i % BLOCK] |= u32::from(k.0) << (16 * (d % 2));
                values[d] |= u32::from(v.0) << (16 * (i % 2));
            }
        }
    }

    /// Writes the rows `from..to` of the head that was packed.
    ///
    /// # Safety
    /// The head's matrices are there, and nobody else writes these rows; the CPU has AVX-512 with bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn rows(&mut self, head: &Head<Bf16>, from: usize, to: usize) {
        let (width, wide) = (head.width, padded(head.width));
        let pairs = width.div_ceil(2);
        let scale = (width as f32).sqrt().recip() * std::f32::consts::LOG2_E;
        let mut tile = [0f32; ROWS * BLOCK];
        let tile = tile.as_mut_ptr();
        let sums = self.sums.as_mut_ptr();
        for first in (from..to).step_by(ROWS) {
            let rows = ROWS.min(to - first);
            unsafe {
                for d in 0..pairs {
                    for r in 0..ROWS {
                        let q = |d: usize| match r < rows && d < width {
                            true => head.q.at(first + r, d),
                            false => Bf16(0),
                        };
                        *self.queries.get_unchecked_mut(d * ROWS + r) =
                            pair(q(2 * d), q(2 * d + 1));
                    }
                }
                self.sums.fill(0.);
                let mut softmax = [Softmax::<Avx512>::start(); ROWS];
                let seen = head.seen(first + rows - 1);
                for start in (0..seen).step_by(BLOCK) {
                    let here = (seen - start).min(BLOCK);
                    let keys = self.keys.as_ptr().add(start * pairs);
                    scores(keys, self.queries.as_ptr(), pairs, here, scale, tile);
                    for (r, softmax) in softmax.iter_mut().enumerate() {
                        let seen = head.seen(first + r).saturating_sub(start);
                        let (line, sums) = (tile.add(r * BLOCK), sums.add(r * wide));
                        softmax.take::<BLOCK>(line, seen, sums, wide);
                    }
                    weigh(tile, self.values.as_ptr().add(start / 2 * wide), wide, here, sums);
                }
                for (r, softmax) in softmax.iter().take(rows).enumerate() {
                    let share = softmax.total().recip();
                    for d in 0..width {
                        head.out.set(first + r, d, Bf16::narrow(*sums.add(r * wide + d) * share));
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn load(from: *const u32) -> __m512bh {
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
}

#[inline(always)]
unsafe fn splat(x: u32) -> __m512bh {
    // SAFETY: both are 512 bits.
    unsafe { std::mem::transmute(_mm512_set1_epi32(x as i32)) }
}

/// The scaled scores of the rows and the first `here` keys of a block.
///
/// # Safety
/// AVX-512 with bf16; the packed keys and queries, and a tile, are there.
#[inline(always)]
unsafe fn scores(
    keys: *const u32,
    queries: *const u32,
    pairs: usize,
    here: usize,
    scale: f32,
    tile: *mut f32,
) {
    unsafe {
        match here.div_ceil(Avx512::N) {
            1 => score::<1>(keys, queries, pairs, scale, tile),
            2 => score::<2>(keys, queries, pairs, scale, tile),
            3 => score::<3>(keys, queries, pairs, scale, tile),
            _ => score::<4>(keys, queries, pairs, scale, tile),
        }
    }
}

/// # Safety
/// As [`scores`], for `K` vectors of keys.
#[inline(always)]
unsafe fn score<const K: usize>(
    keys: *const u32,
    queries: *const u32,
    pairs: usize,
    scale: f32,
    tile: *mut f32,
) {
    unsafe {
        let mut s = [[Avx512::splat(0.); K]; ROWS];
        for d in 0..pairs {
            let mut k = [splat(0); K];
            for j in 0..K {
                k[j] = load(keys.add(d * BLOCK + j * Avx512::N));
            }
            for r in 0..ROWS {
                let q = splat(*queries.add(d * ROWS + r));
                for j in 0..K {
                    s[r][j] = _mm512_dpbf16_ps(s[r][j], q, k[j]);
                }
            }
        }
        let scale = Avx512::splat(scale);
        for r in 0..ROWS {
            for j in 0..K {
                Avx512::store(tile.add(r * BLOCK + j * Avx512::N), Avx512::mul(s[r][j], scale));
            }
        }
    }
}

/// Adds the weighted values of `here` keys to the sums, a strip of vectors at a time. The weights are rounded to bf16.
///
/// # Safety
/// AVX-512 with bf16; the tile, the packed values and the sums are there.
#[inline(always)]
unsafe fn weigh(tile: *const f32, values: *const u32, wide: usize, here: usize, sums: *mut f32) {
    let mut weights = [0u32; ROWS * BLOCK / 2];
    for at in (0..ROWS * BLOCK).step_by(2 * Avx512::N) {
        unsafe {
            let (low, high) = (Avx512::load(tile.add(at)), Avx512::load(tile.add(at + Avx512::N)));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(weights.as_mut_ptr().add(at / 2).cast(), both);
        }
    }
    let mut start = 0;
    while start < wide {
        let vectors = ((wide - start) / Avx512::N).min(Avx512::ABREAST);
        let pairs = here.div_ceil(2);
        let weights = weights.as_ptr();
        unsafe {
            let (values, sums) = (values.add(start), sums.add(start));
            match vectors {
                1 => weigh_strip::<1>(weights, values, wide, pairs, sums),
                2 => weigh_strip::<2>(weights, values, wide, pairs, sums),
                3 => weigh_strip::<3>(weights, values, wide, pairs, sums),
                _ => weigh_strip::<4>(weights, values, wide, pairs, sums),
            }
        }
        start += vectors * Avx512::N;
    }
}

/// # Safety
/// As [`weigh`], for `W` vectors.
#[inline(always)]
unsafe fn weigh_strip<const W: usize>(
    weights: *const u32,
    values: *const u32,
    wide: usize,
    pairs: usize,
    sums: *mut f32,
) {
    unsafe {
        let mut sum = load_tile::<Avx512, ROWS, W>(sums, wide);
        for k in 0..pairs {
            let mut v = [splat(0); W];
            for w in 0..W {
                v[w] = load(values.add(k * wide + w * Avx512::N));
            }
            for r in 0..ROWS {
                let p = splat(*weights.add(r * BLOCK / 2 + k));
                for w in 0..W {
                    sum[r][w] = _mm512_dpbf16_ps(sum[r][w], p, v[w]);
                }
            }
        }
        store_tile::<Avx512, ROWS, W>(sums, wide, &sum);
    }
}
