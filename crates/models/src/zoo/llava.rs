//! LLaVA-1.5: one square cut out of the middle of each picture, CLIP, two linear layers, and a
//! Llama that counts positions on one axis.
//!
//! Every picture has as many rows as a tile has patches, whatever its size.

use crate::files::{ConfigFiles, parse, unusable};
use crate::layers::clip::{ClipConfig, ClipTower, picked};
use crate::layers::decoder::Decoder;
use crate::layers::llama::{LlamaConfig, eos_token_ids};
use crate::layers::projector::Projector;
use crate::model::{Model, ModelSpec, Positions};
use crate::options::ImageOptions;
use crate::pixels::{PixelConfig, hash_normalisation};
use crate::processor::{MediaPlan, PreparedMedia, Processor};
use crate::step::Step;
use crate::weights::{Bias, Rename, Weights};
use crate::zoo::{Family, SpecialToken, StandIns};
use media::{Image, Size, Window, resize};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tensor::ops::Normalisation;
use tensor::{Device, KvPool, Tensor};
use types::content::{CanonicalHasher, Digest};
use types::media::MediaKind;
use types::prompt::{ExpandedPrompt, Placeholder};
use types::{Error, Result, TokenId};

/// The line in the zoo.
pub(crate) const FAMILY: Family = Family {
    architecture: "LlavaForConditionalGeneration",
    model_type: "llava",
    renames: RENAMES,
    spec: |files| Ok(Config::of(files)?.spec(files, FAMILY.architecture)),
    processor: |files| Ok(Arc::new(ImageProcessor::of(files)?)),
    build: |files, weights| Ok(Arc::new(Llava::load(files, weights)?)),
    stand_ins: StandIns { special_tokens, chat_template: CHAT_TEMPLATE },
};

/// The picture's token where no file says; the published models'.
const IMAGE_TOKEN: TokenId = 32_000;

/// From the names of the first generation.
pub(super) const RENAMES: &[Rename] = &[
    Rename { from: "language_model.model.", to: "model.language_model." },
    Rename { from: "language_model.lm_head.", to: "lm_head." },
    Rename { from: "vision_tower.", to: "model.vision_tower." },
    Rename { from: "multi_modal_projector.", to: "model.multi_modal_projector." },
    Rename { from: "image_newline", to: "model.image_newline" },
];

/// `config.json`.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) text: LlamaConfig,
    pub(super) vision: ClipConfig,
    pub(super) top: TopConfig,
}

/// Fields that are on top; absent ones are those of Hugging Face's class.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct TopConfig {
    image_token_index: Option<TokenId>,
    /// What the newest files may call it.
    image_token_id: Option<TokenId>,
    vision_feature_layer: i64,
    pub(super) vision_feature_select_strategy: Strategy,
    projector_hidden_act: String,
    multimodal_projector_bias: bool,
}

/// Which of the tower's rows are the picture's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Strategy {
    /// Those of the patches.
    Default,
    /// The class's too.
    Full,
}

impl Default for TopConfig {
    fn default() -> Self {
        Self {
            image_token_index: None,
            image_token_id: None,
            vision_feature_layer: -2,
            vision_feature_select_strategy: Strategy::Default,
            projector_hidden_act: "gelu".to_owned(),
            multimodal_projector_bias: true,
        }
    }
}

impl Config {
    pub(super) fn of(files: &ConfigFiles) -> Result<Self> {
        let top: TopConfig = parse(&files.config, "config.json")?;
        if top.projector_hidden_act != "gelu" {
            return Err(unusable("config.json", "the projector's activation is not gelu"));
        }
        let cfg = Self { text: LlamaConfig::of(files)?, vision: ClipConfig::of(files)?, top };
        cfg.vision.layers_until(cfg.top.vision_feature_layer)?;
        Ok(cfg)
    }

    /// The token that stands for a picture.
    fn image_token(&self) -> TokenId {
        self.top.image_token_index.or(self.top.image_token_id).unwrap_or(IMAGE_TOKEN)
    }

