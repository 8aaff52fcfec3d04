//! Qwen2-VL: pictures of any size in patches of 14, merged 2 by 2; rotary positions on three axes.
//!
//! The number of rows of a picture is `t·h·w / 4` of its grid, decided by [`smart_resize`] alone.

use crate::files::{ConfigFiles, parse, unusable};
use crate::layers::decoder::{Decoder, DecoderShape};
use crate::layers::rope::{AngleTable, inverse_frequencies};
use crate::layers::vision_block::{LayerNorm, VisionBlock, VisionBlockShape};
use crate::model::{KvShape, Model, ModelSpec, Positions};
use crate::options::ImageOptions;
use crate::pixels::{PixelConfig, hash_normalisation};
use crate::processor::{MediaPlan, PreparedMedia, Processor};
use crate::step::Step;
use crate::weights::{Bias, Rename, Scope, Weights};
use crate::zoo::{Family, SpecialToken, StandIns};
use media::{Image, Size};
use serde::Deserialize;
use std::sync::Arc;
use tensor::ops::{
    Activation, Angles, Normalisation, PatchShape, Segments, Weight, concatenated, linear,
    linear_f32, patches,
};
use tensor::{Device, KvPool, Tensor};
use types::content::{CanonicalHasher, Digest};
use types::media::{Grid, MediaKind};
use types::prompt::{ExpandedPrompt, PlacedItem, Placeholder};
use types::{Error, Result, TokenId};

/// The line in the zoo.
pub(crate) const FAMILY: Family = Family {
    architecture: "Qwen2VLForConditionalGeneration",
    model_type: "qwen2_vl",
    renames: &[
        Rename { from: "visual.", to: "model.visual." },
        Rename { from: "model.visual.", to: "model.visual." },
        Rename { from: "model.language_model.", to: "model.language_model." },
        Rename { from: "model.", to: "model.language_model." },
    ],
    spec: |files| Ok(Config::of(files)?.spec(files)),
    processor: |files| Ok(Arc::new(ImageProcessor::of(files)?)),
    build: |files, weights| Ok(Arc::new(Qwen2Vl::load(files, weights)?)),
    stand_ins: StandIns { special_tokens, chat_template: CHAT_TEMPLATE },
};

/// Of the tower's norms; a constant in the reference's code.
const TOWER_EPSILON: f32 = 1e-6;
/// Base of the tower's rotary frequencies; a constant in the reference's code.
const TOWER_THETA: f32 = 10_000.0;
/// Base of the text model's, where no file says.
const TEXT_THETA: f32 = 1e6;
/// Pictures more elongated than this are refused.
const ASPECT_MAX: f64 = 200.0;

/// `config.json`, its text part wherever it is.
#[derive(Debug, Clone)]
struct Config {
    text: TextConfig,
    vision: VisionConfig,
    top: TopConfig,
}

#[derive(Debug, Clone, Deserialize)]
struct TextConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeConfig>,
    /// What the newest files have instead of the two above.
    rope_parameters: Option<RopeConfig>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    use_sliding_window: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeConfig {
    mrope_section: Vec<usize>,
    rope_theta: Option<f32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct VisionConfig {
    depth: usize,
    embed_dim: usize,
    num_heads: usize,
    mlp_ratio: f64,
    patch_size: usize,
    spatial_merge_size: usize,
    temporal_patch_size: usize,
    hidden_act: String,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            depth: 32,
            embed_dim: 1280,
            num_heads: 16,
            mlp_ratio: 4.0,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            hidden_act: "quick_gelu".to_owned(),
        }
    }
}

/// Fields that are on top in both layouts.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct TopConfig {
    image_token_id: TokenId,
    video_token_id: TokenId,
    vision_start_token_id: TokenId,
    vision_end_token_id: TokenId,
    tie_word_embeddings: Option<bool>,
}

impl Default for TopConfig {
    fn default() -> Self {
        Self {
            image_token_id: 151_655,
            video_token_id: 151_656,
            vision_start_token_id: 151_652,
            vision_end_token_id: 151_653,
            tie_word_embeddings: None,
        }
    }
}

