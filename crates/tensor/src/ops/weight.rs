//! Weights in the form that products read.
//!
//! Contract. Matrices `[n, k]` in f32, bf16 or f16, as checkpoints store them; several that share
//! their input become one weight. The processor has panels of sixteen outputs `[n/16][k][16]` of
//! the same type, a GPU rows `[n, k]` in its compute type: widened exactly, narrowed to the
//! nearest.

use super::misuse;
use super::tile::n_panels;
use super::weight_cuda::GpuWeight;
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::simd::{LANES, Loadable};
use crate::tensor::Tensor;
use crate::threads::Threads;
use half::{bf16, f16};
use std::borrow::Cow;
use types::Result;

/// A borrowed matrix as a checkpoint stores it: C order, any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Element type.
    pub dtype: DType,
    /// Rows (outputs of a linear layer).
    pub n_rows: usize,
    /// Columns (its inputs).
    pub n_columns: usize,
    /// The elements.
    pub bytes: Elements<'a>,
}

/// Where the elements of a matrix are, little endian.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// All of them.
    All(&'a [u8]),
    /// A block of `period` bytes again and again, from byte `start` of it on: what stands in for a
    /// checkpoint. `bytes` go on behind the first period for at least a row.
    Repeated {
        /// The block, and its beginning again.
        bytes: &'a [u8],
        /// Bytes after which it repeats itself.
        period: usize,
        /// Where in the block the matrix begins.
        start: usize,
    },
}

impl<'a> From<&'a [u8]> for Elements<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::All(bytes)
    }
}

impl<'a> Elements<'a> {
    /// The first `n_bytes` bytes; panics if there are not as many.
    pub fn first(&self, n_bytes: usize) -> Cow<'a, [u8]> {
        match *self {
            Self::All(bytes) => Cow::Borrowed(&bytes[..n_bytes]),
            Self::Repeated { bytes, period, start } => {
                let block = bytes[..period].iter().cycle();
                Cow::Owned(block.skip(start).take(n_bytes).copied().collect())
            }
        }
    }
}

impl<'a> Matrix<'a> {
    fn row_bytes(&self) -> usize {
        self.n_columns * self.dtype.n_bytes()
    }

    /// The bytes of row `idx`.
    pub(super) fn row(&self, idx: usize) -> &'a [u8] {
        let n_bytes = self.row_bytes();
        match self.bytes {
            Elements::All(bytes) => &bytes[idx * n_bytes..][..n_bytes],
            Elements::Repeated { bytes, period, start } => {
                &bytes[(start + idx * n_bytes) % period..][..n_bytes]
            }
        }
    }

    /// Whether there are as many elements as the sizes say.
    fn is_whole(&self) -> bool {
        match self.bytes {
            Elements::All(bytes) => bytes.len() == self.n_rows * self.row_bytes(),
            Elements::Repeated { bytes, period, .. } => {
                period > 0 && bytes.len() >= period + self.row_bytes()
            }
        }
    }
}

/// How several matrices share one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// One below the other (query, key and value in one product).
    Stacked,
    /// Two of equal shape, sixteen rows of each in turn (gate and up of a gated MLP).
    Alternating,
}

/// A weight where its device wants it, with its bias.
#[derive(Debug)]
pub struct Weight {
    storage: Storage,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) arrangement: Arrangement,
}

#[derive(Debug)]
enum Storage {
    Host(Panels),
    Gpu(GpuWeight),
}

/// A weight of the processor.
#[derive(Debug)]
pub(super) struct Panels {
    /// `[n_panels, k, 16]`; rows beyond a matrix's last are zeros.
    pub(super) panels: Tensor,
    /// `[n_panels * 16]`, zeros where there is no bias.
    pub(super) bias: Tensor,
}

