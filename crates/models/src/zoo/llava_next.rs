//! LLaVA-NeXT: a picture is seen whole in one tile, and once more in up to four tiles that together
//! have nearly its aspect; the rows of the ground around it are dropped again, and each line of
//! patches ends with a learnt row.
//!
//! Which tiles there are and how many rows remain is decided by [`Packing`] from the picture's size
//! alone, for planner and encoder alike.

use crate::files::{ConfigFiles, parse, unusable};
use crate::layers::clip::{ClipConfig, picked};
use crate::model::{Model, ModelSpec, Positions};
use crate::options::ImageOptions;
use crate::pixels::{PixelConfig, hash_normalisation};
use crate::processor::{MediaPlan, PreparedMedia, Processor};
use crate::step::Step;
use crate::weights::Weights;
use crate::zoo::llava::{
    Config, Parts, RENAMES, Strategy, check_picture, check_sides, special_tokens,
};
use crate::zoo::{Family, StandIns};
use media::{Image, Size, padded, resize, tiles};
use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;
use tensor::ops::{Normalisation, concatenated};
use tensor::{Device, KvPool, Tensor};
use types::Result;
use types::content::{CanonicalHasher, Digest};
use types::media::MediaKind;
use types::prompt::ExpandedPrompt;

/// The line in the zoo.
pub(crate) const FAMILY: Family = Family {
    architecture: "LlavaNextForConditionalGeneration",
    model_type: "llava_next",
    renames: RENAMES,
    spec: |files| Ok(Config::of(files)?.spec(files, FAMILY.architecture)),
    processor: |files| Ok(Arc::new(ImageProcessor::of(files)?)),
    build: |files, weights| Ok(Arc::new(LlavaNext::load(files, weights)?)),
    stand_ins: StandIns { special_tokens, chat_template: CHAT_TEMPLATE },
};

/// Tiles of a picture that any configuration may ask for; the published ones have at most 5.
const TILES_MAX: usize = 64;

/// Height and width of grounds on which pictures are laid, in pixels.
#[derive(Debug, Clone, Deserialize)]
struct Grounds {
    image_grid_pinpoints: Vec<[u32; 2]>,
}

impl Grounds {
    /// Reads `image_grid_pinpoints`; the published models' where there are none.
    ///
    /// Errors: sizes that are not made of tiles of `side` pixels, or of too many.
    fn of(value: &Value, what: &str, side: u32) -> Result<Vec<Size>> {
        let pairs = match value.get("image_grid_pinpoints").is_some_and(|pairs| !pairs.is_null()) {
            true => parse::<Self>(value, what)?.image_grid_pinpoints,
            false => {
                let usual = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]];
                usual.map(|pair: [u32; 2]| pair.map(|n| n * side)).to_vec()
            }
        };
        let is_whole = |&n: &u32| n > 0 && n.is_multiple_of(side);
        let n_tiles =
            |pair: &[u32; 2]| 1 + pair.iter().map(|n| (n / side) as usize).product::<usize>();
        let fits = |pair: &[u32; 2]| pair.iter().all(is_whole) && n_tiles(pair) <= TILES_MAX;
        if pairs.is_empty() || !pairs.iter().all(fits) {
            return Err(unusable(what, "image_grid_pinpoints are not made of the tower's tiles"));
        }
        Ok(pairs.into_iter().map(|[height, width]| Size::new(width, height)).collect())
    }
}

/// How a picture lies on tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packing {
    /// The ground, which consists of tiles.
    ground: Size,
    /// Lines and columns of patches of the ground that the picture covers.
    lines: Range<u32>,
    columns: Range<u32>,
}

impl Packing {
    /// The packing of a picture on the best of the grounds, with patches of `patch` pixels.
    fn of(size: Size, grounds: &[Size], patch: u32) -> Self {
        let ground = best_ground(size, grounds);
        let (high, wide) = (ground.height / patch, ground.width / patch);
        let (height, width) = (f64::from(size.height), f64::from(size.width));
        let (lines, columns) = if width / height > f64::from(wide) / f64::from(high) {
            (without_ground(high, height * (f64::from(wide) / width)), 0..wide)
        } else {
            (0..high, without_ground(wide, width * (f64::from(high) / height)))
        };
        Self { ground, lines, columns }
    }

