//! The stages of one passage, each a conversation with a worker.

use crate::attempt::Attempt;
use crate::calls::{Conversation, Terms, is_lost, out_of_place};
use crate::losses::Loss;
use crate::places::Place;
use crate::progress::{Progress, ended_too_soon};
use crate::reserve::Reservation;
use crate::route::{Route, Share};
use crate::router::Shared;
use futures::future::try_join_all;
use planes::Instance;
use std::time::Duration;
use tracing::{Instrument, debug_span};
use types::media::MediaItem;
use types::prompt::n_expanded;
use types::stage::{Stage, Stages};
use types::{Error, ErrorKind, Result};
use wire::message::{Item, KvHandoff, Reply, Request, Run};

/// Why a passage through the stages did not come to its end.
pub(crate) enum Failure {
    /// A worker is gone; another may do its work.
    Lost(Loss),
    /// Nobody else would do better.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(failure: Error) -> Self {
        Self::Other(failure)
    }
}

/// What a stage yields.
pub(crate) type Passed<T> = std::result::Result<T, Failure>;

/// All that a stage needs to know of the passage it is part of.
pub(crate) struct Passage<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) attempt: Attempt<'a>,
    pub(crate) place: &'a Place,
    pub(crate) route: Route,
}

/// Media as their encoders described them, in prompt order; the encoders keep the rows for as long
/// as they are listened to.
#[derive(Default)]
pub(crate) struct Encoded {
    pub(crate) items: Vec<Item>,
    pub(crate) conversations: Vec<Conversation>,
}

/// A prompt whose KV is leased for as long as prefill is listened to, and room for it at decode.
pub(crate) struct Prefilled {
    items: Vec<Item>,
    handoff: KvHandoff,
    conversation: Conversation,
    reserved: Option<Reservation>,
}

