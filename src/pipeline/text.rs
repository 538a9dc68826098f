//! Prompts to what the U-Net is told of them.

use tch::{Tensor, no_grad};

use super::{Request, StableDiffusion};
use crate::models::clip::Tokenizer;
use crate::prompt::{Piece, at_step, weighted, weights};
use crate::sampler::Plan;
use crate::{Error, Result};

/// Prompts as the U-Net is told of them.
#[derive(Debug)]
pub struct Text {
    /// [B, 77, width]: SDXL's two encoders side by side.
    pub context: Tensor,
    /// SDXL: the second encoder's pooled embedding, [B, width].
    pub text_embeds: Option<Tensor>,
}

impl Text {
    /// Several prompts as one batch.
    pub(super) fn cat(all: &[Text]) -> Result<Self> {
        let contexts: Vec<&Tensor> = all.iter().map(|text| &text.context).collect();
        let pooled: Vec<&Tensor> =
            all.iter().filter_map(|text| text.text_embeds.as_ref()).collect();
        Ok(Self {
            context: Tensor::f_cat(&contexts, 0)?,
            text_embeds: match pooled.is_empty() {
                true => None,
                false => Some(Tensor::f_cat(&pooled, 0)?),
            },
        })
    }

    fn map(&self, to: impl Fn(&Tensor) -> Tensor) -> Self {
        Self { context: to(&self.context), text_embeds: self.text_embeds.as_ref().map(to) }
    }
}

impl StableDiffusion {
    /// A prompt to what the U-Net is told of it, a batch of 1. Of SDXL's two encoders, both without their
    /// final layer norm from the penultimate layer on, the second reads `prompt_2`.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express; more layers skipped than there are.
    pub fn text(&self, prompt: &str, prompt_2: &str, clip_skip: usize) -> Result<Text> {
        let ids =
            |tokenizer: &Tokenizer, prompt| Ok::<_, Error>(tokenizer.encode(prompt)?.tensor());
        no_grad(|| {
            let first = ids(&self.tokenizer, prompt)?;
            let (Some(tokenizer_2), Some(encoder_2)) = (&self.tokenizer_2, &self.text_encoder_2)
            else {
                let context = self.text_encoder.encode_skipping(&first, clip_skip)?;
                return Ok(Text { context, text_embeds: None });
            };
            let first = self.text_encoder.forward(&first)?;
            let second = encoder_2.forward(&ids(tokenizer_2, prompt_2)?)?;
            let states = [&first, &second].map(|out| out.state_before(1 + clip_skip));
            let [first, second_state] = states;
            let context = Tensor::f_cat(&[first?, second_state?], -1)?;
            Ok(Text { context, text_embeds: second.text_embeds })
        })
    }

    /// As [`StableDiffusion::text`], of a prompt with weights: every piece is tokenised alone, and the context of its tokens is
    /// made stronger or weaker. What does not fit into 75 tokens is left out.
    ///
    /// # Errors
    /// As [`StableDiffusion::text`]; a weight that is not finite.
    pub fn weighted_text(&self, prompt: &str, prompt_2: &str, clip_skip: usize) -> Result<Text> {
        let plain = |prompt: &str| -> Result<(String, Vec<Piece>)> {
            let pieces = weights(prompt)?;
            // Apart, so that no token reaches over two pieces.
            let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
            Ok((texts.join(" "), pieces))
        };
        let (first, second) = (plain(prompt)?, plain(prompt_2)?);
        let mut text = self.text(&first.0, &second.0, clip_skip)?;
        let width = self.text_encoder.config().hidden_size;
        let mut parts =
            vec![self.stronger(&text.context.narrow(-1, 0, width), &self.tokenizer, &first.1)?];
        if let Some(tokenizer_2) = &self.tokenizer_2 {
            let rest = text.context.narrow(-1, width, text.context.size()[2] - width);
            parts.push(self.stronger(&rest, tokenizer_2, &second.1)?);
        }
        text.context = Tensor::f_cat(&parts, -1)?;
        Ok(text)
    }

    /// The weight of every token of a prompt's pieces, on their context.
    fn stronger(
        &self,
        context: &Tensor,
        tokenizer: &Tokenizer,
        pieces: &[Piece],
    ) -> Result<Tensor> {
        let length = context.size()[1] as usize;
        let mut each = vec![1.];
        for piece in pieces {
            let tokens: usize =
                tokenizer.words(&piece.text)?.iter().map(|(_, ids)| ids.len()).sum();
            each.extend(std::iter::repeat_n(piece.weight, tokens));
        }
        each.truncate(length - 1);
        each.resize(length, 1.);
        no_grad(|| weighted(context, &each))
    }

