//! Scores as lines for a person.

use diffuscope::eval::scores::{PromptMatch, Scores, SettingScores};

fn shares(m: &PromptMatch) -> String {
    let all = [
        ("whole caption", &m.caption),
        ("single", &m.single),
        ("object", &m.object),
        ("colour", &m.colour),
        ("background", &m.background),
        ("style", &m.style),
        ("count", &m.count),
        ("pair objects", &m.pair_objects),
        ("pair colours", &m.pair_colours),
        ("relation", &m.relation),
    ];
    all.map(|(name, share)| format!("{name} {:.1} %", 100. * share.share)).join(", ")
}

/// What judge and autoencoder achieve on true scenes.
pub fn ceiling(scores: &Scores) -> String {
    format!(
        "the judge on true scenes: {}\nafter the autoencoder, {:.1} dB: {}",
        shares(&scores.scenes),
        scores.psnr,
        shares(&scores.reconstructed)
    )
}

pub fn setting(drawn: &SettingScores) -> String {
    let valid = drawn.valid.map(|valid| format!("some scene {:.1} %, ", 100. * valid.share));
    format!(
        "{} steps, guidance {}: {}; {}Fréchet distance {:.4} ± {:.4}, diversity {:.2}",
        drawn.num_inference_steps,
        drawn.guidance_scale,
        shares(&drawn.prompt_match),
        valid.unwrap_or_default(),
        drawn.frechet_distance,
        drawn.frechet_deviation,
        drawn.diversity
    )
}
