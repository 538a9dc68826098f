//! Answers that are asked for at every step, computed once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use tch::Tensor;

use super::version::Version;

/// The last few answers of a function that depends on nothing but the numbers of its inputs.
#[derive(Default)]
pub(crate) struct Memo {
    kept: Mutex<VecDeque<Kept>>,
}

/// The most answers that are kept: two halves of a guided prediction on each of a few cores.
const MOST: usize = 16;
/// The most numbers in all of them. A network has many of these, and the texts of a large batch are many.
const NUMBERS: usize = 1 << 20;

struct Kept {
    /// Kept too: as long as they live, no other tensor lies where they lie.
    _inputs: Vec<Tensor>,
    of: Vec<Version>,
    answer: Tensor,
}

// SAFETY: tensors are only read here, and libtorch's may be read by several threads at once.
unsafe impl Send for Kept {}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

impl Memo {
    /// The answer for these inputs, which is computed unless it was among the last.
    pub fn of(&self, inputs: &[&Tensor], compute: impl FnOnce() -> Tensor) -> Tensor {
        let of: Vec<Version> = inputs.iter().map(|x| Version::of(x)).collect();
        let found = self.kept.lock().ok().and_then(|kept| {
            let kept = kept.iter().find(|kept| kept.of == of)?;
            Some(kept.answer.shallow_clone())
        });
        found.unwrap_or_else(|| {
            let answer = compute();
            let inputs = inputs.iter().map(|x| x.shallow_clone()).collect();
            if let Ok(mut kept) = self.kept.lock() {
                kept.push_front(Kept { _inputs: inputs, of, answer: answer.shallow_clone() });
                let mut numbers = 0;
                let fits = |kept: &Kept| {
                    numbers += kept.answer.numel();
                    numbers <= NUMBERS
                };
                let few = kept.iter().map(fits).take(MOST).take_while(|fits| *fits).count();
                kept.truncate(few);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tch::kind::FLOAT_CPU;

    use super::*;

    #[test]
    fn an_answer_is_computed_again_when_an_input_has_other_numbers() {
        let (memo, computed) = (Memo::default(), Cell::new(0));
        let twice = |x: &Tensor| {
            memo.of(&[x], || {
                computed.set(computed.get() + 1);
                x * 2.
            })
        };
        let mut x = Tensor::arange(6, FLOAT_CPU).view([2, 3]);
        assert!(twice(&x).equal(&(&x * 2.)) && twice(&x).equal(&(&x * 2.)));
        assert_eq!(computed.get(), 1);
        // Another part of the same numbers, and the same part in another order.
        for other in [x.narrow(0, 1, 1), x.narrow(0, 0, 1), x.view([3, 2]), x.transpose(0, 1)] {
            assert!(twice(&other).equal(&(&other * 2.)));
        }
        assert_eq!(computed.get(), 5);
        let _ = x.fill_(7.);
        assert!(twice(&x).equal(&(&x * 2.)));
        assert_eq!(computed.get(), 6);
        for i in 0..40 {
            let x = Tensor::full([2, 3], i, FLOAT_CPU);
            assert!(twice(&x).equal(&(&x * 2.)), "{i}");
        }
        assert_eq!(memo.kept.lock().unwrap().len(), MOST);
    }

    #[test]
    fn what_is_kept_is_not_much() {
        let memo = Memo::default();
        let kept = || memo.kept.lock().unwrap().len();
        let zeros = |numbers| Tensor::zeros([numbers], FLOAT_CPU);
        for expected in [1, 2, 2, 2] {
            let _ = memo.of(&[&zeros(3)], || zeros(NUMBERS as i64 / 2));
            assert_eq!(kept(), expected);
        }
        let _ = memo.of(&[&zeros(3)], || zeros(NUMBERS as i64 + 1));
        assert_eq!(kept(), 0);
    }
}
