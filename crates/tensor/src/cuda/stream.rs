//! Streams, events, and graphs captured from streams.

use super::Context;
use super::error::checked;
use super::part::Part;
use cudarc::driver::{result, sys};
use std::sync::Arc;
use types::{Error, Result};

/// An order of work on a GPU.
pub struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
    urgency: Urgency,
    /// The part of the GPU that it keeps to.
    _part: Option<Part>,
}

/// How streams share a GPU, where several have work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for each of its results.
    Now,
    /// May wait for whatever is more urgent.
    Later,
    /// Somebody waits, but others more: it keeps to a part of the multiprocessors. Where a GPU
    /// cannot be divided it may wait.
    Apart,
}

impl Urgency {
    /// All of them, each at its own number.
    pub(super) const ALL: [Self; 3] = [Self::Now, Self::Later, Self::Apart];
}

/// A point in a stream's work.
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

/// Work that was recorded once and can be given to a stream again as a whole.
pub struct Graph {
    context: Arc<Context>,
    raw: sys::CUgraphExec,
    n_nodes: usize,
}

// SAFETY: the driver's handles may be used from any thread; each binds the context first.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}
// SAFETY: as above.
unsafe impl Send for Graph {}

impl Stream {
    /// A stream of its own order.
    ///
    /// Errors: the driver refuses.
    pub fn new(context: &Arc<Context>, urgency: Urgency) -> Result<Self> {
        context.bind()?;
        let (mut least, mut greatest, mut raw) = (0, 0, std::ptr::null_mut());
        // SAFETY: the numbers are written before it returns.
        let range = unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) };
        checked(range.result(), "tell how urgent streams may be")?;
        // A GPU that refuses (a slice of one, say) is one that cannot be divided.
        let part = match urgency {
            Urgency::Apart => Part::of(context).unwrap_or(None),
            Urgency::Now | Urgency::Later => None,
        };
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        if let Some(part) = part {
            let raw = part.stream(flags, greatest)?;
            return Ok(Self { context: Arc::clone(context), raw, urgency, _part: Some(part) });
        }
        let priority = if urgency == Urgency::Now { greatest } else { least };
        // SAFETY: the handle is written before it returns.
        let made = unsafe { sys::cuStreamCreateWithPriority(&raw mut raw, flags, priority) };
        checked(made.result(), "make a stream")?;
        Ok(Self { context: Arc::clone(context), raw, urgency, _part: None })
    }

    /// How it shares the GPU.
    pub(super) fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// The driver's handle.
    pub fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Waits until everything given so far is done.
    ///
    /// Errors: something failed on the way.
    pub fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the stream lives as long as `self`.
        checked(unsafe { result::stream::synchronize(self.raw) }, "finish its work")
    }

    /// Marks what has been given so far.
    ///
    /// Errors: the driver refuses.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.context.bind()?;
        // SAFETY: both live as long as their owners.
        checked(unsafe { result::event::record(event.raw, self.raw) }, "mark its work")
    }

    /// Lets what is given from now on begin only after `event`.
    ///
    /// Errors: the driver refuses.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        self.context.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live as long as their owners.
        checked(unsafe { result::stream::wait_event(self.raw, event.raw, flags) }, "wait")
    }

    /// Sets bytes of device memory.
    ///
    /// Errors: the driver refuses.
    pub(crate) fn fill(&self, address: u64, byte: u8, n_bytes: usize) -> Result<()> {
        self.context.bind()?;
        if n_bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's memory has that many bytes.
        let filled = unsafe { result::memset_d8_async(address, byte, n_bytes, self.raw) };
        checked(filled, "fill memory")
    }

    /// Records what `give` gives to this stream instead of running it.
    ///
    /// The same work must have been given once before, so that nothing is loaded or allocated now.
    /// Errors: those of `give`; work that cannot be recorded.
    pub fn capture(&self, give: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`; the capture ends below.
        checked(unsafe { result::stream::begin_capture(self.raw, mode) }, "record its work")?;
        let given = give();
        // SAFETY: begun above on this stream and thread.
        let graph = unsafe { result::stream::end_capture(self.raw) };
        given?;
        Graph::new(&self.context, checked(graph, "record its work")?)
    }
}

impl Event {
    /// An event that nothing has marked; `timed` ones can be subtracted from each other.
    ///
    /// Errors: the driver refuses.
    pub fn new(context: &Arc<Context>, timed: bool) -> Result<Self> {
        use sys::CUevent_flags_enum as Flags;
        context.bind()?;
        let flags = if timed { Flags::CU_EVENT_DEFAULT } else { Flags::CU_EVENT_DISABLE_TIMING };
        let raw = checked(result::event::create(flags), "make an event")?;
        Ok(Self { raw, context: Arc::clone(context) })
    }

    /// Waits until what it marks is done.
    ///
    /// Errors: something failed on the way.
    pub fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives as long as `self`.
        checked(unsafe { result::event::synchronize(self.raw) }, "finish its work")
    }

    /// Whether what it marks is done.
    ///
    /// Errors: something failed on the way.
    pub fn has_come(&self) -> Result<bool> {
        self.context.bind()?;
        // SAFETY: the event lives as long as `self`.
        match unsafe { result::event::query(self.raw) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            outcome => checked(outcome, "finish its work").map(|()| true),
        }
    }

    /// Milliseconds from `earlier` to this one; both timed, both done.
    ///
    /// Errors: they are not.
    pub fn ms_since(&self, earlier: &Self) -> Result<f32> {
        self.context.bind()?;
        // SAFETY: both live as long as their owners.
        checked(unsafe { result::event::elapsed(earlier.raw, self.raw) }, "measure time")
    }
}

impl Graph {
    fn new(context: &Arc<Context>, graph: sys::CUgraph) -> Result<Self> {
        if graph.is_null() {
            return Err(Error::internal("nothing was recorded"));
        }
        let mut n_nodes = 0;
        // SAFETY: the graph is valid; only nodes are counted.
        unsafe { sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &raw mut n_nodes) };
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph is valid until destroyed; what it became lives on by itself.
        let raw = unsafe {
            let raw = result::graph::instantiate(graph, flags);
            let _ = result::graph::destroy(graph);
            raw
        };
        let raw = checked(raw, "prepare recorded work")?;
        Ok(Self { context: Arc::clone(context), raw, n_nodes })
    }

    /// Operations in it.
    pub fn n_nodes(&self) -> usize {
        self.n_nodes
    }

    /// Gives the whole to a stream.
    ///
    /// Errors: the driver refuses.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        self.context.bind()?;
        // SAFETY: both live as long as their owners.
        checked(unsafe { result::graph::launch(self.raw, stream.raw) }, "run recorded work")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `new`, destroyed once; the driver lets its work end.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.raw) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Urgency;
    use crate::cuda::CudaOptions;
    use crate::testing::gpu;
    use crate::{DType, Device, Tensor};

    /// Each copy takes what was written just before it, though their streams differ.
    #[test]
    fn cuda_work_of_changing_urgency_stays_in_order() {
        const N: u32 = 300;
        let compute = DType::Bf16;
        if let Some(device) = gpu(CudaOptions { ordinal: 0, compute, deterministic: false }) {
            let Device::Cuda(cuda) = &device else { unreachable!("only GPUs are tried") };
            let word = Tensor::scratch_on(&device, DType::U32, &[1]).unwrap();
            let all = Tensor::scratch_on(&device, DType::U32, &[N as usize]).unwrap();
            for (idx, urgency) in (0..N).zip(Urgency::ALL.into_iter().cycle()) {
                cuda.set_urgency(urgency).unwrap();
                cuda.upload(&idx.to_le_bytes(), word.address()).unwrap();
                cuda.copy(word.address(), all.address() + u64::from(idx) * 4, 4).unwrap();
            }
            let found = all.to_host(&device).unwrap();
            assert!(found.as_slice::<u32>().iter().copied().eq(0..N), "{found:?}");
        }
    }
}
