//! Measures from inside: the engine's steps and the operations, each beside what the memory and the
//! arithmetic of this device allow in the same minute.
//!
//! The engine is asked as its workers ask it; there is no way around it here. Must not know planes,
//! HTTP, texts or async runtimes.

mod agreement;
mod args;
mod ceilings;
mod ceilings_cpu;
mod ceilings_cuda;
mod engine_bench;
mod floor;
mod machine;
mod measure;
mod ops;
mod progress;
mod report;
mod rig;
mod rows;
mod shapes;
mod statistics;
mod target;
mod trace;

pub use args::{Command, EngineArgs, OpsArgs, TargetArgs};
pub use rows::Row;

use types::Result;

/// Measures, and prints what was measured.
///
/// Errors: a model or device that cannot be used, answers that are not the same again.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Engine(args) => engine_bench::run(args),
        Command::Ops(args) => ops::run(args),
    }
}