impl Weight {
    /// Repacks matrices with the same number of columns; `biases` are empty or one per matrix, f32.
    ///
    /// For the processor, matrices of different types become f32, which holds all of them exactly.
    /// To a GPU the elements may still be on their way when this returns; whatever is given to the
    /// same device from then on sees them.
    /// Errors: shapes that do not fit; the device has no memory left, or fails.
    pub fn pack(
        device: &Device,
        matrices: &[Matrix<'_>],
        biases: &[Vec<f32>],
        arrangement: Arrangement,
    ) -> Result<Self> {
        check_pack(matrices, biases, arrangement)?;
        let (k, n) = (matrices[0].n_columns, matrices.iter().map(|matrix| matrix.n_rows).sum());
        let source = Source { matrices, biases, places: places(matrices, arrangement), n, k };
        let storage = match device {
            Device::Cpu(threads) => Storage::Host(source.panels(threads)?),
            Device::Cuda(cuda) => Storage::Gpu(GpuWeight::upload(cuda, &source)?),
        };
        Ok(Self { storage, n, k, arrangement })
    }

    /// Outputs, both of a gated pair counted.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match &self.storage {
            Storage::Host(host) => host.panels.dtype(),
            Storage::Gpu(gpu) => gpu.rows.dtype(),
        }
    }

    /// Address of the first of the rows `[n, k]` on the GPU; panics if the weight is the
    /// processor's.
    pub fn address(&self) -> u64 {
        self.gpu().rows.address()
    }

    /// Panics if the weight is a GPU's.
    pub(super) fn host(&self) -> &Panels {
        match &self.storage {
            Storage::Host(host) => host,
            Storage::Gpu(_) => panic!("a weight of a GPU was read by the processor"),
        }
    }

    /// Panics if the weight is the processor's.
    pub(super) fn gpu(&self) -> &GpuWeight {
        match &self.storage {
            Storage::Gpu(gpu) => gpu,
            Storage::Host(_) => panic!("a weight of the processor was given to a GPU"),
        }
    }

    /// Row `idx` of the matrix, widened (for embeddings that share the head's weight).
    pub(super) fn copy_row(&self, idx: usize, to: &mut [f32]) {
        match self.dtype() {
            DType::F32 => self.copy_row_of::<f32>(idx, to, |value| value),
            DType::Bf16 => self.copy_row_of::<bf16>(idx, to, bf16::to_f32),
            DType::F16 => self.copy_row_of::<f16>(idx, to, f16::to_f32),
            DType::U8 | DType::U32 => unreachable!("weights are never whole numbers"),
        }
    }

    fn copy_row_of<W: Element>(&self, idx: usize, to: &mut [f32], widen: impl Fn(W) -> f32) {
        let panel = &self.host().panels.as_slice::<W>()[idx / LANES * LANES * self.k..];
        let column = panel[idx % LANES..].iter().step_by(LANES);
        to.iter_mut().zip(column).for_each(|(to, &from)| *to = widen(from));
    }

    pub(super) fn n_panels(&self) -> usize {
        self.host().panels.shape()[0]
    }
}

/// What a weight is made of, checked.
pub(super) struct Source<'a> {
    pub(super) matrices: &'a [Matrix<'a>],
    pub(super) biases: &'a [Vec<f32>],
    places: Vec<Place>,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Source<'_> {
    /// The matrix that row `idx` of the weight comes from, and its row there.
    pub(super) fn row(&self, idx: usize) -> (usize, usize) {
        let place = self.places[idx / LANES];
        (place.matrix, place.row + idx % LANES)
    }

    fn panels(&self, threads: &Threads) -> Result<Panels> {
        let dtype = self.matrices[0].dtype;
        let all_alike = self.matrices.iter().all(|matrix| matrix.dtype == dtype);
        let panels = match if all_alike { dtype } else { DType::F32 } {
            DType::F32 => pack_panels::<f32>(threads, self),
            DType::Bf16 => pack_panels::<bf16>(threads, self),
            DType::F16 => pack_panels::<f16>(threads, self),
            DType::U8 | DType::U32 => return Err(misuse("pack", "weights of whole numbers")),
        };
        let mut bias = Tensor::zeros::<f32>(&[self.places.len() * LANES]);
        for (panel, place) in bias.as_mut_slice::<f32>().chunks_mut(LANES).zip(&self.places) {
            let values = self.biases.get(place.matrix).map_or(&[][..], |bias| &bias[place.row..]);
            let n_values = values.len().min(LANES);
            panel[..n_values].copy_from_slice(&values[..n_values]);
        }
        Ok(Panels { panels, bias })
    }
}

