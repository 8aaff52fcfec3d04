//! From what engines and lease tables count to the metrics of their role.

use engine::EngineStats;
use telemetry::worker::{raise_seconds_to, raise_to};
use telemetry::{RoleMetrics, Telemetry};
use worker::WorkerView;

/// Microseconds to seconds.
const SECONDS: f64 = 1e-6;

/// Shows a worker in the metrics from now on, read afresh each time.
pub(crate) fn observe(
    telemetry: &Telemetry,
    metrics: RoleMetrics,
    max_batch_size: usize,
    view: WorkerView,
) {
    telemetry.before_reading(move || {
        show(&metrics, &view.engine().stats(), max_batch_size);
        metrics.calls.set(view.n_calls() as i64);
        metrics.leases.set(view.n_leases() as i64);
        metrics.rows_kept.set(view.n_rows_kept() as i64);
        metrics.blocks_promised.set(view.n_blocks_promised() as i64);
        raise_to(&metrics.leases_expired, view.n_leases_expired());
    });
}

fn show(metrics: &RoleMetrics, stats: &EngineStats, max_batch_size: usize) {
    let (blocks, scheduler) = (&stats.scheduler.blocks, &stats.scheduler);
    metrics.kv_blocks.total.set(blocks.total() as i64);
    metrics.kv_blocks.used.set(blocks.owned as i64);
    metrics.kv_blocks.cached.set(blocks.cached as i64);
    metrics.kv_blocks.leased.set(blocks.leased as i64);
    metrics.kv_blocks.quarantined.set(blocks.quarantined as i64);
    metrics.kv_blocks.free.set(blocks.free as i64);
    metrics.encode_queue.set(stats.n_encode_waiting as i64);
    metrics.embedding_bytes.set(stats.embedding_bytes_used as i64);
    metrics.waiting.set((scheduler.n_waiting + scheduler.n_imports_waiting) as i64);
    metrics.running.set(scheduler.n_running as i64);
    metrics.batch_occupancy.set(scheduler.n_running as f64 / max_batch_size as f64);
    let (batches, waits_us) = (&stats.encode_batches, &stats.encode_waits_us);
    metrics.encode_batch.copy(batches.buckets(), batches.sum(), 1.0);
    metrics.encode_seconds.copy(waits_us.buckets(), waits_us.sum(), SECONDS);
    raise_to(&metrics.prefix_hit_tokens, scheduler.prefix_hit_tokens);
    raise_to(&metrics.prefix_query_tokens, scheduler.prefix_query_tokens);
    raise_to(&metrics.preempted, scheduler.n_preempted);
    raise_to(&metrics.steps, stats.n_steps);
    raise_to(&metrics.failed_steps, stats.n_failed_steps);
    raise_seconds_to(&metrics.step_seconds, stats.step_us as f64 * SECONDS);
}
