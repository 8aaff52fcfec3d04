//! Weights by the names of our architectures, whatever generation of names the files use; every
//! tensor must be asked for, and none may be missing.

use crate::dummy::DummyBytes;
use crate::files::unusable;
use crate::safetensors::Checkpoint;
use crate::{LoadFormat, LoadProgress};
use half::{bf16, f16};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use tensor::ops::{Arrangement, Elements, Matrix, Weight};
use tensor::{DType, Device, Tensor};
use types::Result;

/// A rule that turns an older weight name into the one used here: the first rule whose prefix fits
/// replaces it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rename {
    /// Start of the name in the file.
    pub(crate) from: &'static str,
    /// What it becomes.
    pub(crate) to: &'static str,
}

/// Names listed in an error message.
const NAMES_SHOWN_MAX: usize = 8;

/// The tensors of one model while it is being loaded.
pub(crate) struct Weights<'a> {
    source: Source,
    device: &'a Device,
    tell: &'a dyn Fn(LoadProgress),
    progress: Cell<LoadProgress>,
    /// Our name → name in the files, of those nobody has asked for.
    unused: RefCell<BTreeMap<String, String>>,
}

enum Source {
    Files(Checkpoint),
    Dummy(DummyBytes),
}

/// A tensor of the model, borrowed from the files or made up.
struct Loaded<'a> {
    dtype: DType,
    n_bytes: usize,
    elements: Elements<'a>,
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    With,
    Without,
}

impl<'a> Weights<'a> {
    /// The weights of `folder`, or dummy ones of type `dtype`.
    ///
    /// Errors: files that cannot be read; two tensors that would have the same name here.
    pub(crate) fn open(
        folder: &Path,
        (load_format, dtype): (LoadFormat, DType),
        renames: &[Rename],
        (device, tell): (&'a Device, &'a dyn Fn(LoadProgress)),
    ) -> Result<Self> {
        let progress = |n_bytes| Cell::new(LoadProgress { n_bytes_done: 0, n_bytes });
        if load_format == LoadFormat::Dummy {
            let source = Source::Dummy(DummyBytes::new(dtype));
            let unused = RefCell::default();
            return Ok(Self { source, device, tell, progress: progress(None), unused });
        }
        let checkpoint = Checkpoint::open(folder)?;
        let mut unused = BTreeMap::new();
        for name in checkpoint.names() {
            let ours = canonical(name, renames);
            if let Some(other) = unused.insert(ours, name.to_owned()) {
                let why = format!("tensors {other} and {name} are the same weight");
                return Err(unusable(&folder.display().to_string(), &why));
            }
        }
        let progress = progress(Some(checkpoint.n_bytes()));
        let source = Source::Files(checkpoint);
        Ok(Self { source, device, tell, progress, unused: RefCell::new(unused) })
    }

    /// All weights, to be narrowed down.
    pub(crate) fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new() }
    }

    /// A tensor that may be in the files and is not needed (the copy of a tied head).
    pub(crate) fn ignore(&self, name: &str) {
        self.unused.borrow_mut().remove(name);
    }

    /// Ends loading.
    ///
    /// Errors: tensors that nobody asked for, which means that this is another architecture.
    pub(crate) fn finish(self) -> Result<()> {
        let unused = self.unused.into_inner();
        if unused.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = unused.values().take(NAMES_SHOWN_MAX).map(String::as_str).collect();
        let why = format!("{} tensors have no place in it: {}", unused.len(), names.join(", "));
        Err(unusable("the model", &why))
    }

    fn take(&self, name: &str, shape: &[usize]) -> Result<Loaded<'_>> {
        let loaded = self.find(name, shape)?;
        let before = self.progress.get();
        let n_bytes_done = before.n_bytes_done + loaded.n_bytes;
        self.progress.set(LoadProgress { n_bytes_done, ..before });
        (self.tell)(self.progress.get());
        Ok(loaded)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Loaded<'_>> {
        let checkpoint = match &self.source {
            Source::Files(checkpoint) => checkpoint,
            Source::Dummy(dummy) => {
                let n_bytes = shape.iter().product::<usize>() * dummy.dtype.n_bytes();
                return Ok(Loaded { dtype: dummy.dtype, n_bytes, elements: dummy.of(name) });
            }
        };
        let stored = self.unused.borrow_mut().remove(name);
        let stored = stored.and_then(|name| checkpoint.get(&name));
        let stored =
            stored.ok_or_else(|| unusable("the model", &format!("tensor {name} is missing")))?;
        if stored.shape != shape {
            let why = format!("tensor {name} is {:?}, not {shape:?}", stored.shape);
            return Err(unusable("the model", &why));
        }
        let (n_bytes, elements) = (stored.bytes.len(), stored.bytes.into());
        Ok(Loaded { dtype: stored.dtype, n_bytes, elements })
    }
}

