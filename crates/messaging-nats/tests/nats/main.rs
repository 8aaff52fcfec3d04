//! The plane against real servers and real processes.

mod child;
mod deaths;
mod laws;
mod load;
mod losses;
mod outages;
mod servers;
mod support;
