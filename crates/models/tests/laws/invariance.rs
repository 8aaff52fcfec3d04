//! The bits of a row depend on nothing but its own sequence: not on chunks, blocks, neighbours,
//! threads or the pool it was moved to.

use crate::ZOO;
use crate::golden::Golden;
use crate::sequence::{Loaded, Prompt, best, bits, table_for};
use models::{EmbeddingRows, SeqRows, Step, StepInput};
use std::num::NonZeroUsize;
use tensor::{Device, KvPool, Tensor};
use types::TokenId;

/// Runs `check` on every prompt of every checkpoint.
fn each_prompt(check: impl Fn(&Loaded, &Prompt, &str)) {
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let loaded = Loaded::open(&golden, &Device::all_cpus());
        for prompt in golden.prompts() {
            let name = format!("{family}/{index}: {}", prompt["name"].as_str().unwrap());
            check(&loaded, &loaded.prompt(prompt), &name);
        }
    }
}

/// All logits of a prompt in one step, and the pool it ran in.
fn whole(loaded: &Loaded, prompt: &Prompt) -> (Tensor, KvPool) {
    let table = table_for(prompt.len() + 1);
    let mut kv = loaded.pool(table.len());
    let tokens = &prompt.expanded.tokens;
    (loaded.run((prompt, tokens), (0, prompt.len()), (&mut kv, &table)), kv)
}

/// Runs the prompt in chunks that end at `ends`, and compares every row with the whole.
fn check_chunks(loaded: &Loaded, prompt: &Prompt, ends: &[usize], expected: &Tensor) {
    let table = table_for(prompt.len());
    let mut kv = loaded.pool(table.len());
    let mut start = 0;
    for &end in ends {
        let tokens = &prompt.expanded.tokens;
        let logits = loaded.run((prompt, tokens), (start, end), (&mut kv, &table));
        let width = logits.row_len();
        let whole = &expected.as_f32()[start * width..end * width];
        assert_eq!(bits(logits.as_f32()), bits(whole), "rows {start}..{end}, chunks {ends:?}");
        start = end;
    }
}

#[test]
fn a_chunk_boundary_anywhere_changes_nothing() {
    each_prompt(|loaded, prompt, _| {
        let (expected, _) = whole(loaded, prompt);
        for boundary in 1..prompt.len() {
            check_chunks(loaded, prompt, &[boundary, prompt.len()], &expected);
        }
    });
}

#[test]
fn one_token_at_a_time_is_the_same_as_all_at_once() {
    each_prompt(|loaded, prompt, _| {
        let (expected, _) = whole(loaded, prompt);
        let ends: Vec<usize> = (1..=prompt.len()).collect();
        check_chunks(loaded, prompt, &ends, &expected);
    });
}

#[test]
fn the_order_of_blocks_changes_nothing() {
    each_prompt(|loaded, prompt, name| {
        let (expected, _) = whole(loaded, prompt);
        let n_blocks = table_for(prompt.len()).len() as u32;
        // Every second block of a larger pool, from the end.
        let table: Vec<u32> = (0..n_blocks).map(|block| 2 * (n_blocks - block)).collect();
        let mut kv = loaded.pool(2 * n_blocks as usize + 1);
        let tokens = &prompt.expanded.tokens;
        let logits = loaded.run((prompt, tokens), (0, prompt.len()), (&mut kv, &table));
        assert_eq!(bits(logits.as_f32()), bits(expected.as_f32()), "{name}");
    });
}

#[test]
fn blocks_copied_to_another_pool_go_on_as_in_place() {
    each_prompt(|loaded, prompt, name| {
        let (logits, mut kv) = whole(loaded, prompt);
        let (table, n_blocks) = (table_for(prompt.len() + 1), kv.n_blocks as u32);
        let moved_table: Vec<u32> = (0..n_blocks).map(|block| n_blocks - block).collect();
        let mut moved = loaded.pool(kv.n_blocks + 1);
        for (from, to) in table.iter().zip(&moved_table) {
            copy_block(&kv, *from, &mut moved, *to);
        }
        let mut tokens = prompt.expanded.tokens.clone();
        tokens.push(best(logits.row(prompt.len() - 1)));
        let span = (prompt.len(), tokens.len());
        let in_place = loaded.run((prompt, &tokens), span, (&mut kv, &table));
        let elsewhere = loaded.run((prompt, &tokens), span, (&mut moved, &moved_table));
        assert_eq!(bits(in_place.as_f32()), bits(elsewhere.as_f32()), "{name}");
    });
}

fn copy_block(from: &KvPool, from_block: u32, to: &mut KvPool, to_block: u32) {
    let n_bytes = from.layout.block_bytes();
    // SAFETY: both blocks exist, the pools are different memory, and no step runs.
    unsafe {
        let source = from.arena.base().add(from_block as usize * n_bytes);
        let target = to.arena.base().add(to_block as usize * n_bytes);
        target.copy_from_nonoverlapping(source, n_bytes);
    }
}

#[test]
fn neighbours_in_a_step_change_nothing() {
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let loaded = Loaded::open(&golden, &Device::all_cpus());
        let prompts: Vec<Prompt> = golden.prompts().iter().map(|p| loaded.prompt(p)).collect();
        let together = run_together(&loaded, &prompts);
        let mut first = 0;
        for prompt in &prompts {
            let (alone, _) = whole(&loaded, prompt);
            let width = alone.row_len();
            let rows = &together.as_f32()[first * width..(first + prompt.len()) * width];
            assert_eq!(bits(alone.as_f32()), bits(rows), "{family}/{index}");
            first += prompt.len();
        }
    }
}

