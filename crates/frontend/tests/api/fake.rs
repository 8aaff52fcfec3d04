//! A backend that plays a script, and remembers what it was asked and whether it was cancelled.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use router::{Backend, ServedModel};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use text::Tokenizer;
use types::card::ModelCard;
use types::media::MediaKind;
use types::output::{FinishReason, GenerateEvent, GenerateResult, Logprob, OutputToken};
use types::request::GenerateRequest;
use types::{Error, ErrorKind, RequestId, Result};

/// The name of the model that is there and ready.
pub(crate) const MODEL: &str = "tiny/vl";

/// Longest context of the model, in tokens.
pub(crate) const MAX_SEQ_LEN: u32 = 200;

/// The tiny model folder of the goldens, without its weights.
pub(crate) static CARD: LazyLock<Arc<ModelCard>> = LazyLock::new(|| {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/qwen2_vl/checkpoint");
    let names = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let read = |name: &str| (name.to_owned(), std::fs::read(folder.join(name)).unwrap());
    let files = names.into_iter().map(read).collect();
    let media = vec![MediaKind::Image];
    Arc::new(ModelCard { files, max_seq_len: MAX_SEQ_LEN, media, ..ModelCard::default() })
});

pub(crate) static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_card(&CARD).unwrap());

/// What a request meets.
#[derive(Clone)]
pub(crate) enum Step {
    Say(GenerateEvent),
    Fail(Error),
    Pause(Duration),
    /// Nothing more, ever.
    Hang,
}

pub(crate) fn admitted() -> Step {
    Step::Say(GenerateEvent::Admitted { prompt_tokens: 21, cached_tokens: 16 })
}

/// The tokens of `text`, in one event.
pub(crate) fn say(choice: u32, text: &str) -> Step {
    let token = |token| OutputToken { token, logprob: None, top_logprobs: Vec::new() };
    let tokens = TOKENIZER.encode(text).unwrap().into_iter().map(token).collect();
    Step::Say(GenerateEvent::Tokens { choice, tokens })
}

pub(crate) fn finished(choice: u32, reason: FinishReason) -> Step {
    Step::Say(GenerateEvent::Finished { choice, reason })
}

pub(crate) fn fail(kind: ErrorKind) -> Step {
    Step::Fail(Error::new(kind, "words of the backend"))
}

/// A short answer that ends well.
pub(crate) fn hello() -> Vec<Step> {
    vec![admitted(), say(0, "Hello"), say(0, " you."), finished(0, FinishReason::Stop)]
}

pub(crate) struct Fake {
    script: Vec<Step>,
    pub(crate) models: Vec<ServedModel>,
    pub(crate) asked: Mutex<Vec<GenerateRequest>>,
    /// Streams that were dropped before their script had ended.
    pub(crate) n_cancelled: Arc<AtomicUsize>,
    /// Choices that nobody wanted more of.
    pub(crate) finished: Mutex<Vec<(RequestId, u32)>>,
}

impl Fake {
    pub(crate) fn new(script: Vec<Step>) -> Arc<Self> {
        Self::with_models(script, &[(MODEL, None)])
    }

    pub(crate) fn with_models(script: Vec<Step>, models: &[(&str, Option<&str>)]) -> Arc<Self> {
        let served = |(name, missing): &(&str, Option<&str>)| ServedModel {
            name: (*name).to_owned(),
            created_s: 1_700_000_000,
            missing: missing.map(str::to_owned),
        };
        Arc::new(Self {
            script,
            models: models.iter().map(served).collect(),
            asked: Mutex::default(),
            n_cancelled: Arc::default(),
            finished: Mutex::default(),
        })
    }

    pub(crate) fn n_cancelled(&self) -> usize {
        self.n_cancelled.load(Ordering::SeqCst)
    }
}

impl Backend for Fake {
    fn models(&self) -> Vec<ServedModel> {
        self.models.clone()
    }

    fn card(&self, model: &str) -> BoxFuture<'static, Result<Arc<ModelCard>>> {
        let card = match self.models.iter().find(|served| served.name == model) {
            Some(_) => Ok(Arc::clone(&CARD)),
            None => Err(Error::new(ErrorKind::NotFound, "no such model")),
        };
        futures::future::ready(card).boxed()
    }

    fn finish_choice(&self, id: RequestId, choice: u32) {
        self.finished.lock().unwrap().push((id, choice));
    }

    fn generate(&self, request: GenerateRequest) -> BoxStream<'static, GenerateResult> {
        let n_top = request.sampling.logprobs;
        self.asked.lock().unwrap().push(request);
        let watch = Watch { n_cancelled: Arc::clone(&self.n_cancelled), is_over: false };
        let state = (self.script.clone().into_iter(), watch);
        stream::unfold(state, move |(mut steps, mut watch)| async move {
            loop {
                match steps.next() {
                    Some(Step::Say(event)) => {
                        watch.is_over = steps.len() == 0;
                        return Some((Ok(with_logprobs(event, n_top)), (steps, watch)));
                    }
                    Some(Step::Fail(error)) => {
                        watch.is_over = true;
                        return Some((Err(error), (steps, watch)));
                    }
                    Some(Step::Pause(time)) => tokio::time::sleep(time).await,
                    Some(Step::Hang) => futures::future::pending().await,
                    None => return None,
                }
            }
        })
        .boxed()
    }
}

/// Every token was as likely as the next id, and both more than the last one of the vocabulary.
fn with_logprobs(mut event: GenerateEvent, n_top: Option<u32>) -> GenerateEvent {
    if let (GenerateEvent::Tokens { tokens, .. }, Some(n_top)) = (&mut event, n_top) {
        for token in tokens {
            token.logprob = Some(-0.5);
            let top = [(token.token, -0.5), (token.token + 1, f32::NEG_INFINITY)];
            let top = top.map(|(token, logprob)| Logprob { token, logprob });
            token.top_logprobs = top.into_iter().take(n_top as usize).collect();
        }
    }
    event
}

struct Watch {
    n_cancelled: Arc<AtomicUsize>,
    is_over: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.is_over {
            self.n_cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}
