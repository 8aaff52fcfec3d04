//! The device that the flags name: opened, or refused in words; which one it became goes to the
//! log.

use config::worker::{ComputeType, DeviceChoice, WorkerConfig};
use tensor::cuda::CudaOptions;
use tensor::{DType, Device};
use types::{Error, Result};

/// Opens the device of `config` for a model whose own type is `stated`.
///
/// Errors: a GPU is asked for and cannot be used, or the processor cannot compute in that type.
pub(crate) fn open(config: &WorkerConfig, stated: DType) -> Result<Device> {
    match config.device {
        DeviceChoice::Cpu => Ok(processor(config, "as --device says")),
        DeviceChoice::Cuda(ordinal) => {
            let device = gpu(config, ordinal, stated).map_err(|error| Error {
                message: format!("--device cuda:{ordinal}: {}", error.message),
                ..error
            })?;
            announce(&device);
            Ok(device)
        }
        DeviceChoice::Auto => match gpu(config, 0, stated) {
            Ok(device) => {
                announce(&device);
                Ok(device)
            }
            Err(why) => without_gpu(config, &why),
        },
    }
}

/// The GPU `ordinal`. Errors (`Unavailable`): no driver, no such GPU, no kernels built in.
pub(crate) fn gpu(config: &WorkerConfig, ordinal: usize, stated: DType) -> Result<Device> {
    let compute = compute_type(config.dtype, stated);
    Device::cuda(CudaOptions { ordinal, compute, deterministic: config.engine.deterministic })
}

fn without_gpu(config: &WorkerConfig, why: &Error) -> Result<Device> {
    match config.dtype {
        ComputeType::Auto | ComputeType::F32 => Ok(processor(config, &why.message)),
        ComputeType::Bf16 | ComputeType::F16 => {
            let words = "--dtype: only a GPU computes in 16 bits, and none can be used";
            Err(Error::new(why.kind, format!("{words}: {}", why.message)))
        }
    }
}

fn processor(config: &WorkerConfig, why: &str) -> Device {
    let device = config.n_threads.map_or_else(Device::all_cpus, Device::cpu);
    tracing::info!("computing on the CPU in f32 ({why})");
    device
}

fn announce(device: &Device) {
    if let Device::Cuda(cuda) = device {
        let (context, options) = (cuda.context(), cuda.options());
        tracing::info!(
            "computing on GPU {}, {}, in {}",
            options.ordinal,
            context.name(),
            options.compute.name()
        );
    }
}

/// What a GPU computes in.
fn compute_type(asked: ComputeType, stated: DType) -> DType {
    match asked {
        ComputeType::Auto => stated,
        ComputeType::F32 => DType::F32,
        ComputeType::Bf16 => DType::Bf16,
        ComputeType::F16 => DType::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_type_counts_unless_another_is_asked_for() {
        let check = |asked, expected| assert_eq!(compute_type(asked, DType::Bf16), expected);
        check(ComputeType::Auto, DType::Bf16);
        check(ComputeType::F32, DType::F32);
        check(ComputeType::F16, DType::F16);
        assert_eq!(compute_type(ComputeType::Bf16, DType::F16), DType::Bf16);
    }
}
