//! An etcd that comes late, or never, or is another member than the first.

use crate::server::{Etcd, free_ports};
use crate::{instance, next_event};
use discovery_etcd::{EtcdConfig, check, connect};
use planes::Discovery;
use planes::MembershipEvent::Snapshot;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::{Error, ErrorKind};

const SOON: Duration = Duration::from_secs(1);

/// The error of an etcd that nobody runs.
async fn given_up(endpoints: &[String]) -> Error {
    let endpoints = endpoints.to_vec();
    let config = EtcdConfig { endpoints, start_deadline: SOON, ..EtcdConfig::default() };
    let begun = Instant::now();
    let outcome: Result<Arc<dyn Discovery>, Error> = connect(config).await;
    let failure = outcome.err().expect("nobody is there");
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure}");
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
    failure
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_comes_late_is_waited_for() {
    let Some(mut etcd) = Etcd::prepare() else { return };
    let connecting = tokio::spawn(connect(etcd.config()));
    tokio::time::sleep(SOON).await;
    assert!(!connecting.is_finished());
    etcd.launch();
    let discovery = connecting.await.unwrap().unwrap();
    assert_eq!(next_event(&mut discovery.watch()).await, Snapshot(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_error_that_names_the_endpoints() {
    let endpoints = free_ports::<2>().map(|port| format!("http://127.0.0.1:{port}"));
    let message = given_up(&endpoints).await.message;
    for part in [&endpoints[0], &endpoints[1], "within 1s", "refused"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_never_answers_is_an_error() {
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hole.local_addr().unwrap());
    let message = given_up(std::slice::from_ref(&endpoint)).await.message;
    assert!(message.contains(&endpoint), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    for endpoint in ["http://", "not a url"] {
        let config = EtcdConfig { endpoints: vec![endpoint.into()], ..EtcdConfig::default() };
        let failure = connect(config).await.err().expect("it cannot work");
        assert_eq!(failure.kind, ErrorKind::InvalidInput, "{endpoint}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_passed_over() {
    let Some(etcd) = Etcd::start().await else { return };
    let [dead] = free_ports().map(|port: u16| format!("http://127.0.0.1:{port}"));
    let endpoints = [vec![dead], etcd.config().endpoints].concat();
    let discovery = connect(EtcdConfig { endpoints, ..etcd.config() }).await.unwrap();
    let one = instance("one");
    let _lease = discovery.register(one.clone()).await.unwrap();
    assert_eq!(next_event(&mut discovery.watch()).await, Snapshot(vec![one]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_which_etcd_answers() {
    let Some(etcd) = Etcd::start().await else { return };
    let _lease = etcd.connect().await.register(instance("one")).await.unwrap();
    let said = check(etcd.config()).await.unwrap().said;
    println!("{said}");
    for part in ["etcd 3.", &etcd.config().endpoints[0], " ms ", "shows 1 instance", "`tests`"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}
