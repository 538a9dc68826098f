//! How good a model's pictures are: what a judge says of them, against what their captions say.

use tch::{Kind, Tensor};

use super::judge::{Layout, Question};
use super::scenes::{Form, HeldOut, Truth};
use super::scores::{Composition, PromptMatch, Share};
use crate::{Error, Result};

/// One picture that was asked for, and what the judge saw in it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What the caption means.
    pub truth: Truth,
    /// Which of it the caption says.
    pub form: Form,
    /// The judge's answers, in the order of [`Question::ALL`].
    pub answers: Vec<i64>,
}

impl Seen {
    /// Pairs truths with the rows of the judge's answers [N, 7].
    ///
    /// # Errors
    /// Answers that are not one row of seven a truth.
    pub fn all(truths: &[(Truth, Form)], answers: &Tensor) -> Result<Vec<Self>> {
        let (rows, columns) = (truths.len() as i64, Question::ALL.len() as i64);
        if answers.size() != [rows, columns] {
            let expected = format!("[{rows}, {columns}]");
            return Err(Error::shape("answers", expected, &answers.size()));
        }
        let rows = Vec::<Vec<i64>>::try_from(answers)?;
        let seen = |((truth, form), answers): (&(Truth, Form), Vec<i64>)| Self {
            truth: truth.clone(),
            form: *form,
            answers,
        };
        Ok(truths.iter().zip(rows).map(seen).collect())
    }

    fn answer(&self, question: Question) -> i64 {
        self.answers.get(question as usize).copied().unwrap_or(-1)
    }

    /// Whether the answer is right; where there is nothing to ask, it is.
    fn is_right(&self, question: Question) -> bool {
        question.truth(&self.truth).is_none_or(|truth| truth as i64 == self.answer(question))
    }

    fn layout(&self) -> Layout {
        Layout::of(&self.truth)
    }

    fn is_pair(&self) -> bool {
        matches!(self.layout(), Layout::LeftOf | Layout::Above)
    }

    fn is_count(&self) -> bool {
        matches!(self.layout(), Layout::Two | Layout::Three)
    }

    /// The objects are there, of a pair both, wherever they stand.
    pub fn objects(&self) -> bool {
        let here = [Question::First, Question::Second];
        let straight = here.into_iter().all(|q| self.is_right(q));
        let turned = self.is_pair()
            && here[0].truth(&self.truth) == Some(self.answer(here[1]) as usize)
            && here[1].truth(&self.truth) == Some(self.answer(here[0]) as usize);
        straight || turned
    }

    /// Every colour that the caption names is on its object.
    pub fn colours(&self) -> bool {
        self.objects()
            && [Question::FirstColour, Question::SecondColour].into_iter().all(|q| self.is_right(q))
    }

    /// The count, or how a pair stands: a pair in the right order.
    pub fn arrangement(&self) -> bool {
        let ordered = [Question::First, Question::Second].into_iter().all(|q| self.is_right(q));
        self.is_right(Question::Layout) && (!self.is_pair() || ordered)
    }

    /// What of the caption is not there, in a few words.
    pub fn wrong(&self) -> Vec<&'static str> {
        let arranged = if self.is_pair() { "relation" } else { "count or size" };
        let style = !self.form.style || self.is_right(Question::Style);
        let colours = [Question::FirstColour, Question::SecondColour];
        [
            (self.objects(), "object"),
            (!self.objects() || colours.into_iter().all(|q| self.is_right(q)), "colour"),
            (!self.objects() || self.arrangement(), arranged),
            (self.is_right(Question::Background), "background"),
            (style, "style"),
        ]
        .into_iter()
        .filter_map(|(right, what)| (!right).then_some(what))
        .collect()
    }

    /// Everything that the caption says.
    pub fn everything(&self) -> bool {
        self.colours()
            && self.arrangement()
            && self.is_right(Question::Background)
            && (!self.form.style || self.is_right(Question::Style))
    }
}

