//! Reads what the reference implementation said (`tests/goldens/README.md` describes the files).

use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the reference said about a model folder.
pub(crate) struct Golden {
    /// The checkpoint that `index` is about.
    pub(crate) checkpoint: PathBuf,
    /// `model/index*.json`.
    pub(crate) index: Value,
    /// The tensors it refers to.
    pub(crate) tensors: Tensors,
}

/// Tensors by name: shape and f32 elements.
pub(crate) struct Tensors(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Golden {
    /// Reads `model/<index>` of `family`.
    pub(crate) fn read(family: &str, index: &str) -> Self {
        let path = golden_root().join(family).join("model").join(index);
        let index = read_json(&path);
        let beside = |name: &str| path.parent().unwrap().join(index[name].as_str().unwrap());
        let checkpoint = beside("checkpoint");
        let tensors = Tensors::read(&beside("tensors_file"));
        Self { checkpoint, tensors, index }
    }

    /// The prompts.
    pub(crate) fn prompts(&self) -> &[Value] {
        self.index["prompts"].as_array().unwrap()
    }
}

impl Tensors {
    /// Reads a safetensors file of f32 tensors.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let data = &bytes[8 + header_len..];
        let entries =
            header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        let tensors = entries.map(|(name, entry)| {
            assert_eq!(entry["dtype"], "F32");
            let [start, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            let elements = data[start..end].chunks(4);
            let elements = elements.map(|four| f32::from_le_bytes(four.try_into().unwrap()));
            (name.clone(), (numbers(&entry["shape"]), elements.collect()))
        });
        Self(tensors.collect())
    }

    /// Shape and elements of the tensor that a reference names.
    pub(crate) fn get(&self, reference: &Value) -> &(Vec<usize>, Vec<f32>) {
        &self.0[reference.as_str().unwrap()]
    }
}

/// Draws a picture: its width, height and RGB bytes.
pub(crate) fn draw(picture: &Value) -> media::Image {
    let side = |name: &str| picture[name].as_u64().unwrap() as u32;
    let (width, height) = (side("width"), side("height"));
    let rgb = match picture["kind"].as_str().unwrap() {
        "noise" => noise(picture["seed"].as_u64().unwrap(), (width * height * 3) as usize),
        "smooth" => smooth(&picture["waves"], width, height),
        other => panic!("no picture of kind {other}"),
    };
    media::Image { width, height, rgb }
}

fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn smooth(waves: &Value, width: u32, height: u32) -> Vec<u8> {
    let waves: Vec<Vec<usize>> = waves.as_array().unwrap().iter().map(numbers).collect();
    let mut rgb = Vec::new();
    for y in 0..height as usize {
        for x in 0..width as usize {
            rgb.extend(waves.iter().map(|wave| {
                let t = (wave[0] * x + wave[1] * y + wave[2]) % 512;
                if t < 256 { t as u8 } else { (511 - t) as u8 }
            }));
        }
    }
    rgb
}

/// A list of non-negative numbers.
pub(crate) fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as usize).collect()
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// `tests/goldens` of the repository.
pub(crate) fn golden_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

/// Compares with absolute plus relative tolerance.
pub(crate) fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        let bound = tolerance + tolerance * expected.abs();
        assert!((got - expected).abs() <= bound, "{what}[{idx}]: {got}, not {expected}");
    }
}
