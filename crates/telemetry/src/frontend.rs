//! Metrics of the HTTP side, under the names that dashboards made for Dynamo's frontend expect.

use crate::buckets;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Instant;

/// The HTTP side's metrics of all models.
#[derive(Clone)]
pub struct FrontendMetrics {
    requests: Family<RequestLabels, Counter>,
    inflight: Family<ModelLabel, Gauge>,
    queued: Family<ModelLabel, Gauge>,
    disconnected: Gauge,
    duration: Histograms,
    first_token: Histograms,
    inter_token: Histograms,
    input_tokens: Histograms,
    output_tokens: Histograms,
    output_tokens_sum: Family<ModelLabel, Counter>,
}

type Histograms = Family<ModelLabel, Histogram, fn() -> Histogram>;

/// Label of everything that is counted by model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelLabel {
    /// The served name. Only names of models that exist may become labels.
    pub model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    model: String,
    endpoint: Endpoint,
    request_type: RequestType,
    status: Status,
}

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    ChatCompletions,
}

/// How the answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestType {
    /// Piece by piece.
    Stream,
    /// In one body.
    Unary,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// With a whole answer.
    Success,
    /// Refused, failed or abandoned.
    Error,
}

macro_rules! label_words {
    ($($name:ident { $($variant:ident = $word:literal),+ })+) => {$(
        impl EncodeLabelValue for $name {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                match self { $(Self::$variant => $word),+ }.encode(encoder)
            }
        }
    )+};
}
label_words! {
    Endpoint { ChatCompletions = "chat_completions" }
    RequestType { Stream = "stream", Unary = "unary" }
    Status { Success = "success", Error = "error" }
}

impl FrontendMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let histograms = |make: fn() -> Histogram| Histograms::new_with_constructor(make);
        let metrics = Self {
            requests: Family::default(),
            inflight: Family::default(),
            queued: Family::default(),
            disconnected: Gauge::default(),
            duration: histograms(buckets::request_seconds),
            first_token: histograms(buckets::request_seconds),
            inter_token: histograms(buckets::step_seconds),
            input_tokens: histograms(buckets::tokens),
            output_tokens: histograms(buckets::tokens),
            output_tokens_sum: Family::default(),
        };
        metrics.register_all(registry.sub_registry_with_prefix("dynamo_frontend"));
        metrics
    }

    fn register_all(&self, registry: &mut Registry) {
        registry.register("requests", "Requests that ended", self.requests.clone());
        registry.register("inflight_requests", "Requests at work", self.inflight.clone());
        registry.register(
            "queued_requests",
            "Requests that wait for their first token",
            self.queued.clone(),
        );
        registry.register(
            "disconnected_clients",
            "Clients that left before their answer was whole",
            self.disconnected.clone(),
        );
        let histograms = [
            ("request_duration_seconds", "Arrival to end", &self.duration),
            ("time_to_first_token_seconds", "Arrival to first token", &self.first_token),
            ("inter_token_latency_seconds", "Token to next token", &self.inter_token),
            ("input_sequence_tokens", "Tokens of a prompt, media expanded", &self.input_tokens),
            ("output_sequence_tokens", "Tokens of an answer", &self.output_tokens),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
        registry.register("output_tokens", "Tokens generated", self.output_tokens_sum.clone());
    }

    /// A request that has arrived. It counts as abandoned if it is dropped before its end.
    pub fn arrived(
        &self,
        model: &str,
        endpoint: Endpoint,
        request_type: RequestType,
    ) -> RequestMetrics {
        let label = ModelLabel { model: model.to_owned() };
        self.inflight.get_or_create(&label).inc();
        self.queued.get_or_create(&label).inc();
        RequestMetrics {
            inter_token: self.inter_token.get_or_create_owned(&label),
            metrics: self.clone(),
            label,
            endpoint,
            request_type,
            arrived: Instant::now(),
            last_token: None,
            n_output_tokens: 0,
            ended: false,
        }
    }
}

/// The metrics of one request, from arrival to end.
pub struct RequestMetrics {
    metrics: FrontendMetrics,
    inter_token: Histogram,
    label: ModelLabel,
    endpoint: Endpoint,
    request_type: RequestType,
    arrived: Instant,
    last_token: Option<Instant>,
    n_output_tokens: u64,
    ended: bool,
}

impl RequestMetrics {
    /// The prompt's length is known.
    pub fn admitted(&self, n_prompt_tokens: u32) {
        self.metrics.input_tokens.get_or_create(&self.label).observe(f64::from(n_prompt_tokens));
    }

    /// `n_tokens` (at least one) came together, after others or as the first.
    pub fn tokens(&mut self, n_tokens: usize) {
        let now = Instant::now();
        self.n_output_tokens += n_tokens as u64;
        match self.last_token.replace(now) {
            None => {
                self.metrics.queued.get_or_create(&self.label).dec();
                let waited = (now - self.arrived).as_secs_f64();
                self.metrics.first_token.get_or_create(&self.label).observe(waited);
            }
            Some(last) => {
                let each = (now - last).as_secs_f64() / n_tokens as f64;
                (0..n_tokens).for_each(|_| self.inter_token.observe(each));
            }
        }
    }

    /// Passes `result` on; a failure ends the request.
    pub fn watch<T, E>(&mut self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.end(Status::Error);
        }
        result
    }

    /// The request ended; only the first call counts.
    pub fn end(&mut self, status: Status) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let metrics = &self.metrics;
        metrics.inflight.get_or_create(&self.label).dec();
        if self.last_token.is_none() {
            metrics.queued.get_or_create(&self.label).dec();
        }
        metrics.duration.get_or_create(&self.label).observe(self.arrived.elapsed().as_secs_f64());
        metrics.output_tokens.get_or_create(&self.label).observe(self.n_output_tokens as f64);
        metrics.output_tokens_sum.get_or_create(&self.label).inc_by(self.n_output_tokens);
        let labels = RequestLabels {
            model: self.label.model.clone(),
            endpoint: self.endpoint,
            request_type: self.request_type,
            status,
        };
        metrics.requests.get_or_create(&labels).inc();
    }
}

impl Drop for RequestMetrics {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.disconnected.inc();
            self.end(Status::Error);
        }
    }
}
