//! Whether the ports that a process listens on are free.

use super::finding::Finding;
use crate::system::listen;
use config::CheckConfig;
use std::net::SocketAddr;

/// A line for each port.
pub(super) async fn check(config: &CheckConfig) -> Vec<Finding> {
    let http = match config {
        CheckConfig::Serve(config) => Some(config.frontend.address),
        CheckConfig::Frontend(config) => Some(config.frontend.address),
        CheckConfig::Worker(_) => None,
    };
    let mut findings = Vec::new();
    for (what, flag, address) in [
        ("http port", "--http-port", http),
        ("system port", "--system-port", config.process().system_address),
    ] {
        if let Some(address) = address {
            findings.push(port(what, flag, address).await);
        }
    }
    findings
}

async fn port(what: &'static str, flag: &str, address: SocketAddr) -> Finding {
    match listen(address, flag).await {
        Ok(_) => Finding::ok(what, format!("{address} is free")),
        Err(error) => {
            let remedy = format!("choose another {flag}, or end what listens there");
            Finding::fail(what, error.message, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_found() {
        let taken = listen(([127, 0, 0, 1], 0).into(), "--http-port").await.unwrap();
        let address = taken.local_addr().unwrap();
        let finding = port("http port", "--http-port", address).await;
        assert_eq!(finding.level, Level::Fail);
        let line = finding.to_string();
        assert!(
            line.contains(&address.to_string()) && line.contains("another --http-port"),
            "{line}"
        );
        drop(taken);
        assert_eq!(port("http port", "--http-port", address).await.level, Level::Ok);
    }
}
