//! Encoding prompts for the U-Net.

use std::collections::HashMap;
use std::fmt;

use tch::{Device, Tensor, no_grad};

use super::{Request, StableDiffusion};
use crate::device::moved;
use crate::models::clip::{Encoding, Tokenizer};
use crate::prompt::{Piece, apply_weights, at_step, parse_weights};
use crate::sampler::Plan;
use crate::{Error, Result};

/// Prompts, encoded for the U-Net. They show their tokens when they end a notebook cell.
pub struct EncodedText {
    /// What the first text encoder read: one a prompt; none where the text is all zeros.
    pub encodings: Vec<Encoding>,
    /// [B, 77, width]: SDXL's two encoders side by side.
    pub context: Tensor,
    /// SDXL: the second encoder's pooled embedding, [B, width].
    pub text_embeds: Option<Tensor>,
}

impl fmt::Debug for EncodedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.context.size();
        write!(f, "EncodedText {{ {} texts, context: {context:?}", self.encodings.len())?;
        match &self.text_embeds {
            Some(pooled) => write!(f, ", text_embeds: {:?} }}", pooled.size()),
            None => f.write_str(" }"),
        }
    }
}

impl EncodedText {
    /// Several prompts as one batch.
    fn cat(all: &[EncodedText]) -> Result<Self> {
        let contexts: Vec<&Tensor> = all.iter().map(|text| &text.context).collect();
        let pooled: Vec<&Tensor> =
            all.iter().filter_map(|text| text.text_embeds.as_ref()).collect();
        Ok(Self {
            encodings: all.iter().flat_map(|text| text.encodings.clone()).collect(),
            context: Tensor::f_cat(&contexts, 0)?,
            text_embeds: match pooled.is_empty() {
                true => None,
                false => Some(Tensor::f_cat(&pooled, 0)?),
            },
        })
    }

    fn map(&self, to: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            encodings: self.encodings.clone(),
            context: to(&self.context),
            text_embeds: self.text_embeds.as_ref().map(to),
        }
    }
}

/// The texts of a whole generation.
pub(super) struct RequestTexts {
    /// Without the prompts, from the first step on.
    pub uncond: EncodedText,
    /// With the prompts.
    pub cond: EncodedText,
    /// The evaluations at which the prompts change, and both texts from there on.
    pub later: Vec<(usize, (EncodedText, EncodedText))>,
}

impl RequestTexts {
    /// All of them on this device.
    pub fn on(self, device: Device) -> Result<Self> {
        let on = |text: EncodedText| -> Result<EncodedText> {
            let text_embeds = text.text_embeds.map(|pooled| moved(&pooled, device)).transpose()?;
            Ok(EncodedText { context: moved(&text.context, device)?, text_embeds, ..text })
        };
        let both = |(i, (uncond, cond))| Ok::<_, Error>((i, (on(uncond)?, on(cond)?)));
        let later = self.later.into_iter().map(both).collect::<Result<_>>()?;
        Ok(Self { uncond: on(self.uncond)?, cond: on(self.cond)?, later })
    }
}

/// What both encoders read, and how many layers are skipped, with what became of it: several pictures of one prompt, and
/// prompts that come back, are encoded once.
type KnownTexts = HashMap<(String, String, usize), EncodedText>;

/// Encodes the texts of all steps of a request.
pub(super) fn texts(
    model: &StableDiffusion,
    request: &Request,
    plan: &Plan,
) -> Result<RequestTexts> {
    model.using(&["text_encoder", "text_encoder_2"], || {
        let mut known = KnownTexts::new();
        let (uncond, cond) = texts_at(model, request, 0, plan.num_inference_steps, &mut known)?;
        Ok(RequestTexts { uncond, cond, later: later_texts(model, request, plan, &mut known)? })
    })
}

/// The evaluations at which the prompts of a request change, and the texts from there on.
fn later_texts(
    model: &StableDiffusion,
    request: &Request,
    plan: &Plan,
    known: &mut KnownTexts,
) -> Result<Vec<(usize, (EncodedText, EncodedText))>> {
    let mut later = Vec::new();
    for i in changes(request, plan)? {
        let (step, steps) = (plan.step_of(i), plan.num_inference_steps);
        let (uncond, cond) = texts_at(model, request, step, steps, known)?;
        later.push((i, (uncond, cond)));
    }
    Ok(later)
}

