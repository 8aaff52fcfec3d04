//! `triptych bench engine`: ceilings, then rows, then what they cost in memory and time to start.

use crate::agreement;
use crate::args::EngineArgs;
use crate::ceilings::Ceilings;
use crate::floor::{Costs, Floor};
use crate::machine::{self, Memory};
use crate::measure::{self, Questions, measure};
use crate::progress::Progress;
use crate::report::{self, HEAD, Line, StartTimes};
use crate::rig::{PICTURES_BESIDE_MAX, Rig, Sizes, Stepping, blocks_for, tokens_in};
use crate::rows::{Load, Row};
use crate::target::Target;
use crate::trace;
use media::Size;
use models::{Description, MediaPlan, Model};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use types::media::MediaKind;
use types::{Error, Result};

/// Part of the free memory that the cache may take, in tenths: the rest is for steps.
const KV_TENTHS: usize = 7;

/// Measures and prints.
///
/// Errors: a model or device that cannot be used; answers that are not the same again.
pub(crate) fn run(args: &EngineArgs) -> Result<()> {
    let rows = Row::selected(&args.rows)?;
    let target = Target::open(&args.target)?;
    let description = target.describe()?;
    println!("device     {}", machine::describe(&target.device));
    if let Some(state) = machine::state(&target.device) {
        println!("           {state}");
    }
    let ceilings = Ceilings::measure(&target.device)?;
    println!("{}", report::ceilings_text(&ceilings));
    let (model, rig, plan, start) = begin(args, &target, &description, &rows)?;
    println!("{}", start.text());
    let cpu = agreement::with_cpu(&target, &rig, &description)?;
    if let Some(same) = &cpu {
        println!("answers    {} of {} tokens as on the processor", same.n_same, same.n);
    }
    let bench = Bench { args, target: &target, description: &description, ceilings: &ceilings };
    let lines = bench.lines(&rig, &plan)?;
    plan.left_out.iter().for_each(|(row, why)| println!("{row:<17} not here: {why}"));
    let memory = Memory::now(&target.device)?;
    let weight_bytes = target.shapes.weight_bytes();
    println!("{}", report::memory_text(&memory, rig.kv_bytes(), weight_bytes));
    drop(rig);
    let traces = bench.trace(&model, &plan)?;
    if let Some(path) = &args.json {
        let start = start.json();
        let rest = json!({ "memory": memory.json(), "start": start, "traces": traces });
        report::write_json(path, &bench.json(&lines, &plan, rest))?;
    }
    all_same(&lines)
}

/// What is run, and on how much memory.
struct Plan {
    rows: Vec<(Row, Load)>,
    /// Rows that do not fit, and why.
    left_out: Vec<(Row, String)>,
    sizes: Sizes,
}

/// Loads the model and starts an engine that can run as many of the rows as fit.
fn begin(
    args: &EngineArgs,
    target: &Target,
    description: &Description,
    rows: &[Row],
) -> Result<(Arc<dyn Model>, Rig, Plan, StartTimes)> {
    let started = Instant::now();
    let model = target.load(&target.device)?;
    target.device.synchronize()?;
    let loaded = Instant::now();
    let plan = Plan::new(args, target, description, rows)?;
    let on = (&model, &target.device);
    let rig = Rig::start(on, description.clone(), plan.sizes, Stepping::Usual)?;
    rig.warm_up()?;
    let ready = Instant::now();
    rig.at_once(&Questions { spec: &description.spec }.texts(1, 1, 1))?;
    let times = StartTimes {
        device: target.open_time,
        model: loaded - started,
        engine: ready - loaded,
        first_token: ready.elapsed(),
    };
    Ok((model, rig, plan, times))
}

impl Plan {
    fn new(
        args: &EngineArgs,
        target: &Target,
        description: &Description,
        rows: &[Row],
    ) -> Result<Self> {
        let n_bytes_max = machine::free_bytes(&target.device)? / 10 * KV_TENTHS;
        let kv_dtype = target.device.compute_dtype();
        let n_token_bytes = target.shapes.text.kv_elements() * kv_dtype.n_bytes();
        let limits = Limits {
            seq_len: description.spec.max_seq_len,
            n_seqs: args.max_batch_size,
            n_blocks: n_bytes_max / (n_token_bytes * tokens_in(1)),
        };
        let mut plan = Self { rows: Vec::new(), left_out: Vec::new(), sizes: first_sizes(args) };
        for &row in rows {
            let load = load_of(&row, description);
            match load.and_then(|load| Ok((load, limits.n_blocks(&row, &load)?))) {
                Ok((load, n_blocks)) => plan.add((row, load), n_blocks, description),
                Err(error) => plan.left_out.push((row, error.message)),
            }
        }
        Ok(plan)
    }

    fn add(&mut self, (row, load): (Row, Load), n_blocks: usize, description: &Description) {
        self.sizes.n_blocks = self.sizes.n_blocks.max(n_blocks);
        if let Some(plan) = row.picture_side().and_then(|side| plan(side, description).ok()) {
            let n_pictures = row.n_seqs().max(PICTURES_BESIDE_MAX);
            let n_rows = n_pictures * plan.n_tokens as usize;
            self.sizes.n_embedding_rows = self.sizes.n_embedding_rows.max(n_rows);
        }
        self.rows.push((row, load));
    }
}

