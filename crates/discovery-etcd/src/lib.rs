//! Who is there, kept in etcd.
//!
//! Must not know what instances do.