/// The evaluations at which a prompt of a request is another than before.
pub(super) fn changes(request: &Request, plan: &Plan) -> Result<Vec<usize>> {
    if !request.weighted_prompts {
        return Ok(Vec::new());
    }
    let second = request.sdxl.iter();
    let second = second.flat_map(|sdxl| sdxl.prompts_2.iter().chain(&sdxl.negative_prompt_2));
    let all: Vec<&String> =
        request.prompts.iter().chain(second).chain([&request.negative_prompt]).collect();
    let at = |i: usize| -> Result<Vec<String>> {
        let (step, steps) = (plan.step_of(i), plan.num_inference_steps);
        all.iter().map(|prompt| at_step(prompt, step, steps)).collect()
    };
    let (mut before, mut changes) = (at(0)?, Vec::new());
    for i in 1..plan.steps.len() {
        let now = at(i)?;
        if now != before {
            changes.push(i);
            before = now;
        }
    }
    Ok(changes)
}

/// The texts that hold at step `i` of `steps`: without the prompts and with them.
fn texts_at(
    model: &StableDiffusion,
    request: &Request,
    i: usize,
    steps: usize,
    known: &mut KnownTexts,
) -> Result<(EncodedText, EncodedText)> {
    let (prompts_2, negative_2) = second_prompts(model, request)?;
    let Request { prompts, negative_prompt, clip_skip, .. } = request;
    let mut one = |prompt: &str, prompt_2: &str, clip_skip: usize| {
        let weighted = request.weighted_prompts;
        let now = |prompt: &str| match weighted {
            false => Ok(prompt.to_owned()),
            true => at_step(prompt, i, steps),
        };
        let text = (now(prompt)?, now(prompt_2)?, clip_skip);
        if let Some(known) = known.get(&text) {
            return Ok::<_, Error>(known.map(Tensor::shallow_clone));
        }
        let encode = match weighted {
            false => StableDiffusion::encode_text,
            true => StableDiffusion::encode_weighted_text,
        };
        let encoded = encode(model, &text.0, &text.1, clip_skip)?;
        known.insert(text, encoded.map(Tensor::shallow_clone));
        Ok(encoded)
    };
    let cond = prompts
        .iter()
        .zip(prompts_2)
        .map(|(prompt, prompt_2)| one(prompt, prompt_2, clip_skip.prompt))
        .collect::<Result<Vec<_>>>()?;
    let cond = EncodedText::cat(&cond)?;
    if negative_prompt.is_empty() && negative_2.is_none() && model.zeros_for_empty_prompt {
        let zeros = EncodedText { encodings: Vec::new(), ..cond.map(Tensor::zeros_like) };
        return Ok((zeros, cond));
    }
    let negative_2 = negative_2.unwrap_or(negative_prompt);
    let uncond = one(negative_prompt, negative_2, clip_skip.negative)?;
    let all = |x: &Tensor| {
        let mut size = x.size();
        size[0] = prompts.len() as i64;
        x.expand(size, false)
    };
    Ok((uncond.map(all), cond))
}

/// What the second text encoder reads: one prompt a picture, and the negative prompt where it has its own.
fn second_prompts<'a>(
    model: &StableDiffusion,
    request: &'a Request,
) -> Result<(&'a [String], Option<&'a String>)> {
    let prompts = &request.prompts;
    if prompts.is_empty() {
        return Err(Error::argument("prompts", "one or more", "none"));
    }
    let Some(sdxl) = &request.sdxl else { return Ok((prompts, None)) };
    let second = !sdxl.prompts_2.is_empty() || sdxl.negative_prompt_2.is_some();
    if second && model.text_encoder_2.is_none() {
        return Err(
            Error::argument("prompts_2", "none", "some").hint("this model has one text encoder")
        );
    }
    let prompts_2 = match sdxl.prompts_2.as_slice() {
        [] => prompts,
        prompts_2 if prompts_2.len() == prompts.len() => prompts_2,
        prompts_2 => {
            let expected = format!("{}, one a prompt", prompts.len());
            return Err(Error::argument("prompts_2", expected, prompts_2.len()));
        }
    };
    Ok((prompts_2, sdxl.negative_prompt_2.as_ref()))
}

