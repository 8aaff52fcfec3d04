//! Workers whose steps fail: others answer for them, and they come back when they can.

use crate::{
    AMPLE, Fixture, about, answers, check_nothing_is_left, eventually, fixture, start,
    wait_for_members,
};
use engine::Condition;
use futures::StreamExt;
use futures::future::join;
use models::{Model, ModelSpec, Positions, PreparedMedia, Step};
use planes::{Planes, random};
use router::{Backend as _, Router, RouterConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tensor::{Device, KvPool, Tensor};
use types::output::GenerateEvent;
use types::prompt::ExpandedPrompt;
use types::request::GenerateRequest;
use types::stage::Stages;
use types::{Error, ErrorKind, Result, TokenId};
use worker::Worker;

/// Steps that fail before the engine itself is held to be at fault.
const N_FAILED: usize = 2;

/// A model whose steps fail while the test wants that.
struct Failing {
    model: Arc<dyn Model>,
    fails: AtomicBool,
}

impl Model for Failing {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn encode(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        self.model.encode(device, media)
    }

    fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        self.model.positions(prompt)
    }

    fn forward(&self, device: &Device, step: &Step<'_>, kv: &mut KvPool) -> Result<Tensor> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::internal("the test wants it"));
        }
        self.model.forward(device, step, kv)
    }
}

/// A whole worker whose model can be made to fail.
async fn start_failing(fixture: &mut Fixture, planes: &Planes) -> (Worker, Arc<Failing>) {
    let model = Arc::clone(&fixture.model);
    let fails = AtomicBool::new(false);
    let failing = Arc::new(Failing { model: Arc::clone(&model), fails });
    fixture.model = Arc::<Failing>::clone(&failing);
    let worker = start(fixture, planes, Stages::ALL, AMPLE).await;
    fixture.model = model;
    (worker, failing)
}

/// The tokens of the one choice, or why there are none.
async fn outcome(router: &Router, request: &GenerateRequest) -> Result<Vec<TokenId>> {
    let request = GenerateRequest { id: random::request_id(), ..request.clone() };
    let mut events = router.generate(request);
    let mut answer = Vec::new();
    while let Some(event) = events.next().await {
        if let GenerateEvent::Tokens { tokens, .. } = event? {
            answer.extend(tokens.iter().map(|token| token.token));
        }
    }
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_steps_fail_stays_away_until_one_succeeds() {
    let mut fixture = fixture();
    let asked = about(&fixture, 1);
    let expected = answers(&fixture, "w", std::iter::once(asked.clone())).await.remove(0).remove(0);
    let planes = planes_mem::planes();
    let (one, first) = start_failing(&mut fixture, &planes).await;
    let (other, second) = start_failing(&mut fixture, &planes).await;
    let router = Router::start(planes, RouterConfig::default()).await.unwrap();
    wait_for_members(&router).await;
    let is_missed = || router.models().first().is_none_or(|model| model.missing.is_some());

    // Of two at once each gets one; in the end the other gets all.
    first.fails.store(true, Ordering::Relaxed);
    let mut failures = Vec::new();
    for _ in 0..20 {
        let (a, b) = join(outcome(&router, &asked), outcome(&router, &asked)).await;
        for found in [a, b] {
            match found {
                Ok(answer) => assert_eq!(answer, expected),
                Err(failure) => failures.push(failure.kind),
            }
        }
    }
    assert_eq!(failures, [ErrorKind::Internal; N_FAILED], "only so many are the requests' own");
    assert_eq!(one.view().engine().condition(), Condition::Failing);
    assert!(!is_missed());

    // When both fail, the model is missed, and nobody is asked.
    second.fails.store(true, Ordering::Relaxed);
    let give_up = Instant::now() + Duration::from_secs(10);
    while !is_missed() {
        assert!(Instant::now() < give_up, "it still takes requests");
        outcome(&router, &asked).await.expect_err("both fail");
    }
    let failure = outcome(&router, &asked).await.expect_err("nobody is there");
    assert_eq!(failure.kind, ErrorKind::Unavailable);

    // They notice by themselves that they can work again.
    first.fails.store(false, Ordering::Relaxed);
    second.fails.store(false, Ordering::Relaxed);
    wait_for_members(&router).await;
    assert_eq!(outcome(&router, &asked).await, Ok(expected));
    for worker in [&one, &other] {
        let engine = worker.view().engine().clone();
        eventually("the engine is well", || engine.condition() == Condition::Well).await;
        check_nothing_is_left(worker, "ww").await;
    }
}
