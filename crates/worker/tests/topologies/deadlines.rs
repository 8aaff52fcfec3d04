//! How long work waits comes from its request and from the sizes of what moves, not from constants.

use crate::gate::Gate;
use crate::told::{Told, ToldCall, runs_alone};
use crate::{
    AMPLE, about, answer, check_nothing_is_left, fixture, n_cached, start, start_all,
    wait_for_members,
};
use futures::StreamExt;
use router::{Backend as _, Router, RouterConfig};
use std::time::{Duration, Instant};
use types::request::GenerateRequest;
use types::sampling::SamplingParams;
use types::stage::{Stage, Stages};
use types::{Error, ErrorKind};
use wire::message::Request;

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);

/// How a request ends that must fail.
async fn failure(router: &Router, request: GenerateRequest) -> Error {
    let mut events = router.generate(request);
    while let Some(event) = events.next().await {
        if let Err(failure) = event {
            return failure;
        }
    }
    panic!("it came to a good end");
}

/// Reads stand still; the time that either side allows ends them, and what they read into is kept
/// until they have moved on.
#[tokio::test(flavor = "multi_thread")]
async fn the_shorter_time_of_both_sides_ends_a_transfer() {
    let encode = Stages::of(&[Stage::Encode]);
    let (prefill, decode) = (Stages::of(&[Stage::Prefill]), Stages::of(&[Stage::Decode]));
    let mut fixture = fixture();
    // The time of each role, and the pictures of the request: with one, its rows stand still.
    for (times, n_media) in
        [([LONG, SHORT, LONG], 0), ([LONG, LONG, SHORT], 0), ([LONG, SHORT, LONG], 1)]
    {
        let (gate, planes) = Gate::shut(planes_mem::planes());
        let mut workers = Vec::new();
        for (stages, time) in [encode, prefill, decode].into_iter().zip(times) {
            fixture.kv_transfer_deadline = time;
            workers.push(start(&fixture, &planes, stages, AMPLE).await);
        }
        let router = Router::start(planes, RouterConfig::default()).await.unwrap();
        wait_for_members(&router).await;
        let began = Instant::now();
        let refused = failure(&router, about(&fixture, n_media)).await;
        assert_eq!(refused.kind, ErrorKind::Timeout, "{times:?}: {refused}");
        assert!(refused.message.contains("did not come in time"), "{times:?}: {refused}");
        assert!(began.elapsed() < LONG / 2, "{times:?}: {:?}", began.elapsed());
        gate.open();
        for worker in &workers {
            check_nothing_is_left(worker, "epd").await;
        }
    }
}

/// The calls of one kind.
fn of_kind(calls: &[ToldCall], is_kind: impl Fn(&Request) -> bool) -> Vec<&ToldCall> {
    let found: Vec<_> = calls.iter().filter(|call| is_kind(&call.request)).collect();
    assert!(!found.is_empty(), "no such call was made");
    found
}

/// What a request says of time, and its trace, reach every call that is made for it; its prompt
/// reaches those who read it.
#[tokio::test(flavor = "multi_thread")]
async fn calls_carry_what_they_need_of_their_request() {
    const FIRST_TOKEN: Duration = Duration::from_secs(600);
    let fixture = fixture();
    let (told, planes) = Told::around(planes_mem::planes(), |_| false);
    let _workers = start_all(&fixture, &planes, "epd").await;
    let config = RouterConfig::default();
    let router = Router::start(planes, config.clone()).await.unwrap();
    wait_for_members(&router).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let asked = GenerateRequest {
        first_token_deadline: FIRST_TOKEN,
        trace: trace.into(),
        ..about(&fixture, 2)
    };
    answer(&router, asked.clone()).await;
    let calls = told.calls();
    let awaits_rows = |request: &Request| matches!(request, Request::AwaitRows(_));
    let reserves = |request: &Request| matches!(request, Request::Reserve { .. });
    let before_first_token = [
        of_kind(&calls, |request| runs_alone(request, Stage::Encode)),
        of_kind(&calls, |request| runs_alone(request, Stage::Prefill)),
        of_kind(&calls, reserves),
        of_kind(&calls, awaits_rows),
    ];
    for call in before_first_token.concat() {
        // The request is younger than that.
        assert!(call.deadline > FIRST_TOKEN - LONG, "{:?}: {:?}", call.request, call.deadline);
    }
    for call in of_kind(&calls, |request| runs_alone(request, Stage::Decode)) {
        let pulls_within = config.idle_stream_deadline + fixture.kv_transfer_deadline;
        assert!(call.deadline >= pulls_within, "{:?}", call.deadline);
    }
    for ToldCall { request, trace: found, .. } in &calls {
        assert_eq!(found, trace, "{request:?}");
        let Request::Run(run) = request else { continue };
        let is_read = run.stages != Stages::of(&[Stage::Encode]);
        let nothing = (Vec::new(), SamplingParams::default());
        let expected =
            if is_read { (asked.prompt.clone(), asked.sampling.clone()) } else { nothing };
        assert_eq!((run.prompt.clone(), run.sampling.clone()), expected, "{:?}", run.stages);
    }
}

/// Requests under one salt share what is computed, and with others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shared_under_another_salt() {
    let fixture = fixture();
    for roles in ["w", "epd"] {
        let planes = planes_mem::planes();
        let _workers = start_all(&fixture, &planes, roles).await;
        let router = Router::start(planes, RouterConfig::default()).await.unwrap();
        wait_for_members(&router).await;
        let mut cached = Vec::new();
        for salt in ["a", "a", "b", "b", ""] {
            let asked = GenerateRequest { cache_salt: salt.into(), ..about(&fixture, 1) };
            cached.push(n_cached(&router, asked).await > 0);
        }
        assert_eq!(cached, [false, true, false, true, false], "{roles}");
    }
}
