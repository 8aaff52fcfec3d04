//! The products and attentions of a model, read from its `config.json` by Hugging Face's names.

use serde_json::Value;
use std::path::Path;
use tensor::DType;
use types::{Error, ErrorKind, Result};

/// Models whose MLPs have two matrices instead of the usual three.
const UNGATED: &[&str] = &["opt", "gpt2", "phi"];

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shapes {
    pub(crate) text: TextShape,
    pub(crate) tower: Option<TowerShape>,
    /// The type in which weights are read.
    pub(crate) weight_dtype: DType,
}

/// Sizes of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextShape {
    pub(crate) width: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) mlp_width: usize,
    pub(crate) vocab_size: usize,
    pub(crate) is_gated: bool,
}

/// Sizes of a vision tower, and of the merger that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TowerShape {
    pub(crate) width: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) mlp_width: usize,
    /// Numbers in a patch.
    pub(crate) n_inputs: usize,
    /// Patches that become one token.
    pub(crate) n_merged: usize,
    /// Columns between the two products over tokens.
    pub(crate) inner_width: usize,
    /// Columns of a token.
    pub(crate) n_outputs: usize,
}

/// A product with a weight `[n, k]`, of which the model has `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Linear {
    pub(crate) name: &'static str,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) count: usize,
    /// Gate and up in one weight.
    pub(crate) is_gated: bool,
}

impl Linear {
    fn new(name: &'static str, (n, k): (usize, usize), count: usize) -> Self {
        Self { name, n, k, count, is_gated: false }
    }

    /// Elements of all of them.
    pub(crate) fn n_elements(&self) -> usize {
        self.n * self.k * self.count
    }
}

impl Shapes {
    /// The sizes in a folder's `config.json`, for weights of a type.
    ///
    /// Errors: no such file; sizes that are missing.
    pub(crate) fn read(folder: &Path, weight_dtype: DType) -> Result<Self> {
        let config = read_config(folder)?;
        let text = TextShape::of(&config)?;
        let tower = TowerShape::of(&config, &text);
        Ok(Self { text, tower, weight_dtype })
    }

    /// The type that `config.json` says weights have.
    ///
    /// Errors: no such file.
    pub(crate) fn stated_dtype(folder: &Path) -> Result<DType> {
        let config = read_config(folder)?;
        let places = [Some(&config), config.get("text_config")].into_iter().flatten();
        let names = places.flat_map(|place| [place.get("dtype"), place.get("torch_dtype")]);
        Ok(match names.flatten().find_map(Value::as_str) {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::Bf16,
        })
    }

    /// Bytes of all weights that steps read (the table of embeddings only where it is the head).
    pub(crate) fn weight_bytes(&self) -> usize {
        let tower = self.tower.map(|tower| tower.linears()).unwrap_or_default();
        let text = self.text.linears();
        let elements = text.iter().chain(&tower).map(Linear::n_elements);
        (elements.sum::<usize>() + self.text.head().n_elements()) * self.weight_dtype.n_bytes()
    }
}

impl TextShape {
    fn of(config: &Value) -> Result<Self> {
        // Published files leave out what equals the defaults.
        let completed = config.get("text_config").and_then(models::with_defaults);
        let text = completed.as_ref().or(config.get("text_config")).unwrap_or(config);
        let size = |name: &str| text.get(name).and_then(Value::as_u64).map(|n| n as usize);
        let needed = |name: &str| {
            size(name).ok_or_else(|| Error::invalid(format!("config.json: {name} is missing")))
        };
        let (width, n_heads) = (needed("hidden_size")?, needed("num_attention_heads")?.max(1));
        let model_type = text.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let mlp_width = size("intermediate_size").or_else(|| size("ffn_dim"));
        Ok(Self {
            width,
            n_heads,
            n_layers: needed("num_hidden_layers")?,
            n_kv_heads: size("num_key_value_heads").unwrap_or(n_heads),
            head_dim: size("head_dim").unwrap_or(width / n_heads),
            mlp_width: mlp_width.unwrap_or(4 * width),
            vocab_size: needed("vocab_size")?,
            is_gated: !UNGATED.contains(&model_type),
        })
    }

    /// The products of all layers; the head is apart, as it sees other rows.
    pub(crate) fn linears(&self) -> Vec<Linear> {
        let Self { width, n_layers, n_heads, n_kv_heads, head_dim, mlp_width, .. } = *self;
        let qkv = (n_heads + 2 * n_kv_heads) * head_dim;
        let up = match self.is_gated {
            true => Linear {
                is_gated: true,
                ..Linear::new("gate_up", (2 * mlp_width, width), n_layers)
            },
            false => Linear::new("fc1", (mlp_width, width), n_layers),
        };
        vec![
            Linear::new("qkv", (qkv, width), n_layers),
            Linear::new("o_proj", (width, n_heads * head_dim), n_layers),
            up,
            Linear::new("down_proj", (width, mlp_width), n_layers),
        ]
    }

    /// The product that makes logits.
    pub(crate) fn head(&self) -> Linear {
        Linear::new("lm_head", (self.vocab_size, self.width), 1)
    }

