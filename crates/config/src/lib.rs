//! One tree of plain structs for everything that can be configured, and one definition per option.
//!
//! A definition has several views: the flag, the environment variable `TRIPTYCH_<NAME>`, the key of
//! the engine YAML, `--help`, and the table in `docs/options.md`. What users write (`…Flags`) is
//! kept apart from what the program reads (`…Config`): resolving the first gives the second, or an
//! error that says what is accepted. Must not know how any option is used.

pub mod access;
pub mod check;
pub mod cluster;
pub mod document;
pub mod endpoint;
pub mod engine_args;
mod engine_keys;
pub mod etcd;
pub mod frontend;
pub mod media;
pub mod mock;
pub mod model_path;
pub mod nats;
pub mod process;
mod seconds;
pub mod secret;
pub mod separate;
pub mod serve;
mod slot;
pub mod worker;
pub mod world;

pub use access::{AccessConfig, AccessFlags, CorsOrigins, ServerTls};
pub use check::{CheckConfig, CheckFlags};
pub use cluster::{ClusterConfig, ClusterFlags, TransportChoice};
pub use endpoint::Endpoint;
pub use engine_args::{CudaGraphConfig, EngineArgs, KvCacheConfig, KvDType, TransferBackend};
pub use frontend::{FrontendConfig, FrontendFlags, RouterMode};
pub use media::{MediaConfig, MediaFlags};
pub use mock::{EngineKind, MockConfig, MockFlags};
pub use process::{LogFormat, ProcessConfig, ProcessFlags};
pub use separate::{
    FrontendProcessConfig, FrontendProcessFlags, ModeFlags, Place, PlaceFlags, WorkerProcessConfig,
    WorkerProcessFlags,
};
pub use serve::{Role, ServeConfig, ServeFlags};
pub use worker::{ComputeType, DeviceChoice, LoadFormat, Modality, WorkerConfig, WorkerFlags};
pub use world::World;

const MIB: u64 = 1 << 20;
