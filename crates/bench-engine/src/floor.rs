//! The least time that work can take: its bytes at the measured rate of reading, or its arithmetic
//! at the measured rate of a large product, whichever is longer, part after part.

use crate::ceilings::Ceilings;
use crate::rows::{Load, Row};
use crate::shapes::{Linear, Shapes, TextShape, TowerShape};
use tensor::DType;

/// What one part of some work reads and computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) n_bytes: f64,
    pub(crate) n_flop: f64,
}

/// The least time of some work.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Floor {
    /// In seconds.
    pub(crate) seconds: f64,
    /// Which part takes most of it, and of what.
    pub(crate) bound_by: String,
}

impl Part {
    /// The longer of the two times, in seconds, and what it is spent on.
    pub(crate) fn seconds(&self, ceilings: &Ceilings) -> (f64, &'static str) {
        let reading = self.n_bytes / ceilings.read_bytes_per_s;
        let computing = self.n_flop / ceilings.flop_per_s();
        if reading >= computing { (reading, "bytes") } else { (computing, "FLOPs") }
    }
}

impl Floor {
    pub(crate) fn of(parts: &[Part], ceilings: &Ceilings) -> Self {
        let times: Vec<_> = parts.iter().map(|part| (part.name, part.seconds(ceilings))).collect();
        let largest = times.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0));
        let bound_by = largest.map(|(name, (_, what))| format!("{name}, {what}"));
        Self {
            seconds: times.iter().map(|(_, (seconds, _))| seconds).sum(),
            bound_by: bound_by.unwrap_or_default(),
        }
    }
}

/// What a model's work is made of on one device.
pub(crate) struct Costs<'a> {
    pub(crate) shapes: &'a Shapes,
    /// Type of the cache.
    pub(crate) kv_dtype: DType,
    /// Most token rows of a step.
    pub(crate) max_num_tokens: usize,
}

impl Costs<'_> {
    /// The parts of one measured unit of a row: a step of decode, or all of its requests.
    pub(crate) fn of(&self, row: &Row, load: &Load) -> Vec<Part> {
        match *row {
            Row::Decode { batch, from, to, .. } => {
                let context = load.prompt_len + (from + to) as usize / 2;
                self.step(batch, &[context])
            }
            Row::Prefill { batch, .. } => self.prefill(batch, load.prompt_len),
            Row::Image { .. } => {
                [self.tower(1, load.n_patches), self.prefill(1, load.prompt_len)].concat()
            }
            Row::Images { n, n_tokens, .. } => {
                let contexts: Vec<usize> =
                    (1..n_tokens as usize).map(|idx| load.prompt_len + idx).collect();
                let prompts = self.prefill(n, load.prompt_len);
                [self.tower(n, load.n_patches), prompts, self.step(n, &contexts)].concat()
            }
        }
    }

    /// Steps of `batch` sequences, one for each of `contexts`.
    fn step(&self, batch: usize, contexts: &[usize]) -> Vec<Part> {
        let n_steps = contexts.len() as f64;
        let text = &self.shapes.text;
        let n_keys = (contexts.iter().sum::<usize>() * batch) as f64;
        vec![
            self.products("decode weights", (&text.linears(), batch as f64), n_steps),
            self.products("decode head", (&[text.head()], batch as f64), n_steps),
            Part {
                name: "decode KV",
                n_bytes: n_keys * self.kv_bytes(),
                n_flop: attention_flop(text) * n_keys,
            },
        ]
    }

    /// All steps of `batch` prompts of `len` tokens.
    fn prefill(&self, batch: usize, len: usize) -> Vec<Part> {
        let text = &self.shapes.text;
        let n_rows = batch * len;
        let n_steps = n_rows.div_ceil(self.max_num_tokens) as f64;
        let n_pairs = (batch * len * (len + 1) / 2) as f64;
        let linears = (&text.linears()[..], n_rows as f64 / n_steps);
        vec![
            self.products("prompt products", linears, n_steps),
            self.products("prompt head", (&[text.head()], batch as f64), 1.0),
            Part {
                name: "prompt attention",
                n_bytes: n_rows as f64 * self.kv_bytes(),
                n_flop: attention_flop(text) * n_pairs,
            },
        ]
    }

    /// The tower over `n` pictures of `n_patches`.
    fn tower(&self, n: usize, n_patches: usize) -> Vec<Part> {
        let Some(tower) = &self.shapes.tower else { return Vec::new() };
        let (patches, tokens) = ((n * n_patches) as f64, (n * n_patches / tower.n_merged) as f64);
        vec![
            self.products("tower products", (&tower.patch_linears(), patches), 1.0),
            self.products("merger", (&tower.token_linears(), tokens), 1.0),
            Part { name: "tower attention", n_bytes: 0.0, n_flop: tower_flop(tower, n, n_patches) },
        ]
    }

    fn products(&self, name: &'static str, of: (&[Linear], f64), n_steps: f64) -> Part {
        let (linears, n_rows) = of;
        let n_elements = linears.iter().map(Linear::n_elements).sum::<usize>() as f64;
        let n_bytes = n_elements * self.shapes.weight_dtype.n_bytes() as f64 * n_steps;
        Part { name, n_bytes, n_flop: 2.0 * n_elements * n_rows * n_steps }
    }

    /// Bytes of a token in the cache.
    fn kv_bytes(&self) -> f64 {
        (self.shapes.text.kv_elements() * self.kv_dtype.n_bytes()) as f64
    }
}

/// FLOPs of one query row and one key, over all layers.
fn attention_flop(text: &TextShape) -> f64 {
    (4 * text.n_layers * text.n_heads * text.head_dim) as f64
}

fn tower_flop(tower: &TowerShape, n: usize, n_patches: usize) -> f64 {
    (4 * tower.n_layers * tower.width * n * n_patches * n_patches) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The floors that are known for these shapes at 4.29 TB/s and 753 TFLOP/s.
    #[test]
    fn floors_are_those_worked_out_by_hand() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/shapes/qwen2-vl-7b");
        let shapes = Shapes::read(&folder, DType::Bf16).unwrap();
        let ceilings = Ceilings {
            read_bytes_per_s: 4.29e12,
            copy_bytes_per_s: 4.26e12,
            products: vec![(8192, 753e12)],
        };
        let costs = Costs { shapes: &shapes, kv_dtype: DType::Bf16, max_num_tokens: 16384 };
        let check = |name: &str, (prompt_len, n_patches), expected_ms: f64, bound_by: &str| {
            let row: Row = name.parse().unwrap();
            let load = Load { prompt_len, n_patches };
            let floor = Floor::of(&costs.of(&row, &load), &ceilings);
            let ms = floor.seconds * 1e3;
            assert!((ms / expected_ms - 1.0).abs() < 0.03, "{name}: {ms} ms");
            assert_eq!(floor.bound_by, bound_by, "{name}");
        };
        check("decode-1", (128, 0), 3.3, "decode weights, bytes");
        check("decode-64", (128, 0), 3.5, "decode weights, bytes");
        check("decode-256", (128, 0), 5.5, "decode weights, FLOPs");
        check("decode-64x4096", (4096, 0), 6.85, "decode KV, bytes");
        check("prefill-1x128", (128, 0), 3.3, "prompt products, bytes");
        check("prefill-1x1024", (1024, 0), 18.0, "prompt products, FLOPs");
        check("image-1008", (1315, 5184), 38.2, "prompt products, FLOPs");
        check("images-64x336", (164, 576), 464.0, "decode weights, bytes");
    }
}