    /// Rows behind those of the tile that shows the whole.
    fn n_rows(&self) -> u32 {
        self.lines.len() as u32 * (self.columns.len() as u32 + 1)
    }

    /// Tiles beside the one that shows the whole.
    fn n_tiles(&self, side: u32) -> u32 {
        (self.ground.height / side) * (self.ground.width / side)
    }
}

/// The ground on which most of the picture's pixels remain, and least is left over.
fn best_ground(size: Size, grounds: &[Size]) -> Size {
    let mut best: Option<(u64, u64, Size)> = None;
    for &ground in grounds {
        let (width, height) = (f64::from(size.width), f64::from(size.height));
        let scale = (f64::from(ground.width) / width).min(f64::from(ground.height) / height);
        let (wide, high) = ((width * scale) as u64, (height * scale) as u64);
        let seen = (wide * high).min(size.n_pixels());
        let left_over = ground.n_pixels() - seen;
        let is_better =
            best.is_none_or(|(most, least, _)| seen > most || (seen == most && left_over < least));
        if is_better {
            best = Some((seen, left_over, ground));
        }
    }
    best.map_or(size, |(_, _, ground)| ground)
}

/// Of `n` lines those that a picture covers that is `covered` lines wide and lies in the middle.
fn without_ground(n: u32, covered: f64) -> Range<u32> {
    // The reference rounds to seven digits before it cuts the fraction off.
    let up = covered.ceil();
    let whole = if up - covered <= 0.5e-7 { up } else { covered.floor() };
    let ground = (n - (whole as u32).min(n)) / 2;
    ground..n - ground
}

/// The largest size of the same aspect that fits on a ground.
fn fitted(size: Size, ground: Size) -> Size {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let by_width = f64::from(ground.width) / width;
    let by_height = f64::from(ground.height) / height;
    if by_width < by_height {
        Size::new(ground.width, ((height * by_width).ceil() as u32).min(ground.height))
    } else {
        Size::new(((width * by_height).ceil() as u32).min(ground.width), ground.height)
    }
}

/// The model on a device.
struct LlavaNext {
    spec: ModelSpec,
    /// Patches along a side of a tile, and pixels along a side of a patch.
    side: u32,
    patch: u32,
    grounds: Vec<Size>,
    parts: Parts,
    /// f32 `[1, hidden]`.
    image_newline: Tensor,
}

impl LlavaNext {
    fn load(files: &ConfigFiles, weights: &Weights<'_>) -> Result<Self> {
        let cfg = Config::of(files)?;
        let processor = ImageProcessor::of(files)?;
        let parts = Parts::load(&cfg, weights, processor.normalisation)?;
        let width = cfg.text.hidden_size;
        let newline = weights.root().at("model").vector("image_newline", width)?;
        Ok(Self {
            spec: cfg.spec(files, FAMILY.architecture),
            side: cfg.vision.side() as u32,
            patch: cfg.vision.patch_size as u32,
            grounds: processor.grounds,
            parts,
            image_newline: newline.reshaped(&[1, width]),
        })
    }

    /// Rows of one picture in their order, by their places among all tiles' rows; the picture's
    /// begin at `first`, and `newline` is the learnt one.
    fn order(&self, plan: &MediaPlan, first: usize, newline: usize) -> Vec<usize> {
        let side = self.side as usize;
        // Before the patches of a tile there is its class.
        let n_of_tile = 1 + side * side;
        let mut rows: Vec<usize> = (first + 1..first + n_of_tile).collect();
        if plan.grid.t == 1 {
            rows.push(newline);
            return rows;
        }
        let Packing { ground, lines, columns } = Packing::of(plan.size, &self.grounds, self.patch);
        let n_wide = (ground.width / self.patch / self.side) as usize;
        let place = |y: usize, x: usize| {
            let tile = 1 + y / side * n_wide + x / side;
            first + tile * n_of_tile + 1 + y % side * side + x % side
        };
        for y in lines {
            rows.extend(columns.clone().map(|x| place(y as usize, x as usize)));
            rows.push(newline);
        }
        rows
    }
}

