//! The scores of several settings as curves.

use super::scores::{PromptMatch, Scores, SettingScores, Share};
use crate::Result;
use crate::plot::{Figure, Panel, figure, panel};

/// What a guidance scale, or a number of steps, does to a model's pictures: how often they show what their
/// captions say, how far they are from true scenes, how unlike each other. Bands are intervals of 95 %.
///
/// # Errors
/// No scores.
pub fn score_curves(scores: &Scores) -> Result<Figure> {
    let drawn = &scores.drawn;
    let over_steps = drawn.windows(2).any(|w| w[0].num_inference_steps != w[1].num_inference_steps);
    let x = |d: &SettingScores| {
        if over_steps { d.num_inference_steps as f64 } else { d.guidance_scale }
    };
    let label = if over_steps { "number of steps" } else { "guidance scale w" };
    let curve =
        |chart: Panel, name: &str, color: usize, of: &dyn Fn(&SettingScores) -> [f64; 3]| {
            let band = drawn.iter().map(|d| (x(d), of(d)[0], of(d)[2])).collect();
            let line = drawn.iter().map(|d| (x(d), of(d)[1])).collect();
            chart.band("", band).color(color).dotted_line(name, line).color(color)
        };
    let mut matched = panel("Prompt match").y("share of pictures").y_range(0., 1.);
    type Measure = (&'static str, fn(&PromptMatch) -> Share);
    let parts: [Measure; 3] = [
        ("one thing: all right", |m| m.single),
        ("two things: both there", |m| m.pair_objects),
        ("whole caption", |m| m.caption),
    ];
    for (i, (name, part)) in parts.into_iter().enumerate() {
        let of = |d: &SettingScores| {
            let share = part(&d.prompt_match);
            [share.low, share.share, share.high]
        };
        matched = curve(matched, name, i, &of);
    }
    let distance = |d: &SettingScores| {
        [-1.96, 0., 1.96].map(|k| (d.frechet_distance + k * d.frechet_deviation).max(0.))
    };
    let apart = curve(panel("Fréchet distance").y("to true scenes"), "", 3, &distance)
        .rule("true scenes to others", scores.frechet_floor);
    let line = drawn.iter().map(|d| (x(d), d.diversity)).collect();
    let unlike = panel("Diversity").y("of one prompt's pictures").dotted_line("", line).color(4);
    let unlike = unlike.rule("true scenes", 1.);
    let panels = [matched, apart, unlike].map(|panel| panel.x(label));
    let held = match (over_steps, drawn.first()) {
        (true, Some(first)) => format!("guidance scale {}", first.guidance_scale),
        (false, Some(first)) => format!("{} steps", first.num_inference_steps),
        _ => String::new(),
    };
    figure(
        format!("{} pictures a point, seed {}, {held}", scores.count, scores.seed),
        panels.into(),
    )
}
