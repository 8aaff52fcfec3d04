//! Products by cuBLASLt. Algorithms are never timed here: the library's proposal is taken, or the
//! one that was loaded.

use super::blas_choices::{Algorithm, Key};
use super::blas_sys::{Description, Layout, Library, Preference, said};
use super::{Context, Cuda, GemmChoices, get_or_try_init};
use crate::arena::Arena;
use crate::dtype::DType;
use cudarc::cublaslt::{result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use types::{Error, Result};

/// Memory in which algorithms keep sums; NVIDIA's recommendation for this generation.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Counters of blocks, zeros between operations.
const COUNTERS: usize = 4096;
/// All operands start at multiples of this many bytes.
pub(crate) const ALIGNMENT: u64 = 16;
/// Rows for which the algorithm of a deterministic device is chosen; it serves any number.
const DETERMINISTIC_ROWS: usize = 1024;
/// Rows from which on one algorithm serves up to twice as many.
const ROWS_MAX: usize = 16384;

/// A lane's share of the library.
#[derive(Default)]
pub(super) struct Blas {
    library: OnceLock<Library>,
    workspace: OnceLock<Workspace>,
    chosen: Mutex<HashMap<Shape, Option<sys::cublasLtMatmulAlgo_t>>>,
}

/// Memory that one operation of a lane at a time may use as it likes.
#[derive(Debug)]
pub(crate) struct Workspace {
    arena: Arc<Arena>,
}

impl Workspace {
    /// Address of the first of [`Self::N_BYTES`].
    pub(crate) fn address(&self) -> u64 {
        self.arena.base() as u64
    }

    /// Address of the first of [`Self::N_COUNTERS`] u32, which are left as they are found: zeros.
    pub(crate) fn counters(&self) -> u64 {
        self.address() + WORKSPACE_BYTES as u64
    }

    /// Its size, without the counters.
    pub(crate) const N_BYTES: usize = WORKSPACE_BYTES;
    /// How many counters there are.
    pub(crate) const N_COUNTERS: usize = COUNTERS;
}

/// `y = x Wᵀ + b` or `y += x Wᵀ + b`, with addresses; all matrices are in C order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    /// `[n_rows, k]`.
    pub(crate) x: u64,
    /// `[n, k]`.
    pub(crate) w: u64,
    /// `[n]` in the type of the result.
    pub(crate) bias: Option<u64>,
    /// `[n_rows, n]`.
    pub(crate) y: u64,
    /// Sizes and types.
    pub(crate) shape: Shape,
}

/// What decides on the algorithm of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) n_rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Of x and the weight.
    pub(crate) dtype: DType,
    pub(crate) result_dtype: DType,
    pub(crate) is_added: bool,
    pub(crate) has_bias: bool,
}

impl Shape {
    /// The shape for whose algorithm is asked: the most rows that share it.
    fn bucket(self, is_deterministic: bool) -> Self {
        let n_rows = match self.n_rows {
            _ if is_deterministic => DETERMINISTIC_ROWS,
            n @ ..=512 => n.next_multiple_of(64),
            n @ ..=2048 => n.next_multiple_of(256),
            n @ ..=ROWS_MAX => n.next_multiple_of(1024),
            // Never one that was chosen for fewer rows: it may need more memory for its sums.
            n => n.next_power_of_two(),
        };
        Self { n_rows, ..self }
    }

    /// Its name in a trace, and the bytes that it must move.
    fn described(&self) -> (String, u64) {
        let Self { n_rows, n, k, dtype, result_dtype, is_added, .. } = *self;
        let n_times = if is_added { 2 } else { 1 };
        let n_bytes =
            (n * k + n_rows * k) * dtype.n_bytes() + n_times * n_rows * n * result_dtype.n_bytes();
        let added = if is_added { ", added" } else { "" };
        (format!("cuBLASLt {n_rows} rows x [{n}, {k}]{added}"), n_bytes as u64)
    }
}

/// The library's description of a product. Its matrices are column by column, so it computes
/// `yᵀ = W xᵀ`: the weight is what it calls A (transposed), x is B.
pub(super) struct Product {
    pub(super) description: Description,
    pub(super) a: Layout,
    pub(super) b: Layout,
    pub(super) c: Layout,
}

impl Product {
    fn new(shape: &Shape, bias: Option<u64>) -> Result<Self> {
        let bias = bias.map(|address| (address, shape.result_dtype));
        Ok(Self {
            description: Description::new(bias)?,
            a: Layout::new(shape.dtype, shape.k, shape.n)?,
            b: Layout::new(shape.dtype, shape.k, shape.n_rows)?,
            c: Layout::new(shape.result_dtype, shape.n, shape.n_rows)?,
        })
    }
}