impl Config {
    fn of(files: &ConfigFiles) -> Result<Self> {
        let vision = files.config.get("vision_config").unwrap_or(&serde_json::Value::Null);
        let vision = if vision.is_null() { &serde_json::json!({}) } else { vision };
        let cfg = Self {
            text: parse(files.text(), "config.json, text model")?,
            vision: parse(vision, "config.json, vision_config")?,
            top: parse(&files.config, "config.json")?,
        };
        cfg.check().map_or(Ok(cfg.clone()), |why| Err(unusable("config.json", why)))
    }

    /// What is wrong with it.
    fn check(&self) -> Option<&'static str> {
        let Self { text, vision, .. } = self;
        let rope = self.rope().map_or(0, |rope| rope.mrope_section.iter().sum());
        let divides = |n: usize, of: usize| n > 0 && of.is_multiple_of(n);
        let heads_fit = divides(text.num_attention_heads, text.hidden_size)
            && divides(text.num_key_value_heads, text.num_attention_heads)
            && divides(vision.num_heads, vision.embed_dim)
            && (vision.embed_dim / vision.num_heads.max(1)).is_multiple_of(4);
        [
            (heads_fit, "heads do not divide the widths"),
            (heads_fit && rope * 2 == self.head_dim(), "mrope_section is not half a head"),
            (text.num_hidden_layers > 0, "there are no layers"),
            (!text.use_sliding_window, "sliding windows are not supported"),
            (vision.hidden_act == "quick_gelu", "the tower's activation is not quick_gelu"),
            (vision.patch_size * vision.spatial_merge_size > 0, "a patch without pixels"),
        ]
        .into_iter()
        .find_map(|(is_fine, why)| (!is_fine).then_some(why))
    }

    fn rope(&self) -> Option<&RopeConfig> {
        self.text.rope_scaling.as_ref().or(self.text.rope_parameters.as_ref())
    }

    fn head_dim(&self) -> usize {
        self.text.hidden_size / self.text.num_attention_heads
    }

    fn spec(&self, files: &ConfigFiles) -> ModelSpec {
        ModelSpec {
            architecture: FAMILY.architecture,
            vocab_size: self.text.vocab_size,
            hidden_size: self.text.hidden_size,
            n_heads: self.text.num_attention_heads,
            kv: KvShape {
                n_layers: self.text.num_hidden_layers,
                n_kv_heads: self.text.num_key_value_heads,
                head_dim: self.head_dim(),
            },
            max_seq_len: self.text.max_position_embeddings,
            placeholders: vec![
                Placeholder { kind: MediaKind::Image, token: self.top.image_token_id },
                Placeholder { kind: MediaKind::Video, token: self.top.video_token_id },
            ],
            eos_token_ids: files.eos_token_ids(),
        }
    }

    fn decoder_shape(&self, spec: &ModelSpec) -> DecoderShape {
        let rope = self.rope();
        let sections = rope.map_or(&[][..], |rope| &rope.mrope_section);
        // Section i turns with axis i; more than three sections begin again.
        let axes = sections.iter().enumerate();
        let theta = self.text.rope_theta.or_else(|| rope.and_then(|rope| rope.rope_theta));
        DecoderShape {
            vocab_size: spec.vocab_size,
            width: spec.hidden_size,
            n_heads: self.text.num_attention_heads,
            kv: spec.kv,
            mlp_width: self.text.intermediate_size,
            epsilon: self.text.rms_norm_eps,
            rope_theta: theta.unwrap_or(TEXT_THETA),
            rope_axes: axes.flat_map(|(idx, &n)| std::iter::repeat_n(idx % 3, n)).collect(),
            qkv_bias: Bias::With,
            is_head_tied: self.is_head_tied(),
        }
    }

    fn is_head_tied(&self) -> bool {
        self.text.tie_word_embeddings.or(self.top.tie_word_embeddings).unwrap_or(false)
    }

    fn patch_shape(&self) -> PatchShape {
        PatchShape {
            patch_size: self.vision.patch_size,
            temporal_patch_size: self.vision.temporal_patch_size,
            merge_size: self.vision.spatial_merge_size,
        }
    }
}

/// The model on a device.
struct Qwen2Vl {
    spec: ModelSpec,
    merge_size: u32,
    tower: Tower,
    decoder: Decoder,
}

