//! Launching kernels by name.

use super::error::checked;
use super::{Context, Cuda};
use crate::tensor::Tensor;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use types::{Error, Result};

/// Most arguments of a kernel.
const ARGS_MAX: usize = 32;
/// Shared memory that a block has without asking.
const SHARED_BYTES_PLAIN: u32 = 48 << 10;

/// How a kernel is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Grid {
    /// Blocks in one dimension, without dynamic shared memory.
    pub fn line(n_blocks: usize, threads: u32) -> Self {
        Self { blocks: [n_blocks as u32, 1, 1], threads, shared_bytes: 0 }
    }
}

/// An argument of a kernel, by value.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    /// A device address.
    Address(u64),
    /// `unsigned int`.
    U32(u32),
    /// `int`.
    I32(i32),
    /// `float`.
    F32(f32),
    /// `unsigned long long`.
    U64(u64),
    /// A struct, with the layout that the kernel expects.
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    /// The elements of a tensor, to read.
    pub fn tensor(tensor: &Tensor) -> Self {
        Self::Address(tensor.address())
    }

    /// The elements of a tensor, to write.
    pub fn mut_tensor(tensor: &mut Tensor) -> Self {
        Self::Address(tensor.address())
    }

    /// Where the driver reads it: in `slot`, or where the struct lies.
    fn place(&self, slot: &mut u64) -> *mut c_void {
        match *self {
            Self::Address(value) | Self::U64(value) => *slot = value,
            Self::U32(value) => *slot = u64::from(value),
            Self::I32(value) => *slot = u64::from(value.cast_unsigned()),
            Self::F32(value) => *slot = u64::from(value.to_bits()),
            Self::Bytes(bytes) => return bytes.as_ptr().cast_mut().cast(),
        }
        std::ptr::from_mut(slot).cast()
    }
}

/// When a kernel's blocks may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// When what was given before is done.
    InOrder,
    /// When all blocks of the kernel before have started and allow it. Blocks come in clusters of
    /// so many in y, which see each other's shared memory.
    Early(u32),
}

impl Start {
    /// What the launch says of it; only Hopper and later know clusters.
    fn attributes(self) -> ([sys::CUlaunchAttribute; 2], u32) {
        use sys::CUlaunchAttributeID as Id;
        use sys::CUlaunchAttributeValue as Value;
        let (allowed, y) = match self {
            Self::InOrder => (0, 1),
            Self::Early(cluster) => (1, cluster),
        };
        let cluster = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 1, y, z: 1 };
        let early = Value { programmaticStreamSerializationAllowed: allowed };
        let attributes = [
            (Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, early),
            (Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, Value { clusterDim: cluster }),
        ];
        let attributes =
            attributes.map(|(id, value)| sys::CUlaunchAttribute { id, pad: [0; 4], value });
        (attributes, if y > 1 { 2 } else { 1 })
    }
}

