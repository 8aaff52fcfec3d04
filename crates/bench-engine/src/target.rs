//! From flags to a device, and to a model on it, each step timed.

use crate::args::TargetArgs;
use crate::shapes::Shapes;
use config::worker::{ComputeType, DeviceChoice};
use models::{Description, LoadFormat, Model};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tensor::cuda::CudaOptions;
use tensor::{DType, Device};
use types::{Error, ErrorKind, Result};

/// A device, and what is known of the model that runs on it.
pub(crate) struct Target {
    pub(crate) folder: PathBuf,
    pub(crate) load_format: LoadFormat,
    pub(crate) device: Device,
    pub(crate) shapes: Shapes,
    /// How long the device took to open.
    pub(crate) open_time: Duration,
}

impl Target {
    /// Errors: no such model or device.
    pub(crate) fn open(args: &TargetArgs) -> Result<Self> {
        let folder = folder(args)?;
        let stated = Shapes::stated_dtype(&folder)?;
        let started = Instant::now();
        let device = open_device(args, stated)?;
        let open_time = started.elapsed();
        let load_format = match args.load_format {
            config::worker::LoadFormat::Auto => LoadFormat::Auto,
            config::worker::LoadFormat::Dummy => LoadFormat::Dummy,
        };
        // The processor keeps weights in the type of their files.
        let weight_dtype = match &device {
            Device::Cpu(_) => stated,
            Device::Cuda(cuda) => cuda.options().compute,
        };
        let shapes = Shapes::read(&folder, weight_dtype)?;
        Ok(Self { folder, load_format, device, shapes, open_time })
    }

    /// Everything of the model but its weights.
    pub(crate) fn describe(&self) -> Result<Description> {
        models::describe(&self.folder, self.load_format)
    }

    /// The model on a device.
    pub(crate) fn load(&self, device: &Device) -> Result<Arc<dyn Model>> {
        models::load(&self.folder, self.load_format, device)
    }
}

fn folder(args: &TargetArgs) -> Result<PathBuf> {
    let path = &args.model_path;
    if path.is_dir() {
        return Ok(path.clone());
    }
    let is_config = path.file_name().is_some_and(|name| name == "config.json") && path.is_file();
    let folder = path.parent().filter(|_| is_config).map(PathBuf::from);
    folder.ok_or_else(|| {
        let words = format!("--model-path {}: no folder, and no config.json", path.display());
        Error::new(ErrorKind::NotFound, words)
    })
}

fn open_device(args: &TargetArgs, stated: DType) -> Result<Device> {
    let cpu = || args.threads.map_or_else(Device::all_cpus, Device::cpu);
    let compute = match args.dtype {
        ComputeType::Auto => stated,
        ComputeType::F32 => DType::F32,
        ComputeType::Bf16 => DType::Bf16,
        ComputeType::F16 => DType::F16,
    };
    let options = |ordinal| CudaOptions { ordinal, compute, deterministic: args.deterministic };
    match args.device {
        DeviceChoice::Cpu => match args.dtype {
            ComputeType::Auto | ComputeType::F32 => Ok(cpu()),
            ComputeType::Bf16 | ComputeType::F16 => {
                Err(Error::invalid("--dtype: the processor computes in f32"))
            }
        },
        DeviceChoice::Cuda(ordinal) => Device::cuda(options(ordinal)),
        DeviceChoice::Auto => Device::cuda(options(0)).or_else(|error| {
            eprintln!("using the processor: {error}");
            Ok(cpu())
        }),
    }
}
