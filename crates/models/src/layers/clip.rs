//! CLIP's vision tower: square tiles of one size, a class row before the patches, learnt positions,
//! and as many layers as its user wants; the rest of a checkpoint's tower is not run.

use crate::files::{ConfigFiles, parse, unusable};
use crate::layers::vision_block::{LayerNorm, VisionBlock, VisionBlockShape};
use crate::processor::PreparedMedia;
use crate::weights::Scope;
use serde::Deserialize;
use serde_json::json;
use tensor::ops::{
    Normalisation, PatchShape, Segments, Weight, cast, concatenated, gather_rows, linear_add,
    patches,
};
use tensor::{DType, Device, Tensor};
use types::media::Grid;
use types::{Error, Result};

/// Colours.
const CHANNELS: usize = 3;
/// Rows of operands on a GPU are multiples of so many elements, or products are slow.
const ROW_ELEMENTS: usize = 8;

/// `vision_config`; absent fields are those of Hugging Face's class.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct ClipConfig {
    pub(crate) hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    model_type: String,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: CHANNELS,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            model_type: "clip_vision_model".to_owned(),
        }
    }
}

impl ClipConfig {
    /// Reads `vision_config`; where there is none, it is ViT-L/14 at 336 pixels.
    ///
    /// Errors: another tower, or something that is not supported, by name.
    pub(crate) fn of(files: &ConfigFiles) -> Result<Self> {
        let large = json!({
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        });
        let given = files.config.get("vision_config").filter(|given| !given.is_null());
        let cfg: Self = parse(given.unwrap_or(&large), "config.json: vision_config")?;
        match cfg.check() {
            None => Ok(cfg),
            Some(why) => Err(unusable("config.json", why)),
        }
    }

    fn check(&self) -> Option<&'static str> {
        let divides = |n: usize, of: usize| n > 0 && of.is_multiple_of(n);
        let heads_fit = divides(self.num_attention_heads, self.hidden_size);
        let patches_fit = self.image_size > 0 && divides(self.patch_size, self.image_size);
        [
            (self.model_type == "clip_vision_model", "the tower is not clip_vision_model"),
            (heads_fit, "heads do not divide the tower's width"),
            (patches_fit, "patches do not divide the tower's picture"),
            (self.num_channels == CHANNELS, "the tower's pictures have no three colours"),
            (self.hidden_act == "quick_gelu", "the tower's activation is not quick_gelu"),
        ]
        .into_iter()
        .find_map(|(is_fine, why)| (!is_fine).then_some(why))
    }

    /// Patches along a side of a tile.
    pub(crate) fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// The input of `n` tiles.
    pub(crate) fn grid(&self, n: usize) -> Grid {
        let side = self.side() as u32;
        Grid { t: n as u32, h: side, w: side }
    }

    /// Layers that run until the states called `feature_layer` are there: 0 are the embeddings,
    /// and negative ones count from the end.
    ///
    /// Errors: there are none of that number.
    pub(crate) fn layers_until(&self, feature_layer: i64) -> Result<usize> {
        let n_states = self.num_hidden_layers as i64 + 1;
        let state = if feature_layer < 0 { n_states + feature_layer } else { feature_layer };
        if (0..n_states).contains(&state) {
            return Ok(state as usize);
        }
        Err(unusable("config.json", "vision_feature_layer is no layer of the tower"))
    }

    /// How patches are cut: twice as deep where their rows would else not be aligned.
    fn patch_shape(&self) -> PatchShape {
        let n_elements = CHANNELS * self.patch_size * self.patch_size;
        let temporal_patch_size = if n_elements.is_multiple_of(ROW_ELEMENTS) { 1 } else { 2 };
        PatchShape { patch_size: self.patch_size, temporal_patch_size, merge_size: 1 }
    }
}

/// The tower up to a layer.
pub(crate) struct ClipTower {
    shape: PatchShape,
    normalisation: Normalisation,
    /// f32 `[1 + patches, width]`: the class and the learnt positions.
    positions: Tensor,
    patch_embedding: Weight,
    pre_layrnorm: LayerNorm,
    layers: Vec<VisionBlock>,
}

