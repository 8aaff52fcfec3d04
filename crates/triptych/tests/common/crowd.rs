//! Many clients at once: they ask, time, and compare every answer with the right one.

use super::process::{PATIENCE, becomes_true};
use super::questions::Question;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An answer that is not whole by then hangs.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Bytes of stack of a client.
const STACK_BYTES: usize = 256 << 10;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) finish_reason: String,
    pub(crate) n_prompt_tokens: u64,
    pub(crate) n_tokens: u64,
}

/// An answer that did not come.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The status, where it was not 200.
    pub(crate) status: Option<u16>,
    pub(crate) words: String,
}

/// What became of a question.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Which question.
    pub(crate) idx: usize,
    pub(crate) result: Result<Answer, Refusal>,
    pub(crate) began: Instant,
    pub(crate) time: Duration,
}

/// A client of a server.
#[derive(Clone)]
pub(crate) struct Asker {
    agent: ureq::Agent,
    url: String,
}

impl Asker {
    pub(crate) fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false);
        let agent = config.timeout_global(Some(ANSWER_TIME)).build().new_agent();
        Self { agent, url: format!("{url}/v1/chat/completions") }
    }

    /// Asks, and reads the answer to its end.
    pub(crate) fn ask(&self, question: &Question) -> Result<Answer, Refusal> {
        if question.body["stream"] == true {
            let mut response = self.post(&question.body)?;
            return read_stream(BufReader::new(response.body_mut().as_reader()));
        }
        let body = self.whole(&question.body)?;
        let choice = &body["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
        let mut answer = Answer { text, ..nothing() };
        answer.add_end(choice, &body["usage"]);
        Ok(answer)
    }

    /// The answer to a request that is not to be streamed, as it comes.
    pub(crate) fn whole(&self, body: &Value) -> Result<Value, Refusal> {
        let text = self.post(body)?.body_mut().read_to_string();
        let text = text.map_err(|error| refusal(None, error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| refusal(None, error.to_string()))
    }

    /// The beginning of an answer; whatever is not 200 is a refusal.
    fn post(&self, body: &Value) -> Result<ureq::http::Response<ureq::Body>, Refusal> {
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let sent = request.send(body.to_string());
        let mut response = sent.map_err(|error| refusal(None, error.to_string()))?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let words = response.body_mut().read_to_string();
        Err(refusal(Some(status), words.unwrap_or_else(|error| error.to_string())))
    }

    /// [`Self::ask`], timed.
    pub(crate) fn time(&self, idx: usize, question: &Question) -> Asked {
        let began = Instant::now();
        let result = self.ask(question);
        Asked { idx, result, began, time: began.elapsed() }
    }
}

fn nothing() -> Answer {
    Answer { text: String::new(), finish_reason: String::new(), n_prompt_tokens: 0, n_tokens: 0 }
}

fn refusal(status: Option<u16>, words: String) -> Refusal {
    Refusal { status, words: words.chars().take(400).collect() }
}

impl Answer {
    fn add_end(&mut self, choice: &Value, usage: &Value) {
        if let Some(reason) = choice["finish_reason"].as_str() {
            reason.clone_into(&mut self.finish_reason);
        }
        if let Some(n_tokens) = usage["completion_tokens"].as_u64() {
            self.n_tokens = n_tokens;
            self.n_prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
        }
    }
}

/// An answer of one choice in a stream of events, which must end once and then say no more.
pub(crate) fn read_stream(events: impl BufRead) -> Result<Answer, Refusal> {
    let (mut answer, mut n_ends, mut n_dones) = (nothing(), 0, 0);
    for line in events.lines() {
        let line = line.map_err(|error| refusal(None, error.to_string()))?;
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if n_dones > 0 {
            return Err(refusal(None, format!("after [DONE] came {data}")));
        }
        if data == "[DONE]" {
            n_dones += 1;
            continue;
        }
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        if event.get("error").is_some() {
            return Err(refusal(None, data.to_owned()));
        }
        let choice = &event["choices"][0];
        n_ends += usize::from(choice["finish_reason"].is_string());
        answer.text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        answer.add_end(choice, &event["usage"]);
    }
    match (n_ends, n_dones) {
        (1, 1) => Ok(answer),
        _ => Err(refusal(None, format!("{n_ends} finish reasons and {n_dones} [DONE]"))),
    }
}

/// Asks `n` questions, beginning anew when they run out, so many at a time.
pub(crate) fn ask_all(url: &str, questions: &[Question], n: usize, n_at_once: usize) -> Vec<Asked> {
    let (next, asker) = (AtomicUsize::new(0), Asker::new(url));
    let asked = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..n_at_once.min(n) {
            let ask = || {
                loop {
                    let idx = next.fetch_add(1, Ordering::Relaxed);
                    if idx >= n {
                        return;
                    }
                    let idx = idx % questions.len();
                    let done = asker.time(idx, &questions[idx]);
                    asked.lock().unwrap_or_else(PoisonError::into_inner).push(done);
                }
            };
            let client = std::thread::Builder::new().stack_size(STACK_BYTES);
            client.spawn_scoped(scope, ask).unwrap();
        }
    });
    asked.into_inner().unwrap()
}

