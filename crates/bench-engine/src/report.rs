//! What was measured, as a table and as JSON.

use crate::ceilings::Ceilings;
use crate::floor::Floor;
use crate::machine::Memory;
use crate::measure::Measured;
use crate::rows::Row;
use crate::statistics::{median, spread};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use types::{Error, ErrorKind, Result};

/// A row with what it could be at best.
pub(crate) struct Line {
    pub(crate) measured: Measured,
    pub(crate) floor: Floor,
}

impl Line {
    /// The best figure that the floor allows, in the row's unit.
    fn best(&self) -> f64 {
        match self.measured.row {
            Row::Images { n, .. } => n as f64 / self.floor.seconds,
            Row::Decode { .. } | Row::Prefill { .. } | Row::Image { .. } => {
                self.floor.seconds * 1e3
            }
        }
    }

    /// How much of it was reached.
    fn share(&self) -> f64 {
        let figure = median(&self.measured.values);
        match self.measured.row {
            Row::Images { .. } => figure / self.best(),
            Row::Decode { .. } | Row::Prefill { .. } | Row::Image { .. } => self.best() / figure,
        }
    }

    /// The row of the table, under [`HEAD`].
    pub(crate) fn text(&self) -> String {
        let Measured { row, values, pictures_per_s, answers, .. } = &self.measured;
        let unit = row.unit();
        let beside = match pictures_per_s.is_empty() {
            true => String::new(),
            false => format!(", beside {} pictures/s", figure(median(pictures_per_s))),
        };
        let same = match answers.is_complete() {
            true => "same".to_owned(),
            false => format!("{} of {} same", answers.n_same, answers.n),
        };
        format!(
            "{:<17} {:>10} {unit:<5} ±{:>5.1} % {:>10} {unit:<5} {:>5.1} %  {:<24} {same}{beside}",
            row.to_string(),
            figure(median(values)),
            spread(values) * 100.0,
            figure(self.best()),
            self.share() * 100.0,
            self.floor.bound_by,
        )
    }

    pub(crate) fn json(&self) -> Value {
        let Measured { row, values, pictures_per_s, answers, load } = &self.measured;
        json!({
            "name": row.to_string(),
            "unit": row.unit(),
            "median": median(values),
            "runs": values,
            "spread": spread(values),
            "pictures_per_s_beside": pictures_per_s,
            "ceiling": self.best(),
            "share": self.share(),
            "bound_by": self.floor.bound_by,
            "prompt_tokens": load.prompt_len,
            "patches": load.n_patches,
            "answer_tokens_compared": answers.n,
            "answer_tokens_same": answers.n_same,
        })
    }
}

/// The head of the table.
pub(crate) const HEAD: &str = "row                   median       spread         at best        \
                               share  bound by                 answers";

/// Four digits or so.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.3}"),
        10.0..100.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    }
}

/// The ceilings in a few lines.
pub(crate) fn ceilings_text(ceilings: &Ceilings) -> String {
    let products: Vec<String> = ceilings
        .products
        .iter()
        .map(|(side, rate)| format!("{side}³ {} TFLOP/s", figure(rate / 1e12)))
        .collect();
    format!(
        "memory     read {} GB/s, copy {} GB/s (read and written)\nproducts   {}",
        figure(ceilings.read_bytes_per_s / 1e9),
        figure(ceilings.copy_bytes_per_s / 1e9),
        products.join(", ")
    )
}

pub(crate) fn ceilings_json(ceilings: &Ceilings) -> Value {
    let product = |(side, rate): &(usize, f64)| json!({ "side": side, "flop_per_s": rate });
    json!({
        "read_bytes_per_s": ceilings.read_bytes_per_s,
        "copy_bytes_per_s": ceilings.copy_bytes_per_s,
        "products": ceilings.products.iter().map(product).collect::<Vec<_>>(),
    })
}

/// How long a start took, part by part.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StartTimes {
    pub(crate) device: Duration,
    pub(crate) model: Duration,
    pub(crate) engine: Duration,
    /// A prompt of one token, the first that the engine ever sees.
    pub(crate) first_token: Duration,
}

impl StartTimes {
    pub(crate) fn text(&self) -> String {
        let [device, model, engine, first] = self.parts().map(|(_, time)| time.as_secs_f64());
        format!(
            "start      device {device:.2} s, model {model:.2} s, engine {engine:.2} s, \
             first token {first:.2} s"
        )
    }

    pub(crate) fn json(&self) -> Value {
        self.parts().into_iter().map(|(name, time)| (name, time.as_secs_f64())).collect()
    }

    fn parts(&self) -> [(&'static str, Duration); 4] {
        [
            ("device_s", self.device),
            ("model_s", self.model),
            ("engine_s", self.engine),
            ("first_token_s", self.first_token),
        ]
    }
}

/// Memory in a line.
pub(crate) fn memory_text(memory: &Memory, kv_bytes: usize, weight_bytes: usize) -> String {
    let gib = |n: usize| n as f64 / (1 << 30) as f64;
    format!(
        "memory     host {:.2} GiB (most {:.2}), GPU {:.2} GiB; weights {:.2}, cache {:.2}",
        gib(memory.host),
        gib(memory.host_peak),
        gib(memory.gpu),
        gib(weight_bytes),
        gib(kv_bytes)
    )
}

/// Writes JSON.
///
/// Errors: the file cannot be written.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|error| {
        let words = format!("--json {}: {error}", path.display());
        Error::new(ErrorKind::Unavailable, words)
    })
}