impl Model for LlavaNext {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn encode(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let rows = self.parts.rows(device, media)?;
        let newline = rows.n_rows();
        let n_of_tile = 1 + (self.side * self.side) as usize;
        let mut first = 0;
        let mut order = Vec::new();
        for medium in media {
            order.extend(self.order(&medium.plan, first, newline));
            first += medium.plan.grid.t as usize * n_of_tile;
        }
        let last = picked(device, &self.image_newline, std::iter::once(0))?;
        let rows = concatenated(device, vec![rows, last])?;
        picked(device, &rows, order.into_iter())
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
}

/// Preprocessing as configured.
#[derive(Debug)]
struct ImageProcessor {
    vision: ClipConfig,
    grounds: Vec<Size>,
    normalisation: Normalisation,
}

impl ImageProcessor {
    fn of(files: &ConfigFiles) -> Result<Self> {
        let what = "preprocessor_config.json";
        let Config { vision, top, .. } = Config::of(files)?;
        if top.vision_feature_select_strategy == Strategy::Full {
            let why = "with vision_feature_select_strategy full, tiles are no grid";
            return Err(unusable("config.json", why));
        }
        let side = vision.image_size as u32;
        let grounds = Grounds::of(&files.config, "config.json", side)?;
        let mut cfg = ProcessorConfig::default();
        if !files.preprocessor.is_null() {
            cfg = parse(&files.preprocessor, what)?;
            check_sides([&cfg.size, &cfg.crop_size], &vision)?;
            if Grounds::of(&files.preprocessor, what, side)? != grounds {
                return Err(unusable(what, "image_grid_pinpoints are not those of config.json"));
            }
        }
        Ok(Self { vision, grounds, normalisation: cfg.pixels.normalisation()? })
    }

    fn packing(&self, size: Size) -> Packing {
        Packing::of(size, &self.grounds, self.vision.patch_size as u32)
    }
}

impl Processor for ImageProcessor {
    fn plan(&self, kind: MediaKind, size: Size, options: &str) -> Result<MediaPlan> {
        check_picture(kind, size)?;
        let options = ImageOptions::parse(options)?.refuse_pixel_limits()?;
        let of_whole = self.vision.grid(1).n_patches() as u32;
        if options.is_low_detail {
            // The whole alone, as one line.
            return Ok(MediaPlan { size, grid: self.vision.grid(1), n_tokens: of_whole + 1 });
        }
        let packing = self.packing(size);
        let n_tiles = 1 + packing.n_tiles(self.vision.image_size as u32);
        let n_tokens = of_whole + packing.n_rows();
        Ok(MediaPlan { size, grid: self.vision.grid(n_tiles as usize), n_tokens })
    }

    fn prepare(&self, image: &Image, plan: &MediaPlan, _options: &str) -> Result<PreparedMedia> {
        let side = self.vision.image_size as u32;
        let mut pixels = resize::bicubic(image, Size::new(side, side)).rgb;
        if plan.grid.t > 1 {
            let ground = self.packing(plan.size).ground;
            let resized = resize::bicubic(image, fitted(plan.size, ground));
            pixels.extend(tiles(&padded(&resized, ground), side));
        }
        Ok(PreparedMedia { plan: *plan, pixels })
    }

    fn digest_fields(&self) -> Digest {
        let mut hasher = CanonicalHasher::new("triptych/processor/llava_next/1");
        hasher.number(self.vision.image_size as u64).number(self.vision.patch_size as u64);
        hasher.number(self.grounds.len() as u64);
        for ground in &self.grounds {
            hasher.number(u64::from(ground.width)).number(u64::from(ground.height));
        }
        hash_normalisation(&mut hasher, &self.normalisation);
        hasher.finish()
    }
}

/// A template for models whose folder has none: turns as those with Mistral are trained on.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{%- if message.content is string -%}
{%- set words = message.content -%}
{%- else -%}
{%- set words = message.content | selectattr('text', 'defined') | map(attribute='text') | join -%}
{%- endif -%}
{%- if message.role == 'system' -%}
{{- '<<SYS>>\\n' + words + '\\n<</SYS>>\\n\\n' -}}
{%- elif message.role == 'user' -%}
{{- '[INST] ' -}}
{%- if message.content is not string -%}
{%- for part in message.content if part.type in ['image', 'image_url'] -%}
{{- '<image>\\n' -}}
{%- endfor -%}
{%- endif -%}
{{- words + ' [/INST]' -}}
{%- else -%}
{{- ' ' + words + '</s> ' -}}
{%- endif -%}
{%- endfor -%}
";

#[cfg(test)]
#[path = "llava_next_tests.rs"]
mod tests;
