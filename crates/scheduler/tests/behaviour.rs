//! What the scheduler decides, step by step, in small cases where it can be read off.

use scheduler::{
    Batch, EventKind, NewImport, NewRequest, Scheduler, SchedulerConfig, StopRule, Until,
};
use types::content::Digest;
use types::media::{Grid, MediaItem, MediaKind};
use types::output::{FinishReason, OutputToken};
use types::prompt::{ExpandedPrompt, PlacedItem};
use types::{RequestId, TokenId};

/// Blocks of 4 tokens, 16 of them, 8 rows a step, 4 sequences.
struct Bench {
    scheduler: Scheduler,
    n_submitted: u128,
}

impl Bench {
    fn new(change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        let mut cfg = SchedulerConfig {
            block_size: 4,
            n_blocks: 16,
            max_batch_size: 4,
            max_num_tokens: 8,
            min_piece_tokens: 1,
            max_seq_len: 64,
            max_queue_len: 8,
            reuse_blocks: true,
            encoder_max_num_tokens: 8,
            encoder_max_batch_size: 8,
        };
        change(&mut cfg);
        Self { scheduler: Scheduler::new(cfg).expect("possible limits"), n_submitted: 0 }
    }

    /// Submits the next request, numbered from 1; its prompt is `len` tokens, the first being
    /// `first`.
    fn submit(&mut self, first: TokenId, len: usize, change: impl FnOnce(&mut NewRequest)) {
        let request = self.request(first, len, change);
        self.scheduler.submit(request).expect("it fits");
    }

    fn request(
        &mut self,
        first: TokenId,
        len: usize,
        change: impl FnOnce(&mut NewRequest),
    ) -> NewRequest {
        self.n_submitted += 1;
        let tokens = (first..first + len as TokenId).collect();
        let mut request = NewRequest {
            id: RequestId(self.n_submitted),
            prompt: ExpandedPrompt { tokens, items: Vec::new() },
            block_root: Digest([1; 32]),
            stop: StopRule { end_ids: vec![0], min_tokens: 0, max_tokens: Some(12) },
            n_choices: 1,
            first_choice: 0,
            n_answered: 0,
            until: Until::End,
            priority: 0,
            needs_tokens: false,
        };
        change(&mut request);
        request
    }

    fn finish(&mut self, batch: &Batch, token: TokenId) {
        let sample = OutputToken { token, logprob: None, top_logprobs: Vec::new() };
        self.scheduler.finish(batch, vec![sample; batch.n_samples()]);
        self.scheduler.check().expect("in order");
    }

    /// Runs a step that samples 7s; it must hold these (request, first position, rows).
    fn check_step(&mut self, expected: &[(u128, usize, usize)]) {
        let batch = self.scheduler.next_batch();
        let steps = batch.iter().flat_map(|batch| &batch.seqs);
        let found: Vec<_> =
            steps.map(|seq| (seq.request.0, seq.start_pos, seq.tokens.len())).collect();
        assert_eq!(found, expected);
        if let Some(batch) = batch {
            self.finish(&batch, 7);
        }
    }

    fn check_pinned(&mut self, id: u128, cached_tokens: u32, items: &[usize]) {
        let kinds = self.scheduler.drain_events().into_iter().filter(|event| event.id.0 == id);
        let pinned = kinds.map(|event| event.kind).find_map(|kind| match kind {
            EventKind::Pinned { cached_tokens, needed_items } => {
                Some((cached_tokens, needed_items))
            }
            EventKind::Tokens { .. }
            | EventKind::Finished { .. }
            | EventKind::Exported { .. }
            | EventKind::ImportReady { .. }
            | EventKind::Preempted { .. }
            | EventKind::Failed(_)
            | EventKind::Ended => None,
        });
        assert_eq!(pinned, Some((cached_tokens, items.to_vec())), "request {id}");
    }
}

/// A picture of 4 rows from position 5 on.
fn with_picture(digest: u8) -> impl FnOnce(&mut NewRequest) {
    move |request| {
        let item = MediaItem {
            kind: MediaKind::Image,
            digest: Digest([digest; 32]),
            grid: Grid { t: 1, h: 4, w: 4 },
            n_tokens: 4,
        };
        request.prompt.items = vec![PlacedItem { item, start: 5 }];
    }
}

#[test]
fn single_rows_go_first_then_chunks_within_the_budget() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 3, |_| {});
    bench.check_step(&[(1, 0, 3)]);
    bench.submit(200, 17, |_| {});
    bench.submit(300, 6, |_| {});
    bench.check_step(&[(1, 3, 1), (2, 0, 7)]);
    bench.check_step(&[(1, 4, 1), (2, 7, 7)]);
    bench.check_step(&[(1, 5, 1), (2, 14, 3), (3, 0, 4)]);
    bench.check_step(&[(1, 6, 1), (2, 17, 1), (3, 4, 2)]);
}