fn check_pack(
    matrices: &[Matrix<'_>],
    biases: &[Vec<f32>],
    arrangement: Arrangement,
) -> Result<()> {
    let Some(first) = matrices.first() else {
        return Err(misuse("pack", "no matrix"));
    };
    let same_depth = matrices.iter().all(|matrix| matrix.n_columns == first.n_columns);
    let sizes_fit = matrices.iter().all(Matrix::is_whole);
    let biases_fit = biases.is_empty()
        || biases.len() == matrices.len()
            && biases.iter().zip(matrices).all(|(bias, matrix)| bias.len() == matrix.n_rows);
    // A stacked matrix begins in the middle of a panel unless the ones above fill theirs.
    let above = match arrangement {
        Arrangement::Stacked => &matrices[..matrices.len() - 1],
        Arrangement::Alternating => matrices,
    };
    let whole_panels = above.iter().all(|matrix| matrix.n_rows.is_multiple_of(LANES));
    let a_pair = arrangement == Arrangement::Stacked
        || matrices.len() == 2 && matrices[1].n_rows == first.n_rows;
    if same_depth && sizes_fit && biases_fit && whole_panels && a_pair {
        return Ok(());
    }
    Err(misuse("pack", "matrices that cannot share a weight"))
}

/// Where a panel's rows come from.
#[derive(Clone, Copy)]
struct Place {
    matrix: usize,
    row: usize,
}

fn places(matrices: &[Matrix<'_>], arrangement: Arrangement) -> Vec<Place> {
    let of_matrix = |matrix: usize| {
        let n_panels = n_panels(matrices[matrix].n_rows);
        (0..n_panels).map(move |panel| Place { matrix, row: panel * LANES })
    };
    match arrangement {
        Arrangement::Stacked => (0..matrices.len()).flat_map(of_matrix).collect(),
        Arrangement::Alternating => {
            of_matrix(0).zip(of_matrix(1)).flat_map(|(gate, up)| [gate, up]).collect()
        }
    }
}

/// A type that weights are packed into.
pub(super) trait Packed: Loadable {
    /// One element of type `dtype`.
    fn read(dtype: DType, bytes: &[u8]) -> Self;
}

impl Packed for f32 {
    fn read(dtype: DType, bytes: &[u8]) -> Self {
        match dtype {
            DType::F32 => bytemuck::pod_read_unaligned(bytes),
            DType::Bf16 => bytemuck::pod_read_unaligned::<bf16>(bytes).to_f32(),
            DType::F16 => bytemuck::pod_read_unaligned::<f16>(bytes).to_f32(),
            DType::U8 | DType::U32 => unreachable!("weights are never whole numbers"),
        }
    }
}

impl Packed for bf16 {
    fn read(_same: DType, bytes: &[u8]) -> Self {
        bytemuck::pod_read_unaligned(bytes)
    }
}

impl Packed for f16 {
    fn read(_same: DType, bytes: &[u8]) -> Self {
        bytemuck::pod_read_unaligned(bytes)
    }
}

fn pack_panels<W: Packed>(threads: &Threads, source: &Source<'_>) -> Tensor {
    let k = source.k;
    let mut panels = Tensor::scratch::<W>(&[source.places.len(), k, LANES]);
    threads.for_each_chunk(panels.as_mut_slice::<W>(), k * LANES, &|panel, to| {
        let place = source.places[panel];
        pack_panel(&source.matrices[place.matrix], place.row, to);
    });
    panels
}

/// Transposes up to sixteen rows from `first_row` into `[k][16]`.
fn pack_panel<W: Packed>(matrix: &Matrix<'_>, first_row: usize, to: &mut [W]) {
    let n_bytes = matrix.dtype.n_bytes();
    let n_rows = LANES.min(matrix.n_rows - first_row);
    if n_rows < LANES {
        to.fill(W::zeroed());
    }
    for lane in 0..n_rows {
        let row = matrix.row(first_row + lane);
        let column = to[lane..].iter_mut().step_by(LANES);
        for (to, from) in column.zip(row.chunks_exact(n_bytes)) {
            *to = W::read(matrix.dtype, from);
        }
    }
}
