//! What this machine is, and the state it is in: names, clocks, power, memory.

use serde_json::{Value, json};
use std::process::Command;
use tensor::Device;
use types::Result;

/// What `nvidia-smi` is asked, to read only.
const SMI_FIELDS: &str = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,\
                          power.limit,temperature.gpu";

/// The device in a line.
pub(crate) fn describe(device: &Device) -> String {
    match device {
        Device::Cpu(threads) => {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let name = info.lines().find_map(|line| line.strip_prefix("model name\t: "));
            format!("{}, {} threads", name.unwrap_or("a processor"), threads.n_threads())
        }
        Device::Cuda(cuda) => {
            let context = cuda.context();
            let (major, minor) = context.compute_capability();
            let compute = cuda.options().compute.name();
            let n = context.n_multiprocessors();
            format!("{}, {n} multiprocessors, {major}.{minor}, in {compute}", context.name())
        }
    }
}

/// Clocks, power and temperature of the GPU, where `nvidia-smi` tells them.
pub(crate) fn state(device: &Device) -> Option<String> {
    let Device::Cuda(cuda) = device else { return None };
    let query = format!("--query-gpu={SMI_FIELDS}");
    let ordinal = cuda.options().ordinal.to_string();
    let output = Command::new("nvidia-smi")
        .args([query.as_str(), "--format=csv,noheader", "-i", &ordinal])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let named = SMI_FIELDS.split(',').zip(said.trim().split(", ")).skip(1);
    Some(named.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "))
}

/// Memory in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Of this process in the host's memory, and the most that it ever was, in bytes.
    pub(crate) host: usize,
    pub(crate) host_peak: usize,
    /// Of everybody on the GPU, in bytes.
    pub(crate) gpu: usize,
    /// Of all GPU memory.
    pub(crate) gpu_free: usize,
}

impl Memory {
    /// Errors: the GPU fails.
    pub(crate) fn now(device: &Device) -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<usize>().ok()
        };
        let host = |name| kib(name).unwrap_or_default() << 10;
        let (gpu, gpu_free) = match device {
            Device::Cpu(_) => (0, 0),
            Device::Cuda(cuda) => {
                let info = cuda.context().memory()?;
                (info.n_bytes - info.n_bytes_free, info.n_bytes_free)
            }
        };
        Ok(Self { host: host("VmRSS:"), host_peak: host("VmHWM:"), gpu, gpu_free })
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "host_bytes": self.host,
            "host_peak_bytes": self.host_peak,
            "gpu_bytes": self.gpu,
        })
    }
}

/// Bytes that could still be taken where the device computes.
///
/// Errors: the GPU fails.
pub(crate) fn free_bytes(device: &Device) -> Result<usize> {
    if let Device::Cuda(_) = device {
        return Ok(Memory::now(device)?.gpu_free);
    }
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    Ok(kib.unwrap_or_default() << 10)
}
