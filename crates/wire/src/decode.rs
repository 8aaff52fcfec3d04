//! From bytes to our types, with every check that the form of a message needs.

use crate::message::{Item, KvHandoff, Medium, MediumSource, Reply, Request, Run, Ticket};
use crate::{VERSION, proto};
use bytes::Bytes;
use planes::{Address, RemoteHandle};
use prost::Message;
use std::time::Duration;
use types::card::ModelCard;
use types::content::Digest;
use types::kv::KvLayout;
use types::media::{Grid, MediaItem, MediaKind};
use types::output::{FinishReason, Logprob, OutputToken};
use types::sampling::SamplingParams;
use types::stage::Stages;
use types::{Error, LeaseId, RequestId, Result, Secret};

/// Choices that one request may have; also bounds what a decoded message makes us allocate.
const N_CHOICES_MAX: u32 = 1024;

/// A request from bytes. Errors: malformed, of another version, or lacking a field (`Internal`:
/// peers are ours, so it is our fault or a version skew).
pub fn decode_request(bytes: Bytes) -> Result<Request> {
    use proto::request::Body;
    let request = proto::Request::decode(bytes).map_err(|_| malformed("request"))?;
    check_version(request.version)?;
    Ok(match request.body.ok_or_else(|| malformed("request"))? {
        Body::Run(run) => Request::Run(Box::new(self::run(run)?)),
        Body::AwaitRows(wait) => Request::AwaitRows(ticket(need(wait.ticket, "ticket")?)?),
        Body::FetchCard(_) => Request::FetchCard,
        Body::Reserve(proto::Reserve { n_tokens, n_choices }) => {
            Request::Reserve { n_tokens, n_choices }
        }
        Body::FinishChoice(proto::FinishChoice { request_id, choice }) => {
            Request::FinishChoice { request: self::request_id(&request_id)?, choice }
        }
        Body::Proceed(proto::Proceed { request_id }) => {
            Request::Proceed { request: self::request_id(&request_id)? }
        }
    })
}

/// A reply from bytes. Errors as for [`decode_request`].
pub fn decode_reply(bytes: Bytes) -> Result<Reply> {
    use proto::reply::Body;
    let reply = proto::Reply::decode(bytes).map_err(|_| malformed("reply"))?;
    check_version(reply.version)?;
    Ok(match reply.body.ok_or_else(|| malformed("reply"))? {
        Body::Described(described) => Reply::Described {
            item_idx: described.item_idx,
            item: item(need(described.item, "item")?)?,
        },
        Body::Admitted(proto::Admitted { prompt_tokens, cached_tokens }) => {
            Reply::Admitted { prompt_tokens, cached_tokens }
        }
        Body::Tokens(tokens) => Reply::Tokens {
            choice: tokens.choice,
            tokens: tokens.tokens.into_iter().map(output_token).collect(),
        },
        Body::Finished(finished) => {
            Reply::Finished { choice: finished.choice, reason: finish_reason(finished.reason)? }
        }
        Body::Handoff(handoff) => Reply::Handoff(kv_handoff(handoff)?),
        Body::Reserved(_) => Reply::Reserved,
        Body::Pulled(_) => Reply::Pulled,
        Body::Stranded(stranded) => Reply::Stranded { why: stranded.why },
        Body::Preempted(preempted) => Reply::Preempted { choice: preempted.choice },
        Body::Rows(rows) => Reply::Rows {
            handle: handle(need(rows.handle, "handle")?)?,
            n_bytes: usize::try_from(rows.n_bytes).map_err(|_| malformed("length"))?,
        },
        Body::Card(piece) => Reply::Card(piece),
    })
}

/// A card from its bytes. Errors as for [`decode_request`].
pub fn decode_card(bytes: Bytes) -> Result<ModelCard> {
    let card = proto::Card::decode(bytes).map_err(|_| malformed("card"))?;
    check_version(card.version)?;
    let file = |file: proto::CardFile| (file.name, file.content.to_vec());
    Ok(ModelCard {
        files: card.files.into_iter().map(file).collect(),
        weights: digest(&card.weights)?,
        max_seq_len: card.max_seq_len,
        template_override: card.template_override,
        media: card.media.into_iter().map(kind).collect::<Result<_>>()?,
    })
}

fn check_version(found: u32) -> Result<()> {
    if found != VERSION {
        let message = format!("a peer speaks protocol version {found}, this program {VERSION}");
        return Err(Error::internal(message));
    }
    Ok(())
}

fn run(run: proto::Run) -> Result<Run> {
    Ok(Run {
        id: request_id(&run.request_id)?,
        stages: stages(run.stages)?,
        prompt: run.prompt,
        media: run.media.into_iter().map(medium).collect::<Result<_>>()?,
        items: run.items.into_iter().map(item).collect::<Result<_>>()?,
        sampling: sampling(need(run.sampling, "sampling")?)?,
        cache_salt: run.cache_salt,
        first_choice: run.first_choice,
        n_answered: run.n_answered,
        kv: run.kv.map(kv_handoff).transpose()?,
    })
}

