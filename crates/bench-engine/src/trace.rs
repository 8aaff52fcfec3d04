//! Every launch of one step of each kind, with its time.

use crate::measure::Questions;
use crate::report::figure;
use crate::rig::Rig;
use crate::rows::Row;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::Device;
use tensor::cuda::{Cuda, TracedLaunch};
use types::Result;

/// Steps of decode that are traced.
const N_STEPS: u32 = 8;
/// One of each kind.
const KINDS: &[&str] =
    &["decode-1", "decode-64", "prefill-1x128", "prefill-1x2048", "image-336", "image-1008"];

/// One kernel of a step, all launches of it together.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kernel {
    count: f64,
    us: f64,
    n_bytes: f64,
}

/// Prints the kernels of a step of each kind that fits; the same as JSON.
///
/// Errors: a request failed.
pub(crate) fn run(
    device: &Device,
    rig: &Rig,
    questions: &Questions<'_>,
    fits: impl Fn(&Row) -> bool,
) -> Result<Value> {
    let Device::Cuda(cuda) = device else {
        println!("\nThere is no trace of the processor yet: --trace lists the kernels of a GPU.");
        return Ok(Value::Null);
    };
    let mut traces = serde_json::Map::new();
    for name in KINDS {
        let row: Row = name.parse()?;
        if fits(&row) {
            let kernels = step(cuda, rig, questions, row)?;
            traces.insert((*name).to_owned(), print(name, &kernels));
        }
    }
    Ok(Value::Object(traces))
}

/// The kernels of one step, or of all steps of a prompt or picture.
fn step(
    cuda: &Arc<Cuda>,
    rig: &Rig,
    questions: &Questions<'_>,
    row: Row,
) -> Result<BTreeMap<String, Kernel>> {
    let texts = |n, len, n_tokens| traced(cuda, rig, questions, (n, len, n_tokens));
    match row {
        Row::Decode { batch, context, .. } => {
            // What further tokens add is decode, whatever came before them.
            let (all, first) = (texts(batch, context, 1 + N_STEPS)?, texts(batch, context, 1)?);
            Ok(difference(all, &first, N_STEPS))
        }
        Row::Prefill { batch, len } => texts(batch, len, 1),
        Row::Image { side } | Row::Images { side, .. } => {
            let asks = questions.pictures(1, side, 1)?;
            rig.with_pictures(&asks)?;
            cuda.start_trace()?;
            rig.with_pictures(&asks)?;
            Ok(summed(cuda.end_trace()?))
        }
    }
}

fn traced(
    cuda: &Arc<Cuda>,
    rig: &Rig,
    questions: &Questions<'_>,
    (n, len, n_tokens): (usize, usize, u32),
) -> Result<BTreeMap<String, Kernel>> {
    let asks = questions.texts(n, len, n_tokens);
    // Once unseen, so that nothing is loaded while the clock runs.
    rig.at_once(&asks)?;
    let begin = Arc::clone(cuda);
    rig.at_once_after(&asks, move || begin.start_trace())?;
    Ok(summed(cuda.end_trace()?))
}

fn summed(launches: Vec<TracedLaunch>) -> BTreeMap<String, Kernel> {
    let mut kernels: BTreeMap<String, Kernel> = BTreeMap::new();
    for launch in launches {
        let kernel = kernels.entry(launch.name).or_default();
        kernel.count += 1.0;
        kernel.us += f64::from(launch.us);
        kernel.n_bytes += launch.n_bytes as f64;
    }
    kernels
}

/// What `all` has more than `first`, a step.
fn difference(
    mut all: BTreeMap<String, Kernel>,
    first: &BTreeMap<String, Kernel>,
    n_steps: u32,
) -> BTreeMap<String, Kernel> {
    for (name, kernel) in &mut all {
        let before = first.get(name).cloned().unwrap_or_default();
        let a_step = |all: f64, before: f64| (all - before) / f64::from(n_steps);
        kernel.count = a_step(kernel.count, before.count);
        kernel.us = a_step(kernel.us, before.us);
        kernel.n_bytes = a_step(kernel.n_bytes, before.n_bytes);
    }
    all.retain(|_, kernel| kernel.count > 0.0);
    all
}

fn print(name: &str, kernels: &BTreeMap<String, Kernel>) -> Value {
    let total: f64 = kernels.values().map(|kernel| kernel.us).sum();
    let n: f64 = kernels.values().map(|kernel| kernel.count).sum();
    println!("\n{name}: {n:.0} launches, {} us", figure(total));
    println!(
        "{:<58} {:>6} {:>9} {:>9} {:>7} {:>6}",
        "kernel", "count", "us", "each", "GB/s", "share"
    );
    let mut sorted: Vec<_> = kernels.iter().collect();
    sorted.sort_by(|a, b| b.1.us.total_cmp(&a.1.us));
    let mut rows = Vec::new();
    for (kernel, Kernel { count, us, n_bytes }) in sorted {
        let rate = if *n_bytes > 0.0 { figure(n_bytes / us / 1e3) } else { String::new() };
        println!(
            "{kernel:<58} {count:>6.1} {:>9} {:>9} {rate:>7} {:>5.1} %",
            figure(*us),
            figure(us / count),
            us / total * 100.0
        );
        rows.push(json!({ "kernel": kernel, "count": count, "us": us, "bytes": n_bytes }));
    }
    Value::Array(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(name: &str, us: f32) -> TracedLaunch {
        TracedLaunch { name: name.to_owned(), us, n_bytes: 100 }
    }

    #[test]
    fn steps_are_what_further_tokens_add() {
        let first = summed(vec![launch("prompt", 50.0), launch("both", 2.0)]);
        let more = (0..16).map(|_| launch("both", 4.0));
        let all = [launch("prompt", 50.0), launch("both", 2.0)].into_iter().chain(more);
        let steps = difference(summed(all.collect()), &first, 8);
        let expected = Kernel { count: 2.0, us: 8.0, n_bytes: 200.0 };
        assert_eq!(steps, BTreeMap::from([("both".to_owned(), expected)]));
    }
}
