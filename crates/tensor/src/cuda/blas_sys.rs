//! cuBLASLt's objects, each owned by a value here; its library is opened when it is first needed.

use crate::dtype::DType;
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use std::ffi::c_void;
use types::{Error, ErrorKind, Result};

/// A handle of the library; may be used from any thread.
pub(super) struct Library {
    pub(super) handle: sys::cublasLtHandle_t,
    /// As the library counts: major · 10000 + minor · 100 + patch.
    pub(super) version: usize,
}

// SAFETY: the library's handle may be used from several threads at a time.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens the library for the GPU whose context this thread has bound.
    pub(super) fn open() -> Result<Self> {
        // SAFETY: only tries to open the library.
        if !unsafe { sys::is_culib_present() } {
            let words = "the CUDA library libcublasLt is not installed, or not where the system \
                         looks for libraries (LD_LIBRARY_PATH)";
            return Err(Error::new(ErrorKind::Unavailable, words));
        }
        let handle = said(result::create_handle(), "start")?;
        // SAFETY: the library is there.
        Ok(Self { handle, version: unsafe { sys::cublasLtGetVersion() } })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made in `open`, destroyed once. A refusal at this point helps nobody.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// The library's answer in our words.
pub(super) fn said<T>(outcome: std::result::Result<T, CublasError>, tried: &str) -> Result<T> {
    outcome.map_err(|error| Error::internal(format!("cuBLASLt could not {tried}: {error}")))
}

/// The library's name of a type of floats.
pub(super) fn type_of(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::U8 | DType::U32 => unreachable!("products are of floats"),
    }
}

/// The shape of a matrix in column-major order.
pub(super) struct Layout(pub(super) sys::cublasLtMatrixLayout_t);

impl Layout {
    pub(super) fn new(dtype: DType, n_rows: usize, n_columns: usize) -> Result<Self> {
        let (rows, columns) = (n_rows as u64, n_columns as u64);
        let raw = result::create_matrix_layout(type_of(dtype), rows, columns, n_rows as i64);
        Ok(Self(said(raw, "describe a matrix")?))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What is computed: `Aᵀ B` with f32 sums, and a bias for each row of the result.
pub(super) struct Description(pub(super) sys::cublasLtMatmulDesc_t);

impl Description {
    pub(super) fn new(bias: Option<(u64, DType)>) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let raw = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F);
        let description = Self(said(raw, "describe a product")?);
        // CUBLAS_OP_T
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &1_i32)?;
        if let Some((address, dtype)) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address)?;
            let dtype = type_of(dtype) as u32;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &dtype)?;
        }
        Ok(description)
    }

    fn set<T>(&self, which: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        let (from, n_bytes) = (std::ptr::from_ref(value).cast::<c_void>(), size_of::<T>());
        // SAFETY: the value has that many bytes, and is copied.
        let set = unsafe { result::set_matmul_desc_attribute(self.0, which, from, n_bytes) };
        said(set, "describe a product")
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What an algorithm may use.
pub(super) struct Preference(pub(super) sys::cublasLtMatmulPreference_t);

impl Preference {
    /// At most `workspace_bytes`; all addresses are multiples of `alignment`; sums are cut over
    /// several blocks only where `may_split`.
    pub(super) fn new(workspace_bytes: usize, alignment: u32, may_split: bool) -> Result<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(said(result::create_matmul_pref(), "be told preferences")?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes)?;
        for which in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(which, &alignment)?;
        }
        if !may_split {
            // CUBLASLT_REDUCTION_SCHEME_NONE
            preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0_u32)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, which: sys::cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<()> {
        let (from, n_bytes) = (std::ptr::from_ref(value).cast::<c_void>(), size_of::<T>());
        // SAFETY: the value has that many bytes, and is copied.
        let set = unsafe { result::set_matmul_pref_attribute(self.0, which, from, n_bytes) };
        said(set, "be told preferences")
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::Library;
    use crate::cuda::{Context, driver_version, is_blas_installed};
    use types::ErrorKind;

    /// Where the libraries are found by `LD_LIBRARY_PATH` alone, this runs again without it.
    #[test]
    fn cuda_libraries_that_are_absent_are_said_in_words() {
        const PATH: &str = "LD_LIBRARY_PATH";
        if is_blas_installed() && std::env::var_os(PATH).is_some() {
            let own = "cuda_libraries_that_are_absent_are_said_in_words";
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let again = again.arg(own).env_remove(PATH).output().unwrap();
            let said = String::from_utf8_lossy(&again.stdout);
            assert!(again.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        if is_blas_installed() {
            eprintln!("skipped: libcublasLt is where the system always looks");
        } else {
            let error = Library::open().err().unwrap();
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert!(error.message.contains("libcublasLt is not installed"), "{error}");
        }
        if kernels::are_built_in() && driver_version().is_none() {
            let error = Context::open(0).err().unwrap();
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert!(error.message.contains("NVIDIA driver (libcuda) is not installed"), "{error}");
        }
    }
}
