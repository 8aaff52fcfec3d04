//! `triptych bench ops`: single operations at the shapes of a model.
//!
//! Each is checked against sums in f64 on the host before it is timed.

mod attention;
mod check;
mod linear;
mod small;
mod timer;

use crate::args::OpsArgs;
use crate::ceilings::Ceilings;
use crate::floor::Part;
use crate::machine;
use crate::progress::Progress;
use crate::report::{self, figure};
use crate::shapes::Shapes;
use crate::target::Target;
use serde_json::{Value, json};
use tensor::Device;
use types::{Error, Result};

/// An operation at one size.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What it must read and write, and compute.
    pub(crate) n_bytes: f64,
    pub(crate) n_flop: f64,
    pub(crate) run: CaseRun,
}

/// Makes the operands, checks the result, and times it.
pub(crate) type CaseRun = Box<dyn Fn(&Device) -> Result<Timed>>;

/// What a case came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Timed {
    pub(crate) seconds: f64,
    /// Distance to the sums in f64, as a part of their length.
    pub(crate) error: f64,
}

/// Measures and prints.
///
/// Errors: a device that cannot be used; a result that is wrong.
pub(crate) fn run(args: &OpsArgs) -> Result<()> {
    let target = Target::open(&args.target)?;
    let cases = cases(&target, &args.filter)?;
    println!("device     {}", machine::describe(&target.device));
    if let Some(state) = machine::state(&target.device) {
        println!("           {state}");
    }
    let ceilings = Ceilings::measure(&target.device)?;
    println!("{}\n", report::ceilings_text(&ceilings));
    println!(
        "{:<34} {:>10} {:>9} {:>9} {:>7}  error",
        "operation", "us", "GB/s", "TFLOP/s", "share"
    );
    let mut progress = Progress::new(cases.len());
    let mut rows = Vec::with_capacity(cases.len());
    for case in &cases {
        progress.at(&case.name);
        let timed = (case.run)(&target.device)?;
        progress.step();
        progress.clear();
        rows.push(print(case, timed, &ceilings));
        check::close_enough(&case.name, timed.error, target.device.compute_dtype())?;
    }
    if let Some(path) = &args.json {
        let device = machine::describe(&target.device);
        let ceilings = report::ceilings_json(&ceilings);
        let all = json!({ "device": device, "ceilings": ceilings, "operations": rows });
        report::write_json(path, &all)?;
    }
    Ok(())
}

fn cases(target: &Target, filter: &[String]) -> Result<Vec<Case>> {
    let Target { shapes, device, .. } = target;
    let sizes = Sizes { shapes, n_bytes: device.compute_dtype().n_bytes() as f64 };
    let all = [linear::cases(&sizes), attention::cases(&sizes), small::cases(&sizes)];
    let is_wanted =
        |case: &Case| filter.is_empty() || filter.iter().any(|text| case.name.contains(text));
    let cases: Vec<Case> = all.into_iter().flatten().filter(is_wanted).collect();
    if cases.is_empty() {
        return Err(Error::invalid("--filter: no operation has such a name"));
    }
    Ok(cases)
}

/// What the cases are made from.
pub(crate) struct Sizes<'a> {
    pub(crate) shapes: &'a Shapes,
    /// Bytes of an element that flows between operations.
    pub(crate) n_bytes: f64,
}

fn print(case: &Case, timed: Timed, ceilings: &Ceilings) -> Value {
    let Timed { seconds, error } = timed;
    let part = Part { name: "", n_bytes: case.n_bytes, n_flop: case.n_flop };
    let (least, bound_by) = part.seconds(ceilings);
    let (bytes_per_s, flop_per_s) = (case.n_bytes / seconds, case.n_flop / seconds);
    let share = least / seconds;
    println!(
        "{:<34} {:>10} {:>9} {:>9} {:>5.1} %  {error:.1e}",
        case.name,
        figure(seconds * 1e6),
        figure(bytes_per_s / 1e9),
        figure(flop_per_s / 1e12),
        share * 100.0,
    );
    json!({
        "name": case.name,
        "us": seconds * 1e6,
        "bytes_per_s": bytes_per_s,
        "flop_per_s": flop_per_s,
        "share": share,
        "bound_by": bound_by,
        "error": error,
    })
}
