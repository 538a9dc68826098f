//! A batch shared out among the cores.
//!
//! Left alone, libtorch divides every operation among the cores, and all of them wait for the last: in a small network
//! that takes as long as the operations. Cores with samples of their own do not wait.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;

use crate::Result;
use crate::cpu::plain;
use diffuscope_kernels::team;

/// What the threads of a team share. libtorch's tensors may be read by several threads at once.
struct Shared<T>(T);

// SAFETY: the work only reads tensors, whose counts of owners are atomic.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> &T {
        &self.0
    }
}

/// The rows that each core gets of a batch of `batch`: the first one's number, and how many. Empty where it is better to
/// divide every operation.
fn shares(batch: i64, cores: i64) -> Vec<(i64, i64)> {
    let most = (batch + cores - 1) / cores.max(1);
    // With uneven shares, cores are idle at the end.
    if cores < 2 || batch < cores || 3 * most * cores > 4 * batch {
        return Vec::new();
    }
    (0..cores)
        .map(|i| (batch * i / cores, batch * (i + 1) / cores))
        .map(|(from, to)| (from, to - from))
        .collect()
}

/// `work(from, count)` computes these rows of a batch: all at once, or every core some of them. Returns what came of the
/// shares, in order. Without gradients.
pub(crate) fn shared_out<A>(batch: i64, work: impl Fn(i64, i64) -> Result<A>) -> Result<Vec<A>> {
    let shares = shares(batch, i64::from(tch::get_num_threads()));
    if shares.is_empty() || plain() || !team::has_teams() {
        return Ok(vec![work(0, batch)?]);
    }
    let answers: Vec<_> = shares.iter().map(|_| Shared(Mutex::new(None))).collect();
    let work = Shared(work);
    team::for_each(shares.len(), |i| {
        let (from, count) = shares[i];
        let body = || {
            // Of every thread's own; it ends with a panic too.
            let _without = tch::no_grad_guard();
            (work.get())(from, count)
        };
        let answer = catch_unwind(AssertUnwindSafe(body));
        if let Ok(mut place) = answers[i].get().lock() {
            *place = Some(answer);
        }
    });
    let mut rows = Vec::new();
    for answer in answers {
        match answer.0.into_inner().ok().flatten() {
            Some(Ok(answer)) => rows.push(answer?),
            Some(Err(panic)) => resume_unwind(panic),
            None => return Ok(vec![work.get()(0, batch)?]),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use tch::Tensor;

    use super::*;
    use crate::{Error, noise::standard_normal};

    #[test]
    fn every_row_has_a_core_and_none_has_much_more_than_others() {
        for batch in 0..40 {
            for cores in 0..20 {
                let shares = shares(batch, cores);
                if shares.is_empty() {
                    continue;
                }
                let mut next = 0;
                for (from, count) in &shares {
                    assert_eq!(*from, next);
                    next += count;
                }
                let most = shares.iter().map(|(_, count)| *count).max().unwrap();
                assert_eq!((next, shares.len() as i64), (batch, cores));
                assert!(3 * most * cores <= 4 * batch, "{batch} on {cores}");
            }
        }
        assert_eq!(shares(2, 2), [(0, 1), (1, 1)]);
        assert_eq!(shares(7, 2), [(0, 3), (3, 4)]);
        assert!(shares(1, 2).is_empty() && shares(5, 4).is_empty() && shares(2, 1).is_empty());
    }

    #[test]
    fn rows_come_back_in_order_and_an_error_comes_back() {
        let x = standard_normal(&[8, 3], 1).unwrap();
        let rows = AtomicI64::new(0);
        let twice = |from, count| {
            rows.fetch_add(count, Ordering::Relaxed);
            Ok(x.narrow(0, from, count) * 2.)
        };
        assert!(Tensor::cat(&shared_out(8, twice).unwrap(), 0).equal(&(&x * 2.)));
        assert_eq!(rows.load(Ordering::Relaxed), 8);
        let failed = shared_out(8, |_, _| Err::<(), _>(Error::argument("x", "y", "z")));
        assert_eq!(failed.unwrap_err().to_string(), "x: expected y, got z");
    }

    #[test]
    fn a_panic_comes_back_and_gradients_are_as_before() {
        let fail = || shared_out::<()>(8, |_, _| panic!("on purpose"));
        let panic = catch_unwind(fail).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        let learns = Tensor::ones([1], tch::kind::FLOAT_CPU).set_requires_grad(true);
        assert!((learns * 2.).requires_grad());
    }
}