/// Questions, each with its answer as a server in one process gives it.
pub(crate) struct Sheet {
    pub(crate) questions: Arc<Vec<Question>>,
    answers: Vec<Answer>,
}

impl Sheet {
    /// The answers of the server at `url`.
    pub(crate) fn fill(url: &str, questions: Vec<Question>) -> Self {
        let asked = ask_all(url, &questions, questions.len(), 4);
        Self::of(questions, asked)
    }

    /// The sheet of `questions` that were each asked once.
    pub(crate) fn of(questions: Vec<Question>, mut asked: Vec<Asked>) -> Self {
        asked.sort_by_key(|asked| asked.idx);
        let answer = |asked: Asked| match asked.result {
            Ok(answer) => answer,
            Err(refusal) => panic!("question {} of the sheet: {refusal:?}", asked.idx),
        };
        Self { questions: Arc::new(questions), answers: asked.into_iter().map(answer).collect() }
    }

    /// How many answers are the ones that a look at the picture gives, of how many.
    pub(crate) fn n_right(&self) -> (usize, usize) {
        let known = self.questions.iter().zip(&self.answers);
        let known =
            known.filter_map(|(question, answer)| Some((question.expected.as_ref()?, answer)));
        known.fold((0, 0), |(n_right, n), (expected, answer)| {
            (n_right + usize::from(*expected == answer.text), n + 1)
        })
    }

    /// Every answer that came is the right one.
    pub(crate) fn check_no_wrong_text(&self, asked: &[Asked]) {
        for Asked { idx, result, .. } in asked {
            if let Ok(answer) = result {
                assert_eq!(answer, &self.answers[*idx], "question {idx}");
            }
        }
    }

    /// Every answer came, and is the right one; gives the time of the slowest.
    pub(crate) fn check(&self, asked: &[Asked]) -> Duration {
        let failed = failures(asked);
        let first = failed.first();
        assert!(failed.is_empty(), "{} of {} failed: {first:?}", failed.len(), asked.len());
        self.check_no_wrong_text(asked);
        slowest(asked)
    }
}

/// Those that did not get an answer.
pub(crate) fn failures(asked: &[Asked]) -> Vec<&Asked> {
    asked.iter().filter(|asked| asked.result.is_err()).collect()
}

/// The time of the slowest.
pub(crate) fn slowest(asked: &[Asked]) -> Duration {
    asked.iter().map(|asked| asked.time).max().unwrap_or_default()
}

/// Clients that ask one question after another until they are told to stop.
pub(crate) struct Load {
    shared: Arc<LoadShared>,
    clients: Vec<JoinHandle<()>>,
}

struct LoadShared {
    is_stopped: AtomicBool,
    next: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
}

impl Load {
    /// So many clients begin with the questions of a sheet.
    pub(crate) fn start(url: &str, sheet: &Sheet, n_clients: usize) -> Self {
        let shared = Arc::new(LoadShared {
            is_stopped: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            asked: Mutex::default(),
        });
        let asker = Asker::new(url);
        let client = |_| {
            let (shared, asker) = (Arc::clone(&shared), asker.clone());
            let questions = Arc::clone(&sheet.questions);
            let client = std::thread::Builder::new().stack_size(STACK_BYTES);
            client.spawn(move || shared.keep_asking(&asker, &questions)).unwrap()
        };
        Self { clients: (0..n_clients).map(client).collect(), shared }
    }

    /// How many answers have come well.
    pub(crate) fn n_answered(&self) -> usize {
        self.shared.lock().iter().filter(|asked| asked.result.is_ok()).count()
    }

    /// Waits for `n` more answers; gives how long that took.
    pub(crate) fn expect_more(&self, n: usize) -> Duration {
        let (began, goal) = (Instant::now(), self.n_answered() + n);
        let has_come = becomes_true(PATIENCE, || self.n_answered() >= goal);
        let failed = failures(&self.shared.lock()).last().map(|&failed| failed.clone());
        assert!(has_come, "{} of {goal} answers came; {failed:?}", self.n_answered());
        began.elapsed()
    }

    /// Lets the clients finish what they have asked; gives all that was asked.
    pub(crate) fn finish(mut self) -> Vec<Asked> {
        self.stop();
        std::mem::take(&mut *self.shared.lock())
    }

    fn stop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| client.join().unwrap());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
    }
}

impl LoadShared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_asking(&self, asker: &Asker, questions: &[Question]) {
        while !self.is_stopped.load(Ordering::Relaxed) {
            let idx = self.next.fetch_add(1, Ordering::Relaxed) % questions.len();
            let asked = asker.time(idx, &questions[idx]);
            self.lock().push(asked);
        }
    }
}
