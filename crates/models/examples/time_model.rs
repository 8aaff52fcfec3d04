//! Prints what a model folder takes on this machine: loading, a picture, a prompt, a token.
//!
//! `cargo run --release -p models --example time_model -- FOLDER [--dummy] [--threads N] [--tokens
//! N]`

use media::Image;
use models::{LoadFormat, Model, PreparedMedia, Processor, SeqRows, StepInput};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tensor::{DType, Device, KvLayout, KvPool};
use types::media::MediaKind;

/// Sides of the pictures, in pixels.
const SIDES: [u32; 3] = [112, 224, 448];
/// Tokens of text around a picture.
const N_TEXT: usize = 30;
/// Tokens in a block.
const BLOCK_SIZE: usize = 32;

fn main() -> types::Result<()> {
    let mut folder = PathBuf::from("models/shapes");
    let (mut load_format, mut n_tokens, mut device) = (LoadFormat::Auto, 64, Device::all_cpus());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok());
        match argument.as_str() {
            "--dummy" => load_format = LoadFormat::Dummy,
            "--threads" => device = number().map_or(device, Device::cpu),
            "--tokens" => n_tokens = number().map_or(n_tokens, NonZeroUsize::get),
            path => folder = PathBuf::from(path),
        }
    }
    let begun = Instant::now();
    let description = models::describe(&folder, load_format)?;
    println!("describe {:.1} ms", ms(begun));
    let begun = Instant::now();
    let model = models::load(&folder, load_format, &device)?;
    println!("load {:.1} ms on {device:?}", ms(begun));
    for side in SIDES {
        time_picture(&*model, &*description.processor, side)?;
    }
    time_text(&model, n_tokens)
}

fn time_picture(model: &dyn Model, processor: &dyn Processor, side: u32) -> types::Result<()> {
    let rgb = (0..side * side * 3).map(|i| (i * 7 % 256) as u8).collect();
    let image = Image { width: side, height: side, rgb };
    let plan = processor.plan(MediaKind::Image, image.size(), "{}")?;
    let prepared = processor.prepare(&image, &plan, "{}")?;
    let prepare_ms = best_ms(|| drop(processor.prepare(&image, &plan, "{}")));
    let media: [&PreparedMedia; 1] = [&prepared];
    model.encode(&media)?;
    let encode_ms = best_ms(|| drop(model.encode(&media)));
    let n_rows = plan.n_tokens as usize + N_TEXT;
    let prefill_ms = best_ms(|| drop(step(model, n_rows, 0, &mut pool(model, n_rows))));
    println!(
        "{side}x{side} ({} rows): prepare {prepare_ms:.2} ms, encode {encode_ms:.2} ms, \
         prefill of {n_rows} {prefill_ms:.2} ms, together {:.2} ms",
        plan.n_tokens,
        prepare_ms + encode_ms + prefill_ms
    );
    Ok(())
}

fn time_text(model: &Arc<dyn Model>, n_tokens: usize) -> types::Result<()> {
    let start = 128;
    let mut kv = pool(&**model, start + n_tokens);
    step(&**model, start, 0, &mut kv)?;
    let mut times_ms: Vec<f64> = Vec::with_capacity(n_tokens);
    for idx in 0..n_tokens {
        let begun = Instant::now();
        step(&**model, 1, start + idx, &mut kv)?;
        times_ms.push(ms(begun));
    }
    times_ms.sort_by(f64::total_cmp);
    let (best, median) = (times_ms[0], times_ms[n_tokens / 2]);
    println!("decode behind {start} tokens: median {median:.3} ms, best {best:.3} ms a token");
    Ok(())
}

/// One step of `n_rows` rows of one sequence.
fn step(model: &dyn Model, n_rows: usize, start_pos: usize, kv: &mut KvPool) -> types::Result<()> {
    let tokens = vec![5; n_rows];
    let positions: Vec<[u32; 3]> =
        (start_pos..start_pos + n_rows).map(|position| [position as u32; 3]).collect();
    let block_table: Vec<u32> = (0..kv.n_blocks as u32).collect();
    let input = StepInput {
        tokens: &tokens,
        positions: &positions,
        seqs: &[SeqRows { n_rows, start_pos, block_table: &block_table }],
        embeddings: &[],
        logit_rows: &[n_rows - 1],
    };
    model.forward(&input, kv).map(drop)
}

fn pool(model: &dyn Model, n_tokens: usize) -> KvPool {
    let kv = model.spec().kv;
    let layout = KvLayout {
        block_size: BLOCK_SIZE,
        n_layers: kv.n_layers,
        n_kv_heads: kv.n_kv_heads,
        head_dim: kv.head_dim,
        dtype: DType::F32,
    };
    KvPool::new(layout, n_tokens.div_ceil(BLOCK_SIZE)).expect("memory for the cache")
}

/// The shortest of the runs of about half a second.
fn best_ms(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while ms(start) < 500.0 {
        let begun = Instant::now();
        run();
        best = best.min(ms(begun));
    }
    best
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
