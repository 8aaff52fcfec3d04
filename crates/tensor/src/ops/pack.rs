//! Small arrays of numbers that go to a device together, in one copy.

use crate::cuda::Cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::slab::SlabRange;
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;
use types::{Error, Result};

/// Elements that a part is rounded up to, so that every part starts aligned.
const ALIGNMENT: usize = 64;

/// Arrays of u32 on their way to a device.
#[derive(Debug, Default)]
pub struct Pack {
    words: Vec<u32>,
}

/// Where an array lies in its pack, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part(Range<usize>);

/// A pack on its device.
#[derive(Debug)]
pub struct Packed {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Host(Vec<u32>),
    Gpu(Arc<SlabRange>),
}

impl Pack {
    /// Adds an array.
    pub fn add(&mut self, words: impl IntoIterator<Item = u32>) -> Part {
        let start = self.words.len();
        self.words.extend(words);
        let end = self.words.len();
        self.words.resize(end.next_multiple_of(ALIGNMENT), 0);
        Part(start..end)
    }

    /// Adds an array in the place of one of `n`, so that what follows lies where it would behind
    /// `n`; the rest is `filler`.
    pub fn add_padded(
        &mut self,
        words: impl IntoIterator<Item = u32>,
        n: usize,
        filler: u32,
    ) -> Part {
        let start = self.words.len();
        self.words.extend(words);
        assert!(self.words.len() <= start + n, "an array is longer than its place");
        self.words.resize(start + n, filler);
        self.words.resize((start + n).next_multiple_of(ALIGNMENT), 0);
        Part(start..start + n)
    }

    /// Adds the last array: at the start of a place for `n`, of which only what there is is copied.
    pub fn add_last(&mut self, words: impl IntoIterator<Item = u32>, n: usize) -> Part {
        let start = self.words.len();
        self.words.extend(words);
        assert!(self.words.len() <= start + n, "an array is longer than its place");
        Part(start..start + n)
    }

    /// All words, in order, as they are copied.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Copies all words to a range of a GPU's memory, in order with everything else there.
    ///
    /// Errors: the range is too small; the GPU fails.
    pub fn put(&self, cuda: &Cuda, range: &SlabRange) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        if bytes.len() > range.n_bytes() {
            return Err(Error::internal("a pack does not fit into its memory"));
        }
        cuda.upload(bytes, range.address())
    }

    /// Copies all to the device's scratch memory.
    ///
    /// Errors: the device has no memory left, or fails.
    pub fn to_device(self, device: &Device) -> Result<Packed> {
        let place = match device {
            Device::Cpu(_) => Place::Host(self.words),
            Device::Cuda(cuda) => {
                let range = cuda.scratch(size_of_val(&self.words[..]))?;
                self.put(cuda, &range)?;
                Place::Gpu(Arc::new(range))
            }
        };
        Ok(Packed { place })
    }
}

impl Packed {
    /// A pack whose words lie at the start of a GPU's `range` already, or will when they are used.
    pub fn in_place(range: &Arc<SlabRange>) -> Self {
        Self { place: Place::Gpu(Arc::clone(range)) }
    }

    /// One array, under the shape given.
    ///
    /// Errors: it has another size.
    pub fn tensor(&self, part: &Part, shape: &[usize]) -> Result<Tensor> {
        let Part(range) = part;
        match &self.place {
            Place::Host(words) => Ok(Tensor::from_slice(shape, &words[range.clone()])),
            Place::Gpu(memory) => {
                Tensor::within(memory, range.start * size_of::<u32>(), DType::U32, shape)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_as_they_went() {
        let mut pack = Pack::default();
        let first = pack.add([1, 2, 3]);
        let padded = pack.add_padded([4], 2, 9);
        let last = pack.add([5]);
        assert_eq!(pack.words().len(), 3 * ALIGNMENT);
        let packed = pack.to_device(&Device::all_cpus()).unwrap();
        let get = |part, n| packed.tensor(part, &[n]).unwrap().as_slice::<u32>().to_vec();
        assert_eq!(get(&first, 3), [1, 2, 3]);
        assert_eq!(get(&padded, 2), [4, 9]);
        assert_eq!(get(&last, 1), [5]);
    }
}