fn medium(medium: proto::Medium) -> Result<Medium> {
    use proto::medium::Source;
    let source = match need(medium.source, "source")? {
        Source::Inline(bytes) => MediumSource::Inline(bytes),
        Source::Lent(lent) => MediumSource::Lent {
            handle: handle(need(lent.handle, "handle")?)?,
            n_bytes: usize::try_from(lent.n_bytes).map_err(|_| malformed("length"))?,
        },
        Source::Path(path) => MediumSource::Path(path),
        Source::Url(url) => MediumSource::Url(url),
    };
    Ok(Medium {
        kind: kind(medium.kind)?,
        source,
        uuid: medium.uuid,
        processor_options: medium.processor_options,
        param: medium.param,
    })
}

fn item(item: proto::Item) -> Result<Item> {
    let described = MediaItem {
        kind: kind(item.kind)?,
        digest: digest(&item.digest)?,
        grid: Grid { t: item.grid_t, h: item.grid_h, w: item.grid_w },
        n_tokens: item.n_tokens,
    };
    Ok(Item { item: described, rows: item.rows.map(ticket).transpose()? })
}

fn ticket(ticket: proto::Ticket) -> Result<Ticket> {
    Ok(Ticket {
        owner: Address(ticket.owner),
        request: request_id(&ticket.request_id)?,
        item_idx: ticket.item_idx,
        secret: secret(&ticket.secret)?,
    })
}

fn handle(handle: proto::Handle) -> Result<RemoteHandle> {
    Ok(RemoteHandle {
        owner: Address(handle.owner),
        transports: handle.transports,
        lease: LeaseId { slot: handle.slot, generation: handle.generation },
        secret: secret(&handle.secret)?,
    })
}

fn kv_handoff(handoff: proto::KvHandoff) -> Result<KvHandoff> {
    Ok(KvHandoff {
        handle: handle(need(handoff.handle, "handle")?)?,
        layout: kv_layout(need(handoff.layout, "layout")?),
        n_tokens: usize::try_from(handoff.n_tokens).map_err(|_| malformed("length"))?,
        positions_delta: need(handoff.positions_delta, "positions delta")?,
        first: handoff.first.into_iter().map(|first| first.token).collect(),
        transfer_time: Duration::from_millis(handoff.transfer_ms),
    })
}

fn kv_layout(layout: proto::KvLayout) -> KvLayout {
    KvLayout {
        block_size: layout.block_size,
        n_layers: layout.n_layers,
        n_kv_heads: layout.n_kv_heads,
        head_dim: layout.head_dim,
        dtype: layout.dtype,
    }
}

fn sampling(sampling: proto::Sampling) -> Result<SamplingParams> {
    if sampling.n == 0 || sampling.n > N_CHOICES_MAX {
        return Err(malformed("number of choices"));
    }
    let bias = |bias: proto::TokenBias| (bias.token, bias.bias);
    Ok(SamplingParams {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: sampling.logit_bias.into_iter().map(bias).collect(),
        seed: sampling.seed,
        n: sampling.n,
        max_tokens: sampling.max_tokens,
        min_tokens: sampling.min_tokens,
        ignore_eos: sampling.ignore_eos,
        stop_token_ids: sampling.stop_token_ids,
        logprobs: sampling.logprobs,
    })
}

fn output_token(token: proto::OutputToken) -> OutputToken {
    let top = |top: proto::Logprob| Logprob { token: top.token, logprob: top.logprob };
    OutputToken {
        token: token.token,
        logprob: token.logprob,
        top_logprobs: token.top.into_iter().map(top).collect(),
    }
}

fn kind(kind: u32) -> Result<MediaKind> {
    match kind {
        1 => Ok(MediaKind::Image),
        2 => Ok(MediaKind::Video),
        3 => Ok(MediaKind::Audio),
        _ => Err(malformed("kind of medium")),
    }
}

fn finish_reason(reason: u32) -> Result<FinishReason> {
    match reason {
        0 => Ok(FinishReason::Stop),
        1 => Ok(FinishReason::Length),
        _ => Err(malformed("finish reason")),
    }
}

fn stages(bits: u32) -> Result<Stages> {
    let stages = u8::try_from(bits).map(Stages::from_bits).unwrap_or(Stages::NONE);
    if stages == Stages::NONE || u32::from(stages.bits()) != bits {
        return Err(malformed("stages"));
    }
    Ok(stages)
}

fn request_id(bytes: &[u8]) -> Result<RequestId> {
    RequestId::from_bytes(bytes).ok_or_else(|| malformed("request id"))
}

fn secret(bytes: &[u8]) -> Result<Secret> {
    Secret::from_bytes(bytes).ok_or_else(|| malformed("secret"))
}

fn digest(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| malformed("digest"))
}

fn need<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| malformed(name))
}

fn malformed(what: &str) -> Error {
    Error::internal(format!("a message between workers has no valid {what}"))
}
