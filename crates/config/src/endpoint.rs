//! Names of pools of workers, as users of these systems write them: `dyn://dynamo.encode.generate`.

use crate::serve::Role;
use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "dyn://";

/// What a worker's callers want of it; every worker has one such endpoint.
const GENERATE: &str = "generate";

/// A pool of workers that take the same calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Keeps clusters apart that share etcd and NATS.
    pub namespace: String,
    /// The kind of worker (`backend`, `prefill`, `encode`).
    pub component: String,
    /// What its workers are asked for (`generate`).
    pub name: String,
}

impl Endpoint {
    /// Where a worker in `role` is found unless it is told otherwise.
    pub fn usual(namespace: &str, role: Role) -> Self {
        let component = match role {
            Role::Aggregated | Role::Decode => "backend",
            Role::Prefill => "prefill",
            Role::Encode => "encode",
        };
        Self {
            namespace: namespace.to_owned(),
            component: component.to_owned(),
            name: GENERATE.to_owned(),
        }
    }

    /// What the addresses of its workers begin with; a dot and a number follow.
    pub fn address_prefix(&self) -> String {
        format!("{}.{}.{}", self.namespace, self.component, self.name)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.address_prefix())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.strip_prefix(SCHEME).unwrap_or_default().split('.').collect();
        match parts[..] {
            [namespace, component, name] if parts.iter().all(|part| is_name(part)) => Ok(Self {
                namespace: namespace.to_owned(),
                component: component.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!(
                "expected {SCHEME}<namespace>.<component>.<endpoint>, each of letters, digits, _ \
                 and -"
            )),
        }
    }
}

/// What may stand between the dots of an address: letters, digits, `_` and `-`.
pub(crate) fn is_name(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

/// A namespace as clap reads it.
pub(crate) fn parse_namespace(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("expected a name of letters, digits, _ and -".to_owned()),
    }
}
