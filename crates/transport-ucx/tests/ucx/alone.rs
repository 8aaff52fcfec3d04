//! What must be alone in its process, because it measures or starves all of it.

use crate::child::Process;
use crate::common::{destination, lend, start};
use planes::{LeaseTable, Source};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const IDLE: &str = "idle";

/// How long an idle thread is watched, how often at most, and what it may use of a processor
/// meanwhile.
const WATCHED: Duration = Duration::from_millis(300);
const N_WATCHED_MAX: usize = 10;
const USED_MAX: Duration = Duration::from_millis(30);

/// Reads, of which half are given up at some moment.
const N_READS: u64 = 4000;
const N_BYTES: usize = 64 << 10;

/// Processor time of all threads of UCX in this process, by which a transport is meant to do
/// nothing while nothing is asked of it.
fn thread_time() -> Duration {
    let name = |task: &std::path::Path| std::fs::read_to_string(task.join("comm"));
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let ours = tasks.filter(|task| name(task).is_ok_and(|name| name.trim() == "ucx"));
    let times = ours.map(|task| {
        let words = std::fs::read_to_string(task.join("schedstat")).unwrap();
        words.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(times.sum())
}

/// The least that the threads of UCX used in a while of idling, or nothing if that is too much.
/// What was under way may end within the first.
async fn time_idling() -> Option<Duration> {
    for _ in 0..N_WATCHED_MAX {
        let before = thread_time();
        tokio::time::sleep(WATCHED).await;
        let used = thread_time() - before;
        if used < USED_MAX {
            return Some(used);
        }
    }
    None
}

/// Many reads, of which half are given up while others end, and then none.
pub(crate) async fn idle() -> String {
    let (owner, reader, table) = (start(), start(), Arc::new(LeaseTable::default()));
    let (handle, _served) = lend(&owner, &table, N_BYTES, Arc::new(())).await;
    let read = || {
        let source = Source { region_idx: 0, offset: 0 };
        reader.read(handle.clone(), vec![source], destination(N_BYTES))
    };
    for i in 0..N_READS / 2 {
        let (mut given_up, kept) = (read(), read());
        assert!(futures::poll!(&mut given_up).is_pending());
        let until = std::time::Instant::now() + Duration::from_micros(i % 200);
        while std::time::Instant::now() < until {}
        drop(given_up);
        kept.await.map(drop).unwrap();
    }
    match time_idling().await {
        Some(used) => format!("idle after {N_READS} reads: {used:?} in {WATCHED:?}"),
        None => "busy".into(),
    }
}

#[tokio::test]
async fn a_transport_that_has_nothing_to_do_does_nothing() {
    drop(start());
    let said = Process::alone(IDLE);
    println!("{said}");
    assert!(said.starts_with("idle"), "{said}");
}
