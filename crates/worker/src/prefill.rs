//! The prefill stage: the prompt's forward pass and the first token; with encode before it when the
//! call asks for that, and with decode behind it when the call does not end there.

use crate::cancelled::counting_cancellation;
use crate::encode::{ReleaseOnDrop, encode, hold_media, lend};
use crate::events::{Events, events};
use crate::media_items::{Described, describe, n_row_bytes};
use crate::pull;
use crate::sequence::{AbortOnDrop, Choices, expand_prompt};
use crate::terms::{Terms, lend_time, transfer_time};
use crate::worker::Shared;
use engine::{Engine, SeqEvent, SeqRequest, Until, Used};
use futures::future::{self, BoxFuture, try_join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use planes::{LeasedMemory, ReplySender, random};
use std::collections::HashMap;
use std::sync::Arc;
use tensor::SlabRange;
use tokio::time::timeout;
use tracing::{Instrument, debug_span};
use types::content::{BlockKey, BlockRoot};
use types::kv::KvLayout;
use types::media::MediaItem;
use types::output::OutputToken;
use types::stage::Stage;
use types::{Error, ErrorKind, RequestId, Result, TokenId};
use wire::message::{Item, KvHandoff, Reply, Run, Ticket};

/// Where the rows of one item come from.
enum RowsSource {
    /// This call encodes them.
    Here(Described),
    /// An encoder has them.
    There(Ticket),
}

/// Runs a prompt, and the rest of the answer too when decode is among the stages.
pub(crate) async fn run(
    shared: &Shared,
    run: Run,
    terms: &Terms,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    let id = random::request_id();
    let work = compute(shared, run, (id, terms), replies);
    match counting_cancellation(&shared.recorder, Stage::Prefill, work).await? {
        Some(exported) => hand_over(shared, (id, terms), exported, replies).await,
        None => Ok(()),
    }
}

/// Computes a prompt as the call `id`; gives what decode elsewhere goes on from.
async fn compute(
    shared: &Shared,
    run: Run,
    (id, terms): (RequestId, &Terms),
    replies: &mut ReplySender<Reply>,
) -> Result<Option<Exported>> {
    // Told of the media, the caller may answer at once.
    let may_proceed = must_wait(&run).then(|| shared.waiting.begin(run.id));
    let (items, sources) = media(shared, &run, terms, replies).await?;
    if let Some(may_proceed) = may_proceed {
        may_proceed.told(terms.patience()).await?;
    }
    let request = seq_request(shared, &run, id, &items)?;
    let n_prompt = request.prompt.tokens.len();
    let (sink, mut events) = events();
    let abort = AbortOnDrop::request(&shared.engine, id);
    let _running = shared.running.begin(run.id, id);
    shared.engine.submit(request, sink)?;
    let sizes = items.iter().map(|item| n_row_bytes(shared, item)).collect();
    let sources = sources.into_iter().map(Some).collect();
    let work = Work { shared, terms, id, sizes, sources, has_asked: false };
    let exported = follow(work, &run, (n_prompt, &mut events), replies);
    let exported = exported.instrument(debug_span!("prefill.run")).await?;
    // Of what has ended the engine keeps nothing; and for exported blocks the lease decides from
    // here on when they are free, since a peer may be reading them.
    abort.disarm();
    Ok(exported)
}

/// Whether a call may take blocks only when it is told to: the length of its prompt is known to
/// nobody before it has described the media, and decode elsewhere must have room first.
fn must_wait(run: &Run) -> bool {
    run.stages.has(Stage::Encode) && !run.stages.has(Stage::Decode)
}

/// The described media of a call, and where their rows come from.
async fn media(
    shared: &Shared,
    run: &Run,
    terms: &Terms,
    replies: &mut ReplySender<Reply>,
) -> Result<(Vec<MediaItem>, Vec<RowsSource>)> {
    if !run.stages.has(Stage::Encode) {
        let there = |item: &Item| {
            let ticket = item.rows.clone().map(RowsSource::There);
            ticket.ok_or_else(|| Error::internal("an item came without a ticket for its rows"))
        };
        let sources = run.items.iter().map(there).collect::<Result<_>>()?;
        return Ok((run.items.iter().map(|item| item.item.clone()).collect(), sources));
    }
    let held = hold_media(shared, &run.media, terms).await?;
    let describe = |(medium, held)| describe(shared, medium, held);
    let described = try_join_all(run.media.iter().zip(held).map(describe)).await?;
    let items: Vec<MediaItem> = described.iter().map(|medium| medium.item.clone()).collect();
    for (item_idx, item) in (0..).zip(&items) {
        let item = Item { item: item.clone(), rows: None };
        replies.send(Reply::Described { item_idx, item }).await?;
    }
    Ok((items, described.into_iter().map(RowsSource::Here).collect()))
}

fn seq_request(
    shared: &Shared,
    run: &Run,
    id: RequestId,
    items: &[MediaItem],
) -> Result<SeqRequest> {
    let goes_on = run.stages.has(Stage::Decode);
    Ok(SeqRequest {
        id,
        prompt: expand_prompt(shared, run, items)?,
        sampling: run.sampling.clone(),
        block_root: block_root(shared, &run.cache_salt),
        until: if goes_on { Until::End } else { Until::FirstToken },
        priority: 0,
        first_choice: run.first_choice,
        n_answered: run.n_answered as usize,
    })
}

/// The root of the block keys of everything that this worker caches under `cache_salt`.
pub(crate) fn block_root(shared: &Shared, cache_salt: &str) -> BlockKey {
    let kv_dtype = shared.engine.kv().layout.dtype.name();
    let root = BlockRoot { card: shared.card_digest, kv_dtype, cache_salt, lora_id: "" };
    root.key()
}

/// A sequence and the rows it still needs.
struct Work<'a> {
    shared: &'a Shared,
    terms: &'a Terms,
    id: RequestId,
    /// Bytes of the rows of each item.
    sizes: Vec<usize>,
    sources: Vec<Option<RowsSource>>,
    /// Whether memory for rows was asked for.
    has_asked: bool,
}

