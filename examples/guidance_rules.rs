//! One prompt and one seed by every rule that makes one prediction of two, at several guidance scales:
//!
//! ```text
//! cargo run --release --example guidance_rules -- docs/guidance_rules.png
//! ```

use diffuscope::guidance::{Guidance, Projection};
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::sampler::Clip;
use diffuscope::{Result, picture, plot};

const PROMPT: &str = "a red cat left of a blue ball on the beach, flat";
const SCALES: [f64; 4] = [1., 3., 7., 15.];

/// What is asked for at a guidance scale.
type Rule = fn(f64) -> Request;

fn main() -> Result<()> {
    let out = std::env::args().nth(1).unwrap_or("guidance_rules.png".into());
    let model = StableDiffusion::tiny()?;
    let rules: [(&str, Rule); 9] = [
        ("plain", |scale| guided(scale.into())),
        ("rescaled, 0.7", |scale| guided(Guidance { rescale: 0.7, ..scale.into() })),
        ("steps 20 to 80 %", |scale| {
            guided(Guidance { interval: Some((0.2, 0.8)), ..scale.into() })
        }),
        ("falling to 1", |scale| {
            let scales = (0..30).map(|i| scale + (1. - scale) * f64::from(i) / 29.).collect();
            guided(Guidance { scales, ..scale.into() })
        }),
        ("projected", |scale| {
            guided(Guidance { projection: Some(Projection::default()), ..scale.into() })
        }),
        ("thresholded (for pixels)", |scale| Request {
            clip: Some(Clip::Dynamic { ratio: 0.995, max: 4. }),
            ..guided(scale.into())
        }),
        ("not: ball", |scale| Request { negative_prompt: "ball".into(), ..guided(scale.into()) }),
        ("(red:0.3) cat", |scale| {
            weighted(scale, "a (red:0.3) cat left of a blue ball on the beach, flat")
        }),
        ("[cat:dog:0.2]", |scale| {
            weighted(scale, "a red [cat:dog:0.2] left of a blue ball on the beach, flat")
        }),
    ];
    let mut rows = Vec::new();
    for (_, request) in &rules {
        let row = SCALES.map(|scale| model.generate(&request(scale)).map(|made| made.image.get(0)));
        rows.push(row.into_iter().collect::<Result<Vec<_>>>()?);
    }
    let sheet = plot::sheet(&rows)?
        .row_labels(rules.iter().map(|(name, _)| *name))?
        .column_labels(SCALES.iter().map(|scale| format!("guidance {scale}")))?
        .title(PROMPT)
        .note("data/tiny, seed 3, DDIM, 30 steps");
    picture::write_png(out, &sheet.rgb8()?.to_tensor()?, &[])
}

fn guided(guidance: Guidance) -> Request {
    Request { guidance, seed: 3, ..Request::new(PROMPT) }
}

fn weighted(scale: f64, prompt: &str) -> Request {
    Request { weighted_prompts: true, guidance: scale.into(), seed: 3, ..Request::new(prompt) }
}
