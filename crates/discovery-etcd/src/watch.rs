//! A watch as its reader sees it, over as many connections as it takes.
//!
//! All of it happens while the stream is polled: there is no task, and nothing remains when the
//! stream is dropped.
//!
//! Must not know who registers.

use crate::config::EtcdConfig;
use crate::connection::{Dialer, Failure};
use crate::record::{self, Found};
use crate::source::Source;
use crate::view::View;
use etcd_client::{KeyValue, WatchResponse};
use futures::{Stream, stream};
use planes::{Instance, MembershipEvent};
use std::collections::VecDeque;
use std::future;
use std::sync::Arc;
use std::time::Instant;

pub(crate) fn watch(config: Arc<EtcdConfig>) -> impl Stream<Item = MembershipEvent> + Send {
    let watcher = Watcher {
        records: Records::of(&config),
        dialer: Dialer::new(config),
        source: None,
        view: View::default(),
        events: VecDeque::new(),
    };
    stream::unfold(watcher, |mut watcher| async move { Some((watcher.next().await, watcher)) })
}

struct Watcher {
    records: Records,
    dialer: Dialer,
    source: Option<Source>,
    view: View,
    /// What one response of etcd brought and the reader has not taken yet.
    events: VecDeque<MembershipEvent>,
}

impl Watcher {
    async fn next(&mut self) -> MembershipEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match &mut self.source {
                None => self.begin().await,
                Some(source) => {
                    let news = tokio::select! {
                        biased;
                        response = source.next() => Some(response),
                        () = sleep_until(self.view.grace_end()) => None,
                    };
                    self.take(news);
                }
            }
        }
    }

    async fn begin(&mut self) {
        let prefix = self.records.prefix.clone();
        match self.dialer.attempt(|client| Source::open(client, prefix)).await {
            Ok((source, found)) => {
                let found = found.iter().filter_map(|pair| self.records.read(pair)).collect();
                self.events.push_back(self.view.snapshot(found, Instant::now()));
                self.source = Some(source);
            }
            Err(failure) => tracing::debug!(cause = failure.cause(), "no watch of etcd yet"),
        }
    }

    /// Takes a response of etcd, or the end of the grace.
    fn take(&mut self, news: Option<Result<WatchResponse, Failure>>) {
        match news {
            Some(Ok(response)) => self.apply(&response),
            Some(Err(failure)) => {
                tracing::info!(cause = failure.cause(), "lost the watch of etcd");
                self.source = None;
                self.dialer.move_on();
                self.events.push_back(self.view.lost());
            }
            None => self.events.extend(self.view.end_grace()),
        }
    }

    fn apply(&mut self, response: &WatchResponse) {
        for pair in response.events().iter().filter_map(|event| event.kv()) {
            let Some(id) = record::id_of_key(&self.records.prefix, pair.key()) else { continue };
            // Only the pair of a removal has no version.
            let shown = if pair.version() == 0 { None } else { self.records.read(pair) };
            let events = match shown {
                Some(instance) => self.view.shown(instance),
                None => self.view.gone(id),
            };
            self.events.extend(events);
        }
    }
}

/// Reads what is under the prefix.
struct Records {
    prefix: String,
    cluster_key: Option<String>,
    has_warned: bool,
    has_warned_of_keys: bool,
}

impl Records {
    fn of(config: &EtcdConfig) -> Self {
        Self {
            prefix: config.prefix(),
            cluster_key: config.cluster_key.clone(),
            has_warned: false,
            has_warned_of_keys: false,
        }
    }

    /// The instance of a pair, if it is one that this process can work with.
    fn read(&mut self, pair: &KeyValue) -> Option<Instance> {
        let cause = match record::decode(pair.value()) {
            Ok(found) if record::id_of_key(&self.prefix, pair.key()) == Some(found.instance.id) => {
                return self.unless_other_key(found);
            }
            Ok(_) => "its id is not that of its key".to_owned(),
            Err(cause) => cause,
        };
        // Of the first alone: a cluster in the middle of an upgrade has many.
        if !std::mem::replace(&mut self.has_warned, true) {
            let key = String::from_utf8_lossy(pair.key());
            tracing::warn!(%key, cause, "skipped an entry in etcd, and will skip others silently");
        }
        None
    }

    /// An instance with another key would refuse every transfer, so it is as good as not there.
    fn unless_other_key(&mut self, found: Found) -> Option<Instance> {
        if !found.has_other_key(self.cluster_key.as_deref()) {
            return Some(found.instance);
        }
        if !std::mem::replace(&mut self.has_warned_of_keys, true) {
            let Instance { address, model, .. } = found.instance;
            tracing::warn!(
                "the worker of {model} at {} has another cluster key than this process, so they \
                 cannot work together: compare --cluster-key-file of both; others are skipped \
                 silently",
                address.0
            );
        }
        None
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}
