use std::collections::HashSet;

use super::sprites::Sprites;
use super::*;

fn truths(split: Split, n: u64) -> Vec<(String, Truth)> {
    let scenes = Scenes::new(16).unwrap();
    let said = |seed| {
        let (caption, truth, _) = scenes.describe(seed, split).unwrap();
        (caption, truth)
    };
    (0..n).map(said).collect()
}

#[test]
fn training_never_shows_a_held_out_combination() {
    let held_out = HeldOut::fixed().unwrap();
    assert!(truths(Split::Train, 20_000).iter().all(|(_, truth)| !held_out.contains(truth)));
    assert!(truths(Split::HeldOut, 5_000).iter().all(|(_, truth)| held_out.contains(truth)));
    assert!(truths(Split::Any, 20_000).iter().any(|(_, truth)| held_out.contains(truth)));
}

#[test]
fn the_held_out_list_is_one_that_scenes_can_show() {
    let held_out = HeldOut::fixed().unwrap();
    assert!((10..=12).contains(&held_out.colours.len()));
    assert_eq!(held_out.objects.len(), 12);
    assert!(held_out.colours.iter().all(|(_, object)| object.takes_colour()));
    for &object in Object::ALL {
        assert!(held_out.colours.iter().filter(|(_, o)| *o == object).count() <= 1);
    }
}

#[test]
fn every_other_combination_is_shown() {
    let held_out = HeldOut::fixed().unwrap();
    let truths = truths(Split::Train, 60_000);
    let things: HashSet<(Thing, SpriteStyle)> =
        truths.iter().flat_map(|(_, t)| t.objects.iter().map(|&o| (o, t.style))).collect();
    for &object in Object::ALL {
        for colour in [None].into_iter().chain(Colour::ALL.iter().copied().map(Some)) {
            let thing = Thing { object, colour };
            let can = (colour.is_none() || object.takes_colour()) && !held_out.has_colour(thing);
            for &style in SpriteStyle::ALL {
                assert_eq!(things.contains(&(thing, style)), can, "{thing:?} {style}");
            }
        }
    }
    let pairs: HashSet<(Object, Object)> = truths
        .iter()
        .filter(|(_, t)| t.relation.is_some())
        .map(|(_, t)| (t.objects[0].object, t.objects[1].object))
        .collect();
    assert_eq!(pairs.len(), 34 * 33 - 2 * held_out.objects.len());
    let backgrounds: HashSet<_> = truths.iter().map(|(_, t)| t.background).collect();
    assert_eq!(backgrounds.len(), 14);
    let share = |is: fn(&Truth) -> bool| {
        truths.iter().filter(|(_, t)| is(t)).count() as f64 / truths.len() as f64
    };
    assert!((share(|t| t.relation.is_some()) - 0.25).abs() < 0.01);
    assert!((share(|t| t.count == 2) - 0.08).abs() < 0.01);
    assert!((share(|t| t.count == 3) - 0.07).abs() < 0.01);
    assert!((share(|t| t.small) - 0.12).abs() < 0.01);
}

#[test]
fn captions_say_what_is_true_in_good_english() {
    let vocabulary = vocabulary();
    for (caption, truth) in truths(Split::Any, 20_000) {
        let words: Vec<&str> = caption.split([' ', ',']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
            assert!(pair[0] != "a" || !vowel, "{caption}");
            assert!(pair[0] != "an" || vowel, "{caption}");
        }
        for word in &words {
            assert!(vocabulary.iter().any(|known| known == word), "{word} in {caption}");
        }
        let has = |word: &str| words.contains(&word);
        let first = truth.objects[0].object;
        let plural = first.plural();
        assert!(has(if truth.count == 1 { first.word() } else { &plural }), "{caption}");
        assert_eq!(has("two"), truth.count == 2);
        assert_eq!(has("three"), truth.count == 3);
        assert_eq!(has("small"), truth.small);
        assert_eq!(caption.contains(" left of "), truth.relation == Some(Relation::LeftOf));
        assert_eq!(caption.contains(" above "), truth.relation == Some(Relation::Above));
        for &colour in Colour::ALL {
            let things = truth.objects.iter().filter(|t| t.colour == Some(colour)).count();
            let ground = usize::from(truth.background == Background::Plain(colour));
            assert_eq!(words.iter().filter(|w| **w == colour.word()).count(), things + ground);
        }
        for &style in SpriteStyle::ALL {
            assert!(!has(style.word()) || style == truth.style);
        }
        let said = caption.contains(&truth.background.phrase());
        assert!(said || truth.background == Background::White, "{caption}");
    }
}

