//! Prints what the operations reach on this machine: GFLOP/s of products, GB/s of one-row products.
//!
//! `cargo run --release -p tensor --example time_ops [threads]`

use std::num::NonZeroUsize;
use std::time::Instant;
use tensor::ops::linear::{Arrangement, Matrix};
use tensor::ops::{Activation, Weight, linear};
use tensor::{DType, Device, Tensor};

/// Rows, outputs, inputs.
const PRODUCTS: [(usize, usize, usize); 14] = [
    (1, 512, 256),
    (1, 1408, 256),
    (1, 256, 704),
    (1, 17920, 1536),
    (1, 151_936, 1536),
    (4, 1408, 256),
    (16, 1408, 256),
    (60, 512, 256),
    (60, 1408, 256),
    (256, 576, 192),
    (1024, 576, 192),
    (1024, 768, 192),
    (1024, 192, 768),
    (1024, 1024, 1024),
];

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let device = n_threads.map_or_else(Device::all_cpus, |n: NonZeroUsize| Device::cpu(n));
    println!("{device:?}");
    for (n_rows, n, k) in PRODUCTS {
        for dtype in [DType::F32, DType::Bf16] {
            time_product(&device, (n_rows, n, k), dtype);
        }
    }
}

fn time_product(device: &Device, (n_rows, n, k): (usize, usize, usize), dtype: DType) {
    let bytes = vec![0x3c_u8; n * k * dtype.n_bytes()];
    let matrix = Matrix { dtype, n_rows: n, n_columns: k, bytes: &bytes };
    let weight =
        Weight::pack(device, &[matrix], &[], Arrangement::Stacked).expect("a valid weight");
    let x = Tensor::from_slice(&[n_rows, k], &vec![0.5_f32; n_rows * k]);
    let time_s = best_of(|| {
        linear(device, &x, &weight, Activation::None).expect("shapes that fit");
    });
    let gflops = 2e-9 * (n_rows * n * k) as f64 / time_s;
    let gbytes = 1e-9 * bytes.len() as f64 / time_s;
    let (time_us, name) = (time_s * 1e6, dtype.name());
    println!(
        "linear {n_rows:5} x {n:6} x {k:5} {name:>4}: {time_us:9.1} us {gflops:6.1} GFLOP/s {gbytes:6.1} GB/s"
    );
}

/// The shortest of many runs, in seconds.
fn best_of(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed().as_secs_f64() < 0.3 {
        let begun = Instant::now();
        run();
        best = best.min(begun.elapsed().as_secs_f64());
    }
    best
}
