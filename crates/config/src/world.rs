//! What resolving needs of the surroundings besides flags: other systems' environment variables.

use std::path::PathBuf;

/// The surroundings of a process.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Where Hugging Face tools keep what they fetched.
    pub hub_cache: Option<PathBuf>,
    /// Where this user's programs keep what they can make again.
    pub cache: Option<PathBuf>,
    /// Where etcd listens, by the variable that its own users set.
    pub etcd_endpoints: Option<String>,
    /// Where NATS listens, by the variables that its own users set.
    pub nats_url: Option<String>,
}

impl World {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The surroundings that `variable` tells of.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            hub_cache: crate::model_path::hub_cache(&variable),
            cache: cache(&variable),
            etcd_endpoints: variable("ETCD_ENDPOINTS"),
            nats_url: variable("NATS_URL").or_else(|| variable("NATS_SERVER")),
        }
    }
}

/// The XDG base directory of caches.
fn cache(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let of_home = || variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
    variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(of_home)
}
