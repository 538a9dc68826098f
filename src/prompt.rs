//! Prompts as people write them for web interfaces: weights of words, and prompts that change over the steps.
//!
//! ```text
//! (word)        1.1 times as strong          (word:1.3)      1.3 times; 0.7 makes it weaker
//! [word]        divided by 1.1               \\( \\) \\[ \\]     the brackets themselves
//! [cat:dog:0.4] cat for the first 40 % of the steps, then dog; 10 in place of 0.4: for the first 10 steps
//! [dog:0.4]     nothing, then dog            [cat::0.4]      cat, then nothing
//! [cat|dog]     cat and dog by turns
//! ```
//! A number is digits and a point, and perhaps a sign: what stands at its place in `(word:inf)` or `(red:1e1)` is text.
//! Brackets stand at most 64 deep, and no weight is above 1000.
//! This is the syntax of AUTOMATIC1111's web interface. diffusers reads brackets as they are, and so does
//! [`crate::pipeline::Request`] unless it says otherwise.

use std::ops::Range;

use tch::{Kind, Tensor};

use crate::device::{in_f64, put};
use crate::short::Start;
use crate::{Error, Result};

/// What a bracket multiplies or divides by.
const STEP: f64 = 1.1;
/// The most brackets inside one another.
const DEEPEST: usize = 64;
/// The largest weight; brackets inside one another multiply theirs.
const HEAVIEST: f64 = 1000.;

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
/// # Errors
/// More than 64 square brackets inside one another.
///
/// # Examples
/// ```
/// use diffuscope::prompt::at_step;
/// let prompt = "a [cat:dog:0.4] on (grass:1.2)";
/// assert_eq!(at_step(prompt, 3, 10)?, "a cat on (grass:1.2)");
/// assert_eq!(at_step(prompt, 4, 10)?, "a dog on (grass:1.2)");
/// assert_eq!(at_step("[red|blue] house", 1, 10)?, "blue house");
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn at_step(prompt: &str, i: usize, n: usize) -> Result<String> {
    let chars: Vec<char> = prompt.chars().collect();
    let closings = closings(&chars)?;
    let mut out = String::new();
    Scheduled { chars: &chars, closings: &closings, i, n }.write(0..chars.len(), &mut out);
    Ok(out)
}

/// Where the bracket that opens at each place closes, past brackets inside of it.
fn closings(chars: &[char]) -> Result<Vec<Option<usize>>> {
    let (mut closings, mut open, mut escaped) = (vec![None; chars.len()], Vec::new(), false);
    for (at, c) in chars.iter().enumerate() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => {
                open.push(at);
                check_depth(open.len())?;
            }
            ']' => {
                if let Some(from) = open.pop() {
                    closings[from] = Some(at);
                }
            }
            _ => (),
        }
    }
    Ok(closings)
}

/// Refuses brackets that are too deep: each is a call in a call where a prompt is resolved.
fn check_depth(open: usize) -> Result<()> {
    if open <= DEEPEST {
        return Ok(());
    }
    let expected = format!("at most {DEEPEST} brackets inside one another");
    let advice = "close them, or write brackets that are text as \\( and \\[";
    Err(Error::argument("prompt", expected, "more").hint(advice))
}

/// A prompt at step `i` of `n`.
struct Scheduled<'a> {
    chars: &'a [char],
    closings: &'a [Option<usize>],
    i: usize,
    n: usize,
}

impl Scheduled<'_> {
    /// Appends a part of the prompt, resolved.
    fn write(&self, part: Range<usize>, out: &mut String) {
        let mut at = part.start;
        while at < part.end {
            match (self.chars[at], self.closings[at]) {
                ('\\', _) => {
                    out.extend(&self.chars[at..part.end.min(at + 2)]);
                    at += 2;
                }
                (_, Some(end)) if end < part.end => {
                    self.write_bracket(at + 1..end, out);
                    at = end + 1;
                }
                (c, _) => {
                    out.push(c);
                    at += 1;
                }
            }
        }
    }

    /// Appends what stands between square brackets, resolved.
    fn write_bracket(&self, inner: Range<usize>, out: &mut String) {
        let turns = self.split(inner.clone(), '|');
        if turns.len() > 1 {
            return self.write(turns[self.i % turns.len()].clone(), out);
        }
        let parts = self.split(inner.clone(), ':');
        let text = |part: &Range<usize>| self.chars[part.clone()].iter().collect::<String>();
        let when = parts.last().and_then(|last| number(&text(last)));
        let (before, after, when) = match (&parts[..], when) {
            ([after, _], Some(when)) => (0..0, after.clone(), when),
            ([before, after, _], Some(when)) => (before.clone(), after.clone(), when),
            _ => {
                out.push('[');
                self.write(inner, out);
                return out.push(']');
            }
        };
        // Below 1 it is a part of the steps.
        let first = if when < 1. { when * self.n as f64 } else { when };
        self.write(if (self.i as f64) < first.floor() { before } else { after }, out);
    }

    /// Splits at what stands in no bracket.
    fn split(&self, part: Range<usize>, by: char) -> Vec<Range<usize>> {
        let (mut parts, mut start, mut depth, mut escaped) = (Vec::new(), part.start, 0i64, false);
        for at in part.clone() {
            match self.chars[at] {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '[' | '(' => depth += 1,
                ']' | ')' => depth -= 1,
                c if c == by && depth == 0 => {
                    parts.push(start..at);
                    start = at + 1;
                }
                _ => (),
            }
        }
        parts.push(start..part.end);
        parts
    }
}

