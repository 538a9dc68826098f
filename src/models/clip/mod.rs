//! CLIP: a prompt to the context that the U-Net attends to.

mod added_tokens;
mod text_encoder;
mod tokenizer;

pub use text_encoder::{TextConfig, TextEncoder, TextOutput};
pub use tokenizer::{Encoding, Tokenizer};
