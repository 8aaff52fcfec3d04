//! A watch of etcd over one connection, with a pulse of its own.
//!
//! Must not know instances: it deals in keys and values.

use crate::connection::Failure;
use etcd_client::{
    Client, GetOptions, KeyValue, WatchOptions, WatchRequestSender, WatchResponse,
    WatchResponseStream,
};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Time between two questions whether etcd is still there. An answer on the watch itself shows
/// more than a ping, and etcd allows pings each 5 s only.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// As many questions may be without an answer.
const N_UNANSWERED_MAX: u32 = 3;

/// An etcd that says nothing for this long counts as lost.
pub const SILENCE_MAX: Duration =
    Duration::from_millis(ASK_INTERVAL.as_millis() as u64 * (N_UNANSWERED_MAX as u64 + 1));

/// Largest answer that is read, enough for a hundred thousand instances.
pub(crate) const N_ANSWER_BYTES_MAX: usize = 64 << 20;

pub(crate) struct Source {
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    ask: Interval,
    n_unanswered: u32,
    /// Keeps the connection open.
    _client: Client,
}

impl Source {
    /// All that is under the prefix now, and every change from then on.
    pub(crate) async fn open(
        client: Client,
        prefix: String,
    ) -> Result<(Self, Vec<KeyValue>), Failure> {
        let mut kv = client.kv_client().max_decoding_message_size(N_ANSWER_BYTES_MAX);
        let mut found = kv.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await?;
        let revision =
            found.header().ok_or(Failure::passing("an answer has no header"))?.revision();
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut watch = client.watch_client().max_decoding_message_size(N_ANSWER_BYTES_MAX);
        let (requests, responses) = watch.watch(prefix, Some(options)).await?.split();
        let mut ask = interval(ASK_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut source = Self { requests, responses, ask, n_unanswered: 0, _client: client };
        // The first response says whether there is a watch.
        source.next().await?;
        Ok((source, found.take_kvs()))
    }

    /// The next response, which may be without events. Nothing is lost when this is dropped.
    ///
    /// Errors: etcd is silent, gone, or has ended the watch (for what was to be told is compacted
    /// away, say); then begin anew.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, Failure> {
        loop {
            tokio::select! {
                // What has arrived is read before etcd is called silent.
                biased;
                response = self.responses.message() => {
                    self.n_unanswered = 0;
                    return still_watching(response?);
                }
                _ = self.ask.tick() => self.ask_for_life().await?,
            }
        }
    }

    async fn ask_for_life(&mut self) -> Result<(), Failure> {
        if self.n_unanswered == N_UNANSWERED_MAX {
            return Err(Failure::passing(format!("silent for {SILENCE_MAX:?}")));
        }
        self.n_unanswered += 1;
        Ok(self.requests.request_progress().await?)
    }
}

fn still_watching(response: Option<WatchResponse>) -> Result<WatchResponse, Failure> {
    let response = response.ok_or(Failure::passing("the watch has ended"))?;
    if response.canceled() {
        let (reason, compacted) = (response.cancel_reason(), response.compact_revision());
        let cause = format!("the watch was ended: {reason} (compacted up to {compacted})");
        return Err(Failure::passing(cause));
    }
    Ok(response)
}
