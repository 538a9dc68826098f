//! Whether a picture is some scene at all, whatever its caption says.

use tch::{Kind, Tensor};

use super::distances::nearest_distances;
use super::questions::{Layout, Question};
use super::scores::Share;
use crate::check::same_device;
use crate::models::judge::JudgeOutput;
use crate::{Error, Result};

/// The share of true scenes that each of both tests lets pass.
const PASS: f64 = 0.95;

/// How sure a judge is of pictures: the probability of its least sure answer among those that every scene has (the
/// layout, the thing, the background, the style, and the second thing of what it takes for a pair), `[B]` in f32 on the
/// CPU.
pub fn certainty(output: &JudgeOutput) -> Tensor {
    let best = |question: Question| {
        output.logits[question as usize].softmax(-1, Kind::Float).amax([-1i64].as_slice(), false)
    };
    let all = [Question::Layout, Question::First, Question::Background, Question::Style].map(best);
    let sure = Tensor::stack(&all, 0).amin([0i64].as_slice(), false);
    let layout = output.logits[Question::Layout as usize].argmax(-1, false);
    let pair = layout.eq(Layout::LeftOf as i64).logical_or(&layout.eq(Layout::Above as i64));
    let with_second = sure.minimum(&best(Question::Second));
    with_second.where_self(&pair, &sure).to_device(tch::Device::Cpu)
}

/// What true scenes are like to a judge. A picture is valid if the judge is as sure of it as of 95 % of true scenes, and
/// its features are as near to a true scene's as those of 95 % of other true scenes are; the second test is the
/// precision of Kynkäänniemi et al. 2019 with one radius for all.
pub struct Validity {
    features: Tensor,
    least_sure: f64,
    farthest: f64,
}

impl std::fmt::Debug for Validity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Validity {{ sure by {:.3}, within {:.3} }}", self.least_sure, self.farthest)
    }
}

impl Validity {
    /// From the features [N, d] of true scenes, and the features [M, d] and certainties `[M]` of others.
    ///
    /// # Errors
    /// No scenes; features of several lengths.
    pub fn of(features: &Tensor, others: &Tensor, certainty: &Tensor) -> Result<Self> {
        if others.size()[0] == 0 || certainty.size() != [others.size()[0]] {
            return Err(Error::shape("certainty", "[M], one a scene", &certainty.size()));
        }
        same_device("certainty", certainty.device(), others.device())?;
        let quantile = |x: &Tensor, q: f64| x.quantile_scalar(q, None::<i64>, false, "linear");
        let near = nearest_distances(others, features)?;
        Ok(Self {
            features: features.shallow_clone(),
            least_sure: quantile(certainty, 1. - PASS).double_value(&[]),
            farthest: quantile(&near, PASS).double_value(&[]),
        })
    }

    /// The share of valid pictures, of their features [N, d] and certainties `[N]`.
    ///
    /// # Errors
    /// Features of another length.
    pub fn share(&self, features: &Tensor, certainty: &Tensor) -> Result<Share> {
        same_device("certainty", certainty.device(), features.device())?;
        let near = nearest_distances(features, &self.features)?.le(self.farthest);
        let valid = certainty.ge(self.least_sure).logical_and(&near);
        Ok(Share::of(Vec::<i64>::try_from(valid.to_kind(Kind::Int64))?.into_iter().map(|v| v == 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    #[test]
    fn most_of_the_same_kind_is_valid_and_what_is_far_or_unsure_is_not() -> Result<()> {
        let [known, others, fresh] = [1, 2, 3].map(|seed| standard_normal(&[2000, 4], seed));
        let (known, others, fresh) = (known?, others?, fresh?);
        let sure = |seed| -> Result<Tensor> { Ok(standard_normal(&[2000], seed)?.sigmoid()) };
        let valid = Validity::of(&known, &others, &sure(4)?)?;
        let share = valid.share(&fresh, &sure(5)?)?.share;
        assert!((share - 0.95 * 0.95).abs() < 0.02, "{share}");
        assert_eq!(valid.share(&(&fresh + 9.), &sure(5)?)?.share, 0.);
        assert_eq!(valid.share(&fresh, &(sure(5)? * 0.))?.share, 0.);
        assert!(Validity::of(&known, &others, &sure(4)?.narrow(0, 0, 5)).is_err());
        Ok(())
    }

    /// The least sure of the answers counts, the second thing only in a pair, and colours never.
    #[test]
    fn a_judge_is_as_sure_as_of_its_least_sure_answer() {
        let logits = |question: Question, best: i64, sure: f64| {
            let n = question.answers() as i64;
            let x = Tensor::zeros([1, n], tch::kind::FLOAT_CPU);
            // With these logits the best answer has the probability `sure`.
            let _ = x.narrow(1, best, 1).fill_((sure * (n - 1) as f64 / (1. - sure)).ln());
            x
        };
        let sure_of = |layout: Layout, of: [f64; 7]| {
            let all = Question::ALL.iter().zip(of).map(|(&question, sure)| {
                let best = if question == Question::Layout { layout as i64 } else { 1 };
                logits(question, best, sure)
            });
            let output = JudgeOutput { features: Tensor::new(), logits: all.collect() };
            certainty(&output).double_value(&[0])
        };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-5;
        assert!(near(sure_of(Layout::One, [0.9, 0.8, 0.5, 0.5, 0.5, 0.7, 0.95]), 0.7));
        assert!(near(sure_of(Layout::Above, [0.9, 0.8, 0.5, 0.4, 0.4, 0.7, 0.95]), 0.5));
        assert!(near(sure_of(Layout::Small, [0.6, 0.8, 0.5, 0.4, 0.4, 0.7, 0.95]), 0.6));
    }
}