/// Counts over pictures.
pub fn prompt_match(seen: &[Seen]) -> PromptMatch {
    let share = |asked: &dyn Fn(&Seen) -> bool, right: &dyn Fn(&Seen) -> bool| {
        Share::of(seen.iter().filter(|s| asked(s)).map(right))
    };
    let single = |s: &Seen| !s.is_pair() && !s.is_count();
    let coloured = |s: &Seen| s.truth.objects.iter().any(|thing| thing.colour.is_some());
    PromptMatch {
        object: share(&single, &Seen::objects),
        colour: share(&|s| single(s) && coloured(s), &|s| s.is_right(Question::FirstColour)),
        background: share(&|_| true, &|s| s.is_right(Question::Background)),
        style: share(&|s| s.form.style, &|s| s.is_right(Question::Style)),
        single: share(&single, &Seen::everything),
        count: share(&Seen::is_count, &Seen::arrangement),
        pair_objects: share(&Seen::is_pair, &Seen::objects),
        pair_colours: share(&|s| s.is_pair() && coloured(s), &Seen::colours),
        relation: share(&|s| s.is_pair() && s.objects(), &Seen::arrangement),
        pair: share(&Seen::is_pair, &Seen::everything),
        caption: share(&|_| true, &Seen::everything),
    }
}

/// Counts what was held out of training apart from what was not.
pub fn composition(seen: &[Seen], held_out: &HeldOut) -> Composition {
    let share = |held: bool, pair: bool, right: fn(&Seen) -> bool| {
        let asked = |s: &&Seen| {
            let coloured = s.truth.objects.iter().any(|thing| thing.colour.is_some());
            held_out.contains(&s.truth) == held
                && if pair { s.is_pair() } else { s.truth.objects.len() == 1 && coloured }
        };
        Share::of(seen.iter().filter(asked).map(right))
    };
    Composition {
        held_out_colour: share(true, false, Seen::colours),
        trained_colour: share(false, false, Seen::colours),
        held_out_pair: share(true, true, Seen::objects),
        trained_pair: share(false, true, Seen::objects),
    }
}

/// The Fréchet distance of two sets of feature vectors, as if both were normally distributed.
///
/// ```text
/// |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))        Heusel et al. 2017, eq. 6
/// ```
///
/// # Shapes
/// `a` [N, d], `b` [M, d]; computed in f64.
/// # Errors
/// Fewer than two vectors, or vectors of different lengths.
///
/// # Examples
/// ```
/// use diffuscope::{noise::standard_normal, train::evaluate::frechet_distance};
/// let a = standard_normal(&[4000, 3], 0)?;
/// let moved = &a + 2.; // the same cloud, 2 further along each of 3 axes
/// assert!((frechet_distance(&a, &moved)? - 12.).abs() < 1e-3);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    for (name, x) in [("a", a), ("b", b)] {
        if x.dim() != 2 || x.size()[0] < 2 || x.size()[1] != b.size()[1] {
            return Err(Error::shape(name, "[2 or more, d], with one d for both", &x.size()));
        }
    }
    let moments = |x: &Tensor| {
        let x = x.to_kind(Kind::Double);
        let mean = x.mean_dim([0i64].as_slice(), true, Kind::Double);
        let centred = &x - &mean;
        let covariance = centred.transpose(0, 1).matmul(&centred) / (x.size()[0] - 1) as f64;
        (mean, covariance)
    };
    let ((mean_a, cov_a), (mean_b, cov_b)) = (moments(a), moments(b));
    // The root's trace is that of the symmetric (C_a^(1/2) C_b C_a^(1/2))^(1/2).
    let (values, vectors) = cov_a.f_linalg_eigh("L")?;
    let root =
        vectors.matmul(&values.clamp_min(0.).sqrt().diag(0)).matmul(&vectors.transpose(0, 1));
    let inner = root.matmul(&cov_b).matmul(&root);
    let inner = (&inner + inner.transpose(0, 1)) * 0.5;
    let cross = inner.f_linalg_eigvalsh("L")?.clamp_min(0.).sqrt().sum(Kind::Double);
    let apart = (mean_a - mean_b).square().sum(Kind::Double);
    let spread = cov_a.trace() + cov_b.trace() - cross * 2.;
    Ok((apart + spread).double_value(&[]).max(0.))
}

