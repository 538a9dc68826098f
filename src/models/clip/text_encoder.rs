//! CLIP's text encoder: a causal transformer over 77 tokens.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::device;
use crate::memory::guarded;
use crate::models::layers::{LayerNorm, Linear, attention, carried_kind, join_heads, split_heads};
use crate::models::params::{Init, Params};
use crate::short::Start;
use crate::tensor_file::{read_config, weight_files};
use crate::{Error, Result};

/// `text_encoder/config.json`. A key that the file lacks has transformers' default.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are transformers' own")]
pub struct TextConfig {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_hidden_layers: i64,
    pub num_attention_heads: i64,
    pub max_position_embeddings: i64,
    /// `quick_gelu` in SD 1.x, `gelu` in SD 2.x.
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    /// The end token: the embedding at its position is the pooled one. Old files say 2, which stands for the largest id.
    pub eos_token_id: i64,
    /// The width of the pooled embedding, if the weights have a projection.
    pub projection_dim: i64,
}

impl fmt::Debug for TextConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            num_hidden_layers: layers, hidden_size: width, num_attention_heads: heads, ..
        } = self;
        let (words, act) = (self.vocab_size, Start(&self.hidden_act));
        write!(
            f,
            "TextConfig {{ {layers} layers, width {width}, {heads} heads, {words} tokens, {act:?} }}"
        )
    }
}

/// transformers' defaults.
impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            projection_dim: 512,
        }
    }
}

impl TextConfig {
    fn check(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("projection_dim", self.projection_dim),
        ];
        for (name, value) in positive {
            let most = if name == "num_hidden_layers" { 256 } else { 1 << 20 };
            if !(1..=most).contains(&value) {
                return Err(Error::argument(name, format!("a count from 1 to {most}"), value));
            }
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            let expected =
                format!("a multiple of num_attention_heads {}", self.num_attention_heads);
            return Err(Error::argument("hidden_size", expected, self.hidden_size));
        }
        Activation::parse(&self.hidden_act).map(|_| ())
    }
}

#[derive(Clone, Copy)]
enum Activation {
    QuickGelu,
    Gelu,
}

impl Activation {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "quick_gelu" => Ok(Self::QuickGelu),
            "gelu" => Ok(Self::Gelu),
            other => Err(Error::argument("hidden_act", "quick_gelu or gelu", other)),
        }
    }

    fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::QuickGelu => x * (x * 1.702).sigmoid(),
            Self::Gelu => x.gelu("none"),
        }
    }
}

struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl EncoderLayer {
    fn new(params: &Params, config: &TextConfig) -> Self {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let attn = params / "self_attn";
        let mlp = params / "mlp";
        Self {
            layer_norm1: LayerNorm::new(&(params / "layer_norm1"), width, eps),
            q_proj: Linear::new(&(&attn / "q_proj"), width, width),
            k_proj: Linear::new(&(&attn / "k_proj"), width, width),
            v_proj: Linear::new(&(&attn / "v_proj"), width, width),
            out_proj: Linear::new(&(&attn / "out_proj"), width, width),
            layer_norm2: LayerNorm::new(&(params / "layer_norm2"), width, eps),
            fc1: Linear::new(&(&mlp / "fc1"), width, config.intermediate_size),
            fc2: Linear::new(&(&mlp / "fc2"), config.intermediate_size, width),
        }
    }

    fn forward(&self, x: &Tensor, heads: i64, activation: Activation) -> Tensor {
        let h = self.layer_norm1.forward(x);
        let [q, k, v] =
            [&self.q_proj, &self.k_proj, &self.v_proj].map(|p| split_heads(&p.forward(&h), heads));
        let x = x + self.out_proj.forward(&join_heads(&attention(&q, &k, &v, true, false)));
        let h = activation.forward(&self.fc1.forward(&self.layer_norm2.forward(&x)));
        x + self.fc2.forward(&h)
    }
}

/// What a text encoder computes from token ids.
pub struct TextOutput {
    /// The states before the first layer and after every layer, [B, n, hidden_size] each, without the final
    /// layer norm.
    pub hidden_states: Vec<Tensor>,
    /// The last of them, after the final layer norm.
    pub last_hidden_state: Tensor,
    /// The last hidden state at the end token, projected: [B, projection_dim]. `None` for an encoder
    /// whose weights have no projection.
    pub text_embeds: Option<Tensor>,
}

