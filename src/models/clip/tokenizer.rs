//! CLIP's byte-pair tokenizer.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use tch::Tensor;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::added_tokens::{FolderTokens, TokenWithId};
use crate::short::Start;
use crate::tensor_file::read_config;
use crate::{Error, Result};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const WORD_END: &str = "</w>";

/// Stable Diffusion's tokenizer: text to exactly 77 ids.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: i64,
    end: i64,
    pad: i64,
    length: usize,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.inner.get_vocab_size(true);
        write!(f, "Tokenizer {{ {words} tokens, {} ids a text }}", self.length)
    }
}

/// A prompt as token ids.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoding {
    /// 77 ids: start, the text's, end, padding.
    pub ids: Vec<i64>,
    /// The pieces of text that the ids stand for, see [`Tokenizer::token`].
    pub tokens: Vec<String>,
    /// The prompt as it was written, as far as it fits.
    pub text: String,
    /// The rest of it as it was written, if there is one.
    pub cut: Option<String>,
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.text_end().saturating_sub(1);
        let (ids, text) = (self.ids.len(), Start(self.text.trim()));
        write!(f, "Encoding {{ {ids} ids, {count} of them text: {text:?}")?;
        match &self.cut {
            Some(cut) => write!(f, ", cut: {:?} }}", Start(cut)),
            None => f.write_str(" }"),
        }
    }
}

impl Encoding {
    /// The position of the end token: the ids after it are padding.
    pub(crate) fn text_end(&self) -> usize {
        let end = self.tokens.iter().position(|token| token == END);
        end.unwrap_or(self.tokens.len().saturating_sub(1))
    }

    /// The ids as a tensor [1, 77].
    pub fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.ids).unsqueeze(0)
    }
}

/// `tokenizer.json`, as far as it is read: the rest is the same for every CLIP.
#[derive(Deserialize)]
struct TokenizerJson {
    model: JsonModel,
    #[serde(default)]
    added_tokens: Vec<TokenWithId>,
}

#[derive(Deserialize)]
struct JsonModel {
    vocab: HashMap<String, u32>,
    merges: Vec<JsonMerge>,
}

/// Two tokens that are merged, as one text with a space or as two.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonMerge {
    Text(String),
    Pair(String, String),
}

/// CLIP's byte pairs, in the order in which they are merged. They also determine the vocabulary.
const MERGES: &str = include_str!("../../../data/tokenizer/merges.txt");

/// The bytes that are their own letters in a vocabulary.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The letters of a vocabulary and the bytes that they stand for. As in GPT-2, a byte's letter is its own character if
/// that is printable, and otherwise one from U+0100 on.
fn byte_letters() -> impl Iterator<Item = (char, u8)> {
    let own = (0..=255).filter(is_printable).map(|byte| (char::from(byte), byte));
    let others = (0x100..).filter_map(char::from_u32).zip((0..=255).filter(|b| !is_printable(b)));
    own.chain(others)
}

/// A token as a person reads it. A part of a character is its bytes: `<e5>`.
fn readable(token: &str) -> String {
    let (text, end) = match token.strip_suffix(WORD_END) {
        Some(text) => (text, WORD_END),
        None => (token, ""),
    };
    let byte = |c: char| match u8::try_from(c) {
        Ok(byte) => Some(byte).filter(is_printable),
        Err(_) => byte_letters().find(|(letter, _)| *letter == c).map(|(_, byte)| byte),
    };
    // A token that was added is a text of its own.
    let Some(bytes) = text.chars().map(byte).collect::<Option<Vec<u8>>>() else {
        return token.to_owned();
    };
    let mut read = String::new();
    for chunk in bytes.utf8_chunks() {
        read += chunk.valid();
        chunk.invalid().iter().for_each(|byte| read += &format!("<{byte:02x}>"));
    }
    read + end
}

