//! Prompts as people write them for web interfaces: weights of words, and prompts that change over the steps.
//!
//! ```text
//! (word)        1.1 times as strong          (word:1.3)      1.3 times; 0.7 makes it weaker
//! [word]        divided by 1.1               \\( \\) \\[ \\]     the brackets themselves
//! [cat:dog:0.4] cat for the first 40 % of the steps, then dog; 10 in place of 0.4: for the first 10 steps
//! [dog:0.4]     nothing, then dog            [cat::0.4]      cat, then nothing
//! [cat|dog]     cat and dog by turns
//! ```
//! This is the syntax of AUTOMATIC1111's web interface. diffusers reads brackets as they are, and so does
//! [`crate::pipeline::Request`] unless it says otherwise.

use tch::{Kind, Tensor};

use crate::device::{in_f64, put};
use crate::{Error, Result};

/// What a bracket multiplies or divides by.
const STEP: f64 = 1.1;

/// A part of a prompt, and how strong it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The text, without brackets.
    pub text: String,
    /// Its weight; 1 is plain.
    pub weight: f64,
}

/// The prompt that holds at step `i` of `n`: what changes over the steps is resolved, weights stay as they are.
///
/// # Examples
/// ```
/// use diffuscope::prompt::at_step;
/// let prompt = "a [cat:dog:0.4] on (grass:1.2)";
/// assert_eq!(at_step(prompt, 3, 10), "a cat on (grass:1.2)");
/// assert_eq!(at_step(prompt, 4, 10), "a dog on (grass:1.2)");
/// assert_eq!(at_step("[red|blue] house", 1, 10), "blue house");
/// ```
pub fn at_step(prompt: &str, i: usize, n: usize) -> String {
    let chars: Vec<char> = prompt.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c == '\\' {
            out.extend(chars.iter().skip(at).take(2));
            at += 2;
            continue;
        }
        match (c, closing(&chars, at)) {
            ('[', Some(end)) => {
                let inner: String = chars[at + 1..end].iter().collect();
                out.push_str(&resolved(&inner, i, n));
                at = end + 1;
            }
            _ => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// What stands between square brackets, at step `i` of `n`.
fn resolved(inner: &str, i: usize, n: usize) -> String {
    let turns = split(inner, '|');
    if turns.len() > 1 {
        return at_step(&turns[i % turns.len()], i, n);
    }
    let parts = split(inner, ':');
    let when = parts.last().and_then(|last| last.trim().parse::<f64>().ok());
    let (before, after, when) = match (&parts[..], when) {
        ([after, _], Some(when)) => ("", after.as_str(), when),
        ([before, after, _], Some(when)) => (before.as_str(), after.as_str(), when),
        _ => return format!("[{}]", at_step(inner, i, n)),
    };
    // Below 1 it is a part of the steps.
    let first = if when < 1. { when * n as f64 } else { when };
    at_step(if (i as f64) < first.floor() { before } else { after }, i, n)
}

/// The bracket that closes the one at `open`, past brackets inside of it.
fn closing(chars: &[char], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut escaped = false;
    for (i, c) in chars.iter().enumerate().skip(open) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => depth += 1,
            ']' if depth == 1 => return Some(i),
            ']' => depth -= 1,
            _ => (),
        }
    }
    None
}

/// Splits at what stands in no bracket.
fn split(text: &str, at: char) -> Vec<String> {
    let (mut parts, mut depth, mut escaped) = (vec![String::new()], 0i32, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            c if c == at && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => (),
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// The parts of a prompt with their weights. A bracket that nothing closes holds to the end.
///
/// # Errors
/// A weight that is not finite.
///
/// # Examples
/// ```
/// use diffuscope::prompt::{Piece, parse_weights};
/// let pieces = parse_weights("a (red:1.5) apple")?;
/// assert_eq!(pieces[1], Piece { text: "red".into(), weight: 1.5 });
/// assert_eq!(parse_weights("((very))")?[0].weight, 1.1 * 1.1);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn parse_weights(prompt: &str) -> Result<Vec<Piece>> {
    let mut pieces = vec![Piece { text: String::new(), weight: 1. }];
    // Where each open bracket's first piece is.
    let (mut round, mut square): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut chars = prompt.chars().peekable();
    let start = |pieces: &mut Vec<Piece>| {
        pieces.push(Piece { text: String::new(), weight: 1. });
        pieces.len() - 1
    };
    let scale = |pieces: &mut [Piece], from: usize, by: f64| {
        pieces.iter_mut().skip(from).for_each(|piece| piece.weight *= by);
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let literal = chars.next_if(|c| "()[]\\".contains(*c)).unwrap_or('\\');
                push(&mut pieces, literal);
            }
            '(' => round.push(start(&mut pieces)),
            '[' => square.push(start(&mut pieces)),
            ')' if !round.is_empty() => {
                let from = round.pop().unwrap_or_default();
                let by = stated(&mut pieces)?.unwrap_or(STEP);
                scale(&mut pieces, from, by);
                start(&mut pieces);
            }
            ']' if !square.is_empty() => {
                let from = square.pop().unwrap_or_default();
                scale(&mut pieces, from, 1. / STEP);
                start(&mut pieces);
            }
            c => push(&mut pieces, c),
        }
    }
    round.into_iter().for_each(|from| scale(&mut pieces, from, STEP));
    square.into_iter().for_each(|from| scale(&mut pieces, from, 1. / STEP));
    pieces.retain(|piece| !piece.text.is_empty());
    Ok(pieces)
}