    pub(super) fn spec(&self, files: &ConfigFiles, architecture: &'static str) -> ModelSpec {
        let token = self.image_token();
        ModelSpec {
            architecture,
            vocab_size: self.text.vocab_size,
            hidden_size: self.text.hidden_size,
            n_heads: self.text.num_attention_heads,
            kv: self.text.kv(),
            max_seq_len: self.text.max_position_embeddings,
            placeholders: vec![Placeholder { kind: MediaKind::Image, token }],
            eos_token_ids: eos_token_ids(files),
        }
    }
}

/// What LLaVA-1.5 and LLaVA-NeXT have in common.
pub(super) struct Parts {
    tower: ClipTower,
    projector: Projector,
    pub(super) decoder: Decoder,
}

impl Parts {
    pub(super) fn load(
        cfg: &Config,
        weights: &Weights<'_>,
        normalisation: Normalisation,
    ) -> Result<Self> {
        let root = weights.root();
        let n_layers = cfg.vision.layers_until(cfg.top.vision_feature_layer)?;
        let tower = root.at("model.vision_tower.vision_model");
        let widths = (cfg.vision.hidden_size, cfg.text.hidden_size);
        let bias = if cfg.top.multimodal_projector_bias { Bias::With } else { Bias::Without };
        let shape = cfg.text.decoder_shape();
        if shape.is_head_tied {
            weights.ignore("lm_head.weight");
        }
        Ok(Self {
            tower: ClipTower::load(&tower, &cfg.vision, n_layers, normalisation)?,
            projector: Projector::load(&root.at("model.multi_modal_projector"), widths, bias)?,
            decoder: Decoder::load(&root, &root.at("model.language_model"), shape)?,
        })
    }

    /// Projected rows of all tiles, each with the class before the patches.
    pub(super) fn rows(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let states = self.tower.forward(device, media)?;
        self.projector.forward(device, states)
    }
}

/// The model on a device.
struct Llava {
    spec: ModelSpec,
    strategy: Strategy,
    /// Rows of a picture in the tower: the class, then the patches.
    n_of_tile: usize,
    parts: Parts,
}

impl Llava {
    fn load(files: &ConfigFiles, weights: &Weights<'_>) -> Result<Self> {
        let cfg = Config::of(files)?;
        let processor = ImageProcessor::of(files)?;
        let parts = Parts::load(&cfg, weights, processor.normalisation)?;
        let strategy = cfg.top.vision_feature_select_strategy;
        let n_of_tile = 1 + cfg.vision.grid(1).n_patches();
        Ok(Self { spec: cfg.spec(files, FAMILY.architecture), strategy, n_of_tile, parts })
    }
}

impl Model for Llava {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn encode(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let rows = self.parts.rows(device, media)?;
        if self.strategy == Strategy::Full {
            return Ok(rows);
        }
        picked(device, &rows, (0..rows.n_rows()).filter(|row| row % self.n_of_tile != 0))
    }

    fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        Positions::counted(prompt.tokens.len())
    }

    fn forward(&self, device: &Device, step: &Step<'_>, kv: &mut KvPool) -> Result<Tensor> {
        self.parts.decoder.forward(device, step, kv)
    }
}

/// `preprocessor_config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ProcessorConfig {
    #[serde(flatten)]
    pixels: PixelConfig,
    size: Value,
    crop_size: Value,
    do_center_crop: Option<bool>,
}

/// Errors: `size` or `crop_size` of preprocessor_config.json is not the square that the tower
/// takes.
pub(super) fn check_sides(sizes: [&Value; 2], vision: &ClipConfig) -> Result<()> {
    if sizes.map(side_of) == [Some(vision.image_size as u32); 2] {
        return Ok(());
    }
    let why = "size and crop_size are not the size of the tower's pictures";
    Err(unusable("preprocessor_config.json", why))
}

/// The side of a square: a number, or an object with `shortest_edge`, or `height` and `width`.
fn side_of(size: &Value) -> Option<u32> {
    let number = |name: &str| size.get(name).and_then(Value::as_u64);
    let sides = || Some(number("height")?).filter(|&height| number("width") == Some(height));
    let side = size.as_u64().or_else(|| number("shortest_edge")).or_else(sides)?;
    u32::try_from(side).ok()
}