#[test]
fn plurals_are_those_of_the_dictionary() {
    let plurals: Vec<String> = Object::ALL.iter().map(|o| o.plural()).collect();
    assert_eq!(
        plurals.join(" "),
        "apples lemons strawberries cats dogs foxes frogs rabbits fish octopuses butterflies \
         ladybugs flowers roses cacti trees mushrooms houses cars buses rockets boats balls \
         guitars keys bells diamonds crowns stars umbrellas snowmen pizzas donuts cakes"
    );
}

#[test]
fn a_caption_reads_as_a_person_would_say_it() {
    let truth = Truth {
        objects: vec![Thing { object: Object::Umbrella, colour: Some(Colour::Orange) }],
        count: 1,
        small: true,
        relation: None,
        background: Background::Plain(Colour::Blue),
        style: SpriteStyle::ThreeD,
    };
    let full = CaptionForm { style: true, white: true, relation: true };
    assert_eq!(caption(&truth, full), "a small orange umbrella on a blue background, 3d");
    let truth = Truth { small: false, count: 3, background: Background::White, ..truth };
    assert_eq!(caption(&truth, full), "three orange umbrellas on a white background, 3d");
    assert_eq!(
        caption(&truth, CaptionForm { style: false, white: false, relation: true }),
        "three orange umbrellas"
    );
    let octopus = Thing { object: Object::Octopus, colour: None };
    let objects = vec![truth.objects[0], octopus];
    let relation = Some(Relation::LeftOf);
    let background = Background::Night;
    let truth = Truth { objects, count: 1, relation, background, ..truth };
    assert_eq!(
        caption(&truth, CaptionForm { style: true, white: false, relation: true }),
        "an orange umbrella left of an octopus at night, 3d"
    );
}

#[test]
fn a_seed_determines_everything() {
    let (a, b) = (Scenes::new(32).unwrap(), Scenes::new(32).unwrap());
    for seed in 0..40 {
        let (first, again) = (a.scene(seed, Split::Train), b.scene(seed, Split::Train));
        let (first, again) = (first.unwrap(), again.unwrap());
        assert_eq!(first.picture, again.picture);
        assert_eq!((&first.caption, &first.truth), (&again.caption, &again.truth));
        let (caption, truth, _) = a.describe(seed, Split::Train).unwrap();
        assert_eq!((caption, truth), (first.caption, first.truth));
    }
    let scene = a.scene(3, Split::Train).unwrap();
    assert_ne!(a.render(&scene.truth, 0).unwrap(), a.render(&scene.truth, 1).unwrap());
}

#[test]
fn a_colour_word_colours_most_of_the_object() {
    let sprites = Sprites::new(32).unwrap();
    for &object in Object::ALL.iter().filter(|o| o.takes_colour()) {
        for &style in SpriteStyle::ALL {
            let red = sprites.get(object, style, Some(Colour::Red));
            let blue = sprites.get(object, style, Some(Colour::Blue));
            let (mut changed, mut all) = (0, 0);
            for (r, b) in red.pixels.iter().zip(&blue.pixels).filter(|(r, _)| r[3] > 128) {
                all += 1;
                changed += usize::from(r[0] > b[0].saturating_add(20) && b[2] > r[2]);
            }
            assert!(changed * 100 > all * 30, "{object} {style}: {changed} of {all}");
        }
    }
}

#[test]
fn what_cannot_be_shown_is_refused() {
    assert!(Scenes::new(0).is_err());
    assert!(Scenes::new(1 << 20).is_err());
    let scenes = Scenes::new(16).unwrap();
    let (_, truth, _) = scenes.describe(0, Split::Train).unwrap();
    let truth = Truth { relation: None, objects: vec![truth.objects[0]], ..truth };
    assert!(scenes.render(&Truth { count: 0, ..truth.clone() }, 0).is_err());
    assert!(scenes.render(&Truth { count: 4, ..truth.clone() }, 0).is_err());
    assert!(scenes.render(&Truth { objects: vec![], ..truth.clone() }, 0).is_err());
    let ball = Thing { object: Object::Ball, colour: Some(Colour::Red) };
    assert!(scenes.render(&Truth { objects: vec![ball], ..truth }, 0).is_err());
    assert!(sheet(&[], 4, 1).is_err());
}

