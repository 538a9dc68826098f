//! Out of memory in libtorch: an error that says what was asked for and what to try. The program can go on.
//!
//! The bindings panic where an operation in the middle of an equation fails. What is large runs [`guarded`].

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

use tch::Tensor;

use crate::{Error, Result};

thread_local! {
    /// How many [`guarded`] calls this thread is in.
    static GUARDED: Cell<usize> = const { Cell::new(0) };
}

/// Calls `body`, and makes an error of it if libtorch runs out of memory there. `doing` says what was being done, as
/// "decoding 3 pictures", and `advice` what to try. All other panics pass.
pub(crate) fn guarded<T>(
    doing: impl FnOnce() -> String,
    advice: &str,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    hush();
    let records = records_gradients();
    // `tch::no_grad` does not put back what it changed when a panic passes; this does.
    let _as_before = tch::no_grad_guard();
    let _counted = Counted::new();
    let body = || if records { tch::with_grad(body) } else { body() };
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.while_doing(doing, advice)),
        Err(panic) => match said(panic.as_ref()).and_then(Error::out_of_memory) {
            Some(error) => Err(error.while_doing(doing, advice)),
            None => resume_unwind(panic),
        },
    }
}

/// Counts a call as long as it runs.
struct Counted;

impl Counted {
    fn new() -> Self {
        GUARDED.set(GUARDED.get() + 1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        GUARDED.set(GUARDED.get() - 1);
    }
}

fn records_gradients() -> bool {
    (Tensor::from(0f32).set_requires_grad(true) + 0.).requires_grad()
}

/// A panic's words.
fn said(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
}

/// Keeps a panic that becomes an error from being printed; all others go to the hook that was there before.
fn hush() {
    static ONCE: Once = Once::new();
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let becomes_an_error = GUARDED.try_with(|count| count.get() > 0).unwrap_or(false)
                && said(info.payload()).is_some_and(|said| Error::out_of_memory(said).is_some());
            if !becomes_an_error {
                before(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn huge() -> Tensor {
        let one = Tensor::ones([1], tch::kind::FLOAT_CPU).expand([1 << 46], false);
        &one + &one
    }

    #[test]
    fn a_panic_for_lack_of_memory_is_an_error_and_gradients_go_on_as_before() {
        let x = Tensor::ones([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let failed = || guarded(|| "adding".into(), "add less", || Ok(tch::no_grad(huge)));
        let said = failed().unwrap_err().to_string();
        assert_eq!(said, "out of memory: adding asked for 281474.98 GB more than it had; add less");
        assert!((&x * 2.).requires_grad(), "no_grad was left by a panic");
        tch::no_grad(|| {
            assert!(failed().is_err());
            assert!(!(&x * 2.).requires_grad());
        });
        let kept = guarded(String::new, "", || Ok(&x * 2.)).unwrap();
        assert!(kept.requires_grad());
    }

    #[test]
    fn the_innermost_call_says_what_and_the_outermost_what_to_try() {
        let inner = || guarded(|| "decoding".into(), "tiles", || Ok(huge()));
        let said = guarded(|| "drawing".into(), "fewer", inner).unwrap_err().to_string();
        assert!(said.contains("decoding asked") && said.ends_with("; fewer"), "{said}");
        let other = guarded(String::new, "", || Err::<(), _>(Error::argument("a", "b", "c")));
        assert_eq!(other.unwrap_err().to_string(), "a: expected b, got c");
    }

    #[test]
    fn every_other_panic_passes() {
        let x = Tensor::ones([2], tch::kind::FLOAT_CPU);
        let call = || guarded(String::new, "", || Ok(x.matmul(&x.view([1, 2]))));
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        assert_eq!(GUARDED.get(), 0);
    }
}
