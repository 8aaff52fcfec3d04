//! A tensor: a shape, an element type, and contiguous memory in C order.

use crate::buffer::Buffer;
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::slab::{Slab, SlabRange};
use std::sync::Arc;
use types::{Error, Result};

/// A contiguous array in the host's memory or a GPU's.
#[derive(Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Host(Buffer),
    /// The range is held until the last tensor in it is dropped.
    Gpu {
        address: u64,
        _owner: Arc<SlabRange>,
    },
}

impl Tensor {
    /// A tensor in host memory whose elements are unspecified (initialised, but with anything).
    pub fn scratch<T: Element>(shape: &[usize]) -> Self {
        Self::on_host(T::DTYPE, shape)
    }

    fn on_host(dtype: DType, shape: &[usize]) -> Self {
        let n_bytes = shape.iter().product::<usize>() * dtype.n_bytes();
        Self { shape: shape.to_vec(), dtype, storage: Storage::Host(Buffer::of(n_bytes)) }
    }

    /// A tensor on a device whose elements are unspecified.
    ///
    /// Errors: the device has no memory left.
    pub fn scratch_on(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let cuda = match device {
            Device::Cpu(_) => return Ok(Self::on_host(dtype, shape)),
            Device::Cuda(cuda) => cuda,
        };
        let range = cuda.scratch(shape.iter().product::<usize>() * dtype.n_bytes())?;
        let storage = Storage::Gpu { address: range.address(), _owner: Arc::new(range) };
        Ok(Self { shape: shape.to_vec(), dtype, storage })
    }

    /// A tensor over part of a range of a GPU's memory, from byte `offset` on. Who may write it
    /// when is for those to say who share the range.
    ///
    /// Errors: the range is not that large, or the host's.
    pub fn within(
        range: &Arc<SlabRange>,
        offset: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self> {
        let n_bytes = shape.iter().product::<usize>() * dtype.n_bytes();
        if range.slab().arena().is_on_host() || offset + n_bytes > range.n_bytes() {
            return Err(Error::internal("a tensor does not fit into its memory"));
        }
        let address = range.address() + offset as u64;
        let storage = Storage::Gpu { address, _owner: Arc::clone(range) };
        Ok(Self { shape: shape.to_vec(), dtype, storage })
    }

    /// A copy on `device`, in scratch memory.
    ///
    /// Errors: the device has no memory left, or fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let copy = Self::scratch_on(device, self.dtype, &self.shape)?;
        self.copy_to(device, copy)
    }

    /// The same on `device`, to live as long as a model: in an allocation of its own.
    ///
    /// Errors: the device has no memory left, or fails.
    pub fn to_device_for_good(self, device: &Device) -> Result<Self> {
        let copy = match device {
            Device::Cpu(_) => return Ok(self),
            Device::Cuda(_) => {
                let slab = Slab::new(device.arena(self.n_bytes().next_multiple_of(256))?);
                let range = slab.alloc(self.n_bytes());
                let range = range.ok_or_else(|| Error::internal("an arena is too small"))?;
                Self::within(&Arc::new(range), 0, self.dtype, &self.shape)?
            }
        };
        self.copy_to(device, copy)
    }

    /// A copy in host memory; waits for the device.
    ///
    /// Errors: the device fails.
    pub fn to_host(&self, device: &Device) -> Result<Self> {
        let mut copy = Self::on_host(self.dtype, &self.shape);
        let (Storage::Gpu { address, .. }, Device::Cuda(cuda)) = (&self.storage, device) else {
            return self.copy_to(device, copy);
        };
        cuda.download(*address, copy.bytes_mut())?;
        Ok(copy)
    }

    /// Copies all elements into `to`, which has the same shape.
    fn copy_to(&self, device: &Device, mut to: Self) -> Result<Self> {
        match (&self.storage, &to.storage, device) {
            (Storage::Host(_), Storage::Host(_), _) => to.bytes_mut().copy_from_slice(self.bytes()),
            (Storage::Host(_), Storage::Gpu { address, .. }, Device::Cuda(cuda)) => {
                cuda.upload(self.bytes(), *address)?;
            }
            (
                Storage::Gpu { address: from, .. },
                Storage::Gpu { address: to, .. },
                Device::Cuda(cuda),
            ) => cuda.copy(*from, *to, self.n_bytes())?,
            _ => return Err(Error::internal("a tensor of a GPU was copied by the processor")),
        }
        Ok(to)
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

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all elements.
    pub fn n_bytes(&self) -> usize {
        self.n_elements() * self.dtype.n_bytes()
    }

    /// Whether the host can read it.
    pub fn is_on_host(&self) -> bool {
        matches!(self.storage, Storage::Host(_))
    }

    /// Address of the first element on the GPU; panics if the tensor is the host's.
    pub fn address(&self) -> u64 {
        match self.storage {
            Storage::Gpu { address, .. } => address,
            Storage::Host(_) => panic!("a tensor of the host was given to a GPU"),
        }
    }

    /// All elements of a tensor in host memory; panics if `T` is not its element type.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor was read as another type than its own");
        bytemuck::cast_slice(self.bytes())
    }

    /// All elements of a tensor in host memory, to write; panics if `T` is not its element type.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor was written as another type than its own");
        bytemuck::cast_slice_mut(self.bytes_mut())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Host(buffer) => buffer.bytes(),
            Storage::Gpu { .. } => panic!("a tensor of a GPU was read by the processor"),
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Host(buffer) => buffer.bytes_mut(),
            Storage::Gpu { .. } => panic!("a tensor of a GPU was written by the processor"),
        }
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
