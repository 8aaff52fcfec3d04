//! A tensor: a shape, an element type, and contiguous memory in C order.

use crate::buffer::Buffer;
use crate::dtype::{DType, Element};

/// A contiguous array on a device (host memory is the only place there is yet).
#[derive(Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    buffer: Buffer,
}

impl Tensor {
    /// A tensor whose elements are unspecified (initialised, but with anything).
    pub fn scratch<T: Element>(shape: &[usize]) -> Self {
        let n_bytes = shape.iter().product::<usize>() * size_of::<T>();
        Self { shape: shape.to_vec(), dtype: T::DTYPE, buffer: Buffer::of(n_bytes) }
    }

    /// A tensor of zeros.
    pub fn zeros<T: Element>(shape: &[usize]) -> Self {
        let mut tensor = Self::scratch::<T>(shape);
        tensor.as_mut_slice::<T>().fill(T::zeroed());
        tensor
    }

    /// A copy of `elements`, which must be as many as the shape says.
    pub fn from_slice<T: Element>(shape: &[usize], elements: &[T]) -> Self {
        let mut tensor = Self::scratch::<T>(shape);
        tensor.as_mut_slice().copy_from_slice(elements);
        tensor
    }

    /// The rows of all `parts`, f32 `[_, row_len]`, in order; a single part is not copied.
    pub fn concatenated(mut parts: Vec<Self>, row_len: usize) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let n_rows = parts.iter().map(Self::n_rows).sum();
        let mut whole = Self::scratch::<f32>(&[n_rows, row_len]);
        let mut rest = whole.as_mut_slice::<f32>();
        for part in &parts {
            let (place, behind) = rest.split_at_mut(part.as_f32().len());
            place.copy_from_slice(part.as_f32());
            rest = behind;
        }
        whole
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Product of all dimensions but the last; a vector is one row.
    pub fn n_rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Size of the last dimension.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The same elements under another shape of the same size.
    #[must_use]
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.shape.iter().product::<usize>(), shape.iter().product::<usize>());
        self.shape = shape.to_vec();
        self
    }

    /// All elements; panics if `T` is not the tensor's element type.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor was read as another type than its own");
        bytemuck::cast_slice(self.buffer.bytes())
    }

    /// All elements, to write; panics if `T` is not the tensor's element type.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor was written as another type than its own");
        bytemuck::cast_slice_mut(self.buffer.bytes_mut())
    }

    /// All elements of an f32 tensor.
    pub fn as_f32(&self) -> &[f32] {
        self.as_slice()
    }

    /// Row `idx` of an f32 tensor.
    pub fn row(&self, idx: usize) -> &[f32] {
        let len = self.row_len();
        &self.as_f32()[idx * len..(idx + 1) * len]
    }
}