impl Passage<'_> {
    /// Has every encoder describe its share of the media.
    pub(crate) async fn encode(&self) -> Passed<Encoded> {
        let encode = |share| self.encode_share(share).instrument(debug_span!("encode"));
        let shares = try_join_all(self.route.encode.iter().map(encode));
        let mut items: Vec<Option<Item>> = vec![None; self.attempt.request.media.len()];
        let mut conversations = Vec::new();
        for (described, conversation) in shares.await? {
            for (medium_idx, item) in described {
                items[medium_idx] = Some(item);
            }
            conversations.push(conversation);
        }
        Ok(Encoded { items: items.into_iter().flatten().collect(), conversations })
    }

    async fn encode_share(&self, share: &Share) -> Passed<(Vec<(usize, Item)>, Conversation)> {
        let mut run = self.attempt.run(Stages::of(&[Stage::Encode]));
        let lent = &self.attempt.lent.media;
        run.media = share.media.iter().filter_map(|&idx| lent.get(idx).cloned()).collect();
        let mut conversation = self.begin(&share.encoder, run);
        let mut described = Vec::new();
        while described.len() < share.media.len() {
            let reply = conversation.next(self.attempt.time_left()).await;
            match self.blame(&share.encoder, reply)? {
                Some(Reply::Described { item_idx, item }) => {
                    let medium_idx = share.media.get(item_idx as usize).copied();
                    let unknown = || Error::internal("an encoder described another medium");
                    described.push((medium_idx.ok_or_else(unknown)?, item));
                }
                Some(Reply::Stranded { why }) => return Err(stranded(why)),
                Some(other) => return Err(out_of_place(&other).into()),
                None => return Err(self.lost(&share.encoder, ended_too_soon())),
            }
        }
        Ok((described, conversation))
    }

    /// Has room promised at decode before prefill takes blocks; none where nobody decodes
    /// elsewhere, or the length of the prompt is not known yet, because prefill is to describe the
    /// media.
    pub(crate) async fn reserve(&self, items: &[Item]) -> Passed<Option<Reservation>> {
        let is_known = items.len() == self.attempt.request.media.len();
        let Some(decoder) = self.route.decode.as_ref().filter(|_| is_known) else {
            return Ok(None);
        };
        let items: Vec<MediaItem> = items.iter().map(|item| item.item.clone()).collect();
        let n_tokens = n_expanded(self.attempt.prompt.len(), &items).try_into();
        let n_tokens = n_tokens.unwrap_or(u32::MAX);
        let request = Request::Reserve { n_tokens, n_choices: self.attempt.sampling.n };
        let time_left = self.attempt.time_left();
        let mut reservation = Reservation::ask(self.call(decoder, &request, time_left));
        let granted = reservation.granted(time_left).instrument(debug_span!("reserve")).await;
        self.blame(decoder, granted)?;
        Ok(Some(reservation))
    }

    /// The same while prefill, which has described the media, waits for it; then it is told.
    async fn reserve_beside(
        &self,
        items: &[Item],
        prefill: &mut Conversation,
    ) -> Passed<Option<Reservation>> {
        let worker = &self.route.prefill;
        let reserved = tokio::select! {
            biased;
            reserved = self.reserve(items) => reserved?,
            // Its loss is noticed here.
            reply = prefill.next(self.attempt.time_left()) => {
                return match self.blame(worker, reply)? {
                    Some(other) => Err(out_of_place(&other).into()),
                    None => Err(self.lost(worker, ended_too_soon())),
                };
            }
        };
        if reserved.is_some() {
            let request = Request::Proceed { request: self.attempt.request.id };
            let time_left = self.attempt.time_left();
            // Its end, since letting go of it earlier might take it back.
            let ended = self.call(worker, &request, time_left).next(time_left).await;
            self.blame(worker, ended)?;
        }
        Ok(reserved)
    }

    /// Runs the prompt; gives the handoff to decode, or nothing when all choices have ended.
    pub(crate) async fn prefill(
        &self,
        mut items: Vec<Item>,
        mut reserved: Option<Reservation>,
        progress: &mut Progress,
    ) -> Passed<Option<Prefilled>> {
        let worker = &self.route.prefill;
        let stages = self.route.stages_at_prefill(!self.attempt.request.media.is_empty());
        let run = Run { items: items.clone(), ..self.attempt.run(stages) };
        let mut conversation = self.begin(worker, run);
        self.place.moves_to(&worker.address);
        loop {
            let reply = conversation.next(self.patience(progress)).await;
            match self.blame(worker, reply)? {
                // It encodes as well, and describes the media in order.
                Some(Reply::Described { item, .. }) => {
                    self.recognise(items.len(), &item, progress)?;
                    items.push(item);
                    if items.len() == self.attempt.request.media.len() {
                        reserved = self.reserve_beside(&items, &mut conversation).await?;
                    }
                }
                Some(Reply::Handoff(handoff)) => {
                    return Ok(Some(Prefilled { items, handoff, conversation, reserved }));
                }
                Some(Reply::Stranded { why }) => return Err(self.encoder_lost(why)),
                Some(other) => relay(other, progress).await?,
                None if progress.is_any_running() => {
                    return Err(self.lost(worker, ended_too_soon()));
                }
                None => return Ok(None),
            }
        }
    }

    /// Generates from the handoff; prefill is let go as soon as its blocks have arrived.
    pub(crate) async fn decode(&self, prefilled: Prefilled, progress: &mut Progress) -> Passed<()> {
        let no_decoder = || Error::internal("a worker handed over what nobody takes");
        let worker = self.route.decode.as_ref().ok_or_else(no_decoder)?;
        let Prefilled { items, handoff, conversation: lender, mut reserved } = prefilled;
        if let Some(reservation) = &mut reserved {
            let granted = reservation.granted(self.shared.config.idle_stream_deadline).await;
            self.blame(worker, granted)?;
        }
        let transfer_time = handoff.transfer_time;
        let without_rows = |item: Item| Item { rows: None, ..item };
        let run = Run {
            items: items.into_iter().map(without_rows).collect(),
            kv: Some(handoff),
            ..self.attempt.run(Stages::of(&[Stage::Decode]))
        };
        let idle = self.shared.config.idle_stream_deadline;
        let until_pulled = idle.saturating_add(transfer_time);
        let mut conversation = self.call(worker, &Request::Run(Box::new(run)), until_pulled);
        self.place.moves_to(&worker.address);
        let mut held = Some((lender, reserved));
        loop {
            let reply = match &mut held {
                // The silence of whoever lends the blocks is noticed here long before decode can.
                Some((lender, _)) => tokio::select! {
                    biased;
                    reply = conversation.next(until_pulled) => reply,
                    end = lender.next(until_pulled) => return Err(self.lender_ended(end)),
                },
                None => conversation.next(idle).await,
            };
            match self.blame(worker, reply)? {
                Some(Reply::Pulled) => drop(held.take()),
                Some(Reply::Stranded { why }) => {
                    let failure = Error::new(ErrorKind::PeerLost, why);
                    return Err(self.lost(&self.route.prefill, failure));
                }
                Some(other) => relay(other, progress).await?,
                None if progress.is_any_running() => {
                    return Err(self.lost(worker, ended_too_soon()));
                }
                None => return Ok(()),
            }
        }
    }

    /// Checks that a medium is still what it was. Errors name the request field.
    pub(crate) fn recognise(
        &self,
        medium_idx: usize,
        item: &Item,
        progress: &mut Progress,
    ) -> Result<()> {
        progress.recognise(medium_idx, &item.item).map_err(|changed| {
            match self.attempt.request.media.get(medium_idx) {
                Some(medium) => changed.at(&medium.param),
                None => changed,
            }
        })
    }

    fn begin(&self, worker: &Instance, run: Run) -> Conversation {
        self.call(worker, &Request::Run(Box::new(run)), self.attempt.time_left())
    }

    fn call(&self, worker: &Instance, request: &Request, deadline: Duration) -> Conversation {
        let terms = Terms { deadline, trace: &self.attempt.request.trace };
        let messaging = &*self.shared.planes.messaging;
        Conversation::begin(messaging, &worker.address, request, terms)
    }

    /// How long to wait for a reply: until the first token's deadline, then the idle deadline.
    fn patience(&self, progress: &Progress) -> Duration {
        let idle = self.shared.config.idle_stream_deadline;
        if progress.has_begun() { idle } else { self.attempt.time_left() }
    }

    /// A failed call to `worker`, remembered when the worker is gone.
    fn blame<T>(&self, worker: &Instance, reply: Result<T>) -> Passed<T> {
        reply.map_err(|failure| {
            if is_lost(&failure) { self.lost(worker, failure) } else { Failure::Other(failure) }
        })
    }

    fn lost(&self, worker: &Instance, failure: Error) -> Failure {
        self.shared.members.suspect(worker.id);
        Failure::Lost(Loss { worker: Some(worker.id), failure })
    }

    /// Prefill lost an encoder; among several only the next attempt can tell which.
    fn encoder_lost(&self, why: String) -> Failure {
        match self.route.encode.as_slice() {
            [share] => self.lost(&share.encoder, Error::new(ErrorKind::PeerLost, why)),
            _ => stranded(why),
        }
    }

    /// Prefill ended before decode had its blocks: it is lost, or nobody read them in time.
    fn lender_ended(&self, end: Result<Option<Reply>>) -> Failure {
        let prefill = &self.route.prefill;
        match self.blame(prefill, end) {
            Err(failure) => failure,
            Ok(Some(other)) => out_of_place(&other).into(),
            Ok(None) => self.lost(prefill, ended_too_soon()),
        }
    }
}

/// A worker lost a peer, and does not know more.
fn stranded(why: String) -> Failure {
    Failure::Lost(Loss { worker: None, failure: Error::new(ErrorKind::PeerLost, why) })
}

async fn relay(reply: Reply, progress: &mut Progress) -> Result<()> {
    match reply {
        Reply::Admitted { prompt_tokens, cached_tokens } => {
            progress.admit(prompt_tokens, cached_tokens).await
        }
        Reply::Tokens { choice, tokens } => progress.add(choice, tokens).await,
        Reply::Finished { choice, reason } => progress.finish(choice, reason).await,
        Reply::Preempted { choice } => progress.preempt(choice),
        Reply::Described { .. }
        | Reply::Handoff(_)
        | Reply::Reserved
        | Reply::Pulled
        | Reply::Stranded { .. }
        | Reply::Rows { .. }
        | Reply::Card(_) => Err(out_of_place(&reply)),
    }
}
