//! Metrics of the workers, under `triptych_`, labelled by role.
//!
//! What an engine counts anyway is copied into [`RoleMetrics`] when metrics are read; what only the
//! worker around it sees goes through its [`WorkerRecorder`] as it happens.

use crate::buckets;
use crate::mirrored::Mirrored;
use crate::recorder::{MoveMetrics, WorkerRecorder};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use types::stage::Stage;

/// A gauge of a fraction or a time.
pub type RealGauge = Gauge<f64, AtomicU64>;
/// A counter of seconds.
pub type RealCounter = Counter<f64, AtomicU64>;

/// Label of everything that is counted by role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleLabel {
    /// `agg`, `encode`, `prefill` or `decode`.
    pub role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    role: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    role: &'static str,
    stage: &'static str,
}

/// One line is one metric of a role: how it is made, its name, its meaning.
macro_rules! role_metrics {
    ($($field:ident: $metric:ty = $family:expr, $name:literal, $help:literal;)+) => {
        /// The workers' metrics of all roles.
        #[derive(Clone)]
        pub struct WorkerMetrics {
            kv_blocks: Family<BlockLabels, Gauge>,
            cancellations: Family<StageLabels, Counter>,
            $($field: Family<RoleLabel, $metric, fn() -> $metric>,)+
        }

        /// The metrics of one role's worker.
        #[derive(Clone)]
        pub struct RoleMetrics {
            /// KV blocks by state.
            pub kv_blocks: KvBlockGauges,
            /// Requests cancelled in a stage.
            pub cancellations: CancellationCounters,
            $(#[doc = $help] pub $field: $metric,)+
        }

        impl WorkerMetrics {
            pub(crate) fn register(registry: &mut Registry) -> Self {
                let metrics = Self {
                    kv_blocks: Family::default(),
                    cancellations: Family::default(),
                    $($field: Family::new_with_constructor($family as fn() -> $metric),)+
                };
                let registry = registry.sub_registry_with_prefix("triptych");
                registry.register("kv_blocks", "KV blocks by state", metrics.kv_blocks.clone());
                let help = "Requests cancelled, by the stage they were in";
                registry.register("cancellations", help, metrics.cancellations.clone());
                $(registry.register($name, $help, metrics.$field.clone());)+
                metrics
            }

            /// The handles of one role (`agg`, `encode`, `prefill` or `decode`).
            pub fn of_role(&self, role: &'static str) -> RoleMetrics {
                let label = RoleLabel { role };
                RoleMetrics {
                    kv_blocks: self.kv_blocks_of(role),
                    cancellations: self.cancellations_of(role),
                    $($field: self.$field.get_or_create_owned(&label),)+
                }
            }
        }
    };
}

role_metrics! {
    encode_queue: Gauge = Gauge::default,
        "encode_queue_items", "Media that wait for the tower";
    encode_batch: Mirrored = Mirrored::default,
        "encode_batch_items", "Media in one run of the tower";
    encode_seconds: Mirrored = Mirrored::default,
        "encode_duration_seconds", "From the queueing of a medium for the tower to its rows";
    embedding_bytes: Gauge = Gauge::default,
        "embedding_bytes", "Bytes of embedding rows held";
    embedding_moved_bytes: Counter = Counter::default,
        "embedding_moved_bytes", "Bytes of embedding rows read from other workers";
    embedding_move_seconds: RealCounter = RealCounter::default,
        "embedding_move_seconds", "Time in which embedding rows were read from other workers";
    embedding_move_rate: Histogram = buckets::gigabytes_per_second,
        "embedding_move_gigabytes_per_second", "Rate of each read of embedding rows";
    kv_moved_bytes: Counter = Counter::default,
        "kv_moved_bytes", "Bytes of KV blocks read from other workers";
    kv_move_seconds: RealCounter = RealCounter::default,
        "kv_move_seconds", "Time in which KV blocks were read from other workers";
    kv_move_rate: Histogram = buckets::gigabytes_per_second,
        "kv_move_gigabytes_per_second", "Rate of each read of KV blocks";
    prefix_hit_tokens: Counter = Counter::default,
        "prefix_hit_tokens", "Prompt tokens found in the prefix cache";
    prefix_query_tokens: Counter = Counter::default,
        "prefix_query_tokens", "Prompt tokens looked up in the prefix cache";
    waiting: Gauge = Gauge::default,
        "waiting_sequences", "Sequences that wait for a place in the batch";
    running: Gauge = Gauge::default,
        "running_sequences", "Sequences in the running batch";
    batch_occupancy: RealGauge = RealGauge::default,
        "batch_occupancy_ratio", "Sequences in the running batch over the most there may be";
    preempted: Counter = Counter::default,
        "preempted_sequences", "Sequences that lost their blocks to others";
    steps: Counter = Counter::default,
        "steps", "Steps of the engine";
    failed_steps: Counter = Counter::default,
        "failed_steps", "Steps that the device could not run";
    step_seconds: RealCounter = RealCounter::default,
        "step_seconds", "Time spent in steps of the engine";
    calls: Gauge = Gauge::default,
        "calls", "Calls that are being answered";
    leases: Gauge = Gauge::default,
        "leases", "Rows and KV blocks that peers may read";
    rows_kept: Gauge = Gauge::default,
        "rows_kept_items", "Media whose rows are kept for peers";
    blocks_promised: Gauge = Gauge::default,
        "kv_blocks_promised", "KV blocks promised to prompts that are on their way";
    leases_expired: Counter = Counter::default,
        "leases_expired", "Leases whose peer neither finished nor said so in time";
}

/// KV blocks by state; together `free` and the rest make `total`.
#[derive(Clone)]
pub struct KvBlockGauges {
    /// All blocks of the pool.
    pub total: Gauge,
    /// Written by running sequences.
    pub used: Gauge,
    /// Kept for prompts that begin alike, free for the taking.
    pub cached: Gauge,
    /// Held for a peer that reads them.
    pub leased: Gauge,
    /// Out of use until a peer can no longer touch them.
    pub quarantined: Gauge,
    /// Empty.
    pub free: Gauge,
}

/// Requests cancelled, by the stage they were in.
#[derive(Clone, Default)]
pub struct CancellationCounters([Counter; Stage::ALL.len()]);

impl CancellationCounters {
    /// A request was cancelled in `stage`.
    pub fn count(&self, stage: Stage) {
        self.0[stage as usize].inc();
    }
}

impl RoleMetrics {
    /// What the worker of this role calls as things happen.
    pub fn recorder(&self) -> WorkerRecorder {
        let embedding = MoveMetrics {
            bytes: self.embedding_moved_bytes.clone(),
            seconds: self.embedding_move_seconds.clone(),
            rate: self.embedding_move_rate.clone(),
        };
        let kv = MoveMetrics {
            bytes: self.kv_moved_bytes.clone(),
            seconds: self.kv_move_seconds.clone(),
            rate: self.kv_move_rate.clone(),
        };
        WorkerRecorder::new(embedding, kv, self.cancellations.clone())
    }
}

/// Brings a counter up to a total that is counted elsewhere; it never falls.
pub fn raise_to(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

/// Brings a counter of seconds up to a total that is counted elsewhere; it never falls.
pub fn raise_seconds_to(counter: &RealCounter, total: f64) {
    // The bits of numbers that are not negative are ordered as the numbers are.
    counter.inner().fetch_max(total.max(0.0).to_bits(), Ordering::Relaxed);
}

impl WorkerMetrics {
    fn kv_blocks_of(&self, role: &'static str) -> KvBlockGauges {
        let gauge = |state| self.kv_blocks.get_or_create_owned(&BlockLabels { role, state });
        KvBlockGauges {
            total: gauge("total"),
            used: gauge("used"),
            cached: gauge("cached"),
            leased: gauge("leased"),
            quarantined: gauge("quarantined"),
            free: gauge("free"),
        }
    }

    fn cancellations_of(&self, role: &'static str) -> CancellationCounters {
        CancellationCounters(Stage::ALL.map(|stage| {
            self.cancellations.get_or_create_owned(&StageLabels { role, stage: stage.name() })
        }))
    }
}
