//! Whether a GPU can be used, and what it has.

use super::finding::Finding;
use crate::device;
use crate::gpu_memory::shown;
use config::worker::{DeviceChoice, WorkerConfig};
use tensor::cuda::{Cuda, driver_version, is_blas_installed};
use tensor::{DType, Device};
use types::{Error, Result};

/// What is known of the GPU that workers would compute on.
pub(super) struct FoundGpu {
    /// Bytes that nobody has taken.
    pub(super) n_bytes_free: usize,
    /// What it would compute in.
    pub(super) compute: DType,
}

/// Lines about the GPU, and the GPU if it would be used, for a model whose own type is `stated`.
pub(super) fn check(worker: &WorkerConfig, stated: DType) -> (Vec<Finding>, Option<FoundGpu>) {
    let (ordinal, must) = match worker.device {
        DeviceChoice::Cpu => return (Vec::new(), None),
        DeviceChoice::Cuda(ordinal) => (ordinal, true),
        DeviceChoice::Auto => (0, false),
    };
    let opened = device::gpu(worker, ordinal, stated);
    let found = opened.and_then(|device| match device {
        Device::Cuda(cuda) => looked_at(&cuda),
        Device::Cpu(_) => Err(Error::internal("a GPU was asked for")),
    });
    match found {
        Ok((mut findings, gpu)) => {
            findings.push(kernels());
            (findings, Some(gpu))
        }
        Err(error) if must => {
            let remedy = "install NVIDIA's driver, give --device a GPU that nvidia-smi shows, or \
                          use --device cpu";
            (vec![Finding::fail("gpu", error.message, remedy), kernels()], None)
        }
        Err(error) => {
            let detail = format!("none is used, the CPU computes: {}", error.message);
            (vec![Finding::ok("gpu", detail), kernels()], None)
        }
    }
}

fn looked_at(cuda: &Cuda) -> Result<(Vec<Finding>, FoundGpu)> {
    let context = cuda.context();
    let memory = context.memory()?;
    let (major, minor) = context.compute_capability();
    let options = cuda.options();
    let detail = format!(
        "GPU {} is an {}, compute capability {major}.{minor}, {} multiprocessors, {} of {} free; \
         the driver is for CUDA {}",
        options.ordinal,
        context.name(),
        context.n_multiprocessors(),
        shown(memory.n_bytes_free),
        shown(memory.n_bytes),
        driver(),
    );
    let gpu = FoundGpu { n_bytes_free: memory.n_bytes_free, compute: options.compute };
    let mut findings = vec![Finding::ok("gpu", detail)];
    findings.push(blas());
    Ok((findings, gpu))
}

fn driver() -> String {
    let version = driver_version();
    version.map_or_else(|| "unknown".to_owned(), |(major, minor)| format!("{major}.{minor}"))
}

fn blas() -> Finding {
    match is_blas_installed() {
        true => Finding::ok("libcublasLt", "is found"),
        false => Finding::fail(
            "libcublasLt",
            "is not installed, or not where the system looks for libraries",
            "install CUDA's cuBLAS, or name its folder in LD_LIBRARY_PATH",
        ),
    }
}

fn kernels() -> Finding {
    let names: Vec<&str> = ::kernels::names().collect();
    match names.len() {
        0 => Finding::warn(
            "kernels",
            "none are built in, so no GPU can be used",
            "build again where nvcc is found (NVCC, CUDA_HOME or PATH)",
        ),
        n => Finding::ok("kernels", format!("{n} files are built in: {}", names.join(", "))),
    }
}
