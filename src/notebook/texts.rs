//! Texts as their tokens.

use super::escaped::escaped;
use super::look::{Look, Looks, shows};
use crate::Result;
use crate::models::clip::Encoding;
use crate::pipeline::EncodedText;

shows!(Encoding, EncodedText);

impl Looks for Encoding {
    fn look(&self) -> Result<Look> {
        Ok(Look::html(chips(self), line(self)))
    }
}

impl Looks for EncodedText {
    fn look(&self) -> Result<Look> {
        let shape = format!("{self:?}");
        let html = self.encodings.iter().map(chips).collect::<String>();
        let lines = self.encodings.iter().map(line).chain([shape.clone()]).collect::<Vec<_>>();
        Ok(Look::html(format!("{html}<p>{}</p>", escaped(&shape)), lines.join("\n")))
    }
}

/// A token as it is read: `</w>` ends a word.
fn said(token: &str) -> String {
    match token.strip_suffix("</w>") {
        Some(word) => word.to_owned(),
        None if token.starts_with("<|") => token.trim_matches(['<', '|', '>']).to_owned(),
        None => format!("{token}-"),
    }
}

/// Token and id, up to the padding; how many ids are padding.
fn tokens(encoding: &Encoding) -> (Vec<(String, i64)>, usize) {
    let ids = encoding.ids.iter().copied();
    let said = encoding.tokens.iter().map(|token| said(token));
    let tokens: Vec<(String, i64)> = said.zip(ids).take(encoding.text_end() + 1).collect();
    let padding = encoding.ids.len().saturating_sub(tokens.len());
    (tokens, padding)
}

fn chips(encoding: &Encoding) -> String {
    let style = "display:inline-block;margin:2px;padding:1px 7px;border:1px solid #8888;\
                 border-radius:9px";
    let (tokens, padding) = tokens(encoding);
    let chip = |text: &str, id: &str| {
        format!("<span style=\"{style}\">{} <small>{id}</small></span> ", escaped(text))
    };
    let mut html: String = tokens.iter().map(|(text, id)| chip(text, &id.to_string())).collect();
    if padding > 0 {
        html += &chip("padding", &format!("× {padding}"));
    }
    if let Some(cut) = &encoding.cut {
        html += &format!("<br>not used: {}", escaped(cut));
    }
    format!("<p>{html}</p>")
}

fn line(encoding: &Encoding) -> String {
    let (tokens, padding) = tokens(encoding);
    let mut parts: Vec<String> = tokens.iter().map(|(text, id)| format!("{text} {id}")).collect();
    if padding > 0 {
        parts.push(format!("padding × {padding}"));
    }
    let line = parts.join(" · ");
    encoding.cut.as_ref().map_or_else(|| line.clone(), |cut| format!("{line}\nnot used: {cut}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::clip::Tokenizer;
    use crate::pipeline::StableDiffusion;

    #[test]
    fn tokens_and_ids_are_chips_and_padding_is_counted() -> Result<()> {
        for pad in ["<|endoftext|>", "!"] {
            let encoding = Tokenizer::clip(pad)?.encode("a <b> ladybug")?;
            let text = line(&encoding);
            assert!(text.starts_with("startoftext 49406 · a 320 · <"), "{text}");
            assert!(text.ends_with(" · endoftext 49407 · padding × 70"), "{text}");
            let html = chips(&encoding);
            assert!(html.contains("&lt;") && !html.contains("<b>"), "{html}");
            assert!(html.contains(">a <small>320</small>") && html.contains("× 70"), "{html}");
        }
        let cut = Tokenizer::clip("!")?.encode(&"cat ".repeat(80))?;
        assert!(line(&cut).ends_with("endoftext 49407\nnot used: cat cat cat cat cat"));
        Ok(())
    }

    #[test]
    fn encoded_texts_know_what_they_were() -> Result<()> {
        let sd = StableDiffusion::tiny()?;
        let block = sd.encode_text("a cat", "", 0)?.look()?.block();
        assert!(block.contains("cat 2368") && block.contains("[1, 77, 128]"), "{block}");
        let (uncond, cond) = sd.encode_texts(&crate::pipeline::Request::batch(["a", "b"]))?;
        assert_eq!((uncond.encodings.len(), cond.encodings.len()), (1, 2));
        Ok(())
    }
}
