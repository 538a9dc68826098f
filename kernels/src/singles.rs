//! The loops in f32, whatever the matrices are stored in.

use crate::head::{BLOCK, Head, ROWS, Stored, padded};
use crate::lanes::{Avx2, Avx512, Lanes, Softmax, load_tile, store_tile};

/// A head's keys and values in the order of the loops, and the tiles of a few rows: what a thread needs for itself.
#[derive(Default)]
pub(crate) struct Singles {
    /// [blocks][width][BLOCK]
    keys: Vec<f32>,
    /// [blocks * BLOCK][padded width]
    values: Vec<f32>,
    /// [width][ROWS]
    queries: Vec<f32>,
    /// [ROWS][padded width]
    sums: Vec<f32>,
}

impl Singles {
    /// Takes over a head's keys and values.
    ///
    /// # Safety
    /// The head's matrices are there.
    pub unsafe fn pack<T: Stored>(&mut self, head: &Head<T>) {
        let (blocks, width) = (head.keys.div_ceil(BLOCK), head.width);
        let wide = padded(width);
        let zeros = |all: &mut Vec<f32>, len: usize| {
            all.clear();
            all.resize(len, 0.);
        };
        zeros(&mut self.keys, blocks * width * BLOCK);
        zeros(&mut self.values, blocks * BLOCK * wide);
        zeros(&mut self.queries, width * ROWS);
        zeros(&mut self.sums, ROWS * wide);
        for (i, values) in (0..head.keys).zip(self.values.chunks_exact_mut(wide)) {
            let block = &mut self.keys[i / BLOCK * width * BLOCK..][..width * BLOCK];
            for d in 0..width {
                // SAFETY: the head has `keys` rows of `width` numbers.
                unsafe {
                    block[d * BLOCK + i % BLOCK] = head.k.at(i, d).wide();
                    values[d] = head.v.at(i, d).wide();
                }
            }
        }
    }

    /// Writes the rows `from..to` of the head that was packed.
    ///
    /// # Safety
    /// The head's matrices are there, and nobody else writes these rows; the CPU has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn rows_avx512<T: Stored>(&mut self, head: &Head<T>, from: usize, to: usize) {
        unsafe { self.rows::<T, Avx512>(head, from, to) }
    }

    /// The same with AVX2.
    ///
    /// # Safety
    /// As [`Singles::rows_avx512`], with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn rows_avx2<T: Stored>(&mut self, head: &Head<T>, from: usize, to: usize) {
        unsafe { self.rows::<T, Avx2>(head, from, to) }
    }

    #[inline(always)]
    unsafe fn rows<T: Stored, L: Lanes>(&mut self, head: &Head<T>, from: usize, to: usize) {
        let (width, wide) = (head.width, padded(head.width));
        // In powers of two.
        let scale = (width as f32).sqrt().recip() * std::f32::consts::LOG2_E;
        let mut tile = [0f32; ROWS * BLOCK];
        let tile = tile.as_mut_ptr();
        let sums = self.sums.as_mut_ptr();
        for first in (from..to).step_by(ROWS) {
            let rows = ROWS.min(to - first);
            unsafe {
                for d in 0..width {
                    for r in 0..ROWS {
                        let q = if r < rows { head.q.at(first + r, d).wide() * scale } else { 0. };
                        *self.queries.get_unchecked_mut(d * ROWS + r) = q;
                    }
                }
                self.sums.fill(0.);
                let mut softmax = [Softmax::<L>::start(); ROWS];
                let seen = head.seen(first + rows - 1);
                for start in (0..seen).step_by(BLOCK) {
                    let here = (seen - start).min(BLOCK);
                    let keys = self.keys.as_ptr().add(start * width);
                    scores::<L>(keys, self.queries.as_ptr(), width, here, tile);
                    for (r, softmax) in softmax.iter_mut().enumerate() {
                        let seen = head.seen(first + r).saturating_sub(start);
                        let (line, sums) = (tile.add(r * BLOCK), sums.add(r * wide));
                        softmax.take::<BLOCK>(line, seen, sums, wide);
                    }
                    weigh::<L>(tile, self.values.as_ptr().add(start * wide), wide, here, sums);
                }
                for (r, softmax) in softmax.iter().take(rows).enumerate() {
                    let share = softmax.total().recip();
                    for d in 0..width {
                        head.out.set(first + r, d, T::narrow(*sums.add(r * wide + d) * share));
                    }
                }
            }
        }
    }
}

