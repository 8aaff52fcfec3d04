//! Bytes that this worker fetches from peers: embedding rows and KV blocks.

use crate::sequence::AbortOnDrop;
use crate::terms::{Terms, transfer_time};
use crate::worker::Shared;
use futures::StreamExt;
use planes::{Call, Destination, Memory, Region, RemoteHandle, Source};
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::Moved;
use tensor::{Arena, KvPool, SlabRange};
use tokio::time::timeout;
use tracing::{Instrument, debug_span};
use types::{Error, ErrorKind, Result};
use wire::message::{Reply, Request, Ticket};

/// The rows of a ticket, waited for and copied into `into`, on the terms of the call that needs
/// them.
pub(crate) async fn rows(
    shared: &Shared,
    ticket: &Ticket,
    into: SlabRange,
    terms: &Terms,
) -> Result<Arc<SlabRange>> {
    let pull = pull_rows(shared, ticket, into, terms);
    pull.instrument(debug_span!("prefill.pull")).await.map_err(of_peer)
}

/// A failure of the peer that we read from, as one of this request. A peer that is not there, and
/// one that does not know what it promised because it began anew, are both lost; and that peers
/// refuse each other is no fault of the client's.
pub(crate) fn of_peer(failure: Error) -> Error {
    if matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::NotFound) {
        return Error { kind: ErrorKind::PeerLost, ..failure };
    }
    if failure.kind == ErrorKind::Forbidden {
        return Error { kind: ErrorKind::Internal, ..failure };
    }
    failure
}

async fn pull_rows(
    shared: &Shared,
    ticket: &Ticket,
    into: SlabRange,
    terms: &Terms,
) -> Result<Arc<SlabRange>> {
    let body = wire::encode_request(&Request::AwaitRows(ticket.clone()));
    let call = Call { deadline: terms.patience(), trace: terms.trace.clone(), body };
    let mut replies = shared.planes.messaging.call(&ticket.owner, call);
    let late = |_| Error::new(ErrorKind::Timeout, "the embedding rows did not come in time");
    let ended = || Error::new(ErrorKind::PeerLost, "the encoder did not answer");
    let first = timeout(terms.patience(), replies.next()).await.map_err(late)?;
    let reply = wire::decode_reply(first.ok_or_else(ended)??)?;
    let Reply::Rows { handle, n_bytes } = reply else { return Err(ended()) };
    if n_bytes != into.n_bytes() {
        let message = format!("{n_bytes} bytes of rows came, {} were planned", into.n_bytes());
        return Err(Error::internal(message));
    }
    let region = rows_region(&into);
    let into = Destination { regions: vec![region], keep: Box::new(into) };
    let source = Source { region_idx: 0, offset: 0 };
    let began = Instant::now();
    let read = shared.planes.transport.read(handle, vec![source], into);
    let read = timeout(transfer_time(shared.kv_transfer_deadline, n_bytes), read);
    let read = tokio::select! {
        biased;
        read = read => read.map_err(late)??,
        // Its silence is noticed here long before the transport gives up.
        end = replies.next() => return Err(end.and_then(Result::err).unwrap_or_else(ended)),
    };
    shared.recorder.moved(Moved::Embedding, n_bytes, began.elapsed());
    // Ending the call ends the lease.
    drop(replies);
    let range = read.keep.downcast::<SlabRange>();
    range.map(|range| Arc::new(*range)).map_err(|_| Error::internal("a read lost its memory"))
}

/// Copies KV blocks (index in the prompt, local block) into this worker's pool, within the time
/// that both this worker and the lender allow.
///
/// `guard` keeps the local blocks reserved until no byte can land in them any more, even when the
/// future is dropped half-way.
pub(crate) async fn blocks(
    shared: &Shared,
    (from, lent_for): (RemoteHandle, Duration),
    missing: &[(usize, u32)],
    guard: AbortOnDrop,
) -> Result<AbortOnDrop> {
    let kv = shared.engine.kv();
    let source = |&(region_idx, _): &(usize, u32)| Source { region_idx, offset: 0 };
    let sources = missing.iter().map(source).collect();
    let regions = missing.iter().map(|&(_, block)| block_region(kv, block)).collect();
    let into = Destination { regions, keep: Box::new(guard) };
    let read = shared.planes.transport.read(from, sources, into);
    let n_bytes = missing.len() * kv.layout.block_bytes();
    let time = transfer_time(shared.kv_transfer_deadline, n_bytes).min(lent_for);
    let read = timeout(time, read);
    let late = |_| Error::new(ErrorKind::Timeout, "the KV blocks did not come in time");
    let began = Instant::now();
    let read = read.instrument(debug_span!("decode.pull")).await.map_err(late)?.map_err(of_peer)?;
    shared.recorder.moved(Moved::Kv, n_bytes, began.elapsed());
    let guard = read.keep.downcast::<AbortOnDrop>();
    guard.map(|guard| *guard).map_err(|_| Error::internal("a read lost its blocks"))
}

/// The memory of one block of this worker's pool.
pub(crate) fn block_region(kv: &KvPool, block: u32) -> Region {
    assert!((block as usize) < kv.n_blocks, "block {block} of {}", kv.n_blocks);
    let n_bytes = kv.layout.block_bytes();
    let start = kv.arena.base().wrapping_add(block as usize * n_bytes);
    // SAFETY: the block lies in the arena; the engine keeps the arena, and keeps the block for this
    // request until it is told otherwise by the guard that goes with the region.
    unsafe { Region::within(memory_of(&kv.arena), start, n_bytes) }
}

/// The memory of embedding rows; whoever hands it over hands over the range as well.
pub(crate) fn rows_region(rows: &SlabRange) -> Region {
    let arena = rows.slab().arena();
    let start = arena.base().wrapping_add(rows.offset());
    // SAFETY: the range lies in its arena and goes with the region.
    unsafe { Region::within(memory_of(arena), start, rows.n_bytes()) }
}

fn memory_of(arena: &Arena) -> Memory {
    if arena.is_on_host() { Memory::Host } else { Memory::Gpu }
}
