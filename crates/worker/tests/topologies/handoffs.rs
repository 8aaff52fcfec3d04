//! What passes between the stages, and when: rows as they become ready, blocks that are lacking,
//! and the first token before anybody decodes.

use crate::gate::Gate;
use crate::told::{Told, runs_alone};
use crate::tower::{Counting, Tower, prepared};
use crate::{
    about, answer, answers, check_nothing_is_left, eventually, fixture, start_all, wait_for_members,
};
use engine::EngineStats;
use futures::StreamExt;
use futures::future::join_all;
use planes::Planes;
use router::{Backend as _, Router, RouterConfig};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::time::timeout;
use types::TokenId;
use types::output::GenerateEvent;
use types::request::GenerateRequest;
use types::sampling::SamplingParams;
use types::stage::Stage;
use wire::message::Request;
use worker::{Worker, WorkerView};

/// Longest wait for an event that must come.
const PATIENCE: Duration = Duration::from_secs(30);

async fn router(planes: Planes) -> Router {
    let router = Router::start(planes, RouterConfig::default()).await.unwrap();
    wait_for_members(&router).await;
    router
}

fn stats(worker: &Worker) -> EngineStats {
    worker.view().engine().stats()
}

/// One encoder stands still: prefill computes all that lies before its picture, with the rows of
/// the other one, which have moved already.
#[tokio::test(flavor = "multi_thread")]
async fn prefill_begins_with_what_is_ready() {
    let mut fixture = fixture();
    let asked = about(&fixture, 2);
    let expected = answers(&fixture, "w", std::iter::once(asked.clone())).await.remove(0);
    let pictures = [0, 1].map(|idx| {
        let types::media::MediaSource::Bytes(bytes) = &asked.media[idx].source else { panic!() };
        prepared(&fixture, bytes)
    });
    let [first, second] = pictures;
    assert_ne!(first, second, "the tower must tell them apart");
    let placeholder = fixture.description.spec.placeholders[0].token;
    let mut places = (0..asked.prompt.len()).filter(|&idx| asked.prompt[idx] == placeholder);
    let (_, place) = (places.next().unwrap(), places.next().unwrap());
    // The first picture's placeholder stands for all its rows.
    let n_before = place - 1 + first.plan.n_tokens as usize;
    let tower = Tower::of(&mut fixture, move |medium| *medium == second);
    let (gate, planes) = Gate::opened(planes_mem::planes());
    let workers = start_all(&fixture, &planes, "eepd").await;
    let router = router(planes).await;
    let n_rows_moved = || {
        let encoders = workers[..2].iter().map(|worker| gate.reads_of(worker.view().address()));
        encoders.map(|reads| reads.len()).sum::<usize>()
    };
    let answering = answer(&router, asked);
    let watching = async {
        eventually("prefill has computed what it can", || {
            stats(&workers[2]).n_rows == n_before as u64
        })
        .await;
        assert_eq!(n_rows_moved(), 1, "the rows that are ready have moved alone");
        // The other encoder may be slow to begin, and then stands still.
        eventually("each encoder has one picture", || tower.runs() == [1, 1]).await;
        tower.open();
    };
    let (found, ()) = tokio::join!(answering, watching);
    assert_eq!(found, expected);
    assert_eq!(n_rows_moved(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_of_a_request_are_spread_over_encoders() {
    let fixture = fixture();
    let planes = planes_mem::planes();
    let workers = start_all(&fixture, &planes, "eepd").await;
    let router = router(planes).await;
    answer(&router, about(&fixture, 4)).await;
    for encoder in &workers[..2] {
        assert_eq!(stats(encoder).n_encoded_items, 2);
    }
}

/// While the tower is busy with one picture, those of other requests gather, and then run together.
#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_batches_pictures_of_different_requests() {
    const N_REQUESTS: usize = 8;
    let mut fixture = fixture();
    let asked: Vec<_> = (0..N_REQUESTS).map(|_| about(&fixture, 1)).collect();
    let expected = answers(&fixture, "w", asked.iter().cloned()).await;
    let tower = Tower::of(&mut fixture, |_| true);
    let processor = Counting::of(&mut fixture);
    let planes = planes_mem::planes();
    let _workers = start_all(&fixture, &planes, "epd").await;
    let router = router(planes).await;
    let answering = join_all(asked.into_iter().map(|request| answer(&router, request)));
    let watching = async {
        eventually("all pictures are prepared", || processor.n_prepared() == N_REQUESTS).await;
        tower.open();
    };
    let (found, ()) = tokio::join!(answering, watching);
    assert_eq!(found, expected);
    let runs = tower.runs();
    assert_eq!(runs.iter().sum::<usize>(), N_REQUESTS);
    assert!(runs.len() < N_REQUESTS, "every picture ran alone: {runs:?}");
}

/// Decode cannot begin before the reader has the first token.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_does_not_wait_for_decode() {
    let fixture = fixture();
    let decodes = |request: &Request| runs_alone(request, Stage::Decode);
    let (told, planes) = Told::around(planes_mem::planes(), decodes);
    let _workers = start_all(&fixture, &planes, "epd").await;
    let router = router(planes).await;
    let mut events = router.generate(about(&fixture, 1));
    let mut n_tokens = 0;
    while n_tokens == 0 {
        let event = timeout(PATIENCE, events.next()).await.expect("a token without decode");
        if let GenerateEvent::Tokens { tokens, .. } = event.unwrap().unwrap() {
            n_tokens += tokens.len();
        }
    }
    assert_eq!(n_tokens, 1);
    told.open();
    while let Some(event) = timeout(PATIENCE, events.next()).await.expect("decode goes on") {
        if let GenerateEvent::Tokens { tokens, .. } = event.unwrap() {
            n_tokens += tokens.len();
        }
    }
    assert!(n_tokens > 1);
}

/// A question that begins as an earlier one: decode asks for the blocks that it does not hold.
#[tokio::test(flavor = "multi_thread")]
async fn only_blocks_that_decode_lacks_are_moved() {
    let fixture = fixture();
    let (gate, planes) = Gate::opened(planes_mem::planes());
    let workers = start_all(&fixture, &planes, "qd").await;
    let router = router(planes).await;
    // Eight blocks of 32 tokens, the last of them with 26; then another last one.
    let beginning: Vec<TokenId> = (0..250).map(|idx| idx % 249).collect();
    for last in [7, 8] {
        let mut asked = about(&fixture, 0);
        asked.prompt = [&beginning[..], &[last]].concat();
        answer(&router, asked).await;
    }
    let reads = gate.reads_of(workers[0].view().address());
    assert_eq!(reads.iter().map(|read| read.n_regions).collect::<Vec<_>>(), [8, 1]);
}

/// A client leaves while blocks are on their way: they stay reserved until no byte can land there.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_are_being_read_into_stay_reserved() {
    let fixture = fixture();
    let (gate, planes) = Gate::shut(planes_mem::planes());
    let workers = start_all(&fixture, &planes, "qd").await;
    let router = router(planes).await;
    let mut events = router.generate(about(&fixture, 0));
    // A request goes on only while it is read.
    let reading = tokio::spawn(async move { while events.next().await.is_some() {} });
    let decode = workers[1].view();
    eventually("the blocks are on their way", || {
        decode.engine().stats().scheduler.n_importing == 1
    })
    .await;
    reading.abort();
    let n_reserved = || {
        let blocks = decode.engine().stats().scheduler.blocks;
        blocks.owned + blocks.quarantined
    };
    eventually("the call has ended", || decode.n_calls() == 0).await;
    // Nothing happens, and there is no event for that.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(n_reserved() > 0, "others may have blocks into which bytes will land");
    gate.open();
    for worker in &workers {
        check_nothing_is_left(worker, "qd").await;
    }
}