#[test]
fn chunks_stop_at_missing_rows_and_others_pass() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 12, with_picture(1));
    bench.submit(200, 5, |_| {});
    bench.check_pinned(1, 0, &[0]);
    bench.check_step(&[(1, 0, 5), (2, 0, 3)]);
    bench.check_step(&[(2, 3, 2)]);
    bench.scheduler.supply(RequestId(1), 0);
    bench.check_step(&[(2, 5, 1), (1, 5, 7)]);
}

#[test]
fn a_short_piece_waits_for_the_rows_behind_it() {
    let mut bench = Bench::new(|cfg| cfg.min_piece_tokens = 6);
    bench.submit(100, 12, with_picture(1));
    bench.submit(200, 3, |_| {});
    bench.check_pinned(1, 0, &[0]);
    bench.check_step(&[(2, 0, 3)]);
    bench.scheduler.supply(RequestId(1), 0);
    bench.check_step(&[(2, 3, 1), (1, 0, 7)]);
    bench.check_step(&[(2, 4, 1), (1, 7, 5)]);
}

#[test]
fn a_cached_picture_needs_no_rows() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 14, with_picture(1));
    bench.scheduler.supply(RequestId(1), 0);
    bench.check_step(&[(1, 0, 8)]);
    bench.check_step(&[(1, 8, 6)]);
    bench.submit(100, 14, with_picture(1));
    bench.check_pinned(2, 12, &[]);
    bench.submit(100, 14, with_picture(2));
    bench.check_pinned(3, 4, &[0]);
    bench.submit(100, 9, with_picture(1));
    bench.check_pinned(4, 8, &[0]);
    bench.submit(100, 14, |request| {
        with_picture(1)(request);
        request.block_root = Digest([2; 32]);
    });
    bench.check_pinned(5, 0, &[0]);
}

#[test]
fn the_higher_priority_goes_first_then_the_older() {
    let mut bench = Bench::new(|cfg| cfg.max_batch_size = 1);
    bench.submit(100, 2, |request| request.stop.max_tokens = Some(1));
    for priority in [0, 5, 0, -1] {
        bench.submit(200, 2, |request| {
            request.priority = priority;
            request.stop.max_tokens = Some(1);
        });
    }
    for id in [3, 1, 2, 4, 5] {
        bench.check_step(&[(id, 0, 2)]);
    }
    bench.check_step(&[]);
}

#[test]
fn the_youngest_yields_and_gets_its_turn_again() {
    let mut bench = Bench::new(|cfg| cfg.n_blocks = 5);
    bench.submit(100, 7, |_| {});
    bench.check_step(&[(1, 0, 7)]);
    bench.submit(200, 6, |request| request.stop.max_tokens = Some(4));
    bench.check_step(&[(1, 7, 1), (2, 0, 6)]);
    bench.check_step(&[(1, 8, 1), (2, 6, 1)]);
    bench.check_step(&[(1, 9, 1), (2, 7, 1)]);
    // Request 2 wants a third block: there is none, and nobody is younger.
    bench.check_step(&[(1, 10, 1)]);
    bench.check_step(&[(1, 11, 1)]);
    // Now request 1 wants its fourth, and gets it.
    bench.check_step(&[(1, 12, 1)]);
    assert_eq!(bench.scheduler.stats().n_preempted, 1);
    bench.scheduler.abort(RequestId(1));
    // One block of request 2 was still cached: it goes on behind it, with what it had answered.
    bench.check_step(&[(2, 4, 5)]);
}

#[test]
fn the_stuck_yield_even_to_those_behind_them() {
    let mut bench = Bench::new(|cfg| cfg.n_blocks = 5);
    bench.submit(100, 10, |request| {
        with_picture(1)(request);
        request.stop.max_tokens = Some(4);
    });
    bench.check_step(&[(1, 0, 5)]);
    bench.submit(200, 8, |_| {});
    bench.check_step(&[(2, 0, 8)]);
    for pos in 8..12 {
        bench.check_step(&[(2, pos, 1)]);
    }
    // Request 1 is older and waits for rows: its two blocks go, for request 2 wants a fourth.
    bench.check_step(&[(2, 12, 1)]);
    assert_eq!(bench.scheduler.stats().n_preempted, 1);
}

#[test]
fn those_who_lack_rows_do_not_take_turns_at_the_cost_of_one_who_has_them() {
    let mut bench = Bench::new(|cfg| (cfg.n_blocks, cfg.max_num_tokens) = (6, 32));
    bench.submit(100, 12, with_picture(1));
    bench.check_step(&[(1, 0, 5)]);
    bench.submit(200, 12, with_picture(2));
    bench.submit(300, 20, |request| request.stop.max_tokens = Some(4));
    // Request 3 takes the blocks of request 1, and those of request 2 when its rows are computed.
    bench.check_step(&[(2, 0, 5)]);
    bench.check_step(&[(3, 0, 20)]);
}

