//! Media over HTTP(S), under a policy: which hosts and networks, how large, how slow.
//!
//! An address is parsed once; the name in it is resolved once for each hop, every IP address is
//! checked, and the connection goes to one that passed. So nothing between the check and the
//! connection can put another machine in its place. Redirects begin again from the start.
//!
//! Must not know media formats, workers, or who asks.

mod address;
mod connect;
mod failure;
mod fetcher;
mod network;
mod policy;
mod target;
mod tls;

pub use fetcher::Fetcher;
pub use network::Network;
pub use policy::{Deadlines, Policy};