fn push(pieces: &mut [Piece], c: char) {
    if let Some(last) = pieces.last_mut() {
        last.text.push(c);
    }
}

/// Takes `:1.3` off the end of the last piece.
fn stated(pieces: &mut [Piece]) -> Result<Option<f64>> {
    let Some(last) = pieces.last_mut() else { return Ok(None) };
    let Some((text, number)) = last.text.rsplit_once(':') else { return Ok(None) };
    let Ok(weight) = number.trim().parse::<f64>() else { return Ok(None) };
    if !weight.is_finite() {
        return Err(Error::argument("weight", "a finite number", number));
    }
    last.text = text.to_owned();
    Ok(Some(weight))
}

/// Makes the tokens of a context stronger or weaker, and keeps its mean.
///
/// ```text
/// z' = w z        out = z' mean(z) / mean(z')        as AUTOMATIC1111's web interface
/// ```
///
/// # Shapes
/// `context` [1, n, width], `weights` n of them; returns as `context`.
/// # Errors
/// Another number of weights than tokens.
pub fn apply_weights(context: &Tensor, weights: &[f64]) -> Result<Tensor> {
    let size = context.size();
    if size.len() != 3 || size[1] != weights.len() as i64 {
        let expected = format!("[1, {}, width]", weights.len());
        return Err(Error::shape("context", expected, &size));
    }
    if weights.iter().all(|weight| *weight == 1.) {
        return Ok(context.shallow_clone());
    }
    let mean = |x: &Tensor| Ok::<_, Error>(in_f64(x)?.mean(Kind::Double).double_value(&[]));
    let before = mean(context)?;
    let column = put(&Tensor::from_slice(weights), context.kind(), context.device());
    let stronger = context * column.view([1, -1, 1]);
    let after = mean(&stronger)?;
    Ok(if after == 0. { stronger } else { stronger * (before / after) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(prompt: &str) -> Vec<(String, f64)> {
        let round = |weight: f64| (weight * 1e6).round() / 1e6;
        parse_weights(prompt).unwrap().into_iter().map(|p| (p.text, round(p.weight))).collect()
    }

    #[test]
    fn brackets_are_weights() {
        let of = |all: &[(&str, f64)]| -> Vec<(String, f64)> {
            all.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect()
        };
        assert_eq!(pieces("plain"), of(&[("plain", 1.)]));
        assert_eq!(pieces("a (b) c"), of(&[("a ", 1.), ("b", 1.1), (" c", 1.)]));
        assert_eq!(pieces("(a (b:2) c)"), of(&[("a ", 1.1), ("b", 2.2), (" c", 1.1)]));
        assert_eq!(pieces("[a]"), of(&[("a", 0.909091)]));
        assert_eq!(pieces("(unclosed"), of(&[("unclosed", 1.1)]));
        assert_eq!(pieces("a) b]"), of(&[("a) b]", 1.)]));
        assert_eq!(pieces("\\(a\\) \\x"), of(&[("(a) \\x", 1.)]));
        assert_eq!(pieces("(a:b)"), of(&[("a:b", 1.1)]));
        assert_eq!(pieces(""), of(&[]));
        assert!(parse_weights("(a:inf)").is_err());
    }

    #[test]
    fn prompts_change_over_the_steps() {
        for (prompt, early, late) in [
            ("[cat:dog:0.5]", "cat", "dog"),
            ("[cat:dog:5]", "cat", "dog"),
            ("a [dog:0.5]!", "a !", "a dog!"),
            ("a [cat::0.5]!", "a cat!", "a !"),
            ("[a [x:y:0.5]:b:0.5]", "a x", "b"),
            ("[less]", "[less]", "[less]"),
            ("[(a:1.2):b:0.5]", "(a:1.2)", "b"),
            ("[not: a number]", "[not: a number]", "[not: a number]"),
            ("open [a:b:0.5", "open [a:b:0.5", "open [a:b:0.5"),
            ("\\[a:b:0.5\\]", "\\[a:b:0.5\\]", "\\[a:b:0.5\\]"),
        ] {
            assert_eq!(at_step(prompt, 4, 10), early, "{prompt}");
            assert_eq!(at_step(prompt, 5, 10), late, "{prompt}");
        }
        let turns: Vec<String> = (0..4).map(|i| at_step("[a|b|c]", i, 4)).collect();
        assert_eq!(turns, ["a", "b", "c", "a"]);
    }

    #[test]
    fn a_weighted_context_keeps_its_mean() -> Result<()> {
        let context = crate::noise::standard_normal(&[1, 3, 8], 1)? + 0.5;
        let out = apply_weights(&context, &[1., 1.5, 1.])?;
        let mean = |x: &Tensor| x.mean(Kind::Float).double_value(&[]);
        assert!((mean(&out) - mean(&context)).abs() < 1e-5);
        let share = (out.get(0).get(1) / out.get(0).get(0))
            / (context.get(0).get(1) / context.get(0).get(0));
        assert!((share - 1.5).abs().max().double_value(&[]) < 1e-4);
        assert!(apply_weights(&context, &[1., 1., 1.])?.equal(&context));
        assert!(apply_weights(&context, &[1.]).is_err());
        Ok(())
    }
}
