//! One head's matrices, as they lie in memory.

/// A number that a matrix is stored in.
pub(crate) trait Stored: Copy + Send + Sync {
    fn wide(self) -> f32;
    fn narrow(x: f32) -> Self;
    /// The head itself, if its numbers are bf16.
    fn bf16(head: &Head<Self>) -> Option<Head<Bf16>>;
}

impl Stored for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }

    fn bf16(_: &Head<Self>) -> Option<Head<Bf16>> {
        None
    }
}

/// The upper half of an f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bf16(pub u16);

impl Stored for Bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// To the nearest, and to the even one of two.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        if x.is_nan() {
            return Self((bits >> 16) as u16 | 0x40);
        }
        Self(((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    fn bf16(head: &Head<Self>) -> Option<Head<Bf16>> {
        Some(*head)
    }
}

/// A matrix whose rows are `stride` numbers apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    pub first: *mut T,
    pub stride: usize,
}

impl<T: Stored> Rows<T> {
    /// # Safety
    /// The matrix has this row and this column.
    #[inline(always)]
    pub unsafe fn at(self, row: usize, column: usize) -> T {
        unsafe { *self.first.add(row * self.stride + column) }
    }

    /// # Safety
    /// The matrix has this row and this column, and nobody else reads or writes them.
    #[inline(always)]
    pub unsafe fn set(self, row: usize, column: usize, value: T) {
        unsafe { *self.first.add(row * self.stride + column) = value }
    }
}

/// The queries, keys, values and results of one head of one sample.
#[derive(Clone, Copy)]
pub(crate) struct Head<T> {
    pub q: Rows<T>,
    pub k: Rows<T>,
    pub v: Rows<T>,
    pub out: Rows<T>,
    pub keys: usize,
    /// Numbers of a query, a key and a value.
    pub width: usize,
    /// A query sees the keys up to its own place only.
    pub causal: bool,
}

impl<T> Head<T> {
    /// How many keys the query `row` sees.
    pub fn seen(&self, row: usize) -> usize {
        if self.causal { (row + 1).min(self.keys) } else { self.keys }
    }
}

/// Queries that are worked on at once.
pub(crate) const ROWS: usize = 6;
/// Keys that are worked on at once.
pub(crate) const BLOCK: usize = 64;

/// The length of a row of values that fills whole vectors.
pub(crate) fn padded(width: usize) -> usize {
    width.next_multiple_of(16)
}
