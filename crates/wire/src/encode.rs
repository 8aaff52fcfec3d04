//! From our types to bytes.

use crate::message::{Item, KvHandoff, Medium, MediumSource, Reply, Request, Run, Ticket};
use crate::{VERSION, proto};
use bytes::Bytes;
use planes::RemoteHandle;
use prost::Message;
use types::card::ModelCard;
use types::kv::KvLayout;
use types::media::MediaKind;
use types::output::{FinishReason, Logprob, OutputToken};
use types::sampling::SamplingParams;

/// A request as bytes.
pub fn encode_request(request: &Request) -> Bytes {
    use proto::request::Body;
    let body = match request {
        Request::Run(run) => Body::Run(self::run(run)),
        Request::AwaitRows(ticket) => {
            Body::AwaitRows(proto::AwaitRows { ticket: Some(self::ticket(ticket)) })
        }
        Request::FetchCard => Body::FetchCard(proto::FetchCard {}),
        &Request::Reserve { n_tokens, n_choices } => {
            Body::Reserve(proto::Reserve { n_tokens, n_choices })
        }
        &Request::FinishChoice { request, choice } => Body::FinishChoice(proto::FinishChoice {
            request_id: request.to_bytes().to_vec().into(),
            choice,
        }),
        &Request::Proceed { request } => {
            Body::Proceed(proto::Proceed { request_id: request.to_bytes().to_vec().into() })
        }
    };
    proto::Request { version: VERSION, body: Some(body) }.encode_to_vec().into()
}

/// A reply as bytes.
pub fn encode_reply(reply: &Reply) -> Bytes {
    use proto::reply::Body;
    let body = match reply {
        Reply::Described { item_idx, item } => {
            Body::Described(proto::Described { item_idx: *item_idx, item: Some(self::item(item)) })
        }
        &Reply::Admitted { prompt_tokens, cached_tokens } => {
            Body::Admitted(proto::Admitted { prompt_tokens, cached_tokens })
        }
        Reply::Tokens { choice, tokens } => Body::Tokens(proto::Tokens {
            choice: *choice,
            tokens: tokens.iter().map(output_token).collect(),
        }),
        &Reply::Finished { choice, reason } => {
            Body::Finished(proto::Finished { choice, reason: finish_reason(reason) })
        }
        Reply::Handoff(handoff) => Body::Handoff(kv_handoff(handoff)),
        Reply::Reserved => Body::Reserved(proto::Reserved {}),
        Reply::Pulled => Body::Pulled(proto::Pulled {}),
        Reply::Stranded { why } => Body::Stranded(proto::Stranded { why: why.clone() }),
        &Reply::Preempted { choice } => Body::Preempted(proto::Preempted { choice }),
        Reply::Rows { handle, n_bytes } => {
            Body::Rows(proto::Rows { handle: Some(self::handle(handle)), n_bytes: *n_bytes as u64 })
        }
        Reply::Card(piece) => Body::Card(piece.clone()),
    };
    proto::Reply { body: Some(body), version: VERSION }.encode_to_vec().into()
}

/// A whole card as bytes, to be sent in pieces.
pub fn encode_card(card: &ModelCard) -> Bytes {
    let file = |(name, content): &(String, Vec<u8>)| proto::CardFile {
        name: name.clone(),
        content: content.clone().into(),
    };
    let card = proto::Card {
        files: card.files.iter().map(file).collect(),
        weights: card.weights.0.to_vec().into(),
        max_seq_len: card.max_seq_len,
        template_override: card.template_override.clone(),
        media: card.media.iter().map(|&it| kind(it)).collect(),
        version: VERSION,
    };
    card.encode_to_vec().into()
}

fn run(run: &Run) -> proto::Run {
    proto::Run {
        request_id: run.id.to_bytes().to_vec().into(),
        stages: u32::from(run.stages.bits()),
        prompt: run.prompt.clone(),
        media: run.media.iter().map(medium).collect(),
        items: run.items.iter().map(item).collect(),
        sampling: Some(sampling(&run.sampling)),
        cache_salt: run.cache_salt.clone(),
        first_choice: run.first_choice,
        n_answered: run.n_answered,
        kv: run.kv.as_ref().map(kv_handoff),
    }
}