/// The first read need not open its way: workers know each other before any request comes.
#[tokio::test(flavor = "multi_thread")]
async fn workers_connect_to_those_whose_memory_they_read() {
    let fixture = fixture();
    // The reader, and the owners of what it reads, by their places among the workers.
    for (roles, read) in
        [("qd", vec![0]), ("dq", vec![1]), ("epd", vec![0, 1]), ("dpe", vec![1, 2])]
    {
        let (gate, planes) = Gate::opened(planes_mem::planes());
        let workers = start_all(&fixture, &planes, roles).await;
        for idx in read {
            let owner = workers[idx].view();
            let is_met = || gate.met().contains(&owner.transports()[0]);
            eventually("its reader is connected", is_met).await;
        }
    }
}

/// Decode has room for one of two prompts: the other is not even prefilled before the first ends.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_prefilled_that_decode_has_no_room_for() {
    let fixture = fixture();
    let decode: Arc<OnceLock<WorkerView>> = Arc::default();
    let at_work: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (seen_by, noted) = (Arc::clone(&decode), Arc::clone(&at_work));
    let look = move |request: &Request| {
        if matches!(request, Request::Run(run) if run.stages.has(Stage::Prefill)) {
            let n_running = seen_by.get().unwrap().engine().stats().scheduler.n_running;
            noted.lock().unwrap().push(n_running);
        }
        false
    };
    let (_told, planes) = Told::around(planes_mem::planes(), look);
    let workers = start_all(&fixture, &planes, "qD").await;
    assert!(decode.set(workers[1].view()).is_ok());
    let router = router(planes).await;
    // Eight blocks of fourteen, and up to thirteen with the answer.
    let long = |first: TokenId| {
        let mut asked: GenerateRequest = about(&fixture, 0);
        asked.prompt = (0..250).map(|idx| (idx + first) % 249).collect();
        asked.sampling = SamplingParams { max_tokens: Some(150), ..asked.sampling };
        asked
    };
    let mut first = router.generate(long(1));
    let mut n_tokens = 0;
    while n_tokens < 2 {
        if let GenerateEvent::Tokens { tokens, .. } = first.next().await.unwrap().unwrap() {
            n_tokens += tokens.len();
        }
    }
    let reading = async { while first.next().await.is_some() {} };
    tokio::join!(reading, answer(&router, long(2)));
    assert_eq!(*at_work.lock().unwrap(), [0, 0], "sequences at decode when prefill began");
}