/// The smallest sizes of an engine, enough for the questions of the check with the processor.
fn first_sizes(args: &EngineArgs) -> Sizes {
    let (max_num_tokens, max_batch_size) = (args.max_num_tokens, args.max_batch_size);
    let (n_blocks, n_embedding_rows) = (agreement::N_BLOCKS, agreement::N_TOKENS_MAX);
    Sizes { max_num_tokens, max_batch_size, n_blocks, n_embedding_rows }
}

/// What a row must not pass.
struct Limits {
    seq_len: usize,
    n_seqs: usize,
    n_blocks: usize,
}

impl Limits {
    /// Blocks that a row takes. Errors: it does not fit, and why.
    fn n_blocks(&self, row: &Row, load: &Load) -> Result<usize> {
        let n_tokens = load.prompt_len + row.n_answer_tokens();
        // One more for the request that goes before the others.
        let n_blocks = row.n_seqs() * blocks_for(n_tokens) + 1;
        let (seq_len, n_seqs) = (self.seq_len, self.n_seqs);
        let why = if n_tokens > seq_len {
            format!("{n_tokens} tokens, and the context has {seq_len}")
        } else if row.n_seqs() > n_seqs {
            format!("{} sequences, and --max-batch-size is {n_seqs}", row.n_seqs())
        } else if n_blocks > self.n_blocks {
            format!(
                "{} tokens of cache, and there is memory for {}",
                tokens_in(n_blocks),
                tokens_in(self.n_blocks)
            )
        } else {
            return Ok(n_blocks);
        };
        Err(Error::invalid(why))
    }
}

fn load_of(row: &Row, description: &Description) -> Result<Load> {
    measure::load(row, |side| plan(side, description))
}

/// How a square picture is seen.
fn plan(side: u32, description: &Description) -> Result<MediaPlan> {
    description.processor.plan(MediaKind::Image, Size::new(side, side), "{}")
}

/// A measurement under way.
struct Bench<'a> {
    args: &'a EngineArgs,
    target: &'a Target,
    description: &'a Description,
    ceilings: &'a Ceilings,
}

impl Bench<'_> {
    /// Measures all rows and prints each as it is known.
    fn lines(&self, rig: &Rig, plan: &Plan) -> Result<Vec<Line>> {
        let questions = Questions { spec: &self.description.spec };
        let n_runs = self.args.runs.get();
        let mut progress = Progress::new(plan.rows.len() * (n_runs + 1));
        let costs = Costs {
            shapes: &self.target.shapes,
            kv_dtype: self.target.device.compute_dtype(),
            max_num_tokens: self.args.max_num_tokens,
        };
        println!("\n{HEAD}");
        let mut lines = Vec::with_capacity(plan.rows.len());
        for (row, load) in &plan.rows {
            let floor = Floor::of(&costs.of(row, load), self.ceilings);
            let measured = measure(rig, &questions, (*row, *load), n_runs, &mut progress)?;
            let line = Line { measured, floor };
            progress.clear();
            println!("{}", line.text());
            lines.push(line);
        }
        Ok(lines)
    }

    /// The kernels of steps, where they are asked for.
    fn trace(&self, model: &Arc<dyn Model>, plan: &Plan) -> Result<Value> {
        if !self.args.trace {
            return Ok(Value::Null);
        }
        let limits = Limits {
            seq_len: self.description.spec.max_seq_len,
            n_seqs: plan.sizes.max_batch_size,
            n_blocks: plan.sizes.n_blocks,
        };
        let fits = |row: &Row| {
            let load = load_of(row, self.description);
            load.is_ok_and(|load| {
                let n_media = if load.n_patches > 0 { load.prompt_len } else { 0 };
                n_media <= plan.sizes.n_embedding_rows && limits.n_blocks(row, &load).is_ok()
            })
        };
        let device = &self.target.device;
        let description = self.description.clone();
        let rig = Rig::start((model, device), description, plan.sizes, Stepping::Plain)?;
        trace::run(device, &rig, &Questions { spec: &self.description.spec }, fits)
    }

    fn json(&self, lines: &[Line], plan: &Plan, rest: Value) -> Value {
        let left_out = plan.left_out.iter().map(|(row, why)| (row.to_string(), why.clone().into()));
        let settings = json!({
            "model": self.target.folder.display().to_string(),
            "runs": self.args.runs.get(),
            "max_num_tokens": self.args.max_num_tokens,
            "max_batch_size": self.args.max_batch_size,
            "kv_blocks": plan.sizes.n_blocks,
            "dtype": self.target.device.compute_dtype().name(),
        });
        json!({
            "device": machine::describe(&self.target.device),
            "state": machine::state(&self.target.device),
            "settings": settings,
            "ceilings": report::ceilings_json(self.ceilings),
            "rows": lines.iter().map(Line::json).collect::<Vec<_>>(),
            "left_out": left_out.collect::<serde_json::Map<_, _>>(),
            "start": rest["start"],
            "memory": rest["memory"],
            "traces": rest["traces"],
        })
    }
}

/// Requests that come at the same moment are computed in the same steps each time, so they are
/// answered alike; those that arrive as their pictures are ready are not.
///
/// Errors: they are not.
fn all_same(lines: &[Line]) -> Result<()> {
    let is_wrong = |line: &&Line| {
        let Line { measured, .. } = line;
        !matches!(measured.row, Row::Images { .. }) && !measured.answers.is_complete()
    };
    let wrong: Vec<String> =
        lines.iter().filter(is_wrong).map(|line| line.measured.row.to_string()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("other answers to the same questions: {}", wrong.join(", "))))
}