/// The kernels that have been loaded so far.
#[derive(Default)]
pub(super) struct Functions {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<(&'static str, String), Function>,
}

#[derive(Clone, Copy)]
struct Function {
    raw: sys::CUfunction,
    shared_bytes: u32,
}

impl Cuda {
    /// Launches kernel `name` of the file `module`; nothing happens for a grid without blocks.
    ///
    /// Whoever calls this has checked that the addresses reach as far as the kernel reads.
    /// Errors: no such kernel, or the driver refuses.
    pub fn launch(
        &self,
        module: &'static str,
        name: &str,
        grid: Grid,
        args: &[Arg<'_>],
    ) -> Result<()> {
        self.launch_as(Start::InOrder, (module, name), grid, args)
    }

    /// As [`Self::launch`], for kernels that may start while the one before still runs: they wait
    /// for it themselves before they touch anything that it reads or writes. `cluster` blocks that
    /// follow each other in y see each other's shared memory.
    ///
    /// Errors: as [`Self::launch`].
    pub(crate) fn launch_early(
        &self,
        kernel: (&'static str, &str),
        grid: Grid,
        cluster: u32,
        args: &[Arg<'_>],
    ) -> Result<()> {
        self.launch_as(Start::Early(cluster), kernel, grid, args)
    }

    fn launch_as(
        &self,
        start: Start,
        (module, name): (&'static str, &str),
        grid: Grid,
        args: &[Arg<'_>],
    ) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        assert!(args.len() <= ARGS_MAX, "{name}: too many arguments");
        self.context.bind()?;
        let function = self.context.function((module, name), grid.shared_bytes)?;
        let mut slots = [0_u64; ARGS_MAX];
        let mut places = [std::ptr::null_mut(); ARGS_MAX];
        for ((arg, slot), place) in args.iter().zip(&mut slots).zip(&mut places) {
            *place = arg.place(slot);
        }
        let (mut attributes, n_attributes) = start.attributes();
        let config = sys::CUlaunchConfig {
            gridDimX: grid.blocks[0],
            gridDimY: grid.blocks[1],
            gridDimZ: grid.blocks[2],
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared_bytes,
            hStream: self.stream().raw(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: n_attributes,
        };
        let (params, no_others) = (places.as_mut_ptr(), std::ptr::null_mut());
        let launch = || {
            // SAFETY: the function belongs to the bound context; every argument lies where its
            // place says until the call returns; the caller answers for the addresses.
            let launched =
                unsafe { sys::cuLaunchKernelEx(&raw const config, function, params, no_others) };
            checked(launched.result(), name)
        };
        self.traced(|| (format!("{name} {:?}", grid.blocks), 0), launch)
    }

    /// How many blocks of a kernel fit on one multiprocessor at a time.
    ///
    /// Errors: no such kernel, or the driver refuses.
    pub fn blocks_per_multiprocessor(
        &self,
        module: &'static str,
        name: &str,
        grid: Grid,
    ) -> Result<usize> {
        self.context.bind()?;
        let function = self.context.function((module, name), grid.shared_bytes)?;
        let (threads, shared) = (grid.threads.cast_signed(), grid.shared_bytes as usize);
        // SAFETY: the function belongs to the bound context.
        let n_blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(function, threads, shared)
        };
        Ok(checked(n_blocks, name)?.max(1) as usize)
    }
}

impl Context {
    /// A kernel that may use `shared_bytes`. Loading takes a while the first time and must not
    /// happen while a graph is captured: whoever captures has run the same step before.
    fn function(
        &self,
        (module, name): (&'static str, &str),
        shared_bytes: u32,
    ) -> Result<sys::CUfunction> {
        let mut loaded = self.functions();
        let key = (module, name.to_owned());
        let function = match loaded.functions.get(&key) {
            Some(function) => *function,
            None => Function { raw: loaded.load(module, name)?, shared_bytes: SHARED_BYTES_PLAIN },
        };
        let allowed = function.shared_bytes.max(shared_bytes);
        if allowed > function.shared_bytes {
            use sys::CUfunction_attribute_enum as Attribute;
            let size = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to the bound context.
            let set = unsafe {
                result::function::set_function_attribute(function.raw, size, allowed.cast_signed())
            };
            checked(set, name)?;
        }
        loaded.functions.insert(key, Function { raw: function.raw, shared_bytes: allowed });
        Ok(function.raw)
    }
}

impl Functions {
    fn load(&mut self, module: &'static str, name: &str) -> Result<sys::CUfunction> {
        let loaded = match self.modules.get(module) {
            Some(loaded) => *loaded,
            None => {
                let fatbin = kernels::fatbin(module).map_err(Error::internal)?;
                // SAFETY: a fatbin of ours, complete in memory; the driver copies what it needs.
                // Modules stay until the context goes.
                let raw = unsafe { result::module::load_data(fatbin.as_ptr().cast()) };
                let raw = checked(raw, &format!("load the kernels \"{module}\""))?;
                self.modules.insert(module, raw);
                raw
            }
        };
        let c_name = CString::new(name).map_err(|_| Error::internal("a kernel with a NUL"))?;
        // SAFETY: the module was loaded above.
        let function = unsafe { result::module::get_function(loaded, c_name) };
        checked(function, &format!("find kernel {name} in \"{module}\""))
    }
}