impl Qwen2Vl {
    fn load(files: &ConfigFiles, weights: &Weights<'_>) -> Result<Self> {
        let cfg = Config::of(files)?;
        let processor = ImageProcessor::of(files)?;
        if processor.shape != cfg.patch_shape() {
            let why = "patches are not those of config.json";
            return Err(unusable("preprocessor_config.json", why));
        }
        let root = weights.root();
        if cfg.is_head_tied() {
            weights.ignore("lm_head.weight");
        }
        let spec = cfg.spec(files);
        let text = root.at("model.language_model");
        let decoder = Decoder::load(&root, &text, cfg.decoder_shape(&spec))?;
        let tower = Tower::load(&root.at("model.visual"), &cfg, processor.normalisation)?;
        let merge_size = cfg.vision.spatial_merge_size as u32;
        Ok(Self { spec, merge_size, tower, decoder })
    }
}

impl Model for Qwen2Vl {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn encode(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        self.tower.forward(device, media)
    }

    fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        positions(prompt, self.merge_size)
    }

    fn forward(&self, device: &Device, step: &Step<'_>, kv: &mut KvPool) -> Result<Tensor> {
        self.decoder.forward(device, step, kv)
    }
}

/// Text counts on one number for all three axes. A medium starts at the next number and adds its
/// (time, row, column) in merged windows; text goes on behind the largest number used.
fn positions(prompt: &ExpandedPrompt, merge_size: u32) -> Positions {
    let mut rows: Vec<[u32; 3]> = Vec::with_capacity(prompt.tokens.len());
    let mut next = 0;
    for placed in &prompt.items {
        next = push_text(&mut rows, placed.start, next);
        next = push_medium(&mut rows, placed, next, merge_size);
    }
    next = push_text(&mut rows, prompt.tokens.len(), next);
    Positions { delta: i64::from(next) - rows.len() as i64, rows }
}

/// Text up to index `end`, from number `next` on; returns the next number.
fn push_text(rows: &mut Vec<[u32; 3]>, end: usize, next: u32) -> u32 {
    let n = end.saturating_sub(rows.len()) as u32;
    rows.extend((next..next + n).map(|position| [position; 3]));
    next + n
}

fn push_medium(rows: &mut Vec<[u32; 3]>, placed: &PlacedItem, next: u32, merge_size: u32) -> u32 {
    let Grid { t, h, w } = placed.item.grid;
    let (h, w) = (h / merge_size, w / merge_size);
    for time in 0..t {
        for row in 0..h {
            rows.extend((0..w).map(|column| [next + time, next + row, next + column]));
        }
    }
    next + t.max(h).max(w)
}

/// The vision tower and the merger into the text model's width.
struct Tower {
    shape: PatchShape,
    normalisation: Normalisation,
    angles: AngleTable,
    patch_embed: Weight,
    blocks: Vec<VisionBlock>,
    ln_q: LayerNorm,
    mlp_0: Weight,
    mlp_2: Weight,
}

/// Positions whose angles are computed at loading: windows of 28 pixels along the longest side that
/// [`PIXELS_MAX`] and [`ASPECT_MAX`] allow, twice (in patches).
const TOWER_POSITIONS: usize = 4096;

impl Tower {
    fn load(at: &Scope<'_>, cfg: &Config, normalisation: Normalisation) -> Result<Self> {
        let VisionConfig { embed_dim: width, num_heads: n_heads, depth, .. } = cfg.vision;
        let mlp_width = (width as f64 * cfg.vision.mlp_ratio) as usize;
        let shape = VisionBlockShape { width, n_heads, mlp_width, epsilon: TOWER_EPSILON };
        let patch = cfg.patch_shape();
        let merged = width * patch.merge_size * patch.merge_size;
        let kernel = [width, 3, patch.temporal_patch_size, patch.patch_size, patch.patch_size];
        let merger = at.at("merger");
        let load_block = |idx| VisionBlock::load(&at.at("blocks").at(idx), shape);
        Ok(Self {
            shape: patch,
            normalisation,
            angles: AngleTable::new(
                at.device(),
                &inverse_frequencies(TOWER_THETA, width / n_heads / 4),
                TOWER_POSITIONS,
            )?,
            patch_embed: at.flattened("patch_embed.proj", &kernel)?,
            blocks: (0..depth).map(load_block).collect::<Result<_>>()?,
            ln_q: LayerNorm::load(&merger.at("ln_q"), width, TOWER_EPSILON)?,
            mlp_0: merger.linear("mlp.0", (merged, merged), Bias::With)?,
            mlp_2: merger.linear("mlp.2", (cfg.text.hidden_size, merged), Bias::With)?,
        })
    }

