//! The time of one operation out of many that follow each other without a gap.

use crate::ceilings;
use std::cell::Cell;
use tensor::Device;
use types::Result;

/// Operations that are recorded together, so that giving them to a GPU takes no time of theirs.
const N_RECORDED: usize = 16;

/// Seconds of one `run(idx)`, with `idx` going through `0..n_operands` again and again: operands
/// that are larger together than caches are read from memory, as those of a step are.
///
/// Errors: the device fails.
pub(crate) fn seconds(
    device: &Device,
    n_operands: usize,
    run: impl Fn(usize) -> Result<()>,
) -> Result<f64> {
    let next = Cell::new(0);
    let run_next = || {
        let idx = next.replace((next.get() + 1) % n_operands);
        run(idx)
    };
    let Device::Cuda(cuda) = device else {
        return ceilings::seconds(device, run_next);
    };
    let n = n_operands.max(N_RECORDED);
    let all = || (0..n).try_for_each(|_| run_next());
    // What is recorded must have run before.
    all()?;
    device.synchronize()?;
    let recorded = cuda.stream().capture(all)?;
    let seconds = ceilings::seconds(device, || recorded.launch(cuda.stream()))?;
    Ok(seconds / n as f64)
}
