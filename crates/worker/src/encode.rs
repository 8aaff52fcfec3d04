//! The encode stage: media in, embedding rows out, either for peers (who hold tickets) or for the
//! prefill stage of the same call.

use crate::cancelled::counting_cancellation;
use crate::media_items::{Described, describe};
use crate::media_memory::MediaHold;
use crate::pull::rows_region;
use crate::rows::{Promise, RowsResult};
use crate::sequence::AbortOnDrop;
use crate::terms::{Terms, lend_time, transfer_time};
use crate::worker::Shared;
use engine::{EncodeJob, Used};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use planes::{LeasedMemory, RemoteHandle, ReplySender, random};
use std::time::{Duration, Instant};
use tensor::SlabRange;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{Instrument, debug_span};
use types::stage::Stage;
use types::{Error, ErrorKind, RequestId, Result};
use wire::message::{Item, Medium, Reply, Run, Ticket};

/// What the work on one medium has come to.
enum Done {
    /// Its bytes and header are there.
    Described(u32, Described),
    /// Its rows are there or have failed; whoever asks learns it.
    Delivered(Promise),
}

/// Encodes the media of a request for peers: describes each as soon as it can, and keeps the rows
/// for as long as the caller keeps the stream.
pub(crate) async fn run(
    shared: &Shared,
    run: Run,
    terms: &Terms,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    // An id of this call's own: a request that comes again must not meet its former self.
    let id = random::request_id();
    let _abort = AbortOnDrop::request(&shared.engine, id);
    let held = hold_media(shared, &run.media, terms).await?;
    let look_at = |((item_idx, medium), held)| look_at(shared, item_idx, medium, held);
    let media = (0..).zip(&run.media).zip(held);
    let mut work = Work { shared, terms, id, steps: media.map(look_at).collect() };
    let described = work.describe(run.media.len(), replies);
    // After that a caller may well leave early: prefill may have the rows in its cache.
    let mut kept = counting_cancellation(&shared.recorder, Stage::Encode, described).await?;
    while let Some(done) = work.steps.next().await {
        if let Done::Delivered(promise) = done? {
            kept.push(promise);
        }
    }
    // The caller ends the stream when it has what it wants; nobody keeps rows for ever.
    let _ = timeout(terms.patience(), futures::future::pending::<()>()).await;
    Err(Error::new(ErrorKind::Timeout, "nobody came for the rows"))
}

/// The work on the media of one call.
struct Work<'a> {
    shared: &'a Shared,
    terms: &'a Terms,
    id: RequestId,
    steps: FuturesUnordered<BoxFuture<'a, Result<Done>>>,
}

impl Work<'_> {
    /// Describes all media, and begins to encode each that is described; gives the promises of
    /// those that are done already.
    async fn describe(
        &mut self,
        n_media: usize,
        replies: &mut ReplySender<Reply>,
    ) -> Result<Vec<Promise>> {
        let (shared, terms, id) = (self.shared, self.terms, self.id);
        let (mut n_described, mut kept) = (0, Vec::new());
        while n_described < n_media
            && let Some(done) = self.steps.next().await
        {
            match done? {
                Done::Described(item_idx, medium) => {
                    let promise = shared.rows.promise(id, item_idx);
                    let rows = Some(ticket(shared, &promise, id, item_idx));
                    let item = Item { item: medium.item.clone(), rows };
                    replies.send(Reply::Described { item_idx, item }).await?;
                    n_described += 1;
                    let deliver = deliver(shared, medium, (id, item_idx), promise, terms);
                    self.steps.push(deliver.boxed());
                }
                Done::Delivered(promise) => kept.push(promise),
            }
        }
        Ok(kept)
    }
}

fn look_at<'a>(
    shared: &'a Shared,
    item_idx: u32,
    medium: &'a Medium,
    held: MediaHold,
) -> BoxFuture<'a, Result<Done>> {
    async move { Ok(Done::Described(item_idx, describe(shared, medium, held).await?)) }.boxed()
}

