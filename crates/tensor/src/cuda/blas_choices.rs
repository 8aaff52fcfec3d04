//! Which algorithm of cuBLASLt computes which product: asked once, and written to a file where
//! several processes must choose alike.

use super::blas::{Product, Shape};
use super::blas_sys::{Library, said, type_of};
use cudarc::cublaslt::sys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::Path;
use types::{Error, Result};

/// Most choices of a file: GPUs, shapes of models and buckets of rows.
const CHOICES_MAX: usize = 100_000;

/// Choices of algorithms, by GPU, library and shape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GemmChoices(BTreeMap<Key, Algorithm>);

/// What a choice was made for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    gpu: String,
    library_version: usize,
    n: usize,
    k: usize,
    n_rows_max: usize,
    dtype: String,
    result_dtype: String,
    is_added: bool,
    has_bias: bool,
    is_deterministic: bool,
}

/// An algorithm by its attributes, in the library's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Algorithm {
    id: u32,
    tile: u32,
    stages: u32,
    split_k: u32,
    reduction: u32,
    swizzling: u32,
    custom: u32,
    inner_shape: u16,
    cluster_shape: u16,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    algorithm: Algorithm,
}

impl GemmChoices {
    /// The choices that another process has written.
    ///
    /// Errors: the file cannot be read, or is something else.
    pub fn load(path: &Path) -> Result<Self> {
        let unusable = |why: String| Error::invalid(format!("{}: {why}", path.display()));
        let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let lines: Vec<Line> =
            serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        if lines.len() > CHOICES_MAX {
            return Err(unusable(format!("more than {CHOICES_MAX} choices")));
        }
        Ok(Self(lines.into_iter().map(|line| (line.key, line.algorithm)).collect()))
    }

    /// Writes all choices, for others to load; a reader sees the old file or the new one.
    ///
    /// Errors: the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let unwritable =
            |why: String| Error::internal(format!("cannot write {}: {why}", path.display()));
        let line =
            |(key, algorithm): (&Key, &Algorithm)| Line { key: key.clone(), algorithm: *algorithm };
        let lines: Vec<Line> = self.0.iter().map(line).collect();
        let text =
            serde_json::to_vec_pretty(&lines).map_err(|error| unwritable(error.to_string()))?;
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
        written.map_err(|error| unwritable(error.to_string()))
    }

    /// Takes over the choices of `other` that are missing here.
    pub fn extend(&mut self, other: Self) {
        for (key, algorithm) in other.0 {
            self.0.entry(key).or_insert(algorithm);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Algorithm> {
        self.0.get(key).copied()
    }

    pub(super) fn insert(&mut self, key: Key, algorithm: Algorithm) {
        self.0.insert(key, algorithm);
    }
}

impl Key {
    pub(super) fn new(gpu: &str, library: &Library, shape: &Shape, is_deterministic: bool) -> Self {
        Self {
            gpu: gpu.to_owned(),
            library_version: library.version,
            n: shape.n,
            k: shape.k,
            n_rows_max: shape.n_rows,
            dtype: shape.dtype.name().to_owned(),
            result_dtype: shape.result_dtype.name().to_owned(),
            is_added: shape.is_added,
            has_bias: shape.has_bias,
            is_deterministic,
        }
    }
}

use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;

impl Algorithm {
    /// The attributes of what the library proposes.
    pub(super) fn of(raw: &sys::cublasLtMatmulAlgo_t) -> Result<Self> {
        Ok(Self {
            id: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_ID)?,
            tile: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_TILE_ID)?,
            stages: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_STAGES_ID)?,
            split_k: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM)?,
            reduction: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)?,
            swizzling: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING)?,
            custom: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION)?,
            inner_shape: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID)?,
            cluster_shape: get(raw, Attribute::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID)?,
        })
    }

    /// The algorithm with these attributes, and the workspace that it needs for `product`; `None`
    /// if this library has no such algorithm for it.
    pub(super) fn prepare(
        &self,
        library: &Library,
        shape: &Shape,
        product: &Product,
    ) -> Option<(sys::cublasLtMatmulAlgo_t, usize)> {
        let raw = self.rebuild(library, shape)?;
        let mut checked = sys::cublasLtMatmulHeuristicResult_t {
            algo: raw,
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        // SAFETY: all objects are alive.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                library.handle,
                product.description.0,
                product.a.0,
                product.b.0,
                product.c.0,
                product.c.0,
                &raw const raw,
                &raw mut checked,
            )
        };
        let is_usable = status.result().is_ok() && checked.state.result().is_ok();
        is_usable.then_some((raw, checked.workspaceSize))
    }

    fn rebuild(&self, library: &Library, shape: &Shape) -> Option<sys::cublasLtMatmulAlgo_t> {
        let (operand, result) = (type_of(shape.dtype), type_of(shape.result_dtype));
        let mut raw = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        // SAFETY: the handle is alive, and the library fills what it is given.
        let status = unsafe {
            sys::cublasLtMatmulAlgoInit(
                library.handle,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType::CUDA_R_32F,
                operand,
                operand,
                result,
                result,
                i32::try_from(self.id).ok()?,
                &raw mut raw,
            )
        };
        status.result().ok()?;
        // Zero is what every attribute begins with, and some algorithms refuse to be told.
        let numbers = [
            (Attribute::CUBLASLT_ALGO_CONFIG_TILE_ID, self.tile),
            (Attribute::CUBLASLT_ALGO_CONFIG_STAGES_ID, self.stages),
            (Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, self.split_k),
            (Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, self.reduction),
            (Attribute::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, self.swizzling),
            (Attribute::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, self.custom),
        ];
        for (which, value) in numbers.into_iter().filter(|(_, value)| *value != 0) {
            set(&mut raw, which, value)?;
        }
        let shapes = [
            (Attribute::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, self.inner_shape),
            (Attribute::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, self.cluster_shape),
        ];
        for (which, value) in shapes.into_iter().filter(|(_, value)| *value != 0) {
            set(&mut raw, which, value)?;
        }
        Some(raw)
    }
}