/// The distance of each of `of` [N, d] to the nearest of `among` [M, d]: `[N]`.
///
/// # Errors
/// Vectors of different lengths; none to be near to.
pub fn nearest_distances(of: &Tensor, among: &Tensor) -> Result<Tensor> {
    if of.dim() != 2 || among.dim() != 2 || of.size()[1] != among.size()[1] || among.size()[0] == 0
    {
        return Err(Error::shape("among", format!("[M, {:?}]", of.size().last()), &among.size()));
    }
    let mut nearest = Vec::new();
    for start in (0..of.size()[0]).step_by(256) {
        let some = of.narrow(0, start, 256.min(of.size()[0] - start));
        let distances = Tensor::f_cdist(&some, among, 2., 1)?;
        nearest.push(distances.amin([1i64].as_slice(), false));
    }
    Ok(if nearest.is_empty() {
        Tensor::zeros([0], tch::kind::FLOAT_CPU)
    } else {
        Tensor::cat(&nearest, 0)
    })
}

/// How far two samples of numbers are from coming from one distribution: the largest distance of their
/// cumulative shares; Smirnov 1939. 0 is alike, 1 is apart.
///
/// # Errors
/// An empty sample.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Result<f64> {
    if a.is_empty() || b.is_empty() {
        return Err(Error::argument("samples", "at least one number each", "none", ""));
    }
    let sorted = |x: &[f64]| {
        let mut x = x.to_vec();
        x.sort_by(f64::total_cmp);
        x
    };
    let (a, b) = (sorted(a), sorted(b));
    let below = |x: &[f64], value: f64| x.partition_point(|&y| y <= value) as f64 / x.len() as f64;
    let gap = |&value: &f64| (below(&a, value) - below(&b, value)).abs();
    Ok(a.iter().chain(&b).map(gap).fold(0., f64::max))
}

