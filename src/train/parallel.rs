//! Work on all cores at once: one thread per item, with libtorch single-threaded in each.
//!
//! Left alone, libtorch divides every operation among the cores and waits for the slowest. Cores with samples
//! of their own do not wait.

use std::panic::resume_unwind;

/// Runs `work` on every item, each on its own thread. A single item gets all of libtorch's threads.
pub(super) fn at_once<T: Send, R: Send>(
    items: &mut [T],
    work: impl Fn(&mut T) -> R + Sync,
) -> Vec<R> {
    if let [only] = items {
        return vec![work(only)];
    }
    let (work, threads) = (&work, tch::get_num_threads());
    let answers = std::thread::scope(|scope| {
        let start = |item| {
            scope.spawn(move || {
                tch::set_num_threads(1);
                work(item)
            })
        };
        let threads: Vec<_> = items.iter_mut().map(start).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    // libtorch applies the last number to all future threads.
    tch::set_num_threads(threads);
    answers.into_iter().map(|answer| answer.unwrap_or_else(|panic| resume_unwind(panic))).collect()
}

/// Divides `items` into up to `count` groups of about the same cost, none of them empty.
pub(super) fn share_out<T>(
    items: impl IntoIterator<Item = T>,
    count: usize,
    cost: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut groups: Vec<(usize, Vec<T>)> = (0..count.max(1)).map(|_| (0, Vec::new())).collect();
    for item in items {
        let cost = cost(&item);
        if let Some((sum, group)) = groups.iter_mut().min_by_key(|(sum, _)| *sum) {
            *sum += cost;
            group.push(item);
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|group| !group.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_the_answers_keep_their_order() {
        let mut items: Vec<usize> = (0..5).collect();
        assert_eq!(
            at_once(&mut items, |i| {
                *i += 1;
                *i * 10
            }),
            [10, 20, 30, 40, 50]
        );
        assert_eq!(items, [1, 2, 3, 4, 5]);
        let groups = share_out([5, 1, 1, 1, 1, 1], 2, |&cost| cost);
        assert_eq!(groups, [vec![5], vec![1, 1, 1, 1, 1]]);
        assert_eq!(share_out([1, 1], 8, |&cost| cost).len(), 2);
    }
}
