//! The tokens that a tokenizer's folder adds to its vocabulary, as transformers collects them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tokenizers::AddedToken;

use crate::Result;
use crate::tensor_file::read_config;

/// `tokenizer_config.json` and `special_tokens_map.json`, as far as they name tokens.
#[derive(Deserialize, Default)]
pub(super) struct TokensConfig {
    #[serde(default)]
    pub pad_token: Option<NamedToken>,
    #[serde(default)]
    added_tokens_decoder: Option<BTreeMap<u32, TokenFields>>,
    #[serde(default)]
    additional_special_tokens: Option<Vec<NamedToken>>,
    #[serde(default)]
    extra_special_tokens: Option<ExtraTokens>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExtraTokens {
    List(Vec<NamedToken>),
    Named(BTreeMap<String, NamedToken>),
}

/// A token as its text, or with how it is found in a text.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum NamedToken {
    Text(String),
    Object(TokenFields),
}

impl NamedToken {
    pub fn content(&self) -> &str {
        let (Self::Text(content) | Self::Object(TokenFields { content, .. })) = self;
        content
    }

    fn special(&self) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::from(content.clone(), true),
            Self::Object(fields) => AddedToken { special: true, ..fields.token() },
        }
    }
}

#[derive(Deserialize)]
pub(super) struct TokenFields {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl TokenFields {
    fn token(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

/// One of `tokenizer.json`'s `added_tokens`.
#[derive(Deserialize)]
pub(super) struct TokenWithId {
    id: u32,
    #[serde(flatten)]
    fields: TokenFields,
}

/// What a tokenizer's folder says of tokens beside its vocabulary.
pub(super) struct FolderTokens {
    /// In the order in which they get their ids.
    pub added: Vec<AddedToken>,
    /// The padding, if the folder names it.
    pub pad: Option<String>,
}

impl FolderTokens {
    /// Reads the folder; `of_json` are the added tokens of its `tokenizer.json`.
    ///
    /// As in transformers, a `tokenizer_config.json` with `added_tokens_decoder` says all. Elsewhere those of
    /// `tokenizer.json` are taken, and those of `added_tokens.json` whose ids they leave free. The ids only give the
    /// order: a token that is new gets the next free id.
    pub fn read(folder: &Path, of_json: &[TokenWithId]) -> Result<Self> {
        let read = |name: &str| -> Result<TokensConfig> {
            let path = folder.join(name);
            if path.is_file() { read_config(&path) } else { Ok(TokensConfig::default()) }
        };
        let (config, map) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
        let pads = [&map, &config].map(|from| from.pad_token.as_ref().map(NamedToken::content));
        let [of_map, of_config] = pads.map(|pad| pad.map(str::to_owned));
        let extra: Vec<AddedToken> = [&map, &config].into_iter().flat_map(extra_tokens).collect();
        if let Some(decoder) = &config.added_tokens_decoder {
            let added = decoder.values().map(TokenFields::token).chain(extra).collect();
            return Ok(Self { added, pad: of_config.or(of_map) });
        }
        let pad = of_map.or(of_config);
        let path = folder.join("added_tokens.json");
        let added: BTreeMap<String, u32> =
            if path.is_file() { read_config(&path)? } else { BTreeMap::new() };
        let mut by_id: BTreeMap<u32, AddedToken> = BTreeMap::new();
        for (content, id) in added {
            let special =
                pad.as_deref() == Some(&content) || extra.iter().any(|t| t.content == content);
            by_id.insert(id, AddedToken::from(content, special));
        }
        by_id.extend(of_json.iter().map(|token| (token.id, token.fields.token())));
        Ok(Self { added: by_id.into_values().chain(extra).collect(), pad })
    }
}

/// The special tokens without a role of their own.
fn extra_tokens(config: &TokensConfig) -> Vec<AddedToken> {
    let additional = config.additional_special_tokens.iter().flatten();
    let extra: Vec<&NamedToken> = match &config.extra_special_tokens {
        None => Vec::new(),
        Some(ExtraTokens::List(tokens)) => tokens.iter().collect(),
        Some(ExtraTokens::Named(tokens)) => tokens.values().collect(),
    };
    additional.chain(extra).map(NamedToken::special).collect()
}
