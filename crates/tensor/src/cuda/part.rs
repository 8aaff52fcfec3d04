//! Part of a GPU's multiprocessors, for lanes that must leave the rest to others: what the driver
//! calls a green context.

use super::error::checked;
use super::{Context, driver_version};
use cudarc::driver::sys;
use std::sync::Arc;
use types::{Error, Result};

/// Multiprocessors are divided in groups of so many.
const GROUP: usize = 8;
/// Where the driver can divide a GPU at all.
const DRIVER_MIN: (i32, i32) = (12, 4);

/// Part of a GPU; given back when dropped.
pub(super) struct Part {
    context: Arc<Context>,
    raw: sys::CUgreenCtx,
}

impl Part {
    /// A part of a GPU; `None` where its driver is too old for that.
    ///
    /// Errors: the driver refuses.
    pub(super) fn of(context: &Arc<Context>) -> Result<Option<Self>> {
        if driver_version().is_none_or(|version| version < DRIVER_MIN) {
            return Ok(None);
        }
        context.bind()?;
        let mut own = share(context)?;
        let mut description = std::ptr::null_mut();
        // SAFETY: the resource came from the driver; the description is written before it returns.
        let described =
            unsafe { sys::cuDevResourceGenerateDesc(&raw mut description, &raw mut own, 1) };
        checked(described.result(), "describe a part of it")?;
        let flags = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the description is the driver's, of the same device; destroyed when dropped.
        let made =
            unsafe { sys::cuGreenCtxCreate(&raw mut raw, description, context.device(), flags) };
        checked(made.result(), "make a part of it")?;
        Ok(Some(Self { context: Arc::clone(context), raw }))
    }

    /// A stream whose work stays inside the part.
    pub(super) fn stream(&self, flags: u32, priority: i32) -> Result<sys::CUstream> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the part lives as long as `self`; the handle is written before it returns.
        let made = unsafe { sys::cuGreenCtxStreamCreate(&raw mut raw, self.raw, flags, priority) };
        checked(made.result(), "make a stream in a part of it")?;
        Ok(raw)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `of`, destroyed once. A refusal at this point helps nobody.
            let _ = unsafe { sys::cuGreenCtxDestroy(self.raw) };
        }
    }
}

/// Half of a GPU's multiprocessors, in whole groups: measured, most work gets done so where one
/// lane computes and another reads memory (docs/decisions.md).
fn share(context: &Context) -> Result<sys::CUdevResource> {
    let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    // SAFETY: plain numbers, for which zeros are valid.
    let (mut all, mut own): (sys::CUdevResource, sys::CUdevResource) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the device is there as long as its context; the resource is written.
    let got = unsafe { sys::cuDeviceGetDevResource(context.device(), &raw mut all, kind) };
    checked(got.result(), "say what can be divided")?;
    let n_multiprocessors = (context.n_multiprocessors() / 2 / GROUP).max(1) * GROUP;
    let (mut n_groups, no_rest) = (1, std::ptr::null_mut());
    // SAFETY: room for one group is asked for, and there; the rest is not wanted.
    let divided = unsafe {
        sys::cuDevSmResourceSplitByCount(
            &raw mut own,
            &raw mut n_groups,
            &raw const all,
            no_rest,
            0,
            n_multiprocessors as u32,
        )
    };
    checked(divided.result(), "be divided")?;
    if n_groups == 1 { Ok(own) } else { Err(Error::internal("the GPU cannot be divided")) }
}
