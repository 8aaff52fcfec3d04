//! A GPU as the driver shows it: its primary context, properties, memory and loaded kernels.

use super::GemmChoices;
use super::error::checked;
use super::launch::Functions;
use super::trace::Trace;
use crate::arena::Arena;
use cudarc::driver::{result, sys};
use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use types::{Error, ErrorKind, Result};

/// One GPU's primary context, retained until dropped.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    name: String,
    n_multiprocessors: usize,
    compute_capability: (i32, i32),
    shared_bytes_max: usize,
    functions: Mutex<Functions>,
    /// Of all lanes.
    pub(super) gemm_choices: Mutex<GemmChoices>,
    trace: Trace,
}

// SAFETY: the driver's handles may be used from any thread; each binds the context first.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A GPU's memory now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that nobody has taken.
    pub n_bytes_free: usize,
    /// All bytes.
    pub n_bytes: usize,
}

thread_local! {
    /// The context that this thread bound last.
    static BOUND: Cell<usize> = const { Cell::new(0) };
}

impl Context {
    /// Opens GPU `ordinal`.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>> {
        if !kernels::are_built_in() {
            return Err(unavailable(
                "this program was built without CUDA kernels (nvcc was not found then)".to_owned(),
            ));
        }
        // SAFETY: only tries to open the driver's library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable("the NVIDIA driver (libcuda) is not installed".to_owned()));
        }
        let no_driver = |error| unavailable(format!("the NVIDIA driver does not start: {error}"));
        result::init().map_err(no_driver)?;
        let n_gpus = result::device::get_count().map_err(no_driver)?;
        let device = i32::try_from(ordinal).ok().filter(|ordinal| *ordinal < n_gpus);
        let device = device
            .ok_or_else(|| unavailable(format!("there is no GPU {ordinal}: {n_gpus} visible")))?;
        Self::of(device)
    }

    fn of(ordinal: i32) -> Result<Arc<Self>> {
        use sys::CUdevice_attribute as Attribute;
        let device = checked(result::device::get(ordinal), "be found")?;
        let name = checked(result::device::get_name(device), "say its name")?;
        let attribute = |which| {
            // SAFETY: the device was found above.
            checked(unsafe { result::device::get_attribute(device, which) }, "say its properties")
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let n_multiprocessors =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        if major < 8 {
            let words = format!("{name} is too old: compute capability {major}.{minor}, need 8.0");
            return Err(unavailable(words));
        }
        // SAFETY: the device was found above; released when this is dropped.
        let raw = checked(unsafe { result::primary_ctx::retain(device) }, "make a context")?;
        Ok(Arc::new(Self {
            device,
            raw,
            name,
            n_multiprocessors,
            compute_capability: (major, minor),
            shared_bytes_max: shared,
            functions: Mutex::default(),
            gemm_choices: Mutex::default(),
            trace: Trace::default(),
        }))
    }

    /// Makes it this thread's context; needed before any other call, and cheap when it is already.
    ///
    /// Errors: the driver refuses.
    pub fn bind(&self) -> Result<()> {
        let own = self.raw as usize;
        if BOUND.get() != own {
            // SAFETY: the context is retained until `self` is dropped.
            checked(unsafe { result::ctx::set_current(self.raw) }, "be bound to a thread")?;
            BOUND.set(own);
        }
        Ok(())
    }

    pub(super) fn device(&self) -> sys::CUdevice {
        self.device
    }

    /// What the driver calls the GPU.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Multiprocessors.
    pub fn n_multiprocessors(&self) -> usize {
        self.n_multiprocessors
    }

    /// Major and minor.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.compute_capability
    }

    /// Most bytes of shared memory that a block can ask for.
    pub fn shared_bytes_max(&self) -> usize {
        self.shared_bytes_max
    }

    /// Memory as it is now.
    ///
    /// Errors: the driver refuses.
    pub fn memory(&self) -> Result<MemoryInfo> {
        self.bind()?;
        let (n_bytes_free, n_bytes) = checked(result::mem_get_info(), "say its memory")?;
        Ok(MemoryInfo { n_bytes_free, n_bytes })
    }

    /// One plain allocation of zeros.
    ///
    /// Errors: the GPU has not that much memory.
    pub fn arena(self: &Arc<Self>, n_bytes: usize) -> Result<Arc<Arena>> {
        Ok(Arena::on_gpu(Allocation::new(self, n_bytes)?))
    }

    /// Waits until everything that was given to the GPU is done.
    ///
    /// Errors: something failed on the way.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        checked(result::ctx::synchronize(), "finish its work")
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn functions(&self) -> std::sync::MutexGuard<'_, Functions> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `of`, released once. A refusal at this point helps nobody.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// One plain allocation (never from a pool: peers could not open it), freed when dropped.
pub(crate) struct Allocation {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    n_bytes: usize,
}

impl Allocation {
    fn new(context: &Arc<Context>, n_bytes: usize) -> Result<Self> {
        context.bind()?;
        let size = n_bytes.max(1);
        // SAFETY: freed when dropped; initialised below.
        let address = checked(unsafe { result::malloc_sync(size) }, "reserve memory")?;
        let allocation = Self { context: Arc::clone(context), address, n_bytes };
        // SAFETY: the memory was just allocated.
        checked(unsafe { result::memset_d8_sync(address, 0, size) }, "clear memory")?;
        // The driver clears memory in the order of its default stream and returns before it has;
        // our streams do not wait for that one.
        // SAFETY: the default stream always exists.
        let cleared = unsafe { result::stream::synchronize(std::ptr::null_mut()) };
        checked(cleared, "clear memory")?;
        Ok(allocation)
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated in `new`, freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

fn unavailable(words: String) -> Error {
    Error::new(ErrorKind::Unavailable, words)
}
