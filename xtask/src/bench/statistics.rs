//! What many rounds say: medians, and how far apart the rounds are.

use serde_json::{Value, json};

/// The middle one, or the mean of the two in the middle; none of nothing.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.),
    }
}

/// The ratios of the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// How many times as long the others take as ours, round by round: what slows a whole round slows both.
    pub fn of_rounds(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect();
        Some(Self {
            median: median(&ratios)?,
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    pub fn json(&self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }
}

/// The order in which `count` contestants run in a round: every one is first now and then, and follows another one.
pub fn order_of(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|i| (i + round / 2) % count.max(1)).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_a_round_and_not_of_the_medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3., 1., 2.]), Some(2.));
        assert_eq!(median(&[4., 1., 2., 3.]), Some(2.5));
        // A slow second round slows both.
        let spread = Spread::of_rounds(&[1., 10., 1.], &[2., 20., 3.]).unwrap();
        assert_eq!(spread, Spread { median: 2., least: 2., most: 3. });
        assert_eq!(Spread::of_rounds(&[], &[]), None);
    }

    #[test]
    fn every_contestant_runs_once_a_round_and_each_is_first_at_times() {
        let mut first = Vec::new();
        for round in 0..6 {
            let mut order = order_of(round, 3);
            first.push(order[0]);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2]);
        }
        assert!((0..3).all(|i| first.contains(&i)), "{first:?}");
        assert_eq!((order_of(0, 2), order_of(1, 2)), (vec![0, 1], vec![1, 0]));
        assert!(order_of(3, 0).is_empty());
    }
}