impl ClipTower {
    /// Loads what runs below `at`, and passes over the layers and the norm that do not.
    pub(crate) fn load(
        at: &Scope<'_>,
        cfg: &ClipConfig,
        n_layers: usize,
        normalisation: Normalisation,
    ) -> Result<Self> {
        let ClipConfig { hidden_size: width, layer_norm_eps: epsilon, .. } = *cfg;
        let (n_heads, mlp_width) = (cfg.num_attention_heads, cfg.intermediate_size);
        let block = VisionBlockShape { width, n_heads, mlp_width, epsilon };
        let embeddings = at.at("embeddings");
        let patch = cfg.patch_shape();
        let kernel = [width, CHANNELS, cfg.patch_size, cfg.patch_size];
        let layers = at.at("encoder").at("layers");
        (n_layers..cfg.num_hidden_layers).for_each(|idx| ignore_layer(&layers.at(idx)));
        ignore_pair(&at.at("post_layernorm"));
        Ok(Self {
            shape: patch,
            normalisation,
            positions: positions(&embeddings, (1 + cfg.side() * cfg.side(), width))?,
            patch_embedding: embeddings.deepened(
                "patch_embedding",
                kernel,
                patch.temporal_patch_size,
            )?,
            pre_layrnorm: LayerNorm::load(&at.at("pre_layrnorm"), width, epsilon)?,
            layers: (0..n_layers)
                .map(|idx| VisionBlock::load_clip(&layers.at(idx), block))
                .collect::<Result<_>>()?,
        })
    }

    /// States behind the last layer that runs, f32: for every tile of the media a row for the class
    /// and one for each patch.
    pub(crate) fn forward(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        let n_tiles = media.iter().map(|medium| medium.plan.grid.t as usize).sum();
        let embedded = self.embed(device, media, n_tiles)?;
        let normed = self.pre_layrnorm.forward(device, &embedded)?;
        let mut residual = cast(device, normed, DType::F32)?;
        let tiles = Segments::new(device, &vec![self.positions.n_rows(); n_tiles])?;
        for layer in &self.layers {
            layer.forward(device, &mut residual, None, &tiles)?;
        }
        Ok(residual)
    }

    /// Classes and patches of all tiles with their positions, f32.
    fn embed(&self, device: &Device, media: &[&PreparedMedia], n_tiles: usize) -> Result<Tensor> {
        let n_rows = self.positions.n_rows();
        let n_patches = n_rows - 1;
        let mut rows = Vec::with_capacity(media.len() + 1);
        for medium in media {
            let Grid { t, h, w } = medium.plan.grid;
            if (h * w) as usize != n_patches {
                return Err(Error::internal("a tile of another size than the tower's"));
            }
            // Tiles one below the other are a tall picture, and patches come row by row.
            let tall = Grid { t: 1, h: t * h, w };
            rows.push(patches(device, &medium.pixels, tall, self.shape, &self.normalisation)?);
        }
        // The class has no pixels: its product with the patches' weights is to be zero.
        let nothing = Tensor::zeros::<f32>(&[1, self.patch_embedding.k()]).to_device(device)?;
        rows.push(cast(device, nothing, device.compute_dtype())?);
        let rows = concatenated(device, rows)?;
        let nothing = n_tiles * n_patches;
        let of_tile = |tile: usize| {
            let patches = tile * n_patches..(tile + 1) * n_patches;
            std::iter::once(nothing).chain(patches)
        };
        let rows = picked(device, &rows, (0..n_tiles).flat_map(of_tile))?;
        let places = (0..n_tiles).flat_map(|_| 0..n_rows);
        let mut embedded = picked(device, &self.positions, places)?;
        linear_add(device, &rows, &self.patch_embedding, &mut embedded)?;
        Ok(embedded)
    }
}

/// Rows of `x` by their indices.
pub(crate) fn picked(
    device: &Device,
    x: &Tensor,
    indices: impl Iterator<Item = usize>,
) -> Result<Tensor> {
    let indices: Vec<u32> = indices.map(|idx| idx as u32).collect();
    let indices = Tensor::from_slice(&[indices.len()], &indices).to_device(device)?;
    gather_rows(device, x, &indices)
}

/// The learnt positions, the class added to the first.
fn positions(at: &Scope<'_>, (n, width): (usize, usize)) -> Result<Tensor> {
    let mut rows = at.table("position_embedding.weight", [n, width])?;
    let class = at.values("class_embedding", width)?;
    rows.iter_mut().zip(&class).for_each(|(row, class)| *row += class);
    Tensor::from_slice(&[n, width], &rows).to_device_for_good(at.device())
}

/// Passes over the tensors of a layer that is not run.
fn ignore_layer(at: &Scope<'_>) {
    let attention = ["q_proj", "k_proj", "v_proj", "out_proj"];
    attention.iter().for_each(|name| ignore_pair(&at.at("self_attn").at(name)));
    ["fc1", "fc2"].iter().for_each(|name| ignore_pair(&at.at("mlp").at(name)));
    ["layer_norm1", "layer_norm2"].iter().for_each(|name| ignore_pair(&at.at(name)));
}

/// Passes over a weight and its bias.
fn ignore_pair(at: &Scope<'_>) {
    ["weight", "bias"].iter().for_each(|name| at.ignore(name));
}