/// CLIP's byte pairs and vocabulary: a letter for every byte, the same letters at the end of a word, the merged
/// pairs, and the start and end tokens.
fn clip_byte_pairs() -> BpeBuilder {
    let letters: Vec<String> = byte_letters().map(|(letter, _)| letter.into()).collect();
    let merges = byte_pairs(MERGES);
    let tokens =
        letters.iter().cloned().chain(letters.iter().map(|letter| format!("{letter}</w>")));
    let tokens = tokens.chain(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let tokens = tokens.chain([START.to_owned(), END.to_owned()]);
    let vocabulary: Vocab = tokens.zip(0..).collect();
    BPE::builder().vocab_and_merges(vocabulary, merges)
}

/// The pairs of a `merges.txt`, whose first line says its version.
fn byte_pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter(|line| !line.starts_with("#version"));
    let pairs = pairs.filter_map(|line| line.split_once(' '));
    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

impl Tokenizer {
    /// CLIP's tokenizer, which is part of the library. Every Stable Diffusion uses it.
    ///
    /// `pad` fills the positions after the prompt: `<|endoftext|>` in SD 1.x, `!` in SD 2.x.
    ///
    /// # Errors
    /// A `pad` that is not a token.
    ///
    /// # Examples
    /// ```
    /// use diffuscope::models::clip::Tokenizer;
    /// let ids = Tokenizer::clip("!")?.encode("a cat")?.ids;
    /// assert_eq!(ids[..5], [49406, 320, 2368, 49407, 0]);
    /// # Ok::<(), diffuscope::Error>(())
    /// ```
    pub fn clip(pad: &str) -> Result<Self> {
        Self::from_bpe(clip_byte_pairs(), &[]).and_then(|tokenizer| tokenizer.padded_with(pad))
    }

    /// Builds CLIP's tokenizer from its vocabulary and merges, padding with the end token (SD 1.x).
    ///
    /// # Errors
    /// Files that cannot be read, or that are not a byte-pair vocabulary.
    pub fn new(vocabulary: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self> {
        Self::of_files(vocabulary.as_ref(), merges.as_ref(), &[])
    }

    fn of_files(vocabulary: &Path, merges: &Path, added: &[AddedToken]) -> Result<Self> {
        let ids: HashMap<String, u32> = read_config(vocabulary).map_err(tokenizer_error)?;
        let text =
            std::fs::read_to_string(merges).map_err(|e| tokenizer_error(Error::io(merges, e)))?;
        let bpe =
            BPE::builder().vocab_and_merges(ids.into_iter().collect::<Vocab>(), byte_pairs(&text));
        Self::from_bpe(bpe, added)
            .map_err(|e| in_file(e, format!("{}, {}", vocabulary.display(), merges.display())))
    }

    /// CLIP's tokenizer of these byte pairs, with the tokens that a folder adds to them.
    fn from_bpe(bpe: BpeBuilder, added: &[AddedToken]) -> Result<Self> {
        let bpe = bpe.unk_token(END.into()).end_of_word_suffix(WORD_END.into());
        let bpe = bpe.build().map_err(tokenizer_error)?;
        let words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
        let split =
            Split::new(SplitPattern::Regex(words.into()), SplitDelimiterBehavior::Removed, true)
                .map_err(tokenizer_error)?;
        let spaces = Replace::new(
            tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into()),
            " ",
        )
        .map_err(tokenizer_error)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_normalizer(Some(Normalizers::new(vec![
            NFC.into(),
            spaces.into(),
            Lowercase.into(),
        ])));
        inner.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            split.into(),
            ByteLevel::new(false, true, true).into(),
        ])));
        inner.add_tokens(added);
        let known = |token: &str| added.iter().any(|added| added.content == token);
        let own = [START, END].into_iter().filter(|token| !known(token));
        let own: Vec<AddedToken> = own.map(|token| AddedToken::from(token, true)).collect();
        inner.add_special_tokens(&own);
        Self::from_parts(inner, END)
    }

    /// Opens the folder `tokenizer/`: `tokenizer.json`, or else `vocab.json` and `merges.txt`, with the tokens that
    /// `added_tokens.json` and `tokenizer_config.json` add, as transformers reads them.
    ///
    /// # Errors
    /// As [`Tokenizer::new`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let whole = folder.join("tokenizer.json");
        let (tokenizer, pad) = if whole.is_file() {
            let TokenizerJson { model, added_tokens } = read_config(&whole)?;
            let FolderTokens { added, pad } = FolderTokens::read(folder, &added_tokens)?;
            let pair = |merge: JsonMerge| match merge {
                JsonMerge::Pair(a, b) => Ok((a, b)),
                JsonMerge::Text(text) => {
                    let pair = text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
                    pair.ok_or_else(|| {
                        Error::config(&whole, format!("merges: expected two tokens, got {text:?}"))
                    })
                }
            };
            let pairs = model.merges.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
            let vocabulary: Vocab = model.vocab.into_iter().collect();
            let bpe = BPE::builder().vocab_and_merges(vocabulary, pairs);
            let tokenizer = Self::from_bpe(bpe, &added);
            (tokenizer.map_err(|e| in_file(e, whole.display().to_string()))?, pad)
        } else {
            let FolderTokens { added, pad } = FolderTokens::read(folder, &[])?;
            let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
            (Self::of_files(&vocabulary, &merges, &added)?, pad)
        };
        match pad {
            Some(pad) => tokenizer.padded_with(&pad),
            None => Ok(tokenizer),
        }
    }

    fn padded_with(mut self, pad: &str) -> Result<Self> {
        self.pad = self.id(pad)?;
        // As in transformers: "!" in a prompt of SD 2.x is the padding token itself.
        if !self.inner.get_added_tokens_decoder().values().any(|token| token.content == pad) {
            self.inner.add_special_tokens(&[AddedToken::from(pad, true)]);
        }
        Ok(self)
    }

    fn from_parts(inner: tokenizers::Tokenizer, pad: &str) -> Result<Self> {
        let mut tokenizer = Self { inner, start: 0, end: 0, pad: 0, length: 77 };
        tokenizer.start = tokenizer.id(START)?;
        tokenizer.end = tokenizer.id(END)?;
        tokenizer.pad = tokenizer.id(pad)?;
        Ok(tokenizer)
    }

    /// The id of one token of the vocabulary.
    ///
    /// # Errors
    /// A token that is not in the vocabulary.
    pub fn id(&self, token: &str) -> Result<i64> {
        let id = self
            .inner
            .token_to_id(token)
            .ok_or_else(|| tokenizer_error(format!("no token {token:?}")))?;
        Ok(id.into())
    }

    /// A prompt as 77 ids: start, at most 75 of the text, end, padding. A longer prompt is cut, and
    /// [`Encoding::cut`] holds what was lost.
    ///
    /// # Errors
    /// A text that the vocabulary cannot express.
    pub fn encode(&self, prompt: &str) -> Result<Encoding> {
        let encoded = self.inner.encode(prompt, false).map_err(tokenizer_error)?;
        let room = self.length - 2;
        let text = encoded.get_ids();
        let kept = text.len().min(room);
        let rest = encoded.get_offsets().get(room).and_then(|(from, _)| prompt.get(*from..));
        let fits = prompt.len() - rest.map_or(0, str::len);
        let cut = rest.map(|rest| rest.trim_end().to_owned());
        let mut ids = vec![self.start];
        ids.extend(text.iter().take(kept).map(|&id| i64::from(id)));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        let tokens = ids.iter().map(|&id| self.token(id)).collect();
        Ok(Encoding { ids, tokens, text: prompt[..fits].to_owned(), cut })
    }

    /// The words of a prompt as they were written, each with its ids. Words that do not fit into the 77 ids
    /// are left out.
    ///
    /// # Errors
    /// A text that the vocabulary cannot express.
    pub fn words(&self, prompt: &str) -> Result<Vec<(String, Vec<i64>)>> {
        let encoded = self.inner.encode(prompt, false).map_err(tokenizer_error)?;
        let (offsets, room) = (encoded.get_offsets(), self.length - 2);
        let mut words = Vec::<(usize, usize, Vec<i64>)>::new();
        let mut open = false;
        for (i, (&id, &(from, to))) in encoded.get_ids().iter().zip(offsets).take(room).enumerate()
        {
            // Several ids may stand for the bytes of one character, and one for a letter and the accents after it: what is
            // no space before the next id belongs to this one.
            let to = to.max(offsets.get(i + 1).map_or(prompt.len(), |next| next.0));
            match words.last_mut().filter(|_| open) {
                Some((_, end, ids)) => {
                    *end = to;
                    ids.push(id.into());
                }
                None => words.push((from, to, vec![id.into()])),
            }
            open = !self.token(id.into()).ends_with(WORD_END);
        }
        let written = |from: usize, to: usize| prompt.get(from..to).unwrap_or_default().trim_end();
        Ok(words.into_iter().map(|(from, to, ids)| (written(from, to).to_owned(), ids)).collect())
    }

    /// The piece of text that an id stands for; `</w>` marks the end of a word. Of an id that stands for a part of a
    /// character, its bytes: `<e5>`. Empty for an unknown id.
    pub fn token(&self, id: i64) -> String {
        let token = u32::try_from(id).ok().and_then(|id| self.inner.id_to_token(id));
        token.map(|token| readable(&token)).unwrap_or_default()
    }
}

/// The error, with the files that it comes from.
fn in_file(error: Error, files: String) -> Error {
    match error {
        Error::Tokenizer(reason) => tokenizer_error(format!("{files}: {reason}")),
        other => other,
    }
}

fn tokenizer_error(reason: impl ToString) -> Error {
    Error::Tokenizer(reason.to_string())
}
