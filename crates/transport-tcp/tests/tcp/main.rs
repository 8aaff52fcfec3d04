//! Transport over TCP: it obeys the laws, outlives its peers and turns strangers away.

mod common;
mod conformance;
mod deaths;
mod process;
mod strangers;