    fn forward(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let grids: Vec<Grid> = media.iter().map(|medium| medium.plan.grid).collect();
        let mut residual = self.embed(device, media)?;
        let angles = self.angles(device, &grids)?;
        // Each frame attends to itself only.
        let frames: Vec<usize> = grids
            .iter()
            .flat_map(|grid| std::iter::repeat_n((grid.h * grid.w) as usize, grid.t as usize))
            .collect();
        let frames = Segments::new(device, &frames)?;
        for block in &self.blocks {
            block.forward(device, &mut residual, Some(&angles), &frames)?;
        }
        let normed = self.ln_q.forward(device, &residual)?;
        let n_rows = residual.n_rows() / (self.shape.merge_size * self.shape.merge_size);
        let merged = normed.reshaped(&[n_rows, self.mlp_0.k()]);
        let inner = linear(device, &merged, &self.mlp_0, Activation::Gelu)?;
        linear_f32(device, &inner, &self.mlp_2)
    }

    /// Patches of all media as rows of the tower's width.
    fn embed(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let mut rows = Vec::with_capacity(media.len());
        for medium in media {
            let grid = medium.plan.grid;
            let cut = patches(device, &medium.pixels, grid, self.shape, &self.normalisation)?;
            rows.push(linear_f32(device, &cut, &self.patch_embed)?);
        }
        concatenated(device, rows)
    }

    /// Angles of every patch, in the patches' order: half of a head turns with the row, half with
    /// the column.
    fn angles(&self, device: &Device, grids: &[Grid]) -> Result<Angles> {
        let merge = self.shape.merge_size;
        let mut places = Vec::new();
        for grid in grids {
            if grid.h.max(grid.w) as usize > TOWER_POSITIONS {
                return Err(Error::internal("a grid longer than any plan's"));
            }
            let frame = frame_places(*grid, merge as u32);
            (0..grid.t).for_each(|_| places.extend_from_slice(&frame));
        }
        self.angles.pairs(device, &places)
    }
}

/// Row and column of every patch of a frame, window by window.
fn frame_places(grid: Grid, merge: u32) -> Vec<(u32, u32)> {
    let along = |len: u32| (0..len).step_by(merge as usize);
    let windows = along(grid.h).flat_map(|y| along(grid.w).map(move |x| (y, x)));
    let inside = |(y, x)| (0..merge * merge).map(move |i| (y + i / merge, x + i % merge));
    windows.flat_map(inside).collect()
}

/// `preprocessor_config.json`; absent fields are the reference's defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct ProcessorConfig {
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    patch_size: usize,
    temporal_patch_size: usize,
    merge_size: usize,
    #[serde(flatten)]
    pixels: PixelConfig,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self {
            min_pixels: None,
            max_pixels: None,
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            pixels: PixelConfig::default(),
        }
    }
}

/// Pixel limits of the reference when the configuration has none.
const MIN_PIXELS: u64 = 56 * 56;
const MAX_PIXELS: u64 = 28 * 28 * 1280;
/// No request may ask for more pixels than the published models see at most.
const PIXELS_MAX: u64 = 28 * 28 * 16_384;

/// Preprocessing as configured.
#[derive(Debug)]
struct ImageProcessor {
    shape: PatchShape,
    normalisation: Normalisation,
    pixels: PixelLimits,
}

/// Fewest and most pixels after resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PixelLimits {
    min: u64,
    max: u64,
}

impl ImageProcessor {
    fn of(files: &ConfigFiles) -> Result<Self> {
        let what = "preprocessor_config.json";
        let cfg = match files.preprocessor.is_null() {
            true => ProcessorConfig::default(),
            false => parse::<ProcessorConfig>(&files.preprocessor, what)?,
        };
        let pixels = PixelLimits {
            min: cfg.min_pixels.unwrap_or(MIN_PIXELS),
            max: cfg.max_pixels.unwrap_or(MAX_PIXELS),
        };
        Ok(Self {
            shape: PatchShape {
                patch_size: cfg.patch_size,
                temporal_patch_size: cfg.temporal_patch_size,
                merge_size: cfg.merge_size,
            },
            normalisation: cfg.pixels.normalisation()?,
            pixels,
        })
    }