/// Trained models depend on the caption of every seed: it must not change.
#[test]
fn seeds_keep_their_captions() {
    let scenes = Scenes::new(16).unwrap();
    let said = |seed| scenes.describe(seed, Split::Train).unwrap().0;
    assert_eq!(said(0), "a flower at sunset, flat");
    assert_eq!(said(4), "a red star above a purple diamond in the snow");
    assert_eq!(said(8), "a small blue lemon on a white background, cartoon");
    assert_eq!(said(13), "a house left of an orange diamond on a green background, 3d");
    assert_eq!(said(23), "two blue ladybugs on the sea, cartoon");
}

#[test]
fn paraphrases_say_what_is_true_in_words_that_are_known() {
    let known: HashSet<String> = vocabulary().into_iter().collect();
    let (mut used, mut different) = (HashSet::new(), HashSet::new());
    let truths = truths(Split::Any, 60_000);
    for (i, (_, truth)) in truths.iter().enumerate() {
        let form = CaptionForm { style: i % 3 > 0, white: i % 2 > 0, relation: i % 5 > 0 };
        let text = paraphrase(truth, form, i as u64);
        let owned = super::phrasing::words_of(&text);
        let words: Vec<&str> = owned.iter().map(String::as_str).collect();
        for pair in words.windows(2) {
            let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
            assert!(pair[0] != "a" || !vowel, "{text}");
            assert!(pair[0] != "an" || vowel, "{text}");
        }
        assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
        let has = |word: &str| words.contains(&word);
        for &style in SpriteStyle::ALL {
            let said = words.iter().any(|word| {
                word.starts_with(style.word())
                    || (style == SpriteStyle::Cartoon && *word == "comic")
            });
            assert_eq!(said, form.style && style == truth.style, "{text}: {truth:?}");
        }
        // Exact colours of things can be told from those of backgrounds by what the truth says in all.
        for &colour in Colour::ALL {
            let in_truth = truth.objects.iter().any(|t| t.colour == Some(colour))
                || truth.background == Background::Plain(colour);
            let meadow = colour == Colour::Green && truth.background == Background::Grass;
            assert!(!has(colour.word()) || in_truth || meadow, "{text}: {truth:?}");
        }
        assert!(
            !["small", "tiny", "little", "mini", "teeny"].iter().any(|w| has(w)) || truth.small,
            "{text}"
        );
        // The order of a pair is said where the form says it, and nowhere else.
        let orders = [
            "left",
            "right",
            "above",
            "over",
            "below",
            "under",
            "beneath",
            "underneath",
            "top",
            "bottom",
        ];
        let place = truth.background == Background::Night
            || matches!(truth.background, Background::Plain(_));
        let said = orders.iter().any(|word| has(word));
        match truth.relation {
            Some(_) if form.relation => assert!(said, "{text}: {truth:?}"),
            _ => assert!(!said || place, "{text}: {truth:?}"),
        }
        let many = |of: &[&str]| of.iter().any(|word| has(word));
        assert_eq!(many(&["two", "2", "pair", "couple"]), truth.count == 2, "{text}: {truth:?}");
        assert_eq!(many(&["three", "3", "group", "trio"]), truth.count == 3, "{text}: {truth:?}");
        for (i, thing) in truth.objects.iter().enumerate() {
            let own = [(thing.object.word(), &*thing.object.plural())];
            let known = own.iter().chain(super::phrasing::synonyms(thing.object));
            let mut names =
                known.map(|(one, many)| if i == 0 && truth.count > 1 { many } else { one });
            assert!(names.any(|name| text.contains(*name)), "{text}: {truth:?}");
        }
        used.extend(words.iter().map(|word| (*word).to_owned()));
        different.insert(text.clone());
    }
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert!(different.len() > 55_000, "{}", different.len());
}
