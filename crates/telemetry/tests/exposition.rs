//! The names that dashboards read, and the book-keeping of one request.

use std::time::Duration;
use telemetry::frontend::{Endpoint, RequestType, Status};
use telemetry::{Health, Moved, Telemetry, WorkerRecorder};
use types::stage::Stage;

#[track_caller]
fn says(telemetry: &Telemetry, line: &str) {
    let text = telemetry.exposition();
    assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
}

const MODEL: &str = r#"{model="m"}"#;

fn arrived(telemetry: &Telemetry) -> telemetry::RequestMetrics {
    telemetry.frontend.arrived("m", Endpoint::ChatCompletions, RequestType::Stream)
}

fn ended(status: &str, count: u32) -> String {
    format!(
        "dynamo_frontend_requests_total{{model=\"m\",endpoint=\"chat_completions\",\
         request_type=\"stream\",status=\"{status}\"}} {count}"
    )
}

#[test]
fn a_request_that_ends_well() {
    let telemetry = Telemetry::new();
    let mut request = arrived(&telemetry);
    says(&telemetry, &format!("dynamo_frontend_inflight_requests{MODEL} 1"));
    says(&telemetry, &format!("dynamo_frontend_queued_requests{MODEL} 1"));
    request.admitted(300);
    request.tokens(1);
    says(&telemetry, &format!("dynamo_frontend_queued_requests{MODEL} 0"));
    request.tokens(3);
    request.end(Status::Success);
    drop(request);
    says(&telemetry, &ended("success", 1));
    says(&telemetry, &format!("dynamo_frontend_inflight_requests{MODEL} 0"));
    says(&telemetry, &format!("dynamo_frontend_request_duration_seconds_count{MODEL} 1"));
    says(&telemetry, &format!("dynamo_frontend_time_to_first_token_seconds_count{MODEL} 1"));
    says(&telemetry, &format!("dynamo_frontend_inter_token_latency_seconds_count{MODEL} 3"));
    says(&telemetry, &format!("dynamo_frontend_input_sequence_tokens_sum{MODEL} 300.0"));
    says(&telemetry, &format!("dynamo_frontend_output_sequence_tokens_sum{MODEL} 4.0"));
    says(&telemetry, &format!("dynamo_frontend_output_tokens_total{MODEL} 4"));
    says(&telemetry, "dynamo_frontend_disconnected_clients 0");
}

#[test]
fn a_client_that_leaves() {
    let telemetry = Telemetry::new();
    drop(arrived(&telemetry));
    says(&telemetry, &ended("error", 1));
    says(&telemetry, "dynamo_frontend_disconnected_clients 1");
    says(&telemetry, &format!("dynamo_frontend_queued_requests{MODEL} 0"));
    says(&telemetry, &format!("dynamo_frontend_inflight_requests{MODEL} 0"));
}

#[test]
fn two_roles_share_every_name() {
    let telemetry = Telemetry::new();
    let encode = telemetry.workers.of_role("encode");
    let decode = telemetry.workers.of_role("decode");
    encode.leases_expired.inc();
    decode.kv_blocks.leased.set(7);
    decode.cancellations.count(Stage::Decode);
    telemetry::worker::raise_to(&decode.prefix_hit_tokens, 9);
    telemetry::worker::raise_to(&decode.prefix_hit_tokens, 8);
    telemetry.workers.of_role("encode").leases_expired.inc();
    telemetry::worker::raise_seconds_to(&decode.step_seconds, 2.5);
    telemetry::worker::raise_seconds_to(&decode.step_seconds, 0.5);
    says(&telemetry, r#"triptych_leases_expired_total{role="encode"} 2"#);
    says(&telemetry, r#"triptych_leases_expired_total{role="decode"} 0"#);
    says(&telemetry, r#"triptych_kv_blocks{role="decode",state="leased"} 7"#);
    says(&telemetry, r#"triptych_cancellations_total{role="decode",stage="decode"} 1"#);
    says(&telemetry, r#"triptych_prefix_hit_tokens_total{role="decode"} 9"#);
    says(&telemetry, r#"triptych_step_seconds_total{role="decode"} 2.5"#);
    let text = telemetry.exposition();
    let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let unique: std::collections::BTreeSet<_> = types.iter().collect();
    assert_eq!(types.len(), unique.len(), "a name is declared once");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_a_worker_records() {
    let telemetry = Telemetry::new();
    let recorder = telemetry.workers.of_role("decode").recorder();
    recorder.moved(Moved::Kv, 3_000_000_000, Duration::from_millis(500));
    recorder.clone().moved(Moved::Kv, 1, Duration::ZERO);
    recorder.moved(Moved::Embedding, 500, Duration::from_secs(1));
    recorder.cancelled(Stage::Prefill);
    WorkerRecorder::default().cancelled(Stage::Prefill);
    says(&telemetry, r#"triptych_kv_moved_bytes_total{role="decode"} 3000000001"#);
    says(&telemetry, r#"triptych_kv_move_seconds_total{role="decode"} 0.5"#);
    says(&telemetry, r#"triptych_kv_move_gigabytes_per_second_sum{role="decode"} 6.0"#);
    says(&telemetry, r#"triptych_kv_move_gigabytes_per_second_count{role="decode"} 1"#);
    says(&telemetry, r#"triptych_embedding_moved_bytes_total{role="decode"} 500"#);
    says(&telemetry, r#"triptych_cancellations_total{role="decode",stage="prefill"} 1"#);
}

/// Buckets come each for itself and are shown as Prometheus wants them, each with all below it.
#[test]
fn a_histogram_that_somebody_else_counts() {
    let telemetry = Telemetry::new();
    let metrics = telemetry.workers.of_role("encode");
    let buckets = [(Some(100), 2), (Some(200), 0), (None, 1)];
    metrics.encode_seconds.copy(buckets.into_iter(), 4000, 1e-3);
    says(&telemetry, r#"triptych_encode_duration_seconds_sum{role="encode"} 4.0"#);
    says(&telemetry, r#"triptych_encode_duration_seconds_count{role="encode"} 3"#);
    says(&telemetry, r#"triptych_encode_duration_seconds_bucket{le="0.1",role="encode"} 2"#);
    says(&telemetry, r#"triptych_encode_duration_seconds_bucket{le="0.2",role="encode"} 2"#);
    says(&telemetry, r#"triptych_encode_duration_seconds_bucket{le="+Inf",role="encode"} 3"#);
}

#[test]
fn health_names_what_is_missing() {
    assert_eq!(Health::default().response().status(), 200);
    let missing = Health { missing: vec!["a \"decode\" worker".to_owned()] };
    assert_eq!(missing.response().status(), 503);
}