/// Preprocessing as configured.
#[derive(Debug)]
struct ImageProcessor {
    vision: ClipConfig,
    strategy: Strategy,
    normalisation: Normalisation,
}

impl ImageProcessor {
    fn of(files: &ConfigFiles) -> Result<Self> {
        let what = "preprocessor_config.json";
        let Config { vision, top, .. } = Config::of(files)?;
        let mut cfg = ProcessorConfig::default();
        if !files.preprocessor.is_null() {
            cfg = parse(&files.preprocessor, what)?;
            if cfg.do_center_crop == Some(false) {
                return Err(unusable(
                    what,
                    "without do_center_crop, pictures are not of crop_size",
                ));
            }
            check_sides([&cfg.size, &cfg.crop_size], &vision)?;
        }
        let strategy = top.vision_feature_select_strategy;
        Ok(Self { vision, strategy, normalisation: cfg.pixels.normalisation()? })
    }
}

impl Processor for ImageProcessor {
    fn plan(&self, kind: MediaKind, size: Size, options: &str) -> Result<MediaPlan> {
        check_picture(kind, size)?;
        // As little detail as possible is what there always is.
        ImageOptions::parse(options)?.refuse_pixel_limits()?;
        let grid = self.vision.grid(1);
        let n_classes = usize::from(self.strategy == Strategy::Full);
        Ok(MediaPlan { size, grid, n_tokens: (grid.n_patches() + n_classes) as u32 })
    }

    fn prepare(&self, image: &Image, plan: &MediaPlan, _options: &str) -> Result<PreparedMedia> {
        let side = self.vision.image_size as u32;
        let whole = covering(plan.size, side);
        let window = Window::centred(Size::new(side, side), whole);
        let cut = resize::bicubic_window(image, whole, window);
        Ok(PreparedMedia { plan: *plan, pixels: cut.rgb })
    }

    fn digest_fields(&self) -> Digest {
        let mut hasher = CanonicalHasher::new("triptych/processor/llava/1");
        hasher.number(self.vision.image_size as u64).number(self.vision.patch_size as u64);
        hasher.number(u64::from(self.strategy == Strategy::Full));
        hash_normalisation(&mut hasher, &self.normalisation);
        hasher.finish()
    }
}

/// Errors: it is no picture, or has no pixels.
pub(super) fn check_picture(kind: MediaKind, size: Size) -> Result<()> {
    match kind {
        MediaKind::Image if size.n_pixels() > 0 => Ok(()),
        MediaKind::Image => Err(Error::invalid("the picture is empty")),
        MediaKind::Video | MediaKind::Audio => {
            Err(Error::invalid("this model takes pictures only"))
        }
    }
}

/// The size of the same aspect whose shorter side is `side`.
fn covering(size: Size, side: u32) -> Size {
    let long = |long: u32, short: u32| {
        let scaled = (u64::from(side) * u64::from(long)) as f64 / f64::from(short);
        scaled as u32
    };
    let Size { width, height } = size;
    if width <= height {
        Size::new(side, long(height, width))
    } else {
        Size::new(long(width, height), side)
    }
}

/// The tokens around which a dummy model's tokenizer and template are made.
pub(super) fn special_tokens(files: &ConfigFiles) -> Result<Vec<SpecialToken>> {
    let mut tokens = vec![(Config::of(files)?.image_token(), "<image>")];
    tokens.extend(eos_token_ids(files).first().map(|&id| (id, "</s>")));
    Ok(tokens)
}

/// A template for models whose folder has none: roles and turns as this family is trained on.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{%- if message.role != 'system' -%}
{{- message.role.upper() + ': ' -}}
{%- endif -%}
{%- if message.content is string -%}
{{- message.content + ' ' -}}
{%- else -%}
{%- for part in message.content if part.type in ['image', 'image_url'] -%}
{{- '<image>\\n' -}}
{%- endfor -%}
{%- for part in message.content if 'text' in part -%}
{{- part.text + ' ' -}}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'ASSISTANT:' -}}
{%- endif -%}
";

#[cfg(test)]
#[path = "llava_tests.rs"]
mod tests;