/// A number as people write it in a prompt: digits and a point, and perhaps a sign. All else is text: `inf`, `1e1`.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    text.parse().ok().filter(|_| plain)
}

/// The parts of a prompt with their weights. A bracket that nothing closes holds to the end.
///
/// # Errors
/// A weight above 1000, whether it is written or what brackets inside one another come to; more than 64 brackets inside
/// one another.
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
            '(' | '[' => {
                let of_its_kind = if c == '(' { &mut round } else { &mut square };
                of_its_kind.push(start(&mut pieces));
                check_depth(round.len() + square.len())?;
            }
            ')' if !round.is_empty() => {
                let from = round.pop().unwrap_or_default();
                let by = stated(&mut pieces).unwrap_or(STEP);
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
    match pieces.iter().find(|piece| !(-HEAVIEST..=HEAVIEST).contains(&piece.weight)) {
        Some(Piece { text, weight }) => {
            let what = format!("the weight of {:?}", Start(text));
            let expected = format!("-{HEAVIEST} to {HEAVIEST}");
            let advice = "brackets inside one another multiply their weights";
            Err(Error::argument(what, expected, weight).hint(advice))
        }
        None => Ok(pieces),
    }
}

fn push(pieces: &mut [Piece], c: char) {
    if let Some(last) = pieces.last_mut() {
        last.text.push(c);
    }
}

/// Takes `:1.3` off the end of the last piece.
fn stated(pieces: &mut [Piece]) -> Option<f64> {
    let last = pieces.last_mut()?;
    let (text, weight) = last.text.rsplit_once(':')?;
    let weight = number(weight)?;
    last.text.truncate(text.len());
    Some(weight)
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
/// Another number of weights than tokens; a weight that is not finite.
pub fn apply_weights(context: &Tensor, weights: &[f64]) -> Result<Tensor> {
    let size = context.size();
    if size.len() != 3 || size[1] != weights.len() as i64 {
        let expected = format!("[1, {}, width]", weights.len());
        return Err(Error::shape("context", expected, &size));
    }
    if let Some(bad) = weights.iter().find(|weight| !weight.is_finite()) {
        return Err(Error::argument("weight", "a finite number", bad));
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
    }

    #[test]
    fn digits_and_a_point_are_a_number_and_all_else_is_text() -> Result<()> {
        for text in
            ["x:inf", "x:-inf", "x:nan", "x:infinity", "red:1e1", "x:1.2.3", "x:.", "x:+-1", "x:１"]
        {
            assert_eq!(pieces(&format!("({text})")), [(text.to_owned(), 1.1)]);
        }
        for (text, weight) in [
            ("x:1.5", 1.5),
            ("x:.5", 0.5),
            ("x:2.", 2.),
            ("x: 0 ", 0.),
            ("x:-1", -1.),
            ("x:+3", 3.),
        ] {
            assert_eq!(pieces(&format!("({text})")), [("x".to_owned(), weight)], "{text}");
        }
        for odd in ["[a:b:inf]", "[a:b:nan]", "[a:b:1e1]"] {
            assert_eq!(at_step(odd, 5, 10)?, odd);
        }
        Ok(())
    }

    #[test]
    fn weights_and_brackets_inside_one_another_are_bounded() {
        let nested = |n: usize, open: &str, close: &str| open.repeat(n) + "x" + &close.repeat(n);
        let digits = "9".repeat(400);
        for prompt in [
            nested(11, "(", ":2)"),
            nested(3, "(", ":-11)"),
            format!("(x:{digits})"),
            format!("((x:{digits}):0)"),
            nested(50_000, "(", ")"),
            "(".repeat(50_000),
            "([".repeat(50_000),
        ] {
            let said = parse_weights(&prompt).unwrap_err().to_string();
            assert!(said.contains("inside one another") && said.len() < 300, "{said}");
        }
        assert_eq!(pieces(&nested(3, "(", ":10)")), [("x".to_owned(), 1000.)]);
        for prompt in [nested(50_000, "[", "]"), nested(50_000, "[", ":b:0.5]"), "[".repeat(50_000)]
        {
            let said = at_step(&prompt, 0, 10).unwrap_err().to_string();
            assert!(said.starts_with("prompt: expected at most 64 brackets"), "{said}");
        }
        assert_eq!(at_step(&nested(64, "[", ":b:0.5]"), 0, 10).unwrap(), "x");
        assert_eq!(at_step(&"[a|b] ".repeat(10_000), 1, 10).unwrap(), "b ".repeat(10_000));
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
            ("[a)[x:y]:0.5]", "[a)[x:y]:0.5]", "[a)[x:y]:0.5]"),
            ("[a)[x|y]z]", "a)[x", "y]z"),
        ] {
            assert_eq!(at_step(prompt, 4, 10).unwrap(), early, "{prompt}");
            assert_eq!(at_step(prompt, 5, 10).unwrap(), late, "{prompt}");
        }
        let turns: Vec<String> = (0..4).map(|i| at_step("[a|b|c]", i, 4).unwrap()).collect();
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
        assert!(apply_weights(&context, &[1., f64::NAN, 1.]).is_err());
        Ok(())
    }
}