fn get<T: Default>(raw: &sys::cublasLtMatmulAlgo_t, which: Attribute) -> Result<T> {
    let mut value = T::default();
    let mut n_written = 0;
    let to = std::ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: the value has as many bytes as are said.
    let status = unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(
            raw,
            which,
            to,
            size_of::<T>(),
            &raw mut n_written,
        )
    };
    said(status.result(), "describe its algorithm")?;
    Ok(value)
}

fn set<T>(raw: &mut sys::cublasLtMatmulAlgo_t, which: Attribute, value: T) -> Option<()> {
    let from = std::ptr::from_ref(&value).cast::<c_void>();
    // SAFETY: the value has as many bytes as are said.
    let status =
        unsafe { sys::cublasLtMatmulAlgoConfigSetAttribute(raw, which, from, size_of::<T>()) };
    status.result().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key {
            gpu: "a GPU".to_owned(),
            library_version: 130_100,
            n,
            k: 8,
            n_rows_max: 64,
            dtype: "bf16".to_owned(),
            result_dtype: "f32".to_owned(),
            is_added: false,
            has_bias: true,
            is_deterministic: false,
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut choices = GemmChoices::default();
        for n in 0..3 {
            let algorithm = Algorithm { id: n as u32, cluster_shape: 7, ..Algorithm::default() };
            choices.insert(key(n), algorithm);
        }
        let name = format!("gemm-choices-{}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        choices.save(&path).unwrap();
        let loaded = GemmChoices::load(&path);
        std::fs::write(&path, b"[{}]").unwrap();
        let broken = GemmChoices::load(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(loaded.unwrap(), choices);
        assert!(broken.is_err());
        assert!(GemmChoices::load(&path).is_err(), "there is no such file any more");
    }

    #[test]
    fn own_choices_stay() {
        let mut own = GemmChoices::default();
        own.insert(key(1), Algorithm { id: 1, ..Algorithm::default() });
        let mut other = GemmChoices::default();
        for n in [1, 2] {
            other.insert(key(n), Algorithm { id: 9, ..Algorithm::default() });
        }
        own.extend(other);
        let id = |n| own.get(&key(n)).unwrap().id;
        assert_eq!((id(1), id(2), own.len()), (1, 9, 2));
    }
}
