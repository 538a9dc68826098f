//! How many pictures are right, in a judge's answers: objects, colours, counts, relations, and whole captions.

use tch::Tensor;

use super::questions::{Layout, Question};
use super::scores::{Composition, PromptMatch, Share};
use crate::scenes::{CaptionForm, HeldOut, Truth};
use crate::{Error, Result};

/// A picture's caption and the judge's answers for the picture.
#[derive(Debug, Clone)]
pub struct JudgedPicture {
    /// What the picture should show.
    pub truth: Truth,
    /// Which parts of the truth the caption says.
    pub form: CaptionForm,
    /// The judge's answers, in the order of [`Question::ALL`].
    pub answers: Vec<i64>,
}

impl JudgedPicture {
    /// Pairs truths with the rows of the judge's answers [N, 7].
    ///
    /// # Errors
    /// Answers that are not one row of seven per truth.
    pub fn from_answers(truths: &[(Truth, CaptionForm)], answers: &Tensor) -> Result<Vec<Self>> {
        let (rows, columns) = (truths.len() as i64, Question::ALL.len() as i64);
        if answers.size() != [rows, columns] {
            let expected = format!("[{rows}, {columns}]");
            return Err(Error::shape("answers", expected, &answers.size()));
        }
        let rows = Vec::<Vec<i64>>::try_from(answers)?;
        let judged = |((truth, form), answers): (&(Truth, CaptionForm), Vec<i64>)| Self {
            truth: truth.clone(),
            form: *form,
            answers,
        };
        Ok(truths.iter().zip(rows).map(judged).collect())
    }

    fn answer(&self, question: Question) -> i64 {
        self.answers.get(question as usize).copied().unwrap_or(-1)
    }

    /// Whether the answer is right. It is if the question has no right answer for this scene.
    fn is_right(&self, question: Question) -> bool {
        question.right_answer(&self.truth).is_none_or(|right| right as i64 == self.answer(question))
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

    /// The object is right; in a pair both are, in either order.
    pub fn objects_match(&self) -> bool {
        let [first, second] = [Question::First, Question::Second];
        (self.is_right(first) && self.is_right(second)) || self.swapped(first, second)
    }

    /// Whether both answers about a pair are right if its things changed places.
    fn swapped(&self, first: Question, second: Question) -> bool {
        let answers = |right: Question, asked: Question| {
            right.right_answer(&self.truth).is_none_or(|right| right as i64 == self.answer(asked))
        };
        self.is_pair() && answers(first, second) && answers(second, first)
    }

    /// The objects are right, and so is every colour that the caption names.
    pub fn colours_match(&self) -> bool {
        let [first, second] = [Question::FirstColour, Question::SecondColour];
        if self.is_right(Question::First) && self.is_right(Question::Second) {
            return self.is_right(first) && self.is_right(second);
        }
        self.objects_match() && self.swapped(first, second)
    }

    /// The count and the size of a thing, or the relation and the order of a pair, are right. Where the caption does not
    /// say the relation, any pair is.
    pub fn arrangement_matches(&self) -> bool {
        if self.is_pair() && !self.form.relation {
            let pairs = [Layout::LeftOf, Layout::Above].map(|layout| layout as i64);
            return pairs.contains(&self.answer(Question::Layout));
        }
        let ordered = [Question::First, Question::Second].into_iter().all(|q| self.is_right(q));
        self.is_right(Question::Layout) && (!self.is_pair() || ordered)
    }

    /// What of the caption is wrong, in a few words.
    pub fn mistakes(&self) -> Vec<&'static str> {
        let arranged = if self.is_pair() { "relation" } else { "count or size" };
        let style = !self.form.style || self.is_right(Question::Style);
        [
            (self.objects_match(), "object"),
            (!self.objects_match() || self.colours_match(), "colour"),
            (!self.objects_match() || self.arrangement_matches(), arranged),
            (self.is_right(Question::Background), "background"),
            (style, "style"),
        ]
        .into_iter()
        .filter_map(|(right, what)| (!right).then_some(what))
        .collect()
    }

    /// Everything that the caption says is right.
    pub fn matches_caption(&self) -> bool {
        self.colours_match()
            && self.arrangement_matches()
            && self.is_right(Question::Background)
            && (!self.form.style || self.is_right(Question::Style))
    }
}

/// The shares of pictures that show what their captions say: objects, colours, counts and the rest.
pub fn prompt_match(judged: &[JudgedPicture]) -> PromptMatch {
    let share = |asked: &dyn Fn(&JudgedPicture) -> bool, right: &dyn Fn(&JudgedPicture) -> bool| {
        Share::of(judged.iter().filter(|s| asked(s)).map(right))
    };
    let single = |s: &JudgedPicture| !s.is_pair() && !s.is_count();
    let coloured = |s: &JudgedPicture| s.truth.objects.iter().any(|thing| thing.colour.is_some());
    PromptMatch {
        object: share(&single, &JudgedPicture::objects_match),
        colour: share(&|s| single(s) && coloured(s), &|s| s.is_right(Question::FirstColour)),
        background: share(&|_| true, &|s| s.is_right(Question::Background)),
        style: share(&|s| s.form.style, &|s| s.is_right(Question::Style)),
        single: share(&single, &JudgedPicture::matches_caption),
        count: share(&JudgedPicture::is_count, &JudgedPicture::arrangement_matches),
        pair_objects: share(&JudgedPicture::is_pair, &JudgedPicture::objects_match),
        pair_colours: share(&|s| s.is_pair() && coloured(s), &JudgedPicture::colours_match),
        relation: share(&|s| s.is_pair() && s.objects_match(), &JudgedPicture::arrangement_matches),
        pair: share(&JudgedPicture::is_pair, &JudgedPicture::matches_caption),
        caption: share(&|_| true, &JudgedPicture::matches_caption),
    }
}

