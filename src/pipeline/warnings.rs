//! What a person should know about a request before it is drawn.

use super::{Request, StableDiffusion};
use crate::Result;

impl StableDiffusion {
    /// What a person should know about a request: parts of prompts that are too long for the text encoder, words that
    /// it was never taught, and where the numbers are not computed as asked.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express.
    pub fn warnings(&self, request: &Request) -> Result<Vec<String>> {
        let mut warnings = self.notes.clone();
        if self.vae.kind() != self.unet.kind() {
            warnings.push("the VAE's activations overflow in f16: it computes in f32".to_owned());
        }
        let second = request
            .sdxl
            .iter()
            .flat_map(|sdxl| sdxl.prompts_2.iter().chain(sdxl.negative_prompt_2.iter()));
        let known = self.text_encoder.known_ids();
        let is_known = |id: &i64| known.binary_search(id).is_ok();
        let mut unknown = Vec::new();
        for text in request.prompts.iter().chain(second).chain([&request.negative_prompt]) {
            for (word, ids) in self.tokenizer.words(text)? {
                let is_word = word.contains(char::is_alphanumeric);
                if is_word && !ids.iter().all(is_known) && !unknown.contains(&word) {
                    unknown.push(word);
                }
            }
            if let Some(cut) = self.tokenizer.encode(text)?.cut {
                let all: String = cut.chars().take(200).collect();
                let dots = if all.len() < cut.len() { " ..." } else { "" };
                warnings.push(format!(
                    "the prompt is longer than 75 tokens; this part was not used: {all}{dots}"
                ));
            }
        }
        if !unknown.is_empty() {
            let ends = known.iter().map(|&id| self.tokenizer.token(id));
            let mut words: Vec<String> = ends
                .filter_map(|token| token.strip_suffix("</w>").map(str::to_owned))
                .filter(|word| word.contains(char::is_alphanumeric))
                .collect();
            words.sort();
            warnings.push(format!(
                "the model was not taught: {}; it knows these words and ends of words: {}",
                unknown.join(", "),
                words.join(", ")
            ));
        }
        Ok(warnings)
    }
}
