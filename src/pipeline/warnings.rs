//! What a person should know about a request and what comes of it.

use super::{Request, StableDiffusion};
use crate::Result;
use crate::prompt::{at_step, parse_weights};

impl StableDiffusion {
    /// What a person should know about a request: parts of prompts that are too long for the text encoder, words that
    /// it was never taught, a sampler that stands in for another, a strength that leaves no step, and where the numbers
    /// are not computed as asked. A [`Generation`](super::Generation) carries them as its `notes`.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express; steps that the schedule cannot give.
    pub fn warnings(&self, request: &Request) -> Result<Vec<String>> {
        let mut warnings = self.notes.clone();
        if self.vae.kind() != self.unet.kind() {
            warnings.push("the VAE's activations overflow in f16: it computes in f32".to_owned());
        }
        warnings.extend(self.scheduler.notes(request.sampler));
        let steps = request.num_inference_steps;
        if self.plan(request)?.steps.is_empty() {
            let strength = request.init.as_ref().map_or(0., |init| init.strength);
            let asked = if steps == 1 { "1 step" } else { &format!("{steps} steps") };
            let are = if steps == 1 { "is" } else { "are" };
            warnings.push(format!(
                "no step is left to take: {asked} at strength {strength} {are} none, so the picture was only encoded \
                 and decoded"
            ));
        }
        let (mut unknown, mut cut) = (Vec::new(), Vec::new());
        let known = self.text_encoder.known_ids();
        let is_known = |id: &i64| known.binary_search(id).is_ok();
        for text in texts(request)? {
            for (word, ids) in self.tokenizer.words(&text)? {
                let is_word = word.contains(char::is_alphanumeric);
                if is_word && !ids.iter().all(is_known) && !unknown.contains(&word) {
                    unknown.push(word);
                }
            }
            cut.extend(self.tokenizer.encode(&text)?.cut.filter(|cut_off| !cut.contains(cut_off)));
        }
        warnings.extend(cut.iter().map(|cut| said_of_cut(cut)));
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            warnings.push(format!(
                "the model was not taught: {unknown}; it knows these words and ends of words: {}",
                words(known.iter().map(|&id| self.tokenizer.token(id))).join(", ")
            ));
        }
        Ok(warnings)
    }
}

/// The words and ends of words among tokens.
fn words(tokens: impl Iterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = tokens
        .filter_map(|token| token.strip_suffix("</w>").map(str::to_owned))
        .filter(|word| word.contains(char::is_alphanumeric))
        .collect();
    words.sort();
    words
}

fn said_of_cut(cut: &str) -> String {
    let all: String = cut.chars().take(200).collect();
    let dots = if all.len() < cut.len() { " ..." } else { "" };
    format!("the prompt is longer than 75 tokens; this part was not used: {all}{dots}")
}

/// All that the text encoders read, once each; of prompts with weights and changes the words alone, at every step.
fn texts(request: &Request) -> Result<Vec<String>> {
    let second = request
        .sdxl
        .iter()
        .flat_map(|sdxl| sdxl.prompts_2.iter().chain(sdxl.negative_prompt_2.iter()));
    let all = request.prompts.iter().chain(second).chain([&request.negative_prompt]);
    let mut texts: Vec<String> = Vec::new();
    let steps = request.num_inference_steps;
    for text in all {
        let read = match request.weighted_prompts {
            false => vec![text.clone()],
            true => (0..steps).map(|i| plain(&at_step(text, i, steps)?)).collect::<Result<_>>()?,
        };
        for text in read {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    Ok(texts)
}

fn plain(prompt: &str) -> Result<String> {
    let pieces = parse_weights(prompt)?;
    Ok(pieces.iter().map(|piece| piece.text.as_str()).collect::<Vec<_>>().join(" "))
}
