//! What a scene shows, drawn at random.

use super::grammar::{Background, Colour, Object, Relation, SpriteStyle, Thing, Truth};
use super::held_out::{HeldOut, Split};
use super::random::Random;
use crate::{Error, Result};

/// What a scene shows: of 100 scenes, 60 show a single thing, 15 two or three of a kind, 25 a pair.
pub(super) fn draw_truth(held_out: &HeldOut, random: &mut Random, split: Split) -> Result<Truth> {
    let none = || Error::argument("held_out.json", "a list that leaves something", "none");
    let kind = random.next() % 100;
    let held_colour = split == Split::HeldOut && random.chance(50);
    let held_objects = split == Split::HeldOut && !held_colour;
    let pair = kind >= 75 || held_objects;

    let mut objects = Vec::new();
    if held_objects {
        let (a, b) = random.pick(&held_out.objects).ok_or_else(none)?;
        let order = if random.chance(50) { [a, b] } else { [b, a] };
        for object in order {
            objects.push(draw_colour(held_out, object, random, Split::Train).ok_or_else(none)?);
        }
    } else {
        objects.push(if held_colour {
            let (colour, object) = random.pick(&held_out.colours).ok_or_else(none)?;
            Thing { object, colour: Some(colour) }
        } else {
            let object = random.pick(Object::ALL).ok_or_else(none)?;
            draw_colour(held_out, object, random, split).ok_or_else(none)?
        });
        if pair {
            let first = objects[0].object;
            let others: Vec<Object> = Object::ALL
                .iter()
                .copied()
                .filter(|&o| o != first)
                .filter(|&o| split == Split::Any || !held_out.has_objects(first, o))
                .collect();
            let object = random.pick(&others).ok_or_else(none)?;
            let split = if split == Split::Any { split } else { Split::Train };
            objects.push(draw_colour(held_out, object, random, split).ok_or_else(none)?);
        }
    }
    let relation = pair.then(|| match random.chance(50) {
        true => Relation::LeftOf,
        false => Relation::Above,
    });
    let count = if pair { 1 } else { [1, 2, 3][counted(kind)] };
    let small = !pair && count == 1 && random.chance(20);
    let background = draw_background(&objects, random).ok_or_else(none)?;
    let style = random.pick(SpriteStyle::ALL).ok_or_else(none)?;
    Ok(Truth { objects, count, small, relation, background, style })
}

/// The index of the count for a number from 0 to 99: 60 ones, 8 twos, 7 threes.
fn counted(kind: u64) -> usize {
    usize::from(kind >= 60) + usize::from(kind >= 68)
}

/// Gives a thing a colour word, three times out of four if it can have one.
fn draw_colour(
    held_out: &HeldOut,
    object: Object,
    random: &mut Random,
    split: Split,
) -> Option<Thing> {
    let named = random.chance(76);
    if !object.takes_colour() || !named {
        return Some(Thing { object, colour: None });
    }
    let all: Vec<Colour> = Colour::ALL
        .iter()
        .copied()
        .filter(|&c| split == Split::Any || !held_out.has_colour(Thing { object, colour: Some(c) }))
        .collect();
    random.pick(&all).map(|colour| Thing { object, colour: Some(colour) })
}

/// A background on which all the things can be seen.
fn draw_background(things: &[Thing], random: &mut Random) -> Option<Background> {
    let hidden = |background: Background| match background {
        Background::Plain(plain) => things.iter().any(|thing| match thing.colour {
            Some(colour) => colour == plain,
            None => thing.object.own_colours().contains(&plain),
        }),
        _ => false,
    };
    let all: Vec<Background> = Background::all().into_iter().filter(|&one| !hidden(one)).collect();
    random.pick(&all)
}
