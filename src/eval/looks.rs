//! What scores show when they end a notebook cell.

use super::score_curves;
use super::scores::{PromptMatch, Scores, SettingScores};
use crate::Result;
use crate::notebook::look::{Look, Looks, shows};
use crate::notebook::table::Table;
use crate::short::Digits;

shows!(Scores, SettingScores, PromptMatch);

impl Looks for Scores {
    fn look(&self) -> Result<Look> {
        Ok(Look::picture(score_curves(self)?.png()?, format!("{self:?}")))
    }
}

impl Looks for SettingScores {
    fn look(&self) -> Result<Look> {
        let Self { sampler, num_inference_steps: steps, guidance_scale: scale, .. } = self;
        let caption = format!("{sampler}, {steps} steps, guidance scale {scale}");
        let [distance, deviation] = [self.frechet_distance, self.frechet_deviation].map(Digits);
        let others = [
            ("Fréchet distance", format!("{distance} ± {deviation}")),
            ("diversity", Digits(self.diversity).to_string()),
        ];
        let valid =
            self.valid.map(|share| ("some scene, whatever is asked for", format!("{share:?}")));
        let others = others.into_iter().chain(valid);
        let others = others.map(|(name, value)| vec![name.to_owned(), value]);
        Ok(Look::table(&matches(caption, &self.prompt_match).rows(others)))
    }
}

impl Looks for PromptMatch {
    fn look(&self) -> Result<Look> {
        Ok(Look::table(&matches("Prompt match".to_owned(), self)))
    }
}

/// The share of every part of a caption, with its interval of 95 %.
fn matches(caption: String, of: &PromptMatch) -> Table {
    let parts = [
        ("one thing: the object", of.object),
        ("one thing: its colour", of.colour),
        ("one thing: everything", of.single),
        ("several of a kind: the count", of.count),
        ("two things: both objects", of.pair_objects),
        ("two things: their colours", of.pair_colours),
        ("two things: where they are", of.relation),
        ("two things: everything", of.pair),
        ("all pictures: the background", of.background),
        ("all pictures: the style", of.style),
        ("all pictures: the whole caption", of.caption),
    ];
    let rows = parts.map(|(name, share)| vec![name.to_owned(), format!("{share:?}")]);
    Table::new(caption, ["what", "right"]).rows(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tiny_folder;

    #[test]
    fn scores_are_curves_and_those_of_one_setting_a_table() -> Result<()> {
        let scores = Scores::open(tiny_folder().join("scores").join("steps.json"))?;
        assert!(scores.look()?.block().starts_with("EVCXR_BEGIN_CONTENT image/png\n"));
        let block = scores.drawn[0].look()?.block();
        assert!(block.contains("all pictures: the whole caption  "), "{block}");
        assert!(block.contains("\nFréchet distance"), "{block}");
        Ok(())
    }
}