/// Memory for the encoded bytes of each of these media.
pub(crate) async fn hold_media(
    shared: &Shared,
    media: &[Medium],
    terms: &Terms,
) -> Result<Vec<MediaHold>> {
    let file_bytes_max = shared.media.limits.max_bytes as u64;
    shared.media_memory.hold(media, file_bytes_max, terms.patience()).await
}

fn ticket(shared: &Shared, promise: &Promise, request: RequestId, item_idx: u32) -> Ticket {
    Ticket { owner: shared.address.clone(), request, item_idx, secret: promise.secret }
}

/// Encodes one medium and tells whoever asks for it; gives the promise back, to be kept.
async fn deliver(
    shared: &Shared,
    medium: Described,
    (id, item_idx): (RequestId, u32),
    promise: Promise,
    terms: &Terms,
) -> Result<Done> {
    let n_bytes = medium.n_row_bytes(shared);
    let rows = match shared.room.ahead(n_bytes) {
        Some(rows) => Ok(rows),
        // Memory is scarce: it goes to rows that somebody has room for already.
        None => {
            promise.wanted().await;
            let rows = shared.room.all(&[n_bytes], terms.patience()).await;
            rows.and_then(|mut rows| rows.pop().ok_or_else(|| Error::internal("no range")))
        }
    };
    promise.keep(match rows {
        Ok(rows) => encode(shared, medium, (id, item_idx), (rows, Used::Elsewhere), terms).await,
        Err(failure) => Err(failure),
    });
    Ok(Done::Delivered(promise))
}

/// Prepares and encodes one medium into `rows` for the call `id`, whose end takes the job back.
pub(crate) async fn encode(
    shared: &Shared,
    medium: Described,
    (id, item_idx): (RequestId, u32),
    (rows, used): (SlabRange, Used),
    terms: &Terms,
) -> RowsResult {
    let media = medium.prepare(shared, terms).await?;
    let (sender, receiver) = oneshot::channel();
    let job = EncodeJob { id, item_idx: item_idx as usize, media, rows, used };
    // Whoever waited may have gone; then the rows are simply dropped.
    shared.engine.encode(job, Box::new(move |rows| drop(sender.send(rows))))?;
    let lost = |_| Error::internal("the engine dropped an encode job");
    receiver.instrument(debug_span!("encode.run")).await.map_err(lost)?
}

/// Answers a ticket: waits for the rows and leases them for as long as the caller keeps the stream.
pub(crate) async fn lend_rows(
    shared: &Shared,
    ticket: &Ticket,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    let rows = shared.rows.take(ticket).await?;
    let n_bytes = rows.n_bytes();
    let memory = LeasedMemory { regions: vec![rows_region(&rows)], keep: Box::new(rows) };
    let time = lend_time(transfer_time(shared.kv_transfer_deadline, n_bytes));
    let handle = lend(shared, memory, time)?;
    let _lease = ReleaseOnDrop { shared, handle: handle.clone() };
    replies.send(Reply::Rows { handle, n_bytes }).await?;
    let _ = timeout(time, futures::future::pending::<()>()).await;
    Err(Error::new(ErrorKind::Timeout, "the embedding rows were not read in time"))
}

/// Grants a lease on memory of this worker, for `time`.
pub(crate) fn lend(shared: &Shared, memory: LeasedMemory, time: Duration) -> Result<RemoteHandle> {
    let (lease, secret) = shared.leases.grant(memory, Instant::now() + time)?;
    let transports = shared.transports.clone();
    Ok(RemoteHandle { owner: shared.address.clone(), transports, lease, secret })
}

/// Ends a lease when its call ends.
pub(crate) struct ReleaseOnDrop<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) handle: RemoteHandle,
}

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.leases.release(self.handle.lease, self.handle.secret);
    }
}
