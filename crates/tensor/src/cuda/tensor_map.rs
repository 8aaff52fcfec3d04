//! What Hopper's copy engine is told of a matrix: where it lies, and the boxes it is copied in.

use super::error::checked;
use crate::dtype::DType;
use cudarc::driver::sys;
use std::ffi::c_void;
use types::{Error, Result};

/// A description that kernels take by value.
#[derive(Debug)]
pub(crate) struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// Of a matrix `[n_rows, n_columns]` of halves in C order, in boxes of `box_rows` rows of 128
    /// bytes, swizzled; what a box has beyond the matrix becomes zeros.
    ///
    /// Errors: an address or rows that are no multiples of 16 bytes.
    pub(crate) fn of_halves(
        address: u64,
        dtype: DType,
        (n_rows, n_columns): (usize, usize),
        box_rows: usize,
    ) -> Result<Self> {
        let dtype = match dtype {
            DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::F32 | DType::U8 | DType::U32 => {
                return Err(Error::internal("the copy engine is given halves"));
            }
        };
        const BOX_COLUMNS: u32 = 64;
        let sizes = [n_columns as u64, n_rows as u64];
        let row_bytes = [n_columns as u64 * 2];
        let (boxes, steps) = ([BOX_COLUMNS, box_rows as u32], [1, 1]);
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: all arrays have the length of the rank, and are read before the call returns.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                dtype,
                2,
                address as *mut c_void,
                sizes.as_ptr(),
                row_bytes.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        checked(status.result(), "describe a matrix to its copy engine")?;
        Ok(Self(map))
    }

    /// As kernels take it.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0.opaque)
    }
}
