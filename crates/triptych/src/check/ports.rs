//! Whether the ports that a process listens on are free, and their certificate fit.

use super::finding::Finding;
use crate::system::listen;
use config::{CheckConfig, ServerTls};
use std::net::SocketAddr;

/// A line for each port, and for the certificate.
pub(super) async fn check(config: &CheckConfig) -> Vec<Finding> {
    let frontend = match config {
        CheckConfig::Serve(config) => Some(&config.frontend),
        CheckConfig::Frontend(config) => Some(&config.frontend),
        CheckConfig::Worker(_) => None,
    };
    let http = frontend.map(|frontend| frontend.address);
    let tls = frontend.and_then(|frontend| frontend.access.tls.as_ref());
    let mut findings: Vec<Finding> = tls.map(certificate).into_iter().collect();
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

fn certificate(tls: &ServerTls) -> Finding {
    match frontend::check_tls(tls) {
        Ok(()) => Finding::ok("certificate", "it can be used, and its key fits".to_owned()),
        Err(error) => Finding::fail("certificate", error.message, "give both files in PEM"),
    }
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
