//! Guidance as its rule.

use super::escaped::escaped;
use super::look::{Look, Looks, shows};
use crate::Result;
use crate::guidance::Guidance;
use crate::short::Digits;

shows!(Guidance);

impl Looks for Guidance {
    fn look(&self) -> Result<Look> {
        let (words, formula) = (words(self), formula(self));
        let html = format!("<p>{}</p><pre>{}</pre>", escaped(&words), escaped(&formula));
        Ok(Look::html(html, format!("{words}\n{formula}")))
    }
}

fn words(guidance: &Guidance) -> String {
    let scale = guidance.scale;
    let mut words = match guidance.scales.as_slice() {
        [] => match scale {
            0. => "Guidance scale 0: the prediction without the prompt".to_owned(),
            1. => "Guidance scale 1: the prediction with the prompt".to_owned(),
            _ if scale > 1. => {
                format!("Guidance scale {scale}: past the prediction with the prompt")
            }
            _ if scale > 0. => format!("Guidance scale {scale}: between both predictions"),
            _ => format!("Guidance scale {scale}: away from the prompt"),
        },
        [first, .., last] => {
            let count = guidance.scales.len();
            format!("Guidance scales {first} to {last}, one for each of {count} steps")
        }
        [one] => format!("Guidance scale {one} in one step"),
    };
    if let Some((start, end)) = guidance.interval {
        let [start, end] = [start, end].map(|part| Digits(part * 100.));
        words += &format!("; from {start} % to {end} % of the steps, scale 1 outside");
    }
    if let Some(projection) = &guidance.projection {
        let kept = match projection.eta {
            0. => "nothing",
            1. => "all",
            _ => "a part",
        };
        words += &format!("; projected: {kept} is kept of what lies along the prediction");
    }
    if guidance.rescale != 0. {
        words += &format!("; rescaled by {} towards the prompt's spread", guidance.rescale);
    }
    words
}

fn formula(guidance: &Guidance) -> String {
    let w = match guidance.scales.as_slice() {
        [] => Digits(guidance.scale).to_string(),
        _ => "w".to_owned(),
    };
    let mut lines = Vec::new();
    match &guidance.projection {
        None => lines.push(format!("guided = uncond + {w} (cond - uncond)")),
        Some(projection) => {
            let (momentum, limit) = (projection.momentum, projection.norm_threshold);
            let (eta, more) = (projection.eta, format!("({w} - 1)"));
            let mut difference = "d = cond - uncond".to_owned();
            if momentum != 0. {
                difference += &format!(" + {momentum} d_before").replace("+ -", "- ");
            }
            if limit.is_finite() {
                difference += &format!(", at most {limit} long");
            }
            lines.push(difference);
            lines.push("along = the part of d along cond".to_owned());
            lines.push(format!("guided = cond + {more} (d - along + {eta} along)"));
        }
    }
    if guidance.rescale != 0. {
        let part = guidance.rescale;
        lines.push(format!("rescaled = guided ({part} std(cond) / std(guided) + 1 - {part})"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guidance::Projection;

    #[test]
    fn every_rule_is_said() -> Result<()> {
        for (guidance, expected) in [
            (Guidance::from(0.), "without the prompt\nguided = uncond + 0 (cond - uncond)"),
            (
                Guidance::from(7.5),
                "7.5: past the prediction with the prompt\nguided = uncond + 7.5",
            ),
            (
                Guidance { scales: vec![1., 2., 3.], ..5.0.into() },
                "scales 1 to 3, one for each of 3",
            ),
            (
                Guidance { interval: Some((0.2, 0.8)), ..5.0.into() },
                "from 20 % to 80 % of the steps",
            ),
            (Guidance { rescale: 0.7, ..5.0.into() }, "std(cond) / std(guided) + 1 - 0.7"),
            (
                Guidance { projection: Some(Projection::default()), ..5.0.into() },
                "d = cond - uncond - 0.5 d_before, at most 15 long",
            ),
        ] {
            let block = guidance.look()?.block();
            assert!(block.contains(expected), "{block}");
            assert!(block.starts_with("EVCXR_BEGIN_CONTENT text/html\n<p>Guidance"));
        }
        Ok(())
    }
}
