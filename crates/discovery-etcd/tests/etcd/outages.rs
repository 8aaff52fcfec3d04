//! Processes that die, and etcd that dies, stops, or forgets.

use crate::server::Etcd;
use crate::{PATIENCE, instance, next_event, silence};
use discovery_etcd::{EtcdConfig, LEASE_TTL, REMOVAL_GRACE, SILENCE_MAX};
use etcd_client::{Client, GetOptions};
use futures::StreamExt;
use planes::MembershipEvent::{Joined, Left, Snapshot, SourceLost};
use std::time::{Duration, Instant};
use types::InstanceId;

/// The key that an operator finds.
fn key(id: InstanceId) -> String {
    format!("/triptych/v1/tests/instances/{id}")
}

async fn is_written(client: &mut Client, id: InstanceId) -> bool {
    let count = GetOptions::new().with_count_only();
    client.get(key(id), Some(count)).await.is_ok_and(|found| found.count() == 1)
}

/// Waits until the instance's key is in etcd.
async fn written(etcd: &Etcd, id: InstanceId) {
    let give_up = Instant::now() + PATIENCE;
    let mut client = etcd.client().await;
    while !is_written(&mut client, id).await {
        assert!(Instant::now() < give_up, "it never came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_does_not_wait_for_the_lease() {
    let Some(etcd) = Etcd::start().await else { return };
    let discovery = etcd.connect().await;
    let one = instance("one");
    let lease = discovery.register(one.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    let dropped = Instant::now();
    drop(lease);
    assert_eq!(next_event(&mut watch).await, Left(one.id));
    assert!(dropped.elapsed() < LEASE_TTL / 2, "{:?}", dropped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_outlives_its_lease_many_times() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = instance("one");
    let _lease = etcd.connect().await.register(one.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one]));
    silence(&mut watch, 3 * LEASE_TTL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_while_etcd_is_well_is_taken_anew() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = instance("one");
    let _lease = etcd.connect().await.register(one.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    let mut client = etcd.client().await;
    let leases = client.leases().await.unwrap();
    let [lease] = leases.leases() else { panic!("{leases:?}") };
    client.lease_revoke(lease.id()).await.unwrap();
    assert_eq!(next_event(&mut watch).await, Left(one.id));
    assert_eq!(next_event(&mut watch).await, Joined(one.clone()));
    // The new one is renewed as well.
    silence(&mut watch, LEASE_TTL + LEASE_TTL / 2).await;
    assert!(is_written(&mut client, one.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_has_left_soon() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![]));
    // A runtime that is shut down runs nothing any more, like a process that was killed.
    let process = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (config, one) = (etcd.config(), instance("one"));
    let registered = one.clone();
    let register = async { discovery_etcd::connect(config).await?.register(registered).await };
    let _never_dropped_before = process.spawn(register).await.unwrap().unwrap();
    assert_eq!(next_event(&mut watch).await, Joined(one.clone()));
    let died = Instant::now();
    process.shutdown_background();
    assert_eq!(next_event(&mut watch).await, Left(one.id));
    assert!(died.elapsed() < Duration::from_secs(6), "{:?}", died.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_forgot_everything_is_told_again() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let one = instance("one");
    let _lease = etcd.connect().await.register(one.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    etcd.kill();
    assert_eq!(next_event(&mut watch).await, SourceLost);
    etcd.forget();
    etcd.launch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    written(&etcd, one.id).await;
    silence(&mut watch, REMOVAL_GRACE + LEASE_TTL).await;
    let mut fresh = etcd.connect().await.watch();
    assert_eq!(next_event(&mut fresh).await, Snapshot(vec![one]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_died_with_etcd_has_left_after_the_grace() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let discovery = etcd.connect().await;
    let (one, two) = (instance("one"), instance("two"));
    let _lives = discovery.register(one.clone()).await.unwrap();
    let dies = discovery.register(two.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert!(matches!(next_event(&mut watch).await, Snapshot(found) if found.len() == 2));
    etcd.kill();
    assert_eq!(next_event(&mut watch).await, SourceLost);
    drop(dies);
    etcd.forget();
    etcd.launch();
    assert!(matches!(next_event(&mut watch).await, Snapshot(found) if found.len() == 2));
    let returned = Instant::now();
    assert_eq!(next_event(&mut watch).await, Left(two.id));
    assert!(returned.elapsed() >= REMOVAL_GRACE - Duration::from_millis(100));
    silence(&mut watch, LEASE_TTL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_stands_still_takes_nobody_along() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = instance("one");
    let _lease = etcd.connect().await.register(one.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    etcd.signal("STOP");
    let stopped = Instant::now();
    assert_eq!(next_event(&mut watch).await, SourceLost);
    let noticed = stopped.elapsed();
    assert!(noticed < SILENCE_MAX + Duration::from_millis(500), "{noticed:?}");
    silence(&mut watch, Duration::from_secs(5) - noticed).await;
    etcd.signal("CONT");
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    silence(&mut watch, REMOVAL_GRACE + LEASE_TTL).await;
    assert!(is_written(&mut etcd.client().await, one.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stands_still_takes_nobody_along() {
    let Some(members) = Etcd::start_three().await else { return };
    let endpoints = members.iter().flat_map(|etcd| etcd.config().endpoints).collect();
    let config = EtcdConfig { endpoints, ..members[0].config() };
    let one = instance("one");
    let discovery = discovery_etcd::connect(config).await.unwrap();
    let _lease = discovery.register(one.clone()).await.unwrap();
    let mut watch = discovery.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    members[0].signal("STOP");
    assert_eq!(next_event(&mut watch).await, SourceLost);
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    let calm = Instant::now() + REMOVAL_GRACE + LEASE_TTL;
    // The others may elect more than once, and say so.
    while let Ok(event) = tokio::time::timeout_at(calm.into(), watch.next()).await {
        let event = event.expect("a watch has no end");
        assert!(event == SourceLost || event == Snapshot(vec![one.clone()]), "{event:?}");
    }
    assert!(is_written(&mut members[1].client().await, one.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawing_while_etcd_stands_still_hangs_nobody() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = instance("one");
    let lease = etcd.connect().await.register(one.clone()).await.unwrap();
    let mut watch = etcd.connect().await.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    etcd.signal("STOP");
    let dropped = Instant::now();
    drop(lease);
    assert!(dropped.elapsed() < Duration::from_millis(100), "{:?}", dropped.elapsed());
    assert_eq!(next_event(&mut watch).await, SourceLost);
    // Until the registration's task has given up.
    silence(&mut watch, LEASE_TTL).await;
    etcd.signal("CONT");
    assert!(matches!(next_event(&mut watch).await, Snapshot(_)));
    assert_eq!(next_event(&mut watch).await, Left(one.id));
}

/// Waits until the runtime has no more tasks than it had.
async fn no_more_tasks_than(n_tasks: usize) {
    let give_up = Instant::now() + PATIENCE;
    let runtime = tokio::runtime::Handle::current().metrics();
    while runtime.num_alive_tasks() > n_tasks {
        assert!(Instant::now() < give_up, "{} tasks remain", runtime.num_alive_tasks());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_remains_of_what_was_dropped() {
    let Some(etcd) = Etcd::start().await else { return };
    for stands_still in [false, true] {
        let n_before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let discovery = etcd.connect().await;
        let lease = discovery.register(instance("one")).await.unwrap();
        let mut watch = discovery.watch();
        assert!(matches!(next_event(&mut watch).await, Snapshot(found) if found.len() == 1));
        let n_during = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert!(n_during > n_before);
        if stands_still {
            etcd.signal("STOP");
        }
        drop((lease, watch, discovery));
        no_more_tasks_than(n_before).await;
    }
}

/// Makes etcd compact away what a watch has still to be told, while nobody reads it.
async fn compact_the_unread(client: &mut Client) {
    let filler = "/triptych/v1/tests/instances/filler";
    // More than a stream may have under way, and then more than etcd keeps at hand for it.
    for n_bytes in [vec![100_000; 64], vec![1; 2048]].concat() {
        client.put(filler, vec![b'x'; n_bytes], None).await.unwrap();
    }
    let last = client.delete(filler, None).await.unwrap();
    client.compact(last.header().unwrap().revision(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_fell_too_far_behind_begins_anew() {
    let Some(etcd) = Etcd::start().await else { return };
    let discovery = etcd.connect().await;
    let mut watch = discovery.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![]));
    let unread = instance("unread");
    compact_the_unread(&mut etcd.client().await).await;
    let _lease = discovery.register(unread.clone()).await.unwrap();
    assert_eq!(next_event(&mut watch).await, SourceLost);
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![unread]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_holds_what_an_operator_can_read() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = instance("one");
    let _lease = etcd.connect().await.register(one.clone()).await.unwrap();
    let found = etcd.client().await.get(key(one.id), None).await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(found.kvs()[0].value()).unwrap();
    assert_eq!(value["version"], 1);
    assert_eq!(value["id"], one.id.to_string());
    assert_eq!(value["stages"], serde_json::json!(["encode", "prefill", "decode"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_cluster_key_is_not_seen() {
    let Some(etcd) = Etcd::start().await else { return };
    let with_key =
        |key: Option<&str>| EtcdConfig { cluster_key: key.map(str::to_owned), ..etcd.config() };
    let connect = |key| discovery_etcd::connect(with_key(key));
    let (ours, theirs) = (connect(Some("a")).await.unwrap(), connect(Some("b")).await.unwrap());
    let says_none = connect(None).await.unwrap();
    let (one, two, three) = (instance("one"), instance("two"), instance("three"));
    let _one = ours.register(one.clone()).await.unwrap();
    let (mut near, mut far, mut all) = (ours.watch(), theirs.watch(), says_none.watch());
    assert_eq!(next_event(&mut near).await, Snapshot(vec![one.clone()]));
    assert_eq!(next_event(&mut far).await, Snapshot(Vec::new()));
    assert_eq!(next_event(&mut all).await, Snapshot(vec![one]));
    let _two = theirs.register(two.clone()).await.unwrap();
    let _three = says_none.register(three.clone()).await.unwrap();
    assert_eq!(next_event(&mut near).await, Joined(three.clone()));
    for watch in [&mut far, &mut all] {
        assert_eq!(next_event(watch).await, Joined(two.clone()));
        assert_eq!(next_event(watch).await, Joined(three.clone()));
    }
    for (key, expected) in [(Some("a"), 1), (Some("b"), 1), (Some("c"), 2), (None, 0)] {
        let checked = discovery_etcd::check(with_key(key)).await.unwrap();
        assert_eq!(checked.n_other_keys, expected, "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_or_cannot_be_read_is_not_told() {
    let Some(etcd) = Etcd::start().await else { return };
    let discovery = etcd.connect().await;
    let (one, two) = (instance("one"), instance("two"));
    let _first = discovery.register(one.clone()).await.unwrap();
    let mut client = etcd.client().await;
    let value = client.get(key(one.id), None).await.unwrap().kvs()[0].value().to_vec();
    let newer = br#"{"version":99,"id":"?"}"#;
    client.put(key(InstanceId(7)), newer, None).await.unwrap();
    let mut watch = discovery.watch();
    assert_eq!(next_event(&mut watch).await, Snapshot(vec![one.clone()]));
    client.put(key(InstanceId(8)), newer, None).await.unwrap();
    client.put("/triptych/v1/tests/instances/note", "hands off", None).await.unwrap();
    client.put("/triptych/v1/tests2/instances/x", newer, None).await.unwrap();
    // An instance's own record under another's key.
    client.put(key(InstanceId(9)), value.clone(), None).await.unwrap();
    client.put(key(one.id), value, None).await.unwrap();
    let _second = discovery.register(two.clone()).await.unwrap();
    assert_eq!(next_event(&mut watch).await, Joined(two));
}