/// The shares of right pictures, for combinations held out of training and for trained ones.
pub fn composition(judged: &[JudgedPicture], held_out: &HeldOut) -> Composition {
    let share = |held: bool, pair: bool, right: fn(&JudgedPicture) -> bool| {
        let asked = |s: &&JudgedPicture| {
            let coloured = s.truth.objects.iter().any(|thing| thing.colour.is_some());
            held_out.contains(&s.truth) == held
                && if pair { s.is_pair() } else { s.truth.objects.len() == 1 && coloured }
        };
        Share::of(judged.iter().filter(asked).map(right))
    };
    Composition {
        held_out_colour: share(true, false, JudgedPicture::colours_match),
        trained_colour: share(false, false, JudgedPicture::colours_match),
        held_out_pair: share(true, true, JudgedPicture::objects_match),
        trained_pair: share(false, true, JudgedPicture::objects_match),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::questions::labels;
    use crate::scenes::{Colour, Object, Scenes, Split, Thing};

    #[test]
    fn right_answers_score_everything_and_each_wrong_one_costs_its_own() -> Result<()> {
        let scenes = Scenes::new(16)?;
        let all = CaptionForm { style: true, white: true, relation: true };
        let truths: Vec<(Truth, CaptionForm)> = (0..600)
            .map(|seed| Ok((scenes.describe(seed, Split::Any)?.1, all)))
            .collect::<Result<_>>()?;
        let right = labels(&truths.iter().map(|(truth, _)| truth.clone()).collect::<Vec<_>>());
        let shares = |answers: &Tensor| -> Result<_> {
            let m = prompt_match(&JudgedPicture::from_answers(&truths, answers)?);
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
            for judged in JudgedPicture::from_answers(&truths, &wrong)? {
                assert_eq!(judged.mistakes().is_empty(), judged.matches_caption(), "{judged:?}");
            }
            for (i, share) in shares(&wrong)?.into_iter().enumerate() {
                assert_eq!(share < 1., hurt.contains(&i), "{question:?}, share {i}: {share}");
            }
        }
        assert!(JudgedPicture::from_answers(&truths, &right.narrow(0, 0, 5)).is_err());
        Ok(())
    }

    #[test]
    fn a_pair_the_wrong_way_round_has_its_objects_and_not_its_relation() -> Result<()> {
        let scenes = Scenes::new(16)?;
        let truth = (0..).map(|seed| scenes.describe(seed, Split::Any).unwrap().1);
        let truth = truth.into_iter().find(|t| t.relation.is_some()).unwrap();
        let right = labels(std::slice::from_ref(&truth));
        let turned = right.index_select(1, &Tensor::from_slice(&[0i64, 2, 1, 4, 3, 5, 6]));
        let form = CaptionForm { style: true, white: true, relation: true };
        let judged = &JudgedPicture::from_answers(&[(truth, form)], &turned)?[0];
        assert!(judged.objects_match() && !judged.arrangement_matches());
        assert!(judged.colours_match() && !judged.matches_caption());
        assert_eq!(judged.mistakes(), ["relation"]);

        // "A and B" is right either way round, beside or above each other, but not as one thing.
        let form = CaptionForm { relation: false, ..judged.form };
        let loose = |answers: &Tensor| -> Result<JudgedPicture> {
            let truths = [(judged.truth.clone(), form)];
            Ok(JudgedPicture::from_answers(&truths, answers)?.remove(0))
        };
        assert!(loose(&right)?.matches_caption() && loose(&turned)?.matches_caption());
        let layout = |layout: Layout| {
            let other = turned.copy();
            let _ = other.narrow(1, Question::Layout as i64, 1).fill_(layout as i64);
            other
        };
        assert!(loose(&layout(Layout::LeftOf))?.matches_caption());
        assert!(loose(&layout(Layout::Above))?.matches_caption());
        assert_eq!(loose(&layout(Layout::Two))?.mistakes(), ["relation"]);

        // Each colour stays with its thing.
        let thing = |object, colour| Thing { object, colour: Some(colour) };
        let objects = vec![thing(Object::Fish, Colour::Red), thing(Object::Key, Colour::Blue)];
        let truths = [(Truth { objects, ..judged.truth.clone() }, form)];
        let answers = |colours: [Colour; 2]| -> Result<bool> {
            let turned = turned.copy();
            let row =
                [Object::Key as i64, Object::Fish as i64, colours[0] as i64, colours[1] as i64];
            turned.narrow(1, 1, 4).copy_(&Tensor::from_slice(&row).view([1, 4]));
            Ok(JudgedPicture::from_answers(&truths, &turned)?[0].colours_match())
        };
        assert!(answers([Colour::Blue, Colour::Red])? && !answers([Colour::Red, Colour::Blue])?);
        Ok(())
    }
}
