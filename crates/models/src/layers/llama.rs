//! `text_config` of models whose decoder is a Llama or a Mistral, and the decoder's shape by it.
//!
//! Published files leave out what equals the defaults of Hugging Face's classes, so these defaults
//! are here, by `model_type`.

use crate::files::{ConfigFiles, parse, unusable};
use crate::layers::decoder::DecoderShape;
use crate::model::KvShape;
use crate::weights::Bias;
use serde::Deserialize;
use serde_json::{Value, json};
use types::{Result, TokenId};

/// A decoder's configuration, what is absent filled in.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LlamaConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) max_position_embeddings: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    rope_theta: f32,
    rope_scaling: Option<Rope>,
    /// What the newest files have instead of the two above.
    rope_parameters: Option<Rope>,
    sliding_window: Option<usize>,
    hidden_act: String,
    attention_bias: bool,
    mlp_bias: bool,
    tie_word_embeddings: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// The older name of it; many files have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f32>,
}

/// The token that ends an answer where no file says so; both classes have it.
const EOS: TokenId = 2;

/// The defaults of Hugging Face's class for a `model_type`.
fn defaults(model_type: &str) -> Option<Value> {
    let mut fields = json!({
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": null,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
        "sliding_window": null, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
        "tie_word_embeddings": false,
    });
    let own = match model_type {
        "llama" => json!({}),
        "mistral" => json!({
            "intermediate_size": 14_336, "num_key_value_heads": 8,
            "max_position_embeddings": 131_072, "sliding_window": 4096,
        }),
        _ => return None,
    };
    put(&mut fields, &own);
    Some(fields)
}

/// A text model's configuration as published, and where it says nothing what Hugging Face's class
/// of its `model_type` assumes; none of a kind whose class is not known here.
pub fn with_defaults(given: &Value) -> Option<Value> {
    let model_type = given.get("model_type").and_then(Value::as_str).unwrap_or("llama");
    let mut fields = defaults(model_type)?;
    put(&mut fields, given);
    Some(fields)
}

/// Puts the fields of `from` over those of `to`, null ones too.
fn put(to: &mut Value, from: &Value) {
    for (name, value) in from.as_object().into_iter().flatten() {
        to[name] = value.clone();
    }
}

impl LlamaConfig {
    /// Reads `text_config`; where there is none, all is default.
    ///
    /// Errors: another kind of text model, or something that is not supported, by name.
    pub(crate) fn of(files: &ConfigFiles) -> Result<Self> {
        let given = files.config.get("text_config").unwrap_or(&Value::Null);
        let fields = with_defaults(given).ok_or_else(|| {
            let model_type = &given["model_type"];
            let why = format!("a text model of type {model_type}; known are llama, mistral");
            unusable("config.json", &why)
        })?;
        let cfg: Self = parse(&fields, "config.json")?;
        match cfg.check() {
            None => Ok(cfg),
            Some(why) => Err(unusable("config.json", why)),
        }
    }