    /// Elements that a token adds to the cache.
    pub(crate) fn kv_elements(&self) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.head_dim
    }
}

impl TowerShape {
    /// `None` where its sizes have other names than are known here.
    fn of(config: &Value, text: &TextShape) -> Option<Self> {
        let vision = config.get("vision_config")?;
        let number = |names: &[&str]| {
            names.iter().find_map(|name| vision.get(*name)?.as_f64()).map(|n| n as usize)
        };
        let width = number(&["embed_dim", "hidden_size"])?;
        let ratio = vision.get("mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0);
        let inside = number(&["intermediate_size"]).unwrap_or((width as f64 * ratio) as usize);
        let patch = number(&["patch_size"])?;
        let frames = number(&["temporal_patch_size"]).unwrap_or(1);
        let merge = number(&["spatial_merge_size"]).unwrap_or(1);
        let n_layers = number(&["depth", "num_hidden_layers"])?;
        // A tower whose states behind a layer count has no use for those above, and a projector of
        // the text's width.
        let feature_layer = config.get("vision_feature_layer").and_then(Value::as_i64);
        let inner_width = if feature_layer.is_some() { text.width } else { width * merge * merge };
        Some(Self {
            width,
            n_layers: feature_layer.map_or(n_layers, |layer| layers_until(layer, n_layers)),
            inner_width,
            n_heads: number(&["num_heads", "num_attention_heads"])?,
            mlp_width: inside,
            n_inputs: 3 * frames * patch * patch,
            n_merged: merge * merge,
            n_outputs: text.width,
        })
    }

    /// The products over patches.
    pub(crate) fn patch_linears(&self) -> Vec<Linear> {
        let Self { width, n_layers, mlp_width, n_inputs, .. } = *self;
        vec![
            Linear::new("tower.patch", (width, n_inputs), 1),
            Linear::new("tower.qkv", (3 * width, width), n_layers),
            Linear::new("tower.proj", (width, width), n_layers),
            Linear::new("tower.fc1", (mlp_width, width), n_layers),
            Linear::new("tower.fc2", (width, mlp_width), n_layers),
        ]
    }

    /// The products over tokens.
    pub(crate) fn token_linears(&self) -> Vec<Linear> {
        vec![
            Linear::new("merger.0", (self.inner_width, self.width * self.n_merged), 1),
            Linear::new("merger.2", (self.n_outputs, self.inner_width), 1),
        ]
    }

    fn linears(&self) -> Vec<Linear> {
        [self.patch_linears(), self.token_linears()].concat()
    }
}

/// Layers that run for the states of `layer`: 0 is the input, negative ones count from the end.
fn layers_until(layer: i64, n_layers: usize) -> usize {
    let state = if layer < 0 { n_layers as i64 + 1 + layer } else { layer };
    usize::try_from(state).map_or(n_layers, |state| state.min(n_layers))
}

fn read_config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    let shown = path.display();
    let bytes = std::fs::read(&path)
        .map_err(|error| Error::new(ErrorKind::NotFound, format!("{shown}: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("{shown}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tree() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn the_larger_model_has_the_weights_that_are_known_of_it() {
        let shapes = Shapes::read(&tree().join("tests/shapes/qwen2-vl-7b"), DType::Bf16).unwrap();
        let text = shapes.text.linears().iter().map(Linear::n_elements).sum::<usize>();
        // 14.14 GB a step, 57,344 bytes of cache a token.
        assert_eq!((text + shapes.text.head().n_elements()) / 1_000_000, 7_070);
        assert_eq!(shapes.text.kv_elements() * 2, 57_344);
        let tower = shapes.tower.unwrap();
        assert_eq!((tower.width, tower.n_inputs, tower.n_merged), (1280, 1176, 4));
        assert_eq!(tower.linears().iter().map(Linear::n_elements).sum::<usize>(), 675_215_360);
    }

    #[test]
    fn sizes_that_a_config_leaves_out_are_those_of_its_class() {
        let read = |name: &str| Shapes::read(&tree().join("tests/shapes").join(name), DType::F16);
        let vicuna = read("llava-1.5-7b").unwrap();
        let TextShape { width, n_layers, n_kv_heads, mlp_width, .. } = vicuna.text;
        assert_eq!((width, n_layers, n_kv_heads, mlp_width), (4096, 32, 32, 11_008));
        let tower = vicuna.tower.unwrap();
        // States of the last layer but one; a projector of 1024 x 4096 and 4096 x 4096.
        assert_eq!((tower.n_layers, tower.inner_width, tower.n_outputs), (23, 4096, 4096));
        let mistral = read("llava-v1.6-mistral-7b").unwrap().text;
        assert_eq!((mistral.n_kv_heads, mistral.mlp_width), (8, 14_336));
    }

    #[test]
    fn a_config_without_sizes_is_refused() {
        let error = TextShape::of(&serde_json::json!({"hidden_size": 8})).unwrap_err();
        assert!(error.message.contains("num_attention_heads"), "{error}");
    }
}