/// All prompts in one step, each in its own blocks.
fn run_together(loaded: &Loaded, prompts: &[Prompt]) -> Tensor {
    let mut tables: Vec<Vec<u32>> = Vec::new();
    let mut n_blocks = 0;
    for prompt in prompts {
        let table = table_for(prompt.len());
        let n = table.len() as u32;
        tables.push(table.into_iter().map(|block| block + n_blocks).collect());
        n_blocks += n;
    }
    let seqs: Vec<SeqRows<'_>> = prompts
        .iter()
        .zip(&tables)
        .map(|(prompt, table)| SeqRows { n_rows: prompt.len(), start_pos: 0, block_table: table })
        .collect();
    let mut embeddings: Vec<EmbeddingRows<'_>> = Vec::new();
    let (mut tokens, mut positions): (Vec<TokenId>, Vec<[u32; 3]>) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let shifted = prompt
            .spans(0, prompt.len())
            .into_iter()
            .map(|span| EmbeddingRows { first_row: span.first_row + tokens.len(), ..span });
        embeddings.extend(shifted);
        tokens.extend(&prompt.expanded.tokens);
        positions.extend(&prompt.positions.rows);
    }
    let logit_rows: Vec<usize> = (0..tokens.len()).collect();
    let step = StepInput {
        tokens: &tokens,
        positions: &positions,
        seqs: &seqs,
        embeddings: &embeddings,
        logit_rows: &logit_rows,
    };
    loaded.forward(&step, &mut loaded.pool(n_blocks as usize))
}

#[test]
fn only_the_last_row_asked_for_has_the_same_bits() {
    each_prompt(|loaded, prompt, name| {
        let (expected, _) = whole(loaded, prompt);
        let table = table_for(prompt.len());
        let embeddings = prompt.spans(0, prompt.len());
        let step = StepInput {
            tokens: &prompt.expanded.tokens,
            positions: &prompt.positions.rows,
            seqs: &[SeqRows { n_rows: prompt.len(), start_pos: 0, block_table: &table }],
            embeddings: &embeddings,
            logit_rows: &[prompt.len() - 1],
        };
        let last = loaded.forward(&step, &mut loaded.pool(table.len()));
        assert_eq!(bits(last.as_f32()), bits(expected.row(prompt.len() - 1)), "{name}");
    });
}

#[test]
fn a_medium_encoded_among_others_has_the_same_bits() {
    each_prompt(|loaded, prompt, name| {
        let Some(together) = &prompt.rows else { return };
        let alone: Vec<f32> = prompt
            .prepared
            .iter()
            .flat_map(|medium| loaded.encode(&[medium]).as_f32().to_vec())
            .collect();
        assert_eq!(bits(together.as_slice()), bits(&alone), "{name}");
    });
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for (family, index) in ZOO {
        let golden = Golden::read(family, index);
        let open = |n| Loaded::open(&golden, &Device::cpu(NonZeroUsize::new(n).unwrap()));
        let [one, two, five] = [1, 2, 5].map(open);
        for prompt in golden.prompts() {
            let prompt = one.prompt(prompt);
            let (expected, _) = whole(&one, &prompt);
            for other in [&two, &five] {
                let borrowed: Vec<_> = prompt.prepared.iter().collect();
                if let Some(rows) = &prompt.rows {
                    let again = other.encode(&borrowed);
                    assert_eq!(bits(rows.as_slice()), bits(again.as_f32()), "{family}/{index}");
                }
                let (logits, _) = whole(other, &prompt);
                assert_eq!(bits(logits.as_f32()), bits(expected.as_f32()), "{family}/{index}");
            }
        }
    }
}

#[test]
fn steps_that_contradict_themselves_are_refused() {
    let golden = Golden::read(ZOO[0].0, ZOO[0].1);
    let loaded = Loaded::open(&golden, &Device::all_cpus());
    let table = [0];
    let run = |tokens: &[TokenId], n_rows, block_table: &[u32], first_row, logit_rows: &[usize]| {
        let medium = Tensor::zeros::<f32>(&[1, loaded.model.spec().hidden_size]);
        let of = &loaded.kept(&medium);
        let positions: Vec<[u32; 3]> = (0..2).map(|position| [position; 3]).collect();
        let step = StepInput {
            tokens,
            positions: &positions,
            seqs: &[SeqRows { n_rows, start_pos: 0, block_table }],
            embeddings: &[EmbeddingRows { first_row, of, rows: 0..1 }],
            logit_rows,
        };
        let step = Step::new(&loaded.device, loaded.model.spec(), &step)?;
        loaded.model.forward(&loaded.device, &step, &mut loaded.pool(1))
    };
    assert!(run(&[1, 2], 2, &table, 1, &[1]).is_ok());
    assert!(run(&[1, 2], 2, &table, 0, &[]).is_ok(), "a chunk in the middle wants no logits");
    assert!(run(&[1, 2], 3, &table, 1, &[1]).is_err(), "more rows than tokens");
    assert!(run(&[1, 2], 2, &[], 1, &[1]).is_err(), "no block");
    assert!(run(&[1, 2], 2, &[1], 1, &[1]).is_err(), "a block that does not exist");
    assert!(run(&[1, 2], 2, &table, 2, &[1]).is_err(), "media rows behind the last row");
    assert!(run(&[1, 2], 2, &table, 1, &[2]).is_err(), "logits of no row");
    assert!(run(&[1, 99_999], 2, &table, 1, &[1]).is_err(), "a token outside the vocabulary");
}