impl Blas {
    fn library(&self) -> Result<&Library> {
        get_or_try_init(&self.library, Library::open)
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<Shape, Option<sys::cublasLtMatmulAlgo_t>>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cuda {
    /// Memory for whichever operation comes next on this lane; taken once, so that steps can be
    /// recorded.
    ///
    /// Errors: the GPU has not that much memory.
    pub(crate) fn workspace(&self) -> Result<&Workspace> {
        get_or_try_init(&self.blas.workspace, || {
            let n_bytes = WORKSPACE_BYTES + COUNTERS * size_of::<u32>();
            Ok(Workspace { arena: self.context().arena(n_bytes)? })
        })
    }

    /// Computes a product; `false`, and nothing done, if the library has no algorithm for it.
    /// All addresses are multiples of [`ALIGNMENT`].
    ///
    /// Errors: the library is not installed, or refuses.
    pub(crate) fn gemm(&self, gemm: &Gemm) -> Result<bool> {
        self.context().bind()?;
        let workspace = self.workspace()?;
        let Some(algorithm) = self.algorithm(gemm)? else {
            return Ok(false);
        };
        let product = Product::new(&gemm.shape, gemm.bias)?;
        let (alpha, beta) = (1.0_f32, if gemm.shape.is_added { 1.0_f32 } else { 0.0 });
        let y = gemm.y as *mut c_void;
        let library = self.blas.library()?.handle;
        let multiply = || {
            // SAFETY: the addresses reach as far as the shape says, which the caller has checked;
            // the workspace is this lane's, and so is the stream; the factors are read before it
            // returns.
            let outcome = unsafe {
                result::matmul(
                    library,
                    product.description.0,
                    (&raw const alpha).cast(),
                    (&raw const beta).cast(),
                    gemm.w as *const c_void,
                    product.a.0,
                    gemm.x as *const c_void,
                    product.b.0,
                    y,
                    product.c.0,
                    y,
                    product.c.0,
                    &raw const algorithm,
                    workspace.address() as *mut c_void,
                    WORKSPACE_BYTES,
                    self.stream().raw().cast(),
                )
            };
            said(outcome, "multiply").map_err(|error| {
                let message = format!("{} ({})", error.message, gemm.shape.described().0);
                Error { message, ..error }
            })
        };
        self.traced(|| gemm.shape.described(), multiply)?;
        Ok(true)
    }

    /// The choices made and loaded so far for this GPU, on all its lanes.
    pub fn gemm_choices(&self) -> GemmChoices {
        self.context().gemm_choices().clone()
    }

    /// Uses `choices` wherever none has been made yet. To be called before the first product.
    pub fn use_gemm_choices(&self, choices: GemmChoices) {
        self.context().gemm_choices().extend(choices);
    }

    fn algorithm(&self, gemm: &Gemm) -> Result<Option<sys::cublasLtMatmulAlgo_t>> {
        let shape = gemm.shape.bucket(self.options().deterministic);
        if let Some(algorithm) = self.blas.chosen().get(&shape) {
            return Ok(*algorithm);
        }
        let algorithm = self.choose(&shape, gemm.bias)?;
        self.blas.chosen().insert(shape, algorithm);
        Ok(algorithm)
    }

    /// The loaded choice where it fits, else the library's.
    fn choose(
        &self,
        shape: &Shape,
        bias: Option<u64>,
    ) -> Result<Option<sys::cublasLtMatmulAlgo_t>> {
        let library = self.blas.library()?;
        let product = Product::new(shape, bias)?;
        let key = Key::new(self.context().name(), library, shape, self.options().deterministic);
        let prepare = |algorithm: Algorithm| {
            let prepared = algorithm.prepare(library, shape, &product);
            prepared.filter(|(_, n_bytes)| *n_bytes <= WORKSPACE_BYTES).map(|(raw, _)| raw)
        };
        let loaded = self.context().gemm_choices().get(&key);
        if let Some(raw) = loaded.and_then(prepare) {
            return Ok(Some(raw));
        }
        let Some(proposed) = self.propose(&product)? else {
            return Ok(None);
        };
        // What others will rebuild from its attributes is what is used here too.
        let algorithm = Algorithm::of(&proposed)?;
        let Some(raw) = prepare(algorithm) else {
            return Ok(Some(proposed));
        };
        self.context().gemm_choices().insert(key, algorithm);
        Ok(Some(raw))
    }

    /// The library's own choice.
    fn propose(&self, product: &Product) -> Result<Option<sys::cublasLtMatmulAlgo_t>> {
        let may_split = !self.options().deterministic;
        let preference = Preference::new(WORKSPACE_BYTES, ALIGNMENT as u32, may_split)?;
        // SAFETY: all objects are alive.
        let proposed = unsafe {
            result::get_matmul_algo_heuristic(
                self.blas.library()?.handle,
                product.description.0,
                product.a.0,
                product.b.0,
                product.c.0,
                product.c.0,
                preference.0,
            )
        };
        match proposed {
            Ok(proposed) => Ok(Some(proposed.algo)),
            Err(error) if error.0 == sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => Ok(None),
            Err(error) => said(Err(error), "choose an algorithm"),
        }
    }
}

impl Context {
    fn gemm_choices(&self) -> MutexGuard<'_, GemmChoices> {
        self.gemm_choices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