/// A step on the way of rows into the engine.
enum Supplied {
    /// Memory for the rows of all items that are needed, by index.
    Room(HashMap<usize, SlabRange>),
    /// The rows of an item, which the engine does not have.
    Rows(usize, Arc<SlabRange>),
    /// The engine has made the rows of an item itself.
    Done,
}

type Supply<'a> = BoxFuture<'a, Result<Supplied>>;

impl<'a> Work<'a> {
    /// Waits for memory for the rows of all these items at once.
    fn find_room(&self, needed: Vec<usize>) -> Supply<'a> {
        let (shared, terms) = (self.shared, self.terms);
        let sizes: Vec<usize> =
            needed.iter().filter_map(|&idx| self.sizes.get(idx).copied()).collect();
        async move {
            let ranges = shared.room.all(&sizes, terms.patience()).await?;
            Ok(Supplied::Room(needed.into_iter().zip(ranges).collect()))
        }
        .boxed()
    }

    /// Begins to get the rows of the item at `item_idx`.
    fn supply(&mut self, item_idx: usize, into: SlabRange) -> Result<Supply<'a>> {
        let source = self.sources.get_mut(item_idx).and_then(Option::take);
        let source = source.ok_or_else(|| Error::internal("rows were needed twice"))?;
        let (shared, terms, id) = (self.shared, self.terms, self.id);
        Ok(async move {
            match source {
                RowsSource::Here(medium) => {
                    let item = (id, item_idx as u32);
                    encode(shared, medium, item, (into, Used::Here), terms).await?;
                    Ok(Supplied::Done)
                }
                RowsSource::There(ticket) => {
                    let rows = pull::rows(shared, &ticket, into, terms).await?;
                    Ok(Supplied::Rows(item_idx, rows))
                }
            }
        }
        .boxed())
    }

    fn engine(&self) -> &'a Engine {
        &self.shared.engine
    }
}

/// What the engine exported, with what has been sent of the answer.
struct Exported {
    blocks: Vec<u32>,
    n_tokens: usize,
    positions_delta: i64,
    first: Vec<Option<TokenId>>,
}

