//! Rows of pictures whose prompts have been computed: they keep nobody from beginning.

use crate::{
    AMPLE, about, answer, answers, check_nothing_is_left, eventually, fixture, start,
    wait_for_members,
};
use futures::future::{join, join_all};
use models::Description;
use planes::random;
use router::{Router, RouterConfig};
use types::TokenId;
use types::media::{MediaKind, MediaSource};
use types::request::GenerateRequest;
use types::stage::Stages;

/// Requests at once.
const N_REQUESTS: u32 = 20;

/// Bytes of the rows of a request's one picture.
fn n_row_bytes(description: &Description, request: &GenerateRequest) -> usize {
    let MediaSource::Bytes(bytes) = &request.media[0].source else { panic!("it is in memory") };
    let header = media::header(bytes, &media::Limits::default()).unwrap();
    let plan = description.processor.plan(MediaKind::Image, header.size, "{}").unwrap();
    plan.n_tokens as usize * description.spec.hidden_size * size_of::<f32>()
}

/// Memory for the rows of one picture, and many long answers about one: the second begins as soon
/// as the first one's prompt has been computed.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_answer_under_way_keep_nobody_waiting() {
    let mut fixture = fixture();
    let first = about(&fixture, 1);
    let placeholder = fixture.description.spec.placeholders[0].token;
    let long = |idx: u32| {
        let mut request = first.clone();
        request.id = random::request_id();
        // Before its rows are there, nothing of it can be computed or found in the cache.
        request.prompt = [placeholder].into_iter().chain(idx..idx + 20 as TokenId).collect();
        request.cache_salt = format!("{idx}");
        request.sampling.max_tokens = Some(200);
        request
    };
    let expected = answers(&fixture, "w", (0..N_REQUESTS).map(long)).await;
    fixture.embedding_bytes = Some(n_row_bytes(&fixture.description, &first));
    let planes = planes_mem::planes();
    let worker = start(&fixture, &planes, Stages::ALL, AMPLE).await;
    let router = Router::start(planes, RouterConfig::default()).await.unwrap();
    wait_for_members(&router).await;
    let engine = worker.view().engine().clone();
    let all = join_all((0..N_REQUESTS).map(|idx| answer(&router, long(idx))));
    let two_run = eventually("two run at once", || engine.stats().scheduler.n_running > 1);
    let (found, ()) = join(all, two_run).await;
    assert!(found == expected);
    check_nothing_is_left(&worker, "w").await;
}