    /// The looks at which the prompts of a request change, and the contexts from there on.
    pub(super) fn later_contexts(
        &self,
        request: &Request,
        plan: &Plan,
    ) -> Result<Vec<(usize, (Tensor, Tensor))>> {
        let mut later = Vec::new();
        if !request.weighted_prompts {
            return Ok(later);
        }
        let at = |i: usize| -> Vec<String> {
            let all =
                request.prompts.iter().chain(&request.prompts_2).chain([&request.negative_prompt]);
            all.map(|prompt| at_step(prompt, plan.step_of(i), plan.num_inference_steps)).collect()
        };
        for i in (1..plan.steps.len()).filter(|&i| at(i) != at(i - 1)) {
            let (step, steps) = (plan.step_of(i), plan.num_inference_steps);
            let (uncond, cond) = self.texts_at(request, step, steps)?;
            later.push((i, (uncond.context, cond.context)));
        }
        Ok(later)
    }

    /// A prompt to its context [1, 77, width].
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express.
    pub fn context(&self, prompt: &str) -> Result<Tensor> {
        Ok(self.text(prompt, prompt, 0)?.context)
    }

    /// The texts of a request's first step, of B pictures each: without the prompts and with them. SDXL's is all zeros
    /// without a negative prompt, where the model's folder says so (`force_zeros_for_empty_prompt`).
    ///
    /// # Errors
    /// As [`StableDiffusion::text`]; no prompt; second prompts of another number, or where there is no
    /// second text encoder.
    pub fn texts(&self, request: &Request) -> Result<(Text, Text)> {
        self.texts_at(request, 0, request.num_inference_steps)
    }

    /// The texts that hold at step `i` of `steps`.
    pub(super) fn texts_at(
        &self,
        request: &Request,
        i: usize,
        steps: usize,
    ) -> Result<(Text, Text)> {
        let one = |prompt: &str, prompt_2: &str, clip_skip: usize| match request.weighted_prompts {
            false => self.text(prompt, prompt_2, clip_skip),
            true => {
                let [first, second] = [prompt, prompt_2].map(|prompt| at_step(prompt, i, steps));
                self.weighted_text(&first, &second, clip_skip)
            }
        };
        let Request { prompts, prompts_2, negative_prompt, negative_prompt_2, .. } = request;
        if prompts.is_empty() {
            return Err(Error::argument("prompts", "one and more", "none", ""));
        }
        let second = !prompts_2.is_empty() || negative_prompt_2.is_some();
        if second && self.text_encoder_2.is_none() {
            let todo = "this model has one text encoder";
            return Err(Error::argument("prompts_2", "none", "some", todo));
        }
        if !prompts_2.is_empty() && prompts_2.len() != prompts.len() {
            let expected = format!("{}, one a prompt", prompts.len());
            return Err(Error::argument("prompts_2", expected, prompts_2.len(), ""));
        }
        let prompts_2 = if prompts_2.is_empty() { prompts } else { prompts_2 };
        let cond = prompts
            .iter()
            .zip(prompts_2)
            .map(|(prompt, prompt_2)| one(prompt, prompt_2, request.clip_skip))
            .collect::<Result<Vec<_>>>()?;
        let cond = Text::cat(&cond)?;
        if negative_prompt.is_empty() && negative_prompt_2.is_none() && self.zeros_for_empty_prompt
        {
            return Ok((cond.map(Tensor::zeros_like), cond));
        }
        let negative_2 = negative_prompt_2.as_ref().unwrap_or(negative_prompt);
        let clip_skip = request.negative_clip_skip.unwrap_or(request.clip_skip);
        let uncond = one(negative_prompt, negative_2, clip_skip)?;
        let all = |x: &Tensor| {
            let mut size = x.size();
            size[0] = prompts.len() as i64;
            x.expand(size, false)
        };
        Ok((uncond.map(all), cond))
    }

    /// What a person should know of a request: what of the prompts was too long for the text encoder, which of
    /// their words it was never taught, and where the numbers are computed otherwise than asked for.
    ///
    /// # Errors
    /// As [`StableDiffusion::context`].
    pub fn warnings(&self, request: &Request) -> Result<Vec<String>> {
        let negative_2 = request.negative_prompt_2.iter();
        let texts = request.prompts.iter().chain(&request.prompts_2).chain(negative_2);
        let mut warnings = self.notes.clone();
        if self.vae.kind() != self.unet.kind() {
            warnings.push("the VAE's activations overflow in f16: it computes in f32".to_owned());
        }
        let known = self.text_encoder.known_ids();
        let is_known = |id: &i64| known.binary_search(id).is_ok();
        let mut unknown = Vec::new();
        for text in texts.chain([&request.negative_prompt]) {
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