impl StableDiffusion {
    /// A prompt to its context [1, 77, width].
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express.
    pub fn context(&self, prompt: &str) -> Result<Tensor> {
        Ok(self.encode_text(prompt, prompt, 0)?.context)
    }

    /// Encodes a prompt for the U-Net, as a batch of 1. SDXL's second encoder reads `prompt_2`; both encoders
    /// give their penultimate layer, without the final layer norm.
    ///
    /// # Errors
    /// A prompt that the tokenizer cannot express; more layers skipped than there are.
    #[doc(alias = "encode_prompt")]
    #[doc(alias = "encode")]
    pub fn encode_text(
        &self,
        prompt: &str,
        prompt_2: &str,
        clip_skip: usize,
    ) -> Result<EncodedText> {
        no_grad(|| {
            let encoding = self.tokenizer.encode(prompt)?;
            let first = encoding.tensor();
            let encodings = vec![encoding];
            let (Some(tokenizer_2), Some(encoder_2)) = (&self.tokenizer_2, &self.text_encoder_2)
            else {
                let context = self.text_encoder.encode_skipping(&first, clip_skip)?;
                return Ok(EncodedText { encodings, context, text_embeds: None });
            };
            let first = self.text_encoder.forward(&first)?;
            let second = encoder_2.forward(&tokenizer_2.encode(prompt_2)?.tensor())?;
            let states = [&first, &second].map(|out| out.state_before(clip_skip.saturating_add(1)));
            let [first, second_state] = states;
            let context = Tensor::f_cat(&[first?, second_state?], -1)?;
            Ok(EncodedText { encodings, context, text_embeds: second.text_embeds })
        })
    }

    /// As [`StableDiffusion::encode_text`], for a prompt with weights: every piece is tokenised by itself, and the
    /// context of its tokens is made stronger or weaker. What does not fit into 75 tokens is left out.
    ///
    /// # Errors
    /// As [`StableDiffusion::encode_text`] and [`parse_weights`].
    pub fn encode_weighted_text(
        &self,
        prompt: &str,
        prompt_2: &str,
        clip_skip: usize,
    ) -> Result<EncodedText> {
        let plain = |prompt: &str| -> Result<(String, Vec<Piece>)> {
            let pieces = parse_weights(prompt)?;
            // Apart, so that no token spans two pieces.
            let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
            Ok((texts.join(" "), pieces))
        };
        let (first, second) = (plain(prompt)?, plain(prompt_2)?);
        let mut text = self.encode_text(&first.0, &second.0, clip_skip)?;
        let width = self.text_encoder.config().hidden_size;
        let mut parts =
            vec![weigh_tokens(&text.context.narrow(-1, 0, width), &self.tokenizer, &first.1)?];
        if let Some(tokenizer_2) = &self.tokenizer_2 {
            let rest = text.context.narrow(-1, width, text.context.size()[2] - width);
            parts.push(weigh_tokens(&rest, tokenizer_2, &second.1)?);
        }
        text.context = Tensor::f_cat(&parts, -1)?;
        Ok(text)
    }

    /// The texts of a request's first step, one row a picture: without the prompts and with them. SDXL's unconditional
    /// text is all zeros without a negative prompt, where the checkpoint says so (`force_zeros_for_empty_prompt`).
    ///
    /// # Errors
    /// As [`StableDiffusion::encode_text`]; no prompt; second prompts of another number, or where there is no second
    /// text encoder.
    pub fn encode_texts(&self, request: &Request) -> Result<(EncodedText, EncodedText)> {
        texts_at(self, request, 0, request.num_inference_steps, &mut KnownTexts::new())
    }
}

/// Applies the weight of every piece to the context of its tokens.
fn weigh_tokens(context: &Tensor, tokenizer: &Tokenizer, pieces: &[Piece]) -> Result<Tensor> {
    let length = context.size()[1] as usize;
    let mut each = vec![1.];
    for piece in pieces {
        let tokens: usize = tokenizer.words(&piece.text)?.iter().map(|(_, ids)| ids.len()).sum();
        each.extend(std::iter::repeat_n(piece.weight, tokens));
    }
    each.truncate(length - 1);
    each.resize(length, 1.);
    no_grad(|| apply_weights(context, &each))
}
