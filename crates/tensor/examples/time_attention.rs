//! Prints what attention reaches on a GPU: TB/s of keys and values read where rows are single,
//! TFLOP/s where they are many.
//!
//! `cargo run --release -p tensor --example time_attention [bf16|f16|f32] [part of a case's name]`

use tensor::cuda::{Cuda, CudaOptions, Event};
use tensor::ops::{PagedRows, Segments, SeqRows, attention_packed, attention_paged, kv_write};
use tensor::{DType, Device, KvLayout, KvPool, Tensor};
use types::Result;

/// What is timed.
struct Case {
    name: &'static str,
    n_seqs: usize,
    /// Of each sequence.
    n_rows: usize,
    n_keys: usize,
    /// Query heads, key-value heads, size of a head.
    heads: (usize, usize, usize),
    /// Enough that keys do not stay in the cache of the second level.
    n_layers: usize,
}

const fn case(
    name: &'static str,
    (n_seqs, n_rows, n_keys): (usize, usize, usize),
    heads: (usize, usize, usize),
    n_layers: usize,
) -> Case {
    Case { name, n_seqs, n_rows, n_keys, heads, n_layers }
}

const PAGED: [Case; 10] = [
    case("decode 64 x 4096, 28/4 x 128", (64, 1, 4096), (28, 4, 128), 2),
    case("decode 64 x 1024, 28/4 x 128", (64, 1, 1024), (28, 4, 128), 8),
    case("decode 256 x 1000, 28/4 x 128", (256, 1, 1000), (28, 4, 128), 2),
    case("decode 1 x 4096, 28/4 x 128", (1, 1, 4096), (28, 4, 128), 28),
    case("decode 1 x 512, 28/4 x 128", (1, 1, 512), (28, 4, 128), 28),
    case("decode 1 x 32768, 28/4 x 128", (1, 1, 32_768), (28, 4, 128), 8),
    case("decode 64 x 2048, 32/32 x 128", (64, 1, 2048), (32, 32, 128), 1),
    case("prefill 8192, 28/4 x 128", (1, 8192, 8192), (28, 4, 128), 2),
    case("prefill 4 x 1024, 28/4 x 128", (4, 1024, 1024), (28, 4, 128), 4),
    case("prefill 512 behind 8192, 28/4 x 128", (1, 512, 8192), (28, 4, 128), 4),
];

/// Rows of a segment, segments, heads, size of a head.
const PACKED: [(&str, usize, usize, usize, usize); 4] = [
    ("tower 5184, 16 x 80", 5184, 1, 16, 80),
    ("tower 16 x 1024, 16 x 80", 1024, 16, 16, 80),
    ("tower 8 x 577, 16 x 64", 577, 8, 16, 64),
    ("tower 128 x 64, 16 x 80", 64, 128, 16, 80),
];

const BLOCK_SIZE: usize = 32;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let compute = match args.first().map(String::as_str) {
        Some("f32") => DType::F32,
        Some("f16") => DType::F16,
        _ => DType::Bf16,
    };
    let wanted = |name: &str| args.get(1).is_none_or(|part| name.contains(part.as_str()));
    let device = Device::cuda(CudaOptions { ordinal: 0, compute, deterministic: false })?;
    for case in PAGED.iter().filter(|case| wanted(case.name)) {
        time_paged(&device, case)?;
    }
    for (name, n_rows, n_segments, n_heads, dim) in PACKED {
        if wanted(name) {
            let lens = vec![n_rows; n_segments];
            let segments = Segments::new(&device, &lens)?;
            let qkv = numbers(&device, &[n_rows * n_segments, 3 * n_heads * dim])?;
            let us =
                time_us(&device, || attention_packed(&device, &qkv, n_heads, &segments).map(drop))?;
            let flop = 4 * n_rows * n_rows * n_segments * n_heads * dim;
            println!("{name}: {us:.1} us, {:.0} TFLOP/s", flop as f64 / us * 1e-6);
        }
    }
    Ok(())
}

fn time_paged(device: &Device, case: &Case) -> Result<()> {
    let (n_heads, n_kv_heads, dim) = case.heads;
    let dtype = device.compute_dtype();
    let n_blocks = case.n_keys.div_ceil(BLOCK_SIZE);
    let n_layers = case.n_layers;
    let layout = KvLayout { block_size: BLOCK_SIZE, n_layers, n_kv_heads, head_dim: dim, dtype };
    let mut kv = KvPool::on(device, layout, case.n_seqs * n_blocks)?;
    // Blocks of all sequences take turns, backwards.
    let table = |seq| (0..n_blocks).rev().map(move |idx| (idx * case.n_seqs + seq) as u32);
    let tables: Vec<Vec<u32>> = (0..case.n_seqs).map(|seq| table(seq).collect()).collect();
    let keys = numbers(device, &[case.n_keys, 2 * n_kv_heads * dim])?;
    for block_table in &tables {
        let seq = SeqRows { n_rows: case.n_keys, start_pos: 0, block_table };
        let rows = PagedRows::new(device, &[seq])?;
        (0..n_layers).try_for_each(|layer| kv_write(device, &keys, (&mut kv, layer), &rows))?;
    }
    let (n_rows, start_pos) = (case.n_rows, case.n_keys - case.n_rows);
    let seqs = tables.iter().map(|block_table| SeqRows { n_rows, start_pos, block_table });
    let rows = PagedRows::new(device, &seqs.collect::<Vec<_>>())?;
    let width = (n_heads + 2 * n_kv_heads) * dim;
    let q = numbers(device, &[case.n_seqs * n_rows, width])?;
    let all_layers = || {
        (0..n_layers).try_for_each(|layer| {
            attention_paged(device, &q, n_heads, (&kv, layer), &rows).map(drop)
        })
    };
    let us = time_us(device, all_layers)? / n_layers as f64;
    let n_bytes = case.n_seqs * case.n_keys * 2 * n_kv_heads * dim * dtype.n_bytes();
    let n_scores = case.n_seqs * n_rows * (2 * start_pos + n_rows + 1) / 2;
    let (tera, flop) = (n_bytes as f64 / us * 1e-6, 4 * n_scores * n_heads * dim);
    let tflops = flop as f64 / us * 1e-6;
    println!("{}: {us:.1} us, {tera:.2} TB/s, {tflops:.0} TFLOP/s", case.name);
    Ok(())
}

/// Numbers in -1..1 of the device's compute type.
fn numbers(device: &Device, shape: &[usize]) -> Result<Tensor> {
    let mut state = 1_u64;
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let wide = Tensor::from_slice(shape, &values).to_device(device)?;
    tensor::ops::cast(device, wide, device.compute_dtype())
}

/// Timed replays; the first ones bring clocks up.
const REPLAYS: usize = 20;

/// Microseconds of what `run` gives to the device, recorded and replayed.
fn time_us(device: &Device, run: impl Fn() -> Result<()>) -> Result<f64> {
    let Device::Cuda(cuda) = device else { return Ok(f64::NAN) };
    let cuda: &Cuda = cuda;
    run()?;
    let graph = cuda.stream().capture(&run)?;
    let (start, end) = (Event::new(cuda.context(), true)?, Event::new(cuda.context(), true)?);
    (0..REPLAYS / 2).try_for_each(|_| graph.launch(cuda.stream()))?;
    cuda.stream().record(&start)?;
    (0..REPLAYS).try_for_each(|_| graph.launch(cuda.stream()))?;
    cuda.stream().record(&end)?;
    cuda.stream().synchronize()?;
    Ok(f64::from(end.ms_since(&start)?) * 1e3 / REPLAYS as f64)
}