/// The weights below one name.
pub(crate) struct Scope<'a> {
    weights: &'a Weights<'a>,
    /// Empty, or ends with a dot.
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The weights further down.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Scope<'a> {
        Scope { weights: self.weights, prefix: format!("{}{name}.", self.prefix) }
    }

    /// Where the weights go.
    pub(crate) fn device(&self) -> &Device {
        self.weights.device
    }

    /// A tensor below that may be in the files and is not needed.
    pub(crate) fn ignore(&self, name: &str) {
        self.weights.ignore(&format!("{}{name}", self.prefix));
    }

    /// A matrix `[n, k]` without being a product's, widened to f32, in host memory.
    pub(crate) fn table(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        Ok(self.weights.take(&format!("{}{name}", self.prefix), &shape)?.widened())
    }

    /// A vector of `n` elements, widened to f32, in host memory.
    pub(crate) fn values(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        Ok(self.weights.take(&format!("{}{name}", self.prefix), &[n])?.widened())
    }

    /// A vector of `n` elements, widened to f32.
    pub(crate) fn vector(&self, name: &str, n: usize) -> Result<Tensor> {
        Tensor::from_slice(&[n], &self.values(name, n)?).to_device_for_good(self.device())
    }

    /// A linear layer `[n, k]`: `name.weight`, and `name.bias` if it has one.
    pub(crate) fn linear(&self, name: &str, (n, k): (usize, usize), bias: Bias) -> Result<Weight> {
        self.together(&[(name, n)], k, bias, Arrangement::Stacked)
    }

    /// Several linear layers of the same input, in one product.
    pub(crate) fn stacked(&self, parts: &[(&str, usize)], k: usize, bias: Bias) -> Result<Weight> {
        self.together(parts, k, bias, Arrangement::Stacked)
    }

    /// The two linear layers of a gated MLP.
    pub(crate) fn gated(&self, names: [&str; 2], (n, k): (usize, usize)) -> Result<Weight> {
        let parts = names.map(|name| (name, n));
        self.together(&parts, k, Bias::Without, Arrangement::Alternating)
    }

    /// A matrix without bias, stored as `name.weight` with more dimensions than two: the first is
    /// the output, the others together the input.
    pub(crate) fn flattened(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        let loaded = self.weights.take(&format!("{}{name}.weight", self.prefix), shape)?;
        let matrix = loaded.matrix(shape[0], shape[1..].iter().product());
        Weight::pack(self.weights.device, &[matrix], &[], Arrangement::Stacked)
    }

    /// The kernel `name.weight` of a picture's patches, `[n, channels, side, side]`, as that of
    /// patches `depth` frames deep of which only the first counts: the others' weights are 0.
    pub(crate) fn deepened(&self, name: &str, shape: [usize; 4], depth: usize) -> Result<Weight> {
        let loaded = self.weights.take(&format!("{}{name}.weight", self.prefix), &shape)?;
        let n_bytes = shape[2] * shape[3] * loaded.dtype.n_bytes();
        let mut bytes = Vec::with_capacity(loaded.n_bytes * depth);
        for frame in loaded.bytes().chunks_exact(n_bytes) {
            bytes.extend_from_slice(frame);
            bytes.resize(bytes.len() + (depth - 1) * n_bytes, 0);
        }
        let elements = Elements::All(&bytes);
        let deep = Loaded { dtype: loaded.dtype, n_bytes: bytes.len(), elements };
        let matrix = deep.matrix(shape[0], shape[1] * depth * shape[2] * shape[3]);
        Weight::pack(self.weights.device, &[matrix], &[], Arrangement::Stacked)
    }

    fn together(
        &self,
        parts: &[(&str, usize)],
        k: usize,
        bias: Bias,
        arrangement: Arrangement,
    ) -> Result<Weight> {
        let load = |(name, n): &(&str, usize)| {
            self.weights.take(&format!("{}{name}.weight", self.prefix), &[*n, k])
        };
        let loaded = parts.iter().map(load).collect::<Result<Vec<_>>>()?;
        let matrices: Vec<Matrix<'_>> =
            loaded.iter().zip(parts).map(|(loaded, (_, n))| loaded.matrix(*n, k)).collect();
        let biases = match bias {
            Bias::Without => Vec::new(),
            Bias::With => {
                let values = |(name, n): &(&str, usize)| self.values(&format!("{name}.bias"), *n);
                parts.iter().map(values).collect::<Result<Vec<_>>>()?
            }
        };
        Weight::pack(self.weights.device, &matrices, &biases, arrangement)
    }
}

impl<'a> Loaded<'a> {
    fn matrix(&self, n_rows: usize, n_columns: usize) -> Matrix<'a> {
        Matrix { dtype: self.dtype, n_rows, n_columns, bytes: self.elements }
    }

    fn bytes(&self) -> Cow<'a, [u8]> {
        self.elements.first(self.n_bytes)
    }

    fn widened(&self) -> Vec<f32> {
        let bytes = self.bytes();
        let elements = bytes.chunks_exact(self.dtype.n_bytes());
        match self.dtype {
            DType::F32 => elements.map(bytemuck::pod_read_unaligned::<f32>).collect(),
            DType::Bf16 => {
                elements.map(|bytes| bytemuck::pod_read_unaligned::<bf16>(bytes).to_f32()).collect()
            }
            DType::F16 => {
                elements.map(|bytes| bytemuck::pod_read_unaligned::<f16>(bytes).to_f32()).collect()
            }
            DType::U8 | DType::U32 => unreachable!("weights are never whole numbers"),
        }
    }
}

fn canonical(name: &str, renames: &[Rename]) -> String {
    let fit = renames.iter().find_map(|rule| Some((rule, name.strip_prefix(rule.from)?)));
    fit.map_or_else(|| name.to_owned(), |(rule, rest)| format!("{}{rest}", rule.to))
}
