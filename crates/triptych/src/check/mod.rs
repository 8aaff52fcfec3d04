//! `triptych check`: what would keep a process from starting, said before it is started.
//!
//! Every finding is a line; a check looks, and leaves everything as it found it.

mod cluster;
mod finding;
mod gpu;
mod memory;
mod model;
mod ports;

use crate::model::Crew;
use config::{CheckConfig, CheckFlags, World};
use finding::{Finding, Level};
use types::{Error, ErrorKind, Result};

/// Prints what is found for the process that `flags` would start. Errors: something would fail.
pub async fn run(flags: CheckFlags) -> Result<()> {
    let findings = match flags.resolve(&World::of_process()) {
        Ok(config) => findings(&config).await,
        Err(error) => vec![Finding::fail("options", error.message, "see docs/options.md")],
    };
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        n => Err(Error::new(ErrorKind::Unavailable, format!("{n} of the checks failed"))),
    }
}

async fn findings(config: &CheckConfig) -> Vec<Finding> {
    let mut findings = ports::check(config).await;
    findings.extend(cluster::check(config.cluster()).await);
    if let Some((worker, engine, roles)) = config.workers() {
        let crew = Crew { roles, transport: config.cluster().transport };
        findings.extend(model::check(worker, engine, &crew));
    }
    findings
}
