//! Whether a process could meet the others: etcd, NATS, the transports, the shared key.

use super::finding::Finding;
use crate::connect::{cluster_key, etcd_parts, nats_parts};
use crate::transport_host::TransportHost;
use config::ClusterConfig;
use config::cluster::TransportChoice;
use std::net::TcpListener;
use std::time::Duration;

/// Longest wait for a server: who checks wants to know what is there now.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// A line for each thing that the process would need; none where everything is in memory.
pub(super) async fn check(cluster: &ClusterConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let deadline = cluster.start_deadline.min(WAIT_MAX);
    if let Some(etcd) = &cluster.etcd {
        let shown = etcd.endpoints.join(",");
        let checked = async { discovery_etcd::check(etcd_parts(cluster, etcd, deadline)?).await };
        let found = checked.await.map_err(|error| error.message);
        let n_other_keys = found.as_ref().map_or(0, |found| found.n_other_keys);
        let said = found.map(|found| found.said);
        findings.push(server("etcd", said, &shown, "--etcd-endpoints"));
        findings.extend(other_keys(n_other_keys));
    }
    if let Some(nats) = &cluster.nats {
        let checked = messaging_nats::check(nats_parts(nats, "triptych check", deadline));
        let found = checked.await.map_err(|error| error.message);
        findings.push(server("nats", found, &nats.shown(), "--nats-url"));
    }
    if cluster.transport != TransportChoice::Mem {
        findings.extend(ucx(cluster.transport));
        findings.push(tcp(cluster).await);
        findings.push(key(cluster));
    }
    findings
}

fn server(what: &'static str, found: Result<String, String>, shown: &str, flag: &str) -> Finding {
    match found {
        Ok(detail) => Finding::ok(what, detail),
        Err(why) => {
            let remedy = format!("start {what} at {shown}, or say with {flag} where it is");
            Finding::fail(what, format!("{shown}: {why}"), remedy)
        }
    }
}

fn ucx(transport: TransportChoice) -> Option<Finding> {
    let install = "install UCX (Debian: libucx0)";
    match (transport, transport_ucx::check()) {
        (TransportChoice::Tcp | TransportChoice::Mem, _) => None,
        (_, Ok(detail)) => Some(Finding::ok("ucx", detail)),
        (TransportChoice::Auto, Err(error)) => {
            let detail = format!("TCP carries all transfers: {}", error.message);
            Some(Finding::warn("ucx", detail, format!("{install} for faster ones")))
        }
        (TransportChoice::Ucx, Err(error)) => {
            let remedy = format!("{install}, or choose --transport auto");
            Some(Finding::fail("ucx", error.message, remedy))
        }
    }
}

async fn tcp(cluster: &ClusterConfig) -> Finding {
    let TransportHost { listen, advertise } = TransportHost::of(cluster).await;
    match TcpListener::bind(listen) {
        Ok(_) => {
            let host = advertise.unwrap_or("this machine's own address".to_owned());
            Finding::ok("tcp", format!("peers will find this process's memory at {host}"))
        }
        Err(error) => {
            let detail = format!("cannot listen on {}: {error}", listen.ip());
            Finding::fail("tcp", detail, "give --transport-host an address of this machine")
        }
    }
}

/// Whoever has another key neither lends to this process nor reads from it.
fn other_keys(n_other_keys: usize) -> Option<Finding> {
    let detail = format!("{n_other_keys} instance(s) in etcd have another and will not be seen");
    let remedy = "give all processes the same --cluster-key-file";
    (n_other_keys > 0).then(|| Finding::fail("cluster key", detail, remedy))
}

fn key(cluster: &ClusterConfig) -> Finding {
    match (cluster_key(cluster), &cluster.cluster_key) {
        (Err(error), _) => Finding::fail("cluster key", error.message, "see --cluster-key-file"),
        (Ok(_), Some(_)) => Finding::ok("cluster key", "peers must prove that they have it"),
        (Ok(_), None) => Finding::warn(
            "cluster key",
            "none, so whoever reaches the transport's ports may connect",
            "give all processes the same --cluster-key-file",
        ),
    }
}
