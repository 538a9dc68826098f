//! How much memory a file may fill with what it says of itself, beside its tensors.

/// Published checkpoints need about one mebibyte.
const MOST_BYTES: usize = 64 << 20;

/// The memory that is left to what a file describes: a few bytes in it can stand for many.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub fn new() -> Self {
        Self { left: MOST_BYTES }
    }

    /// Takes room for `count` values of type `T`; called before they are stored.
    ///
    /// # Errors
    /// More than is left; the error says what is wrong with the file.
    pub fn take<T>(&mut self, count: usize) -> Result<(), String> {
        let left = count.checked_mul(size_of::<T>()).and_then(|n| self.left.checked_sub(n));
        self.left = left.ok_or_else(|| {
            format!(
                "it is too large: what it holds beside its numbers would fill more than {} MiB of memory",
                MOST_BYTES >> 20
            )
        })?;
        Ok(())
    }
}
