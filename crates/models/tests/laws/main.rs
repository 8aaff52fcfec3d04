//! Laws that every architecture of the zoo obeys, on the tiny checkpoints of the goldens.
//!
//! A new architecture adds a line to `ZOO`.

mod counts;
mod cuda;
mod golden;
mod invariance;
mod llava;
mod loading;
mod preprocessing;
mod qwen2_vl;
mod reference;
mod sequence;

/// Family and index of every tiny checkpoint.
const ZOO: &[(&str, &str)] = &[
    ("qwen2_vl", "index.json"),
    ("qwen2_vl", "index_old.json"),
    ("llava", "index.json"),
    ("llava_next", "index.json"),
    ("llava_next", "index_vicuna.json"),
];
