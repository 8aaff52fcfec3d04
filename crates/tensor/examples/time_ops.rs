//! Prints what the operations reach on this machine: GFLOP/s of products, GB/s of one-row products.
//!
//! `cargo run --release -p tensor --example time_ops [threads]`

use std::num::NonZeroUsize;
use std::time::Instant;
use tensor::ops::{
    Activation, Arrangement, Matrix, Segments, Weight, attention_packed, layer_norm, linear,
};
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
    for (n_rows, n_heads, dim) in [(64, 2, 64), (256, 2, 64), (1024, 2, 64), (1024, 16, 80)] {
        time_attention(&device, n_rows, n_heads, dim);
    }
    for (n_rows, n) in [(1, 256), (64, 128), (1024, 128), (1024, 1280)] {
        time_norm(&device, n_rows, n);
    }
}

fn time_product(device: &Device, (n_rows, n, k): (usize, usize, usize), dtype: DType) {
    let bytes = vec![0x3c_u8; n * k * dtype.n_bytes()];
    let matrix = Matrix { dtype, n_rows: n, n_columns: k, bytes: bytes[..].into() };
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
        "linear {n_rows:5} x {n:6} x {k:5} {name:>4}: {time_us:9.1} us {gflops:6.1} GFLOP/s \
         {gbytes:6.1} GB/s"
    );
}

fn time_attention(device: &Device, n_rows: usize, n_heads: usize, dim: usize) {
    let width = n_heads * dim;
    let x: Vec<f32> = (0..n_rows * 3 * width).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let qkv = Tensor::from_slice(&[n_rows, 3 * width], &x);
    let segments = Segments::new(device, &[n_rows]).expect("a device that works");
    let time_s = best_of(|| {
        attention_packed(device, &qkv, n_heads, &segments).expect("shapes that fit");
    });
    let gflops = 4e-9 * (n_rows * n_rows * width) as f64 / time_s;
    let time_us = time_s * 1e6;
    println!(
        "attention {n_rows} rows, {n_heads} heads of {dim}: {time_us:9.1} us {gflops:6.1} GFLOP/s"
    );
}

fn time_norm(device: &Device, n_rows: usize, n: usize) {
    let x = Tensor::from_slice(&[n_rows, n], &vec![0.5_f32; n_rows * n]);
    let weight = Tensor::from_slice(&[n], &vec![1.0_f32; n]);
    let time_s = best_of(|| {
        layer_norm(device, &x, &weight, &weight, 1e-6).expect("shapes that fit");
    });
    let gbytes = 8e-9 * (n_rows * n) as f64 / time_s;
    println!("layer norm {n_rows} x {n}: {:9.1} us {gbytes:6.1} GB/s", time_s * 1e6);
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
