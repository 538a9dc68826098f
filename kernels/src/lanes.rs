//! Vectors of f32, by the CPU's instructions.

use std::arch::x86_64::*;

/// The operations of the loops on a vector. Every one of them is inlined into a function that has the instructions.
///
/// # Safety
/// The CPU has the instructions; pointers have [`Lanes::N`] numbers.
pub(crate) trait Lanes: Copy {
    type V: Copy;
    /// Numbers of a vector.
    const N: usize;
    /// Vectors that lie beside each other in the registers, for each of [`ROWS`](crate::head::ROWS) rows.
    const ABREAST: usize;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `a b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `2^x`, of which what is above 2^126 counts as that; NaN stays NaN.
    unsafe fn exp2(x: Self::V) -> Self::V;
    /// Whether any number of `a` is above that of `b`.
    unsafe fn any_above(a: Self::V, b: Self::V) -> bool;
    /// From bf16.
    unsafe fn widen(from: *const u16) -> Self::V;
    /// To the nearest bf16, and to the even one of two.
    unsafe fn narrow(to: *mut u16, v: Self::V);
}

/// `2^f = sum c_i f^i` on [-1/2, 1/2], the highest power first: within 2e-7 of 1.
const EXP2: [f32; 7] =
    [1.535336e-4, 1.339887e-3, 9.618437e-3, 5.550332e-2, 2.402265e-1, 6.931472e-1, 1.];
/// Below it nothing is left of 1 in f32, and above its opposite little is left to count.
const LEAST: f32 = -126.;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Lanes for Avx512 {
    type V = __m512;
    const N: usize = 16;
    const ABREAST: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn exp2(x: __m512) -> __m512 {
        unsafe {
            // Of NaN and a number, the second one.
            let x = _mm512_min_ps(_mm512_set1_ps(-LEAST), _mm512_max_ps(_mm512_set1_ps(LEAST), x));
            let whole = _mm512_roundscale_ps::<0>(x);
            let part = _mm512_sub_ps(x, whole);
            let mut sum = _mm512_set1_ps(EXP2[0]);
            for c in &EXP2[1..] {
                sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(*c));
            }
            _mm512_scalef_ps(sum, whole)
        }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn any_above(a: __m512, b: __m512) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0 }
    }

    #[inline(always)]
    unsafe fn widen(from: *const u16) -> __m512 {
        unsafe {
            let short = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(short)))
        }
    }

    #[inline(always)]
    unsafe fn narrow(to: *mut u16, v: __m512) {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            // A NaN stays one.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40_0000));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(up)));
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

impl Lanes for Avx2 {
    type V = __m256;
    const N: usize = 8;
    const ABREAST: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn exp2(x: __m256) -> __m256 {
        unsafe {
            let x = _mm256_min_ps(_mm256_set1_ps(-LEAST), _mm256_max_ps(_mm256_set1_ps(LEAST), x));
            let whole = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let part = _mm256_sub_ps(x, whole);
            let mut sum = _mm256_set1_ps(EXP2[0]);
            for c in &EXP2[1..] {
                sum = _mm256_fmadd_ps(sum, part, _mm256_set1_ps(*c));
            }
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            _mm256_mul_ps(sum, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn any_above(a: __m256, b: __m256) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0 }
    }

    #[inline(always)]
    unsafe fn widen(from: *const u16) -> __m256 {
        unsafe {
            let short = _mm_loadu_si128(from.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(short)))
        }
    }

    #[inline(always)]
    unsafe fn narrow(to: *mut u16, v: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            // A NaN stays one.
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x40_0000)));
            let up = _mm256_blendv_epi8(up, _mm256_castps_si256(quiet), _mm256_castps_si256(nan));
            let short = _mm256_srli_epi32::<16>(up);
            // Pairs of halves are packed apart from each other.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(short, short));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
}

/// A tile of `ROWS` rows of `W` vectors, whose rows are `wide` numbers apart.
///
/// # Safety
/// As [`Lanes`]; the tile is there.
#[inline(always)]
pub(crate) unsafe fn load_tile<L: Lanes, const ROWS: usize, const W: usize>(
    from: *const f32,
    wide: usize,
) -> [[L::V; W]; ROWS] {
    unsafe {
        let mut tile = [[L::splat(0.); W]; ROWS];
        for r in 0..ROWS {
            for w in 0..W {
                tile[r][w] = L::load(from.add(r * wide + w * L::N));
            }
        }
        tile
    }
}

/// # Safety
/// As [`load_tile`]; nobody else reads or writes it.
#[inline(always)]
pub(crate) unsafe fn store_tile<L: Lanes, const ROWS: usize, const W: usize>(
    to: *mut f32,
    wide: usize,
    tile: &[[L::V; W]; ROWS],
) {
    unsafe {
        for r in 0..ROWS {
            for w in 0..W {
                L::store(to.add(r * wide + w * L::N), tile[r][w]);
            }
        }
    }
}

/// All numbers of a vector as one.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn fold<L: Lanes>(v: L::V, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut all = [0f32; 16];
    unsafe { L::store(all.as_mut_ptr(), v) };
    let mut n = L::N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            all[i] = f(all[i], all[i + n]);
        }
    }
    all[0]
}

/// Where the softmax of a row stands.
#[derive(Clone, Copy)]
pub(crate) struct Softmax<L: Lanes> {
    /// The largest score so far.
    largest: f32,
    /// The sums so far of `2^(score - largest)`, of every place of a vector.
    totals: L::V,
}

impl<L: Lanes> Softmax<L> {
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub unsafe fn start() -> Self {
        Self { largest: f32::NEG_INFINITY, totals: unsafe { L::splat(0.) } }
    }

    /// Turns the scores of another block, in `line`, into `2^(score - largest)`, of which those after `seen` count
    /// nothing. What was summed before, in `sums` of `wide` numbers, shrinks as the largest score grows.
    ///
    /// # Safety
    /// As [`Lanes`]; `line` has `BLOCK` numbers.
    #[inline(always)]
    pub unsafe fn take<const BLOCK: usize>(
        &mut self,
        line: *mut f32,
        seen: usize,
        sums: *mut f32,
        wide: usize,
    ) {
        unsafe {
            for i in seen.min(BLOCK)..BLOCK {
                *line.add(i) = f32::NEG_INFINITY;
            }
            let mut top = L::load(line);
            for i in (L::N..BLOCK).step_by(L::N) {
                top = L::max(top, L::load(line.add(i)));
            }
            if L::any_above(top, L::splat(self.largest)) {
                let top = fold::<L>(top, f32::max);
                let shrink = L::splat((self.largest - top).exp2());
                self.largest = top;
                self.totals = L::mul(self.totals, shrink);
                for w in (0..wide).step_by(L::N) {
                    L::store(sums.add(w), L::mul(L::load(sums.add(w)), shrink));
                }
            }
            // Where no score is a number yet, nothing is subtracted: infinities would make NaN of what is hidden.
            let largest =
                L::splat(if self.largest == f32::NEG_INFINITY { 0. } else { self.largest });
            let mut sum = L::splat(0.);
            for i in (0..BLOCK).step_by(L::N) {
                let e = L::exp2(L::sub(L::load(line.add(i)), largest));
                sum = L::add(sum, e);
                L::store(line.add(i), e);
            }
            self.totals = L::add(self.totals, sum);
            for i in seen.min(BLOCK)..BLOCK {
                *line.add(i) = 0.;
            }
        }
    }

    /// The sum of all `2^(score - largest)`.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub unsafe fn total(&self) -> f32 {
        unsafe { fold::<L>(self.totals, |a, b| a + b) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[target_feature(enable = "avx2,fma")]
    fn of_eight(x: [f32; 8]) -> [f32; 8] {
        let mut out = [0.; 8];
        unsafe { Avx2::store(out.as_mut_ptr(), Avx2::exp2(Avx2::load(x.as_ptr()))) };
        out
    }

    #[target_feature(enable = "avx512f")]
    fn of_sixteen(x: [f32; 16]) -> [f32; 16] {
        let mut out = [0.; 16];
        unsafe { Avx512::store(out.as_mut_ptr(), Avx512::exp2(Avx512::load(x.as_ptr()))) };
        out
    }

    #[test]
    fn powers_of_two_are_right_to_rounding() {
        let (two, five) = (
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            is_x86_feature_detected!("avx512f"),
        );
        for start in (0..126_000).step_by(16) {
            let x: [f32; 16] = std::array::from_fn(|i| -((start + i) as f32) * 1e-3);
            let near = |got: &[f32], x: &[f32]| {
                got.iter()
                    .zip(x)
                    .all(|(got, x)| (f64::from(*got) / f64::from(*x).exp2() - 1.).abs() < 4e-7)
            };
            // SAFETY: the instructions are there.
            unsafe {
                let eight: [f32; 8] = std::array::from_fn(|i| x[i]);
                assert!(!two || near(&of_eight(eight), &eight), "{x:?}");
                assert!(!five || near(&of_sixteen(x), &x), "{x:?}");
            }
        }
        // SAFETY: as above.
        unsafe {
            assert!(!two || of_eight([f32::NAN; 8]).iter().all(|x| x.is_nan()));
            assert!(!five || of_sixteen([f32::NAN; 16]).iter().all(|x| x.is_nan()));
            assert!(!two || of_eight([f32::NEG_INFINITY; 8]).iter().all(|x| *x < 1e-37));
            assert!(!five || of_sixteen([f32::NEG_INFINITY; 16]).iter().all(|x| *x < 1e-37));
        }
    }
}
