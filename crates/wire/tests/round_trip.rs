//! Every message survives the wire, and nothing that is cut or altered brings a receiver down.

use bytes::Bytes;
use planes::{Address, RemoteHandle};
use std::time::Duration;
use types::card::ModelCard;
use types::content::Digest;
use types::kv::KvLayout;
use types::media::{Grid, MediaItem, MediaKind};
use types::output::{FinishReason, Logprob, OutputToken};
use types::sampling::SamplingParams;
use types::stage::{Stage, Stages};
use types::{LeaseId, RequestId, Secret};
use wire::message::{Item, KvHandoff, Medium, MediumSource, Reply, Request, Run, Ticket};

fn handle() -> RemoteHandle {
    RemoteHandle {
        owner: Address("dynamo.prefill.generate.1".into()),
        transports: vec!["mem://1".into(), "tcp://127.0.0.1:1".into()],
        lease: LeaseId { slot: 3, generation: 9 },
        secret: Secret(u128::MAX - 5),
    }
}

fn ticket() -> Ticket {
    let owner = Address("dynamo.encode.generate.1".into());
    Ticket { owner, request: RequestId(77), item_idx: 2, secret: Secret(1 << 100) }
}

fn item() -> Item {
    let item = MediaItem {
        kind: MediaKind::Video,
        digest: Digest([9; 32]),
        grid: Grid { t: 1, h: 8, w: 6 },
        n_tokens: 12,
    };
    Item { item, rows: Some(ticket()) }
}

fn handoff() -> KvHandoff {
    KvHandoff {
        handle: handle(),
        layout: KvLayout {
            block_size: 32,
            n_layers: 4,
            n_kv_heads: 2,
            head_dim: 64,
            dtype: "f32".into(),
        },
        n_tokens: 70,
        positions_delta: -12,
        first: vec![Some(0), None, Some(5)],
        transfer_time: Duration::from_millis(61_500),
    }
}

fn medium(source: MediumSource) -> Medium {
    Medium {
        kind: MediaKind::Image,
        source,
        uuid: Some("u".into()),
        processor_options: "{}".into(),
        param: "messages[0].content[1]".into(),
    }
}

fn requests() -> Vec<Request> {
    let sampling = SamplingParams {
        temperature: 0.5,
        logit_bias: vec![(3, -100.0)],
        n: 3,
        max_tokens: Some(0),
        stop_token_ids: vec![1, 2],
        logprobs: Some(0),
        seed: u64::MAX,
        ..SamplingParams::default()
    };
    let run = Run {
        id: RequestId(u128::MAX),
        stages: Stages::of(&[Stage::Encode, Stage::Prefill]),
        prompt: vec![0, 1, u32::MAX],
        media: vec![
            medium(MediumSource::Inline(Bytes::from_static(b"\x89PNG"))),
            medium(MediumSource::Lent { handle: handle(), n_bytes: 123 }),
            medium(MediumSource::Path("/tmp/a.png".into())),
            medium(MediumSource::Url("https://example.org/a".into())),
        ],
        items: vec![item(), Item { rows: None, ..item() }],
        sampling,
        cache_salt: "salt".into(),
        first_choice: 2,
        n_answered: 1,
        kv: Some(handoff()),
    };
    vec![
        Request::Run(Box::new(run)),
        Request::AwaitRows(ticket()),
        Request::FetchCard,
        Request::Reserve { n_tokens: 1000, n_choices: 3 },
        Request::FinishChoice { request: RequestId(77), choice: 2 },
        Request::Proceed { request: RequestId(77) },
    ]
}

fn replies() -> Vec<Reply> {
    let token = OutputToken {
        token: 0,
        logprob: Some(0.0),
        top_logprobs: vec![Logprob { token: 4, logprob: -1.5 }],
    };
    vec![
        Reply::Described { item_idx: 1, item: item() },
        Reply::Admitted { prompt_tokens: 100, cached_tokens: 64 },
        Reply::Tokens { choice: 1, tokens: vec![token.clone(), token] },
        Reply::Finished { choice: 0, reason: FinishReason::Stop },
        Reply::Finished { choice: 0, reason: FinishReason::Length },
        Reply::Handoff(handoff()),
        Reply::Reserved,
        Reply::Pulled,
        Reply::Stranded { why: "the encoder was lost".into() },
        Reply::Preempted { choice: 7 },
        Reply::Rows { handle: handle(), n_bytes: 4096 },
        Reply::Card(Bytes::from_static(b"piece")),
    ]
}

