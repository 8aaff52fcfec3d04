//! One tree of plain structs for everything that can be configured, and one definition per option.
//!
//! A definition has several views: the flag, the environment variable `TRIPTYCH_<NAME>`, the key of
//! the engine YAML, `--help`, and the table in `docs/options.md`. What users write (`…Flags`) is
//! kept apart from what the program reads (`…Config`): resolving the first gives the second, or an
//! error that says what is accepted. Must not know how any option is used.

pub mod document;
pub mod engine_args;
mod engine_keys;
pub mod frontend;
pub mod mock;
pub mod model_path;
pub mod serve;
mod slot;
pub mod worker;

pub use engine_args::{EngineArgs, KvCacheConfig, KvDType};
pub use frontend::{FrontendConfig, FrontendFlags};
pub use mock::{MockConfig, MockFlags};
pub use serve::{EngineKind, Role, ServeConfig, ServeFlags, World};
pub use worker::{DeviceChoice, LoadFormat, Modality, WorkerConfig, WorkerFlags};

const MIB: u64 = 1 << 20;