#[test]
fn one_choice_ends_by_word_from_outside() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 6, |request| request.n_choices = 3);
    bench.check_step(&[(1, 0, 6)]);
    bench.check_step(&[(1, 6, 1), (1, 6, 1), (1, 6, 1)]);
    let batch = bench.scheduler.next_batch().expect("a step");
    bench.scheduler.drain_events();
    bench.scheduler.finish_choice(RequestId(1), 1);
    // Its own block is in the launched step, and what is sampled for it there is dropped.
    assert_eq!(bench.scheduler.stats().blocks.quarantined, 1);
    bench.finish(&batch, 7);
    assert_eq!(bench.scheduler.stats().blocks.quarantined, 0);
    let kinds: Vec<_> = bench.scheduler.drain_events().into_iter().map(|it| it.kind).collect();
    let reason = FinishReason::Stop;
    assert_eq!(kinds[0], EventKind::Finished { choice: 1, reason });
    let told = |kind: &EventKind| matches!(kind, EventKind::Tokens { choice: 0 | 2, .. });
    assert!(kinds.len() == 3 && kinds[1..].iter().all(told), "{kinds:?}");
    for choice in [1, 3, 0] {
        bench.scheduler.finish_choice(RequestId(1), choice);
    }
    bench.check_step(&[(1, 8, 1)]);
    bench.scheduler.finish_choice(RequestId(1), 2);
    assert_eq!(bench.scheduler.drain_events().last().map(|it| &it.kind), Some(&EventKind::Ended));
    assert!(bench.scheduler.is_idle());
}

#[test]
fn equal_blocks_become_one() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 4, |_| {});
    bench.submit(100, 4, |_| {});
    bench.check_step(&[(1, 0, 4), (2, 0, 4)]);
    assert_eq!(bench.scheduler.stats().blocks.owned, 1);
}

#[test]
fn choices_share_full_blocks_and_copy_the_partial_one() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 6, |request| request.n_choices = 3);
    let batch = bench.scheduler.next_batch().expect("a step");
    assert_eq!((batch.seqs[0].n_samples, batch.copies.len()), (3, 0));
    bench.finish(&batch, 7);
    assert_eq!(bench.scheduler.stats().blocks.owned, 2);
    let batch = bench.scheduler.next_batch().expect("a step");
    let mut tables: Vec<&[u32]> = batch.seqs.iter().map(|seq| &seq.block_table[..]).collect();
    assert_eq!((tables.len(), batch.copies.len()), (3, 2));
    assert!(tables.iter().all(|table| table[0] == tables[0][0]));
    tables.dedup_by_key(|table| table[1]);
    assert_eq!(tables.len(), 3, "two choices write into one block");
    bench.finish(&batch, 7);
    assert_eq!(bench.scheduler.stats().blocks.owned, 4);
}

#[test]
fn the_block_unused_for_longest_is_given_up_first_and_ends_before_beginnings() {
    let mut bench = Bench::new(|cfg| cfg.n_blocks = 6);
    let once = |request: &mut NewRequest| request.stop.max_tokens = Some(1);
    bench.submit(100, 8, once);
    bench.check_step(&[(1, 0, 8)]);
    bench.submit(200, 8, once);
    bench.check_step(&[(2, 0, 8)]);
    bench.submit(300, 12, once);
    bench.check_step(&[(3, 0, 8)]);
    bench.check_step(&[(3, 8, 4)]);
    // Three of four cached blocks and two free ones were there: the end of the oldest went.
    bench.submit(100, 9, once);
    bench.check_pinned(4, 4, &[]);
    bench.submit(200, 9, once);
    bench.check_pinned(5, 8, &[]);
}

#[test]
fn a_block_in_a_launched_step_waits_for_its_end() {
    let mut bench = Bench::new(|_| {});
    bench.submit(100, 6, |_| {});
    let batch = bench.scheduler.next_batch().expect("a step");
    bench.scheduler.abort(RequestId(1));
    let blocks = bench.scheduler.stats().blocks;
    assert_eq!((blocks.quarantined, blocks.free), (2, 14));
    bench.finish(&batch, 7);
    let blocks = bench.scheduler.stats().blocks;
    assert_eq!((blocks.quarantined, blocks.free), (0, 16));
    assert!(bench.scheduler.drain_events().is_empty(), "events of an aborted request");
}

#[test]
fn an_import_waits_until_all_its_blocks_are_there() {
    let mut bench = Bench::new(|cfg| cfg.n_blocks = 6);
    for first in [100, 200] {
        let request = bench.request(first, 12, |_| {});
        let import = NewImport { request, first_tokens: vec![Some(5)] };
        bench.scheduler.import(import).expect("it fits");
    }
    let ready = |bench: &mut Bench| {
        let events = bench.scheduler.drain_events();
        events.iter().map(|event| event.id.0).collect::<Vec<_>>()
    };
    // The second would find three blocks, but needs one more to write into.
    assert_eq!(ready(&mut bench), [1]);
    bench.scheduler.imported(RequestId(1));
    bench.check_step(&[(1, 12, 1)]);
    bench.scheduler.abort(RequestId(1));
    bench.check_step(&[]);
    assert_eq!(ready(&mut bench), [2]);
}