#[test]
fn every_message_survives_the_wire() {
    for request in requests() {
        assert_eq!(wire::decode_request(wire::encode_request(&request)).unwrap(), request);
    }
    for reply in replies() {
        assert_eq!(wire::decode_reply(wire::encode_reply(&reply)).unwrap(), reply);
    }
    let card = ModelCard {
        files: vec![("config.json".into(), b"{}".to_vec()), ("empty".into(), vec![])],
        weights: Digest([3; 32]),
        max_seq_len: 4096,
        template_override: Some(String::new()),
        media: vec![MediaKind::Image, MediaKind::Audio],
    };
    assert_eq!(wire::decode_card(wire::encode_card(&card)).unwrap(), card);
}

/// A cut message may only be refused or, where the cut fell between fields, decode to another.
#[test]
fn cut_and_altered_messages_do_no_harm() {
    let mut n_refused = 0;
    for request in requests() {
        let whole = wire::encode_request(&request);
        for idx in 0..whole.len() {
            n_refused += usize::from(wire::decode_request(whole.slice(..idx)).is_err());
            let mut altered = whole.to_vec();
            altered[idx] ^= 0x55;
            let _ = wire::decode_request(altered.into());
        }
    }
    assert!(n_refused > 100, "{n_refused}");
    for reply in replies() {
        let whole = wire::encode_reply(&reply);
        for idx in 0..whole.len() {
            // The version is the last field, so whatever is cut off takes it along.
            assert!(wire::decode_reply(whole.slice(..idx)).is_err(), "{reply:?} cut at {idx}");
            let mut altered = whole.to_vec();
            altered[idx] ^= 0x55;
            let _ = wire::decode_reply(altered.into());
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let check = |bytes: &'static [u8], expect: &str| {
        let failure = wire::decode_request(Bytes::from_static(bytes)).unwrap_err();
        assert!(failure.message.contains(expect), "{failure} lacks {expect:?}");
    };
    check(b"", "protocol version 0");
    check(&[8, 2], "protocol version 2");
    check(&[8, 1], "no valid request");
    check(&[8, 1, 0x1a, 0], "no valid ticket");
    check(&[8, 1, 0x12, 0], "no valid request id");
}

/// A reply of version 1 with this body.
fn reply_of(tag: u8, body: &[u8]) -> Bytes {
    [&[0x78, 1, tag, body.len() as u8], body].concat().into()
}

/// The tags of a reply's `pulled` and `handoff`.
const PULLED: u8 = 0x32;
const HANDOFF: u8 = 0x2a;

#[test]
fn what_a_reply_lacks_is_named() {
    let check = |bytes: &[u8], expect: &str| {
        let failure = wire::decode_reply(Bytes::copy_from_slice(bytes)).unwrap_err();
        assert!(failure.message.contains(expect), "{failure} lacks {expect:?}");
    };
    check(b"", "protocol version 0");
    check(&[PULLED, 0], "protocol version 0");
    check(&[0x78, 2, PULLED, 0], "protocol version 2");
    check(&[0x78, 1], "no valid reply");
    assert_eq!(wire::decode_reply(reply_of(PULLED, &[])).unwrap(), Reply::Pulled);
    check(&reply_of(HANDOFF, &[]), "no valid handle");
    check(&reply_of(HANDOFF, &handoff_without_delta()), "no valid positions delta");
}

/// A handle with a secret, and an empty layout.
fn handoff_without_delta() -> Vec<u8> {
    [&[0x0a, 18, 0x2a, 16], [7; 16].as_slice(), &[0x12, 0]].concat()
}

/// Rotary positions go on from the delta: none at all is something else than none to add.
#[test]
fn a_positions_delta_of_zero_is_there() {
    let bytes = [handoff_without_delta(), vec![0x20, 0]].concat();
    let Ok(Reply::Handoff(found)) = wire::decode_reply(reply_of(HANDOFF, &bytes)) else {
        panic!("a handoff with all that it needs is refused");
    };
    assert_eq!(found.positions_delta, 0);
    let sent = Reply::Handoff(KvHandoff { positions_delta: 0, ..handoff() });
    assert_eq!(wire::decode_reply(wire::encode_reply(&sent)).unwrap(), sent);
}

#[test]
fn a_card_of_another_version_is_refused() {
    // Its weights, then its version.
    let card = |version: &[u8]| [&[0x12, 32], [3; 32].as_slice(), version].concat();
    assert!(wire::decode_card(card(&[0x78, 1]).into()).is_ok());
    for other in [&[0x78, 2], [].as_slice()] {
        let failure = wire::decode_card(card(other).into()).unwrap_err();
        assert!(failure.message.contains("protocol version"), "{failure}");
    }
}