    fn check(&self) -> Option<&'static str> {
        let divides = |n: usize, of: usize| n > 0 && of.is_multiple_of(n);
        let heads_fit = divides(self.num_attention_heads, self.hidden_size)
            && divides(self.n_kv_heads(), self.num_attention_heads);
        let plain = |rope: &Rope| {
            [&rope.rope_type, &rope.old_type].into_iter().flatten().all(|kind| kind == "default")
        };
        let sees_all = |window: usize| window >= self.max_position_embeddings;
        [
            (heads_fit, "heads do not divide the widths"),
            (heads_fit && self.head_dim().is_multiple_of(2), "a head has an odd size"),
            (self.num_hidden_layers > 0, "there are no layers"),
            (self.ropes().all(plain), "scaled rotary frequencies are not supported"),
            (self.sliding_window.is_none_or(sees_all), "sliding windows are not supported"),
            (self.hidden_act == "silu", "the text model's activation is not silu"),
            (!self.attention_bias && !self.mlp_bias, "biases are not supported"),
        ]
        .into_iter()
        .find_map(|(is_fine, why)| (!is_fine).then_some(why))
    }

    fn ropes(&self) -> impl Iterator<Item = &Rope> {
        self.rope_scaling.iter().chain(&self.rope_parameters)
    }

    fn n_kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// What a KV block must hold.
    pub(crate) fn kv(&self) -> KvShape {
        KvShape {
            n_layers: self.num_hidden_layers,
            n_kv_heads: self.n_kv_heads(),
            head_dim: self.head_dim(),
        }
    }

    /// The decoder's sizes and constants.
    pub(crate) fn decoder_shape(&self) -> DecoderShape {
        let theta = self.ropes().find_map(|rope| rope.rope_theta);
        DecoderShape {
            vocab_size: self.vocab_size,
            width: self.hidden_size,
            n_heads: self.num_attention_heads,
            kv: self.kv(),
            mlp_width: self.intermediate_size,
            epsilon: self.rms_norm_eps,
            rope_theta: theta.unwrap_or(self.rope_theta),
            rope_axes: vec![0; self.head_dim() / 2],
            qkv_bias: Bias::Without,
            is_head_tied: self.tie_word_embeddings,
        }
    }
}

/// The tokens that end an answer, as the files say, else the classes.
pub(crate) fn eos_token_ids(files: &ConfigFiles) -> Vec<TokenId> {
    let stated = files.eos_token_ids();
    if stated.is_empty() { vec![EOS] } else { stated }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: Value) -> Result<LlamaConfig> {
        let config = json!({ "text_config": text });
        LlamaConfig::of(&ConfigFiles { config, generation: Value::Null, preprocessor: Value::Null })
    }

    #[test]
    fn what_published_files_leave_out_is_the_classes_default() {
        let vicuna = json!({
            "model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "vocab_size": 32_064,
        });
        let shape = read(vicuna).unwrap().decoder_shape();
        let kv = KvShape { n_layers: 32, n_kv_heads: 32, head_dim: 128 };
        assert_eq!((shape.width, shape.mlp_width, shape.kv), (4096, 11_008, kv));
        assert_eq!((shape.vocab_size, shape.rope_theta), (32_064, 10_000.0));
        let mistral = json!({
            "model_type": "mistral", "intermediate_size": 14_336, "rope_theta": 1e6,
            "max_position_embeddings": 32_768, "sliding_window": null, "rms_norm_eps": 1e-5,
        });
        let cfg = read(mistral).unwrap();
        let shape = cfg.decoder_shape();
        let kv = KvShape { n_layers: 32, n_kv_heads: 8, head_dim: 128 };
        assert_eq!((shape.width, shape.mlp_width, shape.kv), (4096, 14_336, kv));
        assert_eq!((cfg.max_position_embeddings, shape.rope_theta), (32_768, 1e6));
    }

    #[test]
    fn the_newest_files_say_the_base_elsewhere() {
        let parameters = json!({ "rope_type": "default", "type": "default", "rope_theta": 5.0 });
        let cfg = read(json!({ "rope_parameters": parameters })).unwrap();
        assert_eq!(cfg.decoder_shape().rope_theta, 5.0);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let check = |text: Value, part: &str| {
            let message = read(text).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        };
        check(json!({"model_type": "qwen2"}), "qwen2");
        check(json!({"num_attention_heads": 3}), "heads");
        check(json!({"num_attention_heads": 0}), "heads");
        check(json!({"num_key_value_heads": 5}), "heads");
        check(json!({"head_dim": 7}), "odd");
        check(json!({"num_hidden_layers": 0}), "layers");
        check(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rotary");
        check(json!({"rope_scaling": {"rope_type": "llama3"}}), "rotary");
        // The class's own default, and these layers would really have it.
        check(json!({"model_type": "mistral"}), "sliding");
        check(json!({"hidden_act": "gelu"}), "silu");
        check(json!({"attention_bias": true}), "biases");
        check(json!({"vocab_size": "many"}), "config.json");
    }
}