/// Follows a sequence to its end or its export, getting it the rows it asks for.
async fn follow(
    mut work: Work<'_>,
    run: &Run,
    (n_prompt, events): (usize, &mut Events),
    replies: &mut ReplySender<Reply>,
) -> Result<Option<Exported>> {
    let mut choices = Choices::new(run.first_choice..run.first_choice + run.sampling.n);
    let mut first = FirstTokens::new(run);
    let mut supplies = FuturesUnordered::new();
    while !choices.all_ended() {
        let event = tokio::select! {
            event = events.next() => event?,
            Some(supplied) = supplies.next() => {
                match supplied? {
                    Supplied::Room(ranges) => {
                        for (item_idx, range) in ranges {
                            supplies.push(work.supply(item_idx, range)?);
                        }
                    }
                    Supplied::Rows(item_idx, rows) => {
                        work.engine().supply(work.id, item_idx, rows);
                    }
                    Supplied::Done => {}
                }
                continue;
            }
        };
        match event {
            SeqEvent::Pinned { cached_tokens, needed_items } => {
                if !needed_items.is_empty() && work.has_asked {
                    // Whoever holds memory must not wait for more, so this begins anew with none.
                    work.engine().abort(work.id);
                    choices.hand_back(replies).await?;
                    continue;
                }
                if !needed_items.is_empty() {
                    work.has_asked = true;
                    supplies.push(work.find_room(needed_items));
                }
                let prompt_tokens = n_prompt as u32;
                replies.send(Reply::Admitted { prompt_tokens, cached_tokens }).await?;
            }
            SeqEvent::Exported { blocks, n_tokens, positions_delta } => {
                let first = first.0;
                return Ok(Some(Exported { blocks, n_tokens, positions_delta, first }));
            }
            other => {
                first.note(&other, run.first_choice);
                choices.relay(other, replies).await?;
            }
        }
    }
    Ok(None)
}

/// The first token of each choice that goes on.
struct FirstTokens(Vec<Option<TokenId>>);

impl FirstTokens {
    fn new(run: &Run) -> Self {
        Self(vec![None; run.sampling.n as usize])
    }

    fn note(&mut self, event: &SeqEvent, first_choice: u32) {
        let mut set = |choice: u32, token| {
            let idx = choice.wrapping_sub(first_choice) as usize;
            if let Some(first) = self.0.get_mut(idx) {
                *first = token;
            }
        };
        match event {
            SeqEvent::Tokens { choice, tokens } => {
                set(*choice, tokens.last().map(|OutputToken { token, .. }| *token));
            }
            SeqEvent::Finished { choice, .. } => set(*choice, None),
            SeqEvent::Pinned { .. }
            | SeqEvent::Exported { .. }
            | SeqEvent::ImportReady { .. }
            | SeqEvent::Preempted { .. }
            | SeqEvent::Failed(_) => {}
        }
    }
}

/// Tells the engine that exported blocks are free, when the lease and all reads have ended.
struct ReleaseBlocks {
    engine: Engine,
    id: RequestId,
}

impl Drop for ReleaseBlocks {
    fn drop(&mut self) {
        self.engine.release(self.id);
    }
}

/// Leases the blocks to whoever decodes, for as long as the caller keeps the stream: until decode
/// has room for them, and while they are read.
async fn hand_over(
    shared: &Shared,
    (id, terms): (RequestId, &Terms),
    exported: Exported,
    replies: &mut ReplySender<Reply>,
) -> Result<()> {
    let kv = shared.engine.kv();
    let keep = ReleaseBlocks { engine: shared.engine.clone(), id };
    let regions = exported.blocks.iter().map(|&block| pull::block_region(kv, block)).collect();
    let n_bytes = exported.blocks.len() * kv.layout.block_bytes();
    let transfer_time = transfer_time(shared.kv_transfer_deadline, n_bytes);
    let time = terms.patience() + lend_time(transfer_time);
    let handle = lend(shared, LeasedMemory { regions, keep: Box::new(keep) }, time)?;
    let _lease = ReleaseOnDrop { shared, handle: handle.clone() };
    let handoff = KvHandoff {
        handle,
        layout: layout(&shared.engine),
        n_tokens: exported.n_tokens,
        positions_delta: exported.positions_delta,
        first: exported.first,
        transfer_time,
    };
    replies.send(Reply::Handoff(handoff)).await?;
    let _ = timeout(time, future::pending::<()>()).await;
    Err(Error::new(ErrorKind::Timeout, "the KV blocks were not read in time"))
}

/// The layout of this worker's KV blocks, as it travels.
pub(crate) fn layout(engine: &Engine) -> KvLayout {
    let layout = &engine.kv().layout;
    KvLayout {
        block_size: layout.block_size as u32,
        n_layers: layout.n_layers as u32,
        n_kv_heads: layout.n_kv_heads as u32,
        head_dim: layout.head_dim as u32,
        dtype: layout.dtype.name().to_owned(),
    }
}
