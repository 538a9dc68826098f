//! One thing changed, all else held fixed: guidance scales, numbers of steps, samplers, and the steps of one run.

use super::trace::trace_figure;
use crate::Result;
use crate::pipeline::{Request, StableDiffusion};
use crate::plot::{Sheet, Tile};

/// Guidance scales in columns, prompts in rows, all from one seed.
///
/// ```no_run
/// use diffuscope::{figures, pipeline::{Request, StableDiffusion}};
/// let sd = StableDiffusion::tiny()?;
/// let request = Request::batch(["a red apple on the grass", "a rocket at night, flat"]);
/// figures::compare_guidance(&sd, &request, &[0., 1., 3., 7., 15.])?.save("guidance.png")?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
/// Every prompt is drawn from the request's `seed`; give `seeds` for others.
///
/// # Errors
/// No scale; a request that cannot be met.
#[doc(alias = "guidance_scales")]
#[doc(alias = "compare_scales")]
#[doc(alias = "gallery")]
pub fn compare_guidance(
    sd: &StableDiffusion,
    request: &Request,
    guidance_scales: &[f64],
) -> Result<Sheet> {
    let column = |&scale: &f64| {
        let mut request = request.clone();
        request.guidance.scale = scale;
        (format!("guidance {scale}"), request)
    };
    compare(sd, request, guidance_scales.iter().map(column).collect())
}

/// Numbers of steps in columns, prompts in rows, all from one seed, as [`compare_guidance`].
///
/// # Errors
/// No number; one that the schedule cannot give; a request that cannot be met.
#[doc(alias = "num_inference_steps")]
pub fn compare_steps(sd: &StableDiffusion, request: &Request, steps: &[usize]) -> Result<Sheet> {
    let column = |&num_inference_steps: &usize| {
        let label = format!("{num_inference_steps} steps");
        (label, Request { num_inference_steps, ..request.clone() })
    };
    compare(sd, request, steps.iter().map(column).collect())
}

/// Samplers in columns, by their names, prompts in rows, all from one seed, as [`compare_guidance`].
///
/// # Errors
/// No name; one that no sampler has; a request that cannot be met.
#[doc(alias = "schedulers")]
pub fn compare_samplers(sd: &StableDiffusion, request: &Request, names: &[&str]) -> Result<Sheet> {
    let column = |name: &&str| {
        let sampler = Some(name.parse()?);
        Ok(((*name).to_owned(), Request { sampler, ..request.clone() }))
    };
    compare(sd, request, names.iter().map(column).collect::<Result<_>>()?)
}

/// The steps of one run as pictures: `x_t` above, the predicted `x_0` below. The same as [`trace_figure`] of
/// [`StableDiffusion::trace`].
///
/// # Errors
/// A request that cannot be met, or that leaves no step.
#[doc(alias = "film_strip")]
#[doc(alias = "run_steps")]
pub fn steps_of_run(sd: &StableDiffusion, request: &Request) -> Result<Sheet> {
    trace_figure(&sd.trace(request)?, |latents| sd.decode(latents))
}

/// A column for every request, which differ in one thing.
fn compare(
    sd: &StableDiffusion,
    request: &Request,
    columns: Vec<(String, Request)>,
) -> Result<Sheet> {
    let seeds = match request.seeds.is_empty() {
        true => vec![request.seed; request.prompts.len()],
        false => request.seeds.clone(),
    };
    let (mut rows, mut notes) = (vec![Vec::new(); request.prompts.len()], Vec::new());
    let mut labels = Vec::new();
    for (label, column) in columns {
        let generation = sd.generate(&Request { seeds: seeds.clone(), ..column })?;
        for (i, row) in rows.iter_mut().enumerate() {
            row.push(Tile::picture(&generation.image.get(i as i64))?);
        }
        labels.push(label);
        // The list of all known words has no place on a sheet.
        let short = generation.notes.iter().filter_map(|note| note.split(';').next());
        let new: Vec<String> =
            short.filter(|note| !notes.iter().any(|n| n == note)).map(str::to_owned).collect();
        notes.extend(new);
        if !generation.finished {
            break;
        }
    }
    let one = seeds.iter().all(|seed| *seed == seeds[0]);
    let said = |(prompt, seed): (&String, &i64)| match (prompt.trim(), one) {
        ("", true) => "(no text)".to_owned(),
        (prompt, true) => prompt.to_owned(),
        (prompt, false) => format!("{prompt}, seed {seed}"),
    };
    let sheet = Sheet::new(rows)?
        .row_labels(request.prompts.iter().zip(&seeds).map(said))?
        .column_labels(labels)?;
    let held = if one { vec![format!("all from seed {}", seeds[0])] } else { Vec::new() };
    Ok(sheet.note([held, notes].concat().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::StableDiffusion;

    #[test]
    fn one_call_draws_a_comparison() -> Result<()> {
        let sd = StableDiffusion::tiny()?;
        let prompts = ["a red apple", "a dog on the moon"];
        let request = Request { num_inference_steps: 2, seed: 3, ..Request::batch(prompts) };
        let sheet = compare_guidance(&sd, &request, &[0., 5.])?;
        assert_eq!(sheet.to_string(), "Sheet of 2 rows × 2 columns");
        assert!(sheet.note_text().starts_with("all from seed 3; the model was not taught: "));
        assert!(!sheet.note_text().contains("it knows"));
        compare_steps(&sd, &request, &[1, 2])?.png()?;
        compare_samplers(&sd, &request, &["ddim", "euler"])?.png()?;
        let strip = steps_of_run(&sd, &Request { num_inference_steps: 2, ..Request::new("a cat") });
        assert_eq!(strip?.to_string(), "Sheet of 2 rows × 2 columns");
        assert!(compare_guidance(&sd, &request, &[]).is_err());
        assert!(compare_guidance(&sd, &Request::batch([""; 0]), &[1.]).is_err());
        assert!(compare_samplers(&sd, &request, &["eular"]).is_err());
        Ok(())
    }

    #[test]
    fn every_prompt_is_drawn_from_the_one_seed() -> Result<()> {
        let sd = StableDiffusion::tiny()?;
        let request = Request { num_inference_steps: 1, ..Request::batch(["a cat", "a cat"]) };
        let image = compare_steps(&sd, &request, &[1])?.rgb8()?;
        let both = sd.generate(&Request { seeds: vec![0, 0], ..request.clone() })?;
        let apart = (both.image.get(0) - both.image.get(1)).abs().max().double_value(&[]);
        assert!(apart < 1e-4 && image.width > 0);
        let other = Request { seeds: vec![0, 1], ..request };
        assert_ne!(compare_steps(&sd, &other, &[1])?.rgb8()?, image);
        Ok(())
    }
}