    /// The limits of one request.
    fn limits(&self, options: &str) -> Result<PixelLimits> {
        let options = ImageOptions::parse(options)?;
        let min = options.min_pixels.unwrap_or(self.pixels.min);
        let max = options.max_pixels.unwrap_or(self.pixels.max);
        let max = if options.is_low_detail { min } else { max };
        let most = PIXELS_MAX.max(self.pixels.max);
        if min > max || max > most {
            let message =
                format!("min_pixels {min} and max_pixels {max} must rise and be at most {most}");
            return Err(Error::invalid(message));
        }
        Ok(PixelLimits { min, max })
    }
}

impl Processor for ImageProcessor {
    fn plan(&self, kind: MediaKind, size: Size, options: &str) -> Result<MediaPlan> {
        if kind != MediaKind::Image {
            return Err(Error::invalid("this model takes pictures only"));
        }
        let window = (self.shape.patch_size * self.shape.merge_size) as u64;
        let seen = smart_resize(size, window, self.limits(options)?)?;
        let patch = self.shape.patch_size as u32;
        let grid = Grid { t: 1, h: seen.height / patch, w: seen.width / patch };
        let n_merged = self.shape.merge_size * self.shape.merge_size;
        Ok(MediaPlan { size, grid, n_tokens: (grid.n_patches() / n_merged) as u32 })
    }

    fn prepare(&self, image: &Image, plan: &MediaPlan, _options: &str) -> Result<PreparedMedia> {
        let patch = self.shape.patch_size as u32;
        let size = Size { width: plan.grid.w * patch, height: plan.grid.h * patch };
        let resized = media::resize::bicubic(image, size);
        Ok(PreparedMedia { plan: *plan, pixels: resized.rgb })
    }

    fn digest_fields(&self) -> Digest {
        let mut hasher = CanonicalHasher::new("triptych/processor/qwen2_vl/1");
        let PatchShape { patch_size, temporal_patch_size, merge_size } = self.shape;
        for size in [patch_size, temporal_patch_size, merge_size] {
            hasher.number(size as u64);
        }
        hasher.number(self.pixels.min).number(self.pixels.max);
        hash_normalisation(&mut hasher, &self.normalisation);
        hasher.finish()
    }
}

/// The size that the tower sees: sides are multiples of `factor`, the area lies within the limits,
/// the aspect is kept as well as that allows.
///
/// Rounds as Python does: halves to even. Errors: the picture is more than 200 times as long as
/// wide.
fn smart_resize(size: Size, factor: u64, limits: PixelLimits) -> Result<Size> {
    let (height, width) = (f64::from(size.height), f64::from(size.width));
    let aspect = height.max(width) / height.min(width);
    // An empty picture's aspect is not a number, or infinite.
    if aspect.is_nan() || aspect > ASPECT_MAX {
        let message = format!("absolute aspect ratio must be smaller than 200, got {aspect}");
        return Err(Error::invalid(message));
    }
    let unit = factor as f64;
    let rounded = [height, width].map(|side| (side / unit).round_ties_even() * unit);
    let [high, wide] = if rounded[0] * rounded[1] > limits.max as f64 {
        let shrink = (height * width / limits.max as f64).sqrt();
        [height, width].map(|side| unit.max((side / shrink / unit).floor() * unit))
    } else if rounded[0] * rounded[1] < limits.min as f64 {
        let grow = (limits.min as f64 / (height * width)).sqrt();
        [height, width].map(|side| (side * grow / unit).ceil() * unit)
    } else {
        rounded
    };
    Ok(Size { width: wide as u32, height: high as u32 })
}

/// The tokens around which a dummy model's tokenizer and template are made.
fn special_tokens(files: &ConfigFiles) -> Result<Vec<SpecialToken>> {
    let top = Config::of(files)?.top;
    let mut tokens = vec![
        (top.vision_start_token_id, "<|vision_start|>"),
        (top.vision_end_token_id, "<|vision_end|>"),
        (top.image_token_id, "<|image_pad|>"),
        (top.video_token_id, "<|video_pad|>"),
    ];
    tokens.extend(files.eos_token_ids().first().map(|&id| (id, "<|im_end|>")));
    Ok(tokens)
}

/// A template for models whose folder has none: roles and turns as this family is trained on.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ['image', 'image_url'] -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type in ['video', 'video_url'] -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

#[cfg(test)]
#[path = "qwen2_vl_tests.rs"]
mod tests;