impl fmt::Debug for TextOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextOutput")
            .field("hidden_states", &self.hidden_states.len())
            .field("last_hidden_state", &self.last_hidden_state)
            .field("text_embeds", &self.text_embeds)
            .finish()
    }
}

impl TextOutput {
    /// The state when the last `skip` layers are skipped, without the final layer norm. SDXL skips 1: it takes
    /// the penultimate state.
    ///
    /// # Errors
    /// More layers than there are.
    pub fn state_before(&self, skip: usize) -> Result<&Tensor> {
        state_before(&self.hidden_states, skip)
    }
}

/// CLIP's text encoder: token ids [B, 77] to the context [B, 77, hidden_size].
///
/// SD 1.x takes the last state, SD 2.x the penultimate one of OpenCLIP. diffusers' weights of SD 2.x lack
/// the last layer, so for both the context is the last state after the final layer norm.
pub struct TextEncoder {
    config: TextConfig,
    activation: Activation,
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    /// Only in `CLIPTextModelWithProjection`.
    text_projection: Option<Linear>,
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextEncoder of {:?}", self.config)
    }
}

impl TextEncoder {
    /// Builds the encoder from its configuration and weights.
    ///
    /// # Errors
    /// A configuration that cannot be built, or weights that do not fit it.
    pub fn new(params: &Params, config: &TextConfig) -> Result<Self> {
        config.check()?;
        let projected = params.has("text_projection.weight");
        let root = params;
        // Newer versions of transformers write the same names without the prefix `text_model`.
        let prefixed = !params.has("embeddings");
        let params = if prefixed { params / "text_model" } else { params.clone() };
        let embeddings = &params / "embeddings";
        embeddings.ignore("position_ids");
        let (vocabulary, width) = (config.vocab_size, config.hidden_size);
        let token_embedding = (&embeddings / "token_embedding").tensor(
            "weight",
            &[vocabulary, width],
            Init::Normal(0.02),
        );
        let position_embedding = (&embeddings / "position_embedding").tensor(
            "weight",
            &[config.max_position_embeddings, width],
            Init::Normal(0.02),
        );
        let layers = &params / "encoder" / "layers";
        let encoder = Self {
            activation: Activation::parse(&config.hidden_act)?,
            token_embedding,
            position_embedding,
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::new(&(&layers / i), config))
                .collect(),
            final_layer_norm: LayerNorm::new(
                &(&params / "final_layer_norm"),
                width,
                config.layer_norm_eps,
            ),
            text_projection: projected.then(|| {
                Linear::no_bias(&(root / "text_projection"), width, config.projection_dim)
            }),
            config: config.clone(),
        };
        params.finish()?;
        Ok(encoder)
    }

    /// Opens the folder `text_encoder/`.
    ///
    /// # Errors
    /// As [`TextEncoder::new`], and files that cannot be read.
    pub fn open(folder: impl AsRef<Path>, kind: Kind, device: Device) -> Result<Self> {
        let path = folder.as_ref().join("config.json");
        let config = read_config(&path)?;
        let params = Params::open(&weight_files(&folder)?, kind, device)?;
        Self::new(&params, &config).map_err(|e| e.in_config(&path))
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// The ids that the encoder was trained on, ascending: the rows of its token embedding that are not all
    /// zero. A model trained on few words leaves the rows of all other words zero; a real checkpoint knows
    /// every id.
    pub fn known_ids(&self) -> Vec<i64> {
        let known = self.token_embedding.ne(0.).any_dim(1, false).nonzero().flatten(0, -1);
        Vec::try_from(known).unwrap_or_default()
    }

    /// Token ids to the context that the U-Net attends to.
    ///
    /// # Shapes
    /// `ids` [B, n] int64 with n up to `max_position_embeddings` (77); returns [B, n, hidden_size].
    /// # Errors
    /// Another shape; an id outside the vocabulary.
    pub fn encode(&self, ids: &Tensor) -> Result<Tensor> {
        self.encode_skipping(ids, 0)
    }

    /// The context when the last `clip_skip` layers are skipped: an earlier state after the final layer norm.
    /// With 0 it is that of [`TextEncoder::encode`].
    ///
    /// # Errors
    /// As [`TextEncoder::encode`]; more layers than there are.
    pub fn encode_skipping(&self, ids: &Tensor, clip_skip: usize) -> Result<Tensor> {
        let states = self.hidden_states(ids)?;
        Ok(self.final_layer_norm.forward(state_before(&states, clip_skip)?))
    }

    /// Every state, the context and the pooled embedding of token ids.
    ///
    /// # Errors
    /// As [`TextEncoder::encode`]; ids without an end token, for an encoder with a projection.
    pub fn forward(&self, ids: &Tensor) -> Result<TextOutput> {
        let hidden_states = self.hidden_states(ids)?;
        let last_hidden_state = self.final_layer_norm.forward(state_before(&hidden_states, 0)?);
        let text_embeds = match &self.text_projection {
            Some(projection) => Some(projection.forward(&self.pool(ids, &last_hidden_state)?)),
            None => None,
        };
        Ok(TextOutput { hidden_states, last_hidden_state, text_embeds })
    }

    /// The state at the end token of every text, [B, hidden_size].
    fn pool(&self, ids: &Tensor, states: &Tensor) -> Result<Tensor> {
        let ids = ids.f_to_device(states.device())?;
        let end = self.config.eos_token_id;
        let place = if end == 2 {
            // As transformers did before 4.31, and still does with files of that time.
            ids.argmax(-1, false)
        } else {
            let ends = ids.eq(end);
            if ends.any_dim(-1, false).all().int64_value(&[]) == 0 {
                let todo = "use the tokenizer that belongs to this text encoder";
                let expected = format!("the end token {end} in every row");
                return Err(Error::argument("token ids", expected, "a row without it").hint(todo));
            }
            ends.to_kind(Kind::Int).argmax(-1, false)
        };
        let width = self.config.hidden_size;
        let place = place.view([-1, 1, 1]).expand([-1, 1, width], false);
        Ok(states.gather(1, &place, false).squeeze_dim(1))
    }

    fn hidden_states(&self, ids: &Tensor) -> Result<Vec<Tensor>> {
        let size = ids.size();
        if size.len() != 2 || size[1] < 1 || size[1] > self.config.max_position_embeddings {
            let expected = format!("[B, 1..={}]", self.config.max_position_embeddings);
            return Err(Error::shape("token ids", expected, &size));
        }
        let (low, high) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
        if low < 0 || high >= self.config.vocab_size {
            return Err(Error::argument(
                "token ids",
                format!("0..{}", self.config.vocab_size),
                if low < 0 { low } else { high },
            )
            .hint("use the tokenizer that belongs to this text encoder"));
        }
        let doing = || {
            let device = device::name(self.token_embedding.device());
            format!("encoding {} texts on {device}", size[0])
        };
        guarded(doing, "encode fewer texts at once", || self.states(ids))
    }

    /// The states of ids that are checked.
    fn states(&self, ids: &Tensor) -> Result<Vec<Tensor>> {
        let ids = ids.f_to_device(self.token_embedding.device())?;
        let tokens = Tensor::f_embedding(&self.token_embedding, &ids, -1, false, false)?;
        let places = self.position_embedding.narrow(0, 0, ids.size()[1]);
        let carried = carried_kind(&self.token_embedding, true);
        let mut states = vec![tokens.to_kind(carried) + places.to_kind(carried)];
        for (i, layer) in self.layers.iter().enumerate() {
            let heads = self.config.num_attention_heads;
            states.push(layer.forward(&states[i], heads, self.activation));
        }
        Ok(states)
    }
}

/// The state when the last `skip` layers are skipped.
fn state_before(hidden_states: &[Tensor], skip: usize) -> Result<&Tensor> {
    let layers = hidden_states.len().saturating_sub(1);
    let state = layers.checked_sub(skip).and_then(|i| hidden_states.get(i));
    let expected = format!("at most {layers}, the layers of the text encoder");
    state.ok_or_else(|| Error::argument("clip_skip", expected, skip))
}