/// The mean distance between the feature vectors of pictures of one prompt.
///
/// # Shapes
/// `features` [prompts, pictures, d]
/// # Errors
/// Fewer than two pictures a prompt.
pub fn diversity(features: &Tensor) -> Result<f64> {
    let size = features.size();
    if size.len() != 3 || size[0] == 0 || size[1] < 2 {
        return Err(Error::shape("features", "[prompts, 2 or more pictures, d]", &size));
    }
    let features = features.to_kind(Kind::Double);
    let distances = Tensor::f_cdist(&features, &features, 2., 2)?;
    let pairs = (size[0] * size[1] * (size[1] - 1)) as f64;
    Ok(distances.sum(Kind::Double).double_value(&[]) / pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use crate::train::judge::labels;
    use crate::train::scenes::{Scenes, Split};

    #[test]
    fn right_answers_score_everything_and_each_wrong_one_costs_its_own() -> Result<()> {
        let scenes = Scenes::new(16)?;
        let all = Form { style: true, white: true };
        let truths: Vec<(Truth, Form)> = (0..600)
            .map(|seed| Ok((scenes.describe(seed, Split::Any)?.1, all)))
            .collect::<Result<_>>()?;
        let right = labels(&truths.iter().map(|(truth, _)| truth.clone()).collect::<Vec<_>>());
        let shares = |answers: &Tensor| -> Result<_> {
            let m = prompt_match(&Seen::all(&truths, answers)?);
            Ok([
                m.object,
                m.colour,
                m.background,
                m.style,
                m.single,
                m.count,
                m.pair_objects,
                m.pair_colours,
                m.relation,
                m.pair,
                m.caption,
            ]
            .map(|share| share.share))
        };
        assert_eq!(shares(&right)?, [1.; 11]);
        // One question answered wrong everywhere: which of the eleven shares must suffer.
        for (question, hurt) in [
            (Question::Layout, &[4usize, 5, 8, 9, 10][..]),
            (Question::First, &[0, 4, 6, 7, 8, 9, 10]),
            (Question::Second, &[6, 7, 8, 9, 10]),
            (Question::FirstColour, &[1, 4, 7, 9, 10]),
            (Question::SecondColour, &[7, 9, 10]),
            (Question::Background, &[2, 4, 9, 10]),
            (Question::Style, &[3, 4, 9, 10]),
        ] {
            let wrong = right.copy();
            let mut column = wrong.select(1, question as i64);
            column.copy_(&(&column + 1).fmod(question.answers() as f64));
            for seen in Seen::all(&truths, &wrong)? {
                assert_eq!(seen.wrong().is_empty(), seen.everything(), "{seen:?}");
            }
            for (i, share) in shares(&wrong)?.into_iter().enumerate() {
                assert_eq!(share < 1., hurt.contains(&i), "{question:?}, share {i}: {share}");
            }
        }
        assert!(Seen::all(&truths, &right.narrow(0, 0, 5)).is_err());
        Ok(())
    }

    #[test]
    fn a_pair_the_wrong_way_round_has_its_objects_and_not_its_relation() -> Result<()> {
        let scenes = Scenes::new(16)?;
        let truth = (0..).map(|seed| scenes.describe(seed, Split::Any).unwrap().1);
        let truth = truth.into_iter().find(|t| t.relation.is_some()).unwrap();
        let right = labels(std::slice::from_ref(&truth));
        let turned = right.index_select(1, &Tensor::from_slice(&[0i64, 2, 1, 4, 3, 5, 6]));
        let form = Form { style: true, white: true };
        let seen = &Seen::all(&[(truth, form)], &turned)?[0];
        assert!(seen.objects() && !seen.arrangement() && !seen.everything());
        assert!(seen.wrong().contains(&"relation") && !seen.wrong().contains(&"object"));
        Ok(())
    }

    #[test]
    fn the_frechet_distance_of_normal_clouds_is_the_closed_form() -> Result<()> {
        let cloud = standard_normal(&[50_000, 2], 1)?;
        let scale = Tensor::from_slice(&[2f32, 0.5]);
        let move_ = Tensor::from_slice(&[1f32, -1.]);
        // |m|^2 + sum (s - 1)^2 = 2 + 1 + 0.25
        let distance = frechet_distance(&cloud, &(&cloud * scale + move_))?;
        assert!((distance - 3.25).abs() < 0.03, "{distance}");
        assert!(frechet_distance(&cloud, &cloud)? < 1e-9);
        assert!(frechet_distance(&cloud, &standard_normal(&[5, 3], 1)?).is_err());
        Ok(())
    }

    #[test]
    fn distances_to_neighbours_and_between_distributions() -> Result<()> {
        let among = Tensor::from_slice(&[0f32, 0., 3., 4.]).view([2, 2]);
        let of = Tensor::from_slice(&[0f32, 1., 3., 4.]).view([2, 2]);
        assert_eq!(Vec::<f32>::try_from(nearest_distances(&of, &among)?)?, [1., 0.]);
        assert!(nearest_distances(&of, &Tensor::zeros([0, 2], tch::kind::FLOAT_CPU)).is_err());
        assert_eq!(kolmogorov_smirnov(&[1., 2., 3., 4.], &[3., 4., 5., 6.])?, 0.5);
        assert_eq!(kolmogorov_smirnov(&[1., 2.], &[1., 2.])?, 0.);
        assert!(kolmogorov_smirnov(&[], &[1.]).is_err());
        // Two pictures 5 apart, and three at one place.
        let features = Tensor::from_slice(&[0f32, 0., 3., 4.]).view([1, 2, 2]);
        assert!((diversity(&features)? - 5.).abs() < 1e-9);
        assert_eq!(diversity(&Tensor::zeros([1, 3, 2], tch::kind::FLOAT_CPU))?, 0.);
        Ok(())
    }
}
