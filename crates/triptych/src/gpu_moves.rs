//! How bytes of a GPU's memory move between workers: inside one process by the GPU itself; between
//! processes not yet.

use crate::model::Crew;
use config::{Role, TransportChoice};
use planes::{Memory, Region};
use planes_mem::CopyByGpu;
use std::sync::Arc;
use tensor::Device;
use tensor::cuda::{Cuda, Urgency};
use types::{Error, Result};

/// Refuses workers that would have to send the memory of their device to other processes, where
/// that is a GPU.
///
/// Errors: in words, what to choose instead.
pub(crate) fn check(device: &Device, crew: &Crew) -> Result<()> {
    match device {
        Device::Cuda(_) => check_gpu(crew),
        Device::Cpu(_) => Ok(()),
    }
}

/// [`check`], on a GPU.
pub(crate) fn check_gpu(crew: &Crew) -> Result<()> {
    let is_alone = crew.transport == TransportChoice::Mem;
    let are_whole = crew.roles.iter().all(|&role| role == Role::Aggregated);
    if is_alone || are_whole {
        return Ok(());
    }
    Err(Error::invalid(
        "on a GPU, separate encode, prefill and decode workers work in one process only as yet, \
         because no transport moves a GPU's memory between processes; expected `triptych serve \
         --roles e,p,d`, aggregated workers, or --device cpu (TRIPTYCH_DEVICE=cpu for the launch \
         scripts)",
    ))
}

/// What copies a GPU's memory inside this process; none where there is no GPU.
///
/// Errors: the driver refuses.
pub(crate) fn copier(device: Option<&Device>) -> Result<Option<Arc<CopyByGpu>>> {
    let Some(Device::Cuda(cuda)) = device else { return Ok(None) };
    // A lane of its own, so that copies wait for no step.
    let lane = cuda.another_lane(Urgency::Now)?;
    Ok(Some(Arc::new(move |pairs: &[(Region, Region)]| {
        let begun: Result<()> = pairs.iter().try_for_each(|pair| begin(&lane, *pair));
        // Also after a failure: what has begun must not land later.
        lane.stream().synchronize()?;
        begun
    })))
}

fn begin(lane: &Cuda, (from, to): (Region, Region)) -> Result<()> {
    let n_bytes = to.n_bytes();
    match (from.memory(), to.memory()) {
        (Memory::Gpu, Memory::Gpu) => lane.copy(from.ptr() as u64, to.ptr() as u64, n_bytes),
        (Memory::Host, Memory::Gpu) => {
            // SAFETY: a lent region is initialised, and stays so until the copy has ended.
            let bytes = unsafe { std::slice::from_raw_parts(from.ptr(), n_bytes) };
            lane.upload(bytes, to.ptr() as u64)
        }
        (Memory::Gpu, Memory::Host) => {
            // SAFETY: a destination is its reader's alone until the copy has ended.
            let bytes = unsafe { std::slice::from_raw_parts_mut(to.ptr(), n_bytes) };
            lane.download(from.ptr() as u64, bytes)
        }
        (Memory::Host, Memory::Host) => {
            // SAFETY: both as above.
            unsafe { std::ptr::copy_nonoverlapping(from.ptr(), to.ptr(), n_bytes) };
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_on_a_gpu_stay_in_one_process() {
        let check = |roles: &[Role], transport, is_fine| {
            let checked = check_gpu(&Crew { roles: roles.to_vec(), transport });
            assert_eq!(checked.is_ok(), is_fine, "{roles:?} over {transport:?}");
        };
        check(&[Role::Encode, Role::Prefill, Role::Decode], TransportChoice::Mem, true);
        check(&[Role::Aggregated], TransportChoice::Auto, true);
        check(&[Role::Aggregated], TransportChoice::Ucx, true);
        check(&[Role::Decode], TransportChoice::Auto, false);
        check(&[Role::Prefill, Role::Decode], TransportChoice::Tcp, false);
        check(&[Role::Aggregated, Role::Encode], TransportChoice::Ucx, false);
        let crew = Crew { roles: vec![Role::Decode], transport: TransportChoice::Tcp };
        let words = check_gpu(&crew).unwrap_err().message;
        for expected in ["serve --roles e,p,d", "--device cpu", "TRIPTYCH_DEVICE=cpu"] {
            assert!(words.contains(expected), "{words}");
        }
        assert!(super::check(&Device::all_cpus(), &crew).is_ok());
    }
}