fn medium(medium: &Medium) -> proto::Medium {
    use proto::medium::Source;
    let source = match &medium.source {
        MediumSource::Inline(bytes) => Source::Inline(bytes.clone()),
        MediumSource::Lent { handle, n_bytes } => Source::Lent(proto::Lent {
            handle: Some(self::handle(handle)),
            n_bytes: *n_bytes as u64,
        }),
        MediumSource::Path(path) => Source::Path(path.clone()),
        MediumSource::Url(url) => Source::Url(url.clone()),
    };
    proto::Medium {
        kind: kind(medium.kind),
        source: Some(source),
        uuid: medium.uuid.clone(),
        processor_options: medium.processor_options.clone(),
        param: medium.param.clone(),
    }
}

fn item(item: &Item) -> proto::Item {
    let described = &item.item;
    proto::Item {
        kind: kind(described.kind),
        digest: described.digest.0.to_vec().into(),
        grid_t: described.grid.t,
        grid_h: described.grid.h,
        grid_w: described.grid.w,
        n_tokens: described.n_tokens,
        rows: item.rows.as_ref().map(ticket),
    }
}

fn ticket(ticket: &Ticket) -> proto::Ticket {
    proto::Ticket {
        owner: ticket.owner.0.clone(),
        request_id: ticket.request.to_bytes().to_vec().into(),
        item_idx: ticket.item_idx,
        secret: ticket.secret.to_bytes().to_vec().into(),
    }
}

fn handle(handle: &RemoteHandle) -> proto::Handle {
    proto::Handle {
        owner: handle.owner.0.clone(),
        transports: handle.transports.clone(),
        slot: handle.lease.slot,
        generation: handle.lease.generation,
        secret: handle.secret.to_bytes().to_vec().into(),
    }
}

fn kv_handoff(handoff: &KvHandoff) -> proto::KvHandoff {
    let first = |&token: &Option<u32>| proto::FirstToken { token };
    proto::KvHandoff {
        handle: Some(handle(&handoff.handle)),
        layout: Some(kv_layout(&handoff.layout)),
        n_tokens: handoff.n_tokens as u64,
        positions_delta: Some(handoff.positions_delta),
        first: handoff.first.iter().map(first).collect(),
        transfer_ms: u64::try_from(handoff.transfer_time.as_millis()).unwrap_or(u64::MAX),
    }
}

fn kv_layout(layout: &KvLayout) -> proto::KvLayout {
    proto::KvLayout {
        block_size: layout.block_size,
        n_layers: layout.n_layers,
        n_kv_heads: layout.n_kv_heads,
        head_dim: layout.head_dim,
        dtype: layout.dtype.clone(),
    }
}

fn sampling(sampling: &SamplingParams) -> proto::Sampling {
    let bias = |&(token, bias): &(u32, f32)| proto::TokenBias { token, bias };
    proto::Sampling {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: sampling.logit_bias.iter().map(bias).collect(),
        seed: sampling.seed,
        n: sampling.n,
        max_tokens: sampling.max_tokens,
        min_tokens: sampling.min_tokens,
        ignore_eos: sampling.ignore_eos,
        stop_token_ids: sampling.stop_token_ids.clone(),
        logprobs: sampling.logprobs,
    }
}

fn output_token(token: &OutputToken) -> proto::OutputToken {
    let top = |&Logprob { token, logprob }: &Logprob| proto::Logprob { token, logprob };
    proto::OutputToken {
        token: token.token,
        logprob: token.logprob,
        top: token.top_logprobs.iter().map(top).collect(),
    }
}

fn kind(kind: MediaKind) -> u32 {
    match kind {
        MediaKind::Image => 1,
        MediaKind::Video => 2,
        MediaKind::Audio => 3,
    }
}

fn finish_reason(reason: FinishReason) -> u32 {
    match reason {
        FinishReason::Stop => 0,
        FinishReason::Length => 1,
    }
}