/// The scores of the rows and the first `here` keys of a block.
///
/// # Safety
/// As [`Lanes`]; the packed keys and queries of `width` numbers, and a tile, are there.
#[inline(always)]
unsafe fn scores<L: Lanes>(
    keys: *const f32,
    queries: *const f32,
    width: usize,
    here: usize,
    tile: *mut f32,
) {
    let mut start = 0;
    while start < here {
        let vectors = (here - start).div_ceil(L::N).min(L::ABREAST);
        let (keys, tile) = unsafe { (keys.add(start), tile.add(start)) };
        unsafe {
            match vectors {
                1 => score::<L, 1>(keys, queries, width, tile),
                2 => score::<L, 2>(keys, queries, width, tile),
                3 => score::<L, 3>(keys, queries, width, tile),
                _ => score::<L, 4>(keys, queries, width, tile),
            }
        }
        start += vectors * L::N;
    }
}

/// # Safety
/// As [`scores`], for `K` vectors of keys.
#[inline(always)]
unsafe fn score<L: Lanes, const K: usize>(
    keys: *const f32,
    queries: *const f32,
    width: usize,
    tile: *mut f32,
) {
    unsafe {
        let mut s = [[L::splat(0.); K]; ROWS];
        for d in 0..width {
            let mut k = [L::splat(0.); K];
            for j in 0..K {
                k[j] = L::load(keys.add(d * BLOCK + j * L::N));
            }
            for r in 0..ROWS {
                let q = L::splat(*queries.add(d * ROWS + r));
                for j in 0..K {
                    s[r][j] = L::fma(q, k[j], s[r][j]);
                }
            }
        }
        store_tile::<L, ROWS, K>(tile, BLOCK, &s);
    }
}

/// Adds the weighted values of `here` keys to the sums, a strip of vectors at a time.
///
/// # Safety
/// As [`Lanes`]; the tile, the packed values and the sums are there.
#[inline(always)]
unsafe fn weigh<L: Lanes>(
    tile: *const f32,
    values: *const f32,
    wide: usize,
    here: usize,
    sums: *mut f32,
) {
    let mut start = 0;
    while start < wide {
        let vectors = ((wide - start) / L::N).min(L::ABREAST);
        let (values, sums) = unsafe { (values.add(start), sums.add(start)) };
        unsafe {
            match vectors {
                1 => weigh_strip::<L, 1>(tile, values, wide, here, sums),
                2 => weigh_strip::<L, 2>(tile, values, wide, here, sums),
                3 => weigh_strip::<L, 3>(tile, values, wide, here, sums),
                _ => weigh_strip::<L, 4>(tile, values, wide, here, sums),
            }
        }
        start += vectors * L::N;
    }
}

/// # Safety
/// As [`weigh`], for `W` vectors.
#[inline(always)]
unsafe fn weigh_strip<L: Lanes, const W: usize>(
    tile: *const f32,
    values: *const f32,
    wide: usize,
    here: usize,
    sums: *mut f32,
) {
    unsafe {
        let mut sum = load_tile::<L, ROWS, W>(sums, wide);
        for k in 0..here {
            let mut v = [L::splat(0.); W];
            for w in 0..W {
                v[w] = L::load(values.add(k * wide + w * L::N));
            }
            for r in 0..ROWS {
                let p = L::splat(*tile.add(r * BLOCK + k));
                for w in 0..W {
                    sum[r][w] = L::fma(p, v[w], sum[r][w]);
                }
            }
        }
        store_tile::<L, ROWS, W>(sums, wide, &sum);
    }
}
