//! What the reference implementation computes, we compute.

use crate::ZOO;
use crate::golden::{Golden, assert_close, numbers};
use crate::sequence::{Loaded, table_for};
use tensor::Device;
use types::TokenId;

/// Of encoder rows and logits, absolute plus relative; both sides are f32 in another order of sums.
const TOLERANCE: f32 = 1e-3;

#[test]
fn prompts_expand_and_are_placed_as_in_the_reference() {
    each_prompt(|golden, loaded, prompt, name| {
        let ready = loaded.prompt(prompt);
        let ids: Vec<usize> = ready.expanded.tokens.iter().map(|&id| id as usize).collect();
        assert_eq!(ids, numbers(&prompt["input_ids"]), "{name}");
        let grids: Vec<Vec<usize>> = ready
            .prepared
            .iter()
            .map(|medium| medium.plan.grid)
            .map(|grid| [grid.t, grid.h, grid.w].map(|n| n as usize).to_vec())
            .collect();
        let expected: Vec<Vec<usize>> =
            prompt["image_grid_thw"].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(grids, expected, "{name}");
        for axis in 0..3 {
            let got: Vec<usize> =
                ready.positions.rows.iter().map(|row| row[axis] as usize).collect();
            assert_eq!(got, numbers(&prompt["position_ids"][axis]), "{name}, axis {axis}");
        }
        assert_eq!(ready.positions.delta, prompt["rope_delta"].as_i64().unwrap(), "{name}");
        assert!(!golden.prompts().is_empty());
    });
}

#[test]
fn towers_give_the_references_rows_as_many_as_planned() {
    each_prompt(|golden, loaded, prompt, name| {
        let ready = loaded.prompt(prompt);
        let planned: u32 = ready.prepared.iter().map(|medium| medium.plan.n_tokens).sum();
        let Some(rows) = ready.rows else {
            return assert_eq!(planned, 0, "{name}");
        };
        let rows = rows.as_slice::<f32>();
        assert_eq!(rows.len(), planned as usize * loaded.model.spec().hidden_size, "{name}");
        let (_, expected) = golden.tensors.get(&prompt["encoder"]);
        assert_close(rows, expected, TOLERANCE, name);
    });
}

#[test]
fn logits_and_greedy_tokens_are_the_references() {
    each_prompt(|golden, loaded, prompt, name| {
        let ready = loaded.prompt(prompt);
        let n_steps = golden.index["n_steps"].as_u64().unwrap() as usize;
        let table = table_for(ready.len() + n_steps);
        let mut kv = loaded.pool(table.len());
        let tokens = &ready.expanded.tokens;
        let logits = loaded.run((&ready, tokens), (0, ready.len()), (&mut kv, &table));
        let start = prompt["logits_start"].as_u64().unwrap() as usize;
        let (_, expected) = golden.tensors.get(&prompt["logits"]);
        assert_close(&logits.as_f32()[start * logits.row_len()..], expected, TOLERANCE, name);
        let last = logits.row(ready.len() - 1);
        let (answer, all) = loaded.greedy(&ready, last, n_steps, (&mut kv, &table));
        let expected: Vec<TokenId> =
            numbers(&prompt["greedy"]).into_iter().map(|id| id as TokenId).collect();
        assert_eq!(answer, expected, "{name}");
        if !prompt["decode_logits"].is_null() {
            let (_, expected) = golden.tensors.get(&prompt["decode_logits"]);
            assert_close(&all.concat(), expected, TOLERANCE, name);
        }
    });
}

fn each_prompt(check: impl Fn(&Golden, &Loaded, &serde_json::Value, &str)) {
    let device = Device::all_cpus();
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let loaded = Loaded::open(&golden, &device);
        for prompt in golden.prompts() {
            let name = format!("{family}/{index}: {}", prompt["name"].as_str().unwrap());
            check(&golden, &loaded, prompt, &name);
        }
    }
}
