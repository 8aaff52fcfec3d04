//! The world around the scheduler: clients, encoders, peers and a device, all driven by one seed.

use crate::device::Device;
use crate::random::Random;
use crate::tally::Tally;
use crate::truth::Truth;
use scheduler::{
    Batch, Event, EventKind, NewImport, NewRequest, Scheduler, SchedulerConfig, SeqStep, StopRule,
    Until,
};
use std::collections::VecDeque;
use types::content::Digest;
use types::media::{Grid, MediaItem, MediaKind};
use types::output::OutputToken;
use types::prompt::{ExpandedPrompt, PlacedItem};
use types::{Error, ErrorKind, RequestId, TokenId};

const PLACEHOLDER: TokenId = 1000;
/// Rounds after which a world that still has work is called stalled.
const N_ROUNDS_MAX: usize = 200_000;
/// Steps in a row without a token after which sequences are said to take each other's blocks for
/// ever; four thousand worlds had 45 at most.
const N_DRY_STEPS_MAX: u64 = 150;

/// A text that prompts begin with: tokens, and items that come whole or not at all.
struct Story {
    tokens: Vec<TokenId>,
    items: Vec<(usize, usize)>,
}

pub(crate) struct World {
    random: Random,
    cfg: SchedulerConfig,
    scheduler: Scheduler,
    device: Device,
    stories: Vec<Story>,
    truths: Vec<Truth>,
    /// Indices of truths that are not over.
    open: Vec<usize>,
    /// Steps under way, and the tokens of those that have run: they may run at any time, in order.
    in_flight: VecDeque<(Batch, Option<Vec<TokenId>>)>,
    n_in_flight_max: usize,
    /// Rows asked for, in order: request and items.
    asked: VecDeque<(usize, Vec<usize>)>,
    /// Rows that fit into the embedding memory at once; `None` is without limit. A request gets
    /// memory for all its items or waits, so that none holds some while it waits for more.
    n_rows_max: Option<usize>,
    n_rows_held: usize,
    /// Transfers on the way: request and blocks.
    arriving: Vec<(usize, Vec<(usize, u32)>)>,
    /// Blocks held for peers.
    exports: Vec<(usize, Vec<u32>, usize)>,
    /// Of 100 arrivals, so many are imports, and so many stop at the first token.
    import_share: usize,
    first_token_share: usize,
    is_closing: bool,
    /// Steps since the last token.
    n_dry_steps: u64,
    tally: Tally,
}

impl World {
    pub(crate) fn new(seed: u64, n_in_flight_max: usize) -> Self {
        let mut random = Random::new(seed);
        let block_size = random.between(1, 8);
        let max_batch_size = random.between(1, 8);
        let cfg = SchedulerConfig {
            block_size,
            n_blocks: random.between(3, 96 / block_size + 3),
            max_batch_size,
            max_num_tokens: max_batch_size + random.between(0, 24),
            min_piece_tokens: random.between(1, 8),
            max_seq_len: random.between(16, 64),
            max_queue_len: random.between(2, 12),
            reuse_blocks: !random.one_in(8),
            encoder_max_num_tokens: 1,
            encoder_max_batch_size: 1,
        };
        let roles = [(0, 0), (0, 0), (0, 100), (100, 0), (100, 0), (30, 40)];
        let (import_share, first_token_share) = roles[random.below(roles.len())];
        let stories = (0..random.between(1, 4)).map(|_| story(&mut random)).collect();
        let n_rows_max = random.one_in(3).then(|| random.between(18, 30));
        Self {
            scheduler: Scheduler::new(cfg.clone()).expect("possible limits"),
            device: Device::new(cfg.n_blocks, block_size),
            random,
            cfg,
            stories,
            truths: Vec::new(),
            open: Vec::new(),
            in_flight: VecDeque::new(),
            n_in_flight_max,
            asked: VecDeque::new(),
            n_rows_max,
            n_rows_held: 0,
            arriving: Vec::new(),
            exports: Vec::new(),
            import_share,
            first_token_share,
            is_closing: false,
            n_dry_steps: 0,
            tally: Tally::default(),
        }
    }

    /// `n_events` random events, then the end of everything that has begun.
    pub(crate) fn run(mut self, n_events: usize) -> Tally {
        for _ in 0..n_events {
            self.random_event();
            self.settle();
        }
        self.close();
        let stats = self.scheduler.stats();
        self.tally.n_preempted = stats.n_preempted;
        self.tally.n_cached_tokens = stats.prefix_hit_tokens;
        self.tally
    }

    fn random_event(&mut self) {
        match self.random.below(100) {
            0..50 => drop(self.advance()),
            50..66 => self.arrive(),
            66..80 => drop(self.supply()),
            80..88 => drop(self.complete_transfer()),
            88..95 => drop(self.release()),
            95 => self.let_go_of_rows(),
            96 => self.finish_one(),
            _ => self.abort_one(),
        }
    }

    fn hear_all(&mut self) {
        for event in self.scheduler.drain_events() {
            self.hear(event);
        }
    }

    /// After every event: what the scheduler says is true, and it is in order.
    fn settle(&mut self) {
        self.hear_all();
        if let Err(words) = self.scheduler.check() {
            panic!("{words}\n{:?}", self.cfg);
        }
    }

    /// Launches a step or ends one; false when there is neither.
    fn advance(&mut self) -> bool {
        let may_launch = self.in_flight.len() < self.n_in_flight_max;
        let is_preferred = self.in_flight.is_empty() || self.random.one_in(2);
        if may_launch && is_preferred && self.launch() {
            return true;
        }
        let Some((batch, tokens)) = self.in_flight.pop_front() else { return false };
        if self.random.one_in(500) && !self.is_closing {
            self.fail(&batch, tokens.is_some());
            return true;
        }
        let tokens = tokens.unwrap_or_else(|| self.device.run(&batch, &self.truths));
        let is_surplus = |seq: &&SeqStep| self.scheduler.sequence(seq.rank).is_none();
        if self.n_in_flight_max > 1 {
            self.tally.n_surplus += batch.seqs.iter().filter(is_surplus).count() as u64;
        }
        let samples = tokens.into_iter().map(|token| OutputToken {
            token,
            logprob: None,
            top_logprobs: Vec::new(),
        });
        self.scheduler.finish(&batch, samples.collect());
        self.n_dry_steps += 1;
        assert!(self.n_dry_steps < N_DRY_STEPS_MAX, "steps without a token\n{:#?}", self.scheduler);
        self.tally.n_dry_steps_max = self.tally.n_dry_steps_max.max(self.n_dry_steps);
        true
    }

    /// The device could not run a step, or not hand out its tokens.
    fn fail(&mut self, batch: &Batch, has_run: bool) {
        self.tally.n_failed_steps += 1;
        if !has_run {
            self.device.skip(batch);
            let owners = batch.seqs.iter().map(|seq| seq.request.0 as usize);
            owners.for_each(|idx| self.truths[idx].is_failed = true);
        }
        self.scheduler.fail(batch, &Error::internal("the device failed"));
    }

    /// Steps run in order, some as soon as they are launched and some when they must.
    fn run_some(&mut self) {
        let n_run = self.random.below(self.in_flight.len() + 1);
        for (batch, tokens) in self.in_flight.iter_mut().take(n_run) {
            tokens.get_or_insert_with(|| self.device.run(batch, &self.truths));
        }
    }

    fn launch(&mut self) -> bool {
        let Some(batch) = self.scheduler.next_batch() else {
            self.hear_all();
            if self.in_flight.is_empty() {
                self.check_that_none_could_go_on();
            }
            return false;
        };
        self.check_batch(&batch);
        self.tally.n_overlapping += u64::from(!self.in_flight.is_empty());
        self.in_flight.push_back((batch, None));
        self.run_some();
        true
    }

    fn check_batch(&mut self, batch: &Batch) {
        self.tally.n_steps += 1;
        self.tally.n_rows += batch.n_rows() as u64;
        self.tally.n_block_copies += batch.copies.len() as u64;
        assert!(batch.n_rows() <= self.cfg.max_num_tokens, "too many rows: {batch:?}");
        assert!(batch.seqs.len() <= self.cfg.max_batch_size, "too many sequences: {batch:?}");
        for step in &batch.seqs {
            let truth = &self.truths[step.request.0 as usize];
            let end = step.start_pos + step.tokens.len();
            for (placed, has_rows) in truth.prompt.items.iter().zip(&truth.has_rows) {
                let overlaps = placed.start < end && placed.end() > step.start_pos;
                assert!(!overlaps || *has_rows, "rows are missing for {step:?}");
            }
            if step.carried.is_some() {
                self.tally.n_carried += 1;
                assert_eq!(step.tokens, [0], "not a single token: {step:?}");
                assert!(!truth.needs_tokens, "it needs its tokens: {step:?}");
            }
        }
    }

    /// There was nothing to run, so nobody has all the rows it needs, unless blocks are in the
    /// hands of peers: those that can go on get their blocks from those that cannot.
    fn check_that_none_could_go_on(&self) {
        if !self.exports.is_empty() || !self.arriving.is_empty() {
            return;
        }
        let could = self.open.iter().map(|idx| &self.truths[*idx]).find(|truth| truth.could_run());
        let id = could.map(|truth| truth.id);
        assert!(id.is_none(), "{id:?} has all it needs and does not run\n{:#?}", self.scheduler);
    }

    fn arrive(&mut self) {
        let is_import = self.random.below(100) < self.import_share;
        let request = self.new_request();
        if is_import { self.import(request) } else { self.submit(request) }
    }

    fn submit(&mut self, mut request: NewRequest) {
        if self.random.below(100) < self.first_token_share {
            request.until = Until::FirstToken;
        }
        let truth = Truth::new(&request);
        let outcome = self.scheduler.submit(request);
        self.begin(truth, outcome);
    }

    /// Another engine has computed the prompt and the first tokens; some choices may have ended
    /// there.
    fn import(&mut self, request: NewRequest) {
        let mut truth = Truth::new(&request);
        let mut first_tokens = Vec::new();
        for choice in truth.first_choice..truth.first_choice + request.n_choices {
            let last = truth.content(choice, truth.prompt_len() - 1);
            let token = truth.next_token(choice, truth.prompt_len(), last);
            truth.push(choice, token);
            let is_over = truth.reason(choice, self.cfg.seq_len_max()).is_some();
            truth.choice(choice).is_over = is_over;
            first_tokens.push((!is_over).then_some(token));
        }
        if first_tokens.iter().any(Option::is_some) {
            let outcome = self.scheduler.import(NewImport { request, first_tokens });
            self.begin(truth, outcome);
        }
    }

    fn begin(&mut self, mut truth: Truth, outcome: types::Result<()>) {
        let idx = self.truths.len();
        truth.id = RequestId(idx as u128);
        match outcome {
            Ok(()) => self.open.push(idx),
            Err(error) => {
                use ErrorKind::{ContextLengthExceeded, InvalidInput, Overloaded};
                let kinds = [ContextLengthExceeded, InvalidInput, Overloaded];
                assert!(kinds.contains(&error.kind), "refused with {error:?}");
                truth.is_over = true;
                self.tally.n_refused += 1;
            }
        }
        self.truths.push(truth);
    }

    fn new_request(&mut self) -> NewRequest {
        let prompt = self.new_prompt();
        let random = &mut self.random;
        let max_tokens = (!random.one_in(4)).then(|| random.between(1, 12) as u32);
        NewRequest {
            id: RequestId(self.truths.len() as u128),
            prompt,
            block_root: Digest([1 + random.one_in(5) as u8; 32]),
            stop: StopRule {
                end_ids: if random.one_in(4) { vec![] } else { vec![0] },
                min_tokens: random.below(4) as u32,
                max_tokens,
            },
            n_choices: if random.one_in(4) { random.between(1, 4) as u32 } else { 1 },
            first_choice: random.below(3) as u32,
            n_answered: 0,
            until: Until::End,
            priority: if random.one_in(6) { random.below(3) as i32 - 1 } else { 0 },
            needs_tokens: random.one_in(6),
        }
    }

    /// A story's beginning, cut anywhere outside its items, and an end of its own.
    fn new_prompt(&mut self) -> ExpandedPrompt {
        let Self { random, stories, .. } = self;
        let story = &stories[random.below(stories.len())];
        let mut cut = random.below(story.tokens.len() + 1);
        let cut_item = story.items.iter().find(|(start, len)| *start < cut && cut < start + len);
        cut = cut_item.map_or(cut, |(start, len)| start + len * random.below(2));
        let mut tokens = story.tokens[..cut].to_vec();
        let own_end = random.between(if cut == 0 { 1 } else { 0 }, 4);
        tokens.extend((0..own_end).map(|_| random.below(4) as TokenId));
        let whole = story.items.iter().filter(|(start, len)| start + len <= cut);
        let items = whole.map(|&(start, len)| PlacedItem { item: item(random, len), start });
        let items = items.collect();
        ExpandedPrompt { tokens, items }
    }

    /// Supplies one item asked for; false when none can be.
    fn supply(&mut self) -> bool {
        // Without a limit rows come in any order, otherwise in the order in which memory was given.
        let has_memory = |ask: &(usize, Vec<usize>)| self.truths[ask.0].holds_memory;
        let at = match self.n_rows_max {
            Some(_) => self.asked.iter().position(has_memory).unwrap_or(0),
            None => self.random.below(self.asked.len()),
        };
        let Some((idx, items)) = self.asked.get_mut(at) else { return false };
        let truth = &mut self.truths[*idx];
        if !truth.holds_memory {
            let n_rows = truth.n_media_rows();
            if self.n_rows_max.is_some_and(|max| self.n_rows_held + n_rows > max) {
                self.tally.n_memory_full += 1;
                return false;
            }
            truth.holds_memory = true;
            self.n_rows_held += n_rows;
        }
        let item = items.swap_remove(self.random.below(items.len()));
        truth.has_rows[item] = true;
        self.scheduler.supply(truth.id, item);
        if items.is_empty() {
            self.asked.remove(at);
        }
        true
    }

    /// The bytes of an import arrive; those of one that is over ruin its blocks a last time.
    fn complete_transfer(&mut self) -> bool {
        if self.arriving.is_empty() {
            return false;
        }
        let at = self.random.below(self.arriving.len());
        let (idx, missing) = self.arriving.swap_remove(at);
        let truth = &mut self.truths[idx];
        truth.is_known = true;
        self.tally.n_imported += u64::from(!truth.is_over);
        self.tally.n_aborted_in_transfer += u64::from(truth.is_over);
        for (block_idx, block) in missing {
            match truth.is_over {
                true => self.device.scribble(block),
                false => self.device.receive(block_idx, block, truth),
            }
        }
        if truth.is_over && self.random.one_in(2) {
            self.scheduler.release(truth.id);
        } else {
            self.scheduler.imported(truth.id);
        }
        true
    }

    /// A peer has read exported blocks.
    fn release(&mut self) -> bool {
        if self.exports.is_empty() {
            return false;
        }
        let at = self.random.below(self.exports.len());
        let (idx, blocks, n_tokens) = self.exports.swap_remove(at);
        self.device.check_export(&blocks, n_tokens, &self.truths[idx]);
        if self.random.one_in(4) {
            self.scheduler.abort(self.truths[idx].id);
        } else {
            self.scheduler.release(self.truths[idx].id);
        }
        true
    }

    fn abort_one(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let idx = self.open[self.random.below(self.open.len())];
        self.tally.n_aborted += 1;
        let named = |batch: &Batch| batch.seqs.iter().any(|seq| seq.request.0 as usize == idx);
        let in_flight = self.in_flight.iter().any(|(batch, _)| named(batch));
        self.tally.n_aborted_in_flight += u64::from(in_flight);
        self.truths[idx].is_aborted = true;
        self.scheduler.abort(self.truths[idx].id);
        self.end(idx);
    }

    /// Somebody waits for embedding memory: a prompt that has been computed gives back its rows.
    fn let_go_of_rows(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let idx = self.open[self.random.below(self.open.len())];
        let truth = &mut self.truths[idx];
        let held_some = truth.has_rows.contains(&true);
        if !self.scheduler.let_go_of_rows(truth.id) {
            return;
        }
        self.tally.n_let_go += u64::from(held_some);
        truth.has_let_go = true;
        truth.has_rows.fill(false);
        // What was asked for and has not come yet is needed no more.
        truth.was_asked.fill(false);
        self.give_memory_back(idx);
        self.asked.retain(|ask| ask.0 != idx);
    }

    /// A stop string was found in one choice: it ends at once, wherever it is, and no other does.
    fn finish_one(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let idx = self.open[self.random.below(self.open.len())];
        let truth = &self.truths[idx];
        let (id, first) = (truth.id, truth.first_choice);
        let at = self.random.below(truth.choices.len());
        let choice = first + at as u32;
        if truth.choices[at].is_over {
            return self.scheduler.finish_choice(id, choice);
        }
        let named =
            |batch: &Batch| batch.seqs.iter().any(|seq| seq.request == id && names(seq, choice));
        self.tally.n_stopped += 1;
        let in_flight = self.in_flight.iter().any(|(batch, _)| named(batch));
        self.tally.n_stopped_in_flight += u64::from(in_flight);
        self.truths[idx].choices[at].is_stopped = true;
        self.scheduler.finish_choice(id, choice);
        self.settle();
        assert!(self.truths[idx].choices[at].is_over, "choice {choice} of {id:?} goes on");
    }

    fn hear(&mut self, event: Event) {
        let idx = event.id.0 as usize;
        assert!(!self.truths[idx].is_over, "{event:?} after the end");
        match event.kind {
            EventKind::Pinned { cached_tokens, needed_items } => {
                self.ask(idx, cached_tokens as usize, needed_items);
            }
            EventKind::Tokens { choice, tokens } => self.hear_tokens(idx, choice, &tokens),
            EventKind::Finished { choice, reason } => {
                let truth = &mut self.truths[idx];
                assert!(!truth.choice(choice).is_over, "choice {choice} ended twice");
                assert_eq!(truth.reason(choice, self.cfg.seq_len_max()), Some(reason));
                truth.choice(choice).is_over = true;
                self.tally.n_finished += 1;
            }
            EventKind::Exported { blocks, n_tokens } => {
                assert_eq!(n_tokens, self.truths[idx].prompt_len());
                self.tally.n_exported += 1;
                self.truths[idx].is_exported = true;
                self.exports.push((idx, blocks, n_tokens));
            }
            EventKind::ImportReady { missing } => self.arriving.push((idx, missing)),
            EventKind::Preempted { choice } => {
                self.tally.n_handed_back_without_rows += u64::from(self.truths[idx].has_let_go);
                self.resume(idx, choice);
            }
            EventKind::Failed(_) => self.truths[idx].is_aborted = true,
            EventKind::Ended => {
                let truth = &self.truths[idx];
                let is_over = truth.choices.iter().all(|choice| choice.is_over);
                assert!(is_over || truth.is_exported || truth.is_aborted, "ended too early");
                self.end(idx);
            }
        }
    }

    fn ask(&mut self, idx: usize, n_cached: usize, items: Vec<usize>) {
        let truth = &mut self.truths[idx];
        let known =
            truth.prompt_len() + truth.choices.iter().map(|c| c.answer.len()).max().unwrap();
        assert!(n_cached < known, "the last token's logits must be computed");
        for &item in &items {
            assert!(truth.prompt.items[item].end() > n_cached, "item {item} is cached");
            assert!(!std::mem::replace(&mut truth.was_asked[item], true), "asked twice");
        }
        assert!(!truth.has_let_go || items.is_empty(), "it lost its rows and needs some");
        let is_late = std::mem::replace(&mut truth.is_known, true);
        if !items.is_empty() {
            self.tally.n_rows_asked_late += u64::from(is_late);
            self.asked.push_back((idx, items));
        }
    }

    fn hear_tokens(&mut self, idx: usize, choice: u32, tokens: &[OutputToken]) {
        let truth = &mut self.truths[idx];
        for token in tokens {
            assert!(!truth.choice(choice).is_over, "a token after the end of choice {choice}");
            let last = truth.prompt_len() + truth.choice(choice).answer.len() - 1;
            let expected = truth.next_token(choice, last + 1, truth.content(choice, last));
            assert_eq!(token.token, expected, "answer of choice {choice}");
            truth.push(choice, token.token);
            self.tally.n_tokens += 1;
            self.n_dry_steps = 0;
        }
    }

    /// A choice whose prompt cannot be computed here was handed back: another engine computes its
    /// prompt and answer again, and it comes back as a request of its own.
    fn resume(&mut self, idx: usize, choice: u32) {
        let truth = &mut self.truths[idx];
        truth.choice(choice).is_over = true;
        self.tally.n_handed_back += 1;
        if self.is_closing || self.random.one_in(3) {
            return;
        }
        let mut prompt = truth.prompt.clone();
        prompt.tokens.extend_from_slice(&truth.choice(choice).answer);
        let n_answered = truth.n_answered + truth.choice(choice).answer.len();
        let request = NewRequest {
            id: RequestId(self.truths.len() as u128),
            prompt,
            n_answered,
            first_choice: choice,
            stop: self.truths[idx].stop.clone(),
            ..self.new_request()
        };
        self.import(NewRequest { n_choices: 1, ..request });
    }

    fn end(&mut self, idx: usize) {
        let truth = &mut self.truths[idx];
        truth.is_over = true;
        self.give_memory_back(idx);
        self.open.retain(|open| *open != idx);
        self.asked.retain(|ask| ask.0 != idx);
    }

    fn give_memory_back(&mut self, idx: usize) {
        let truth = &mut self.truths[idx];
        if std::mem::take(&mut truth.holds_memory) {
            self.n_rows_held -= truth.n_media_rows();
        }
    }

    /// No more arrivals and cancellations: all that is open ends, and all blocks come back.
    fn close(&mut self) {
        self.is_closing = true;
        for _ in 0..N_ROUNDS_MAX {
            let advanced = self.advance();
            self.settle();
            let moved = [self.supply(), self.complete_transfer(), self.release()];
            self.settle();
            if !advanced && !moved.contains(&true) {
                break;
            }
        }
        let open: Vec<_> = self.open.iter().map(|idx| self.truths[*idx].id).collect();
        assert!(open.is_empty(), "stalled: {open:?} never end\n{:#?}", self.scheduler);
        let blocks = self.scheduler.stats().blocks;
        assert_eq!(blocks.free + blocks.cached, self.cfg.n_blocks, "blocks are lost");
        assert!(self.cfg.reuse_blocks || blocks.cached == 0, "blocks are cached against orders");
        assert!(self.scheduler.is_idle());
    }
}

/// Whether a step computes anything for a choice.
fn names(step: &SeqStep, choice: u32) -> bool {
    (step.first_choice..step.first_choice + step.n_samples.max(1)).contains(&choice)
}

fn story(random: &mut Random) -> Story {
    let mut story = Story { tokens: Vec::new(), items: Vec::new() };
    for _ in 0..random.below(3) {
        story.tokens.extend((0..random.between(0, 9)).map(|_| random.below(4) as TokenId));
        let len = random.between(1, 9);
        story.items.push((story.tokens.len(), len));
        story.tokens.extend(std::iter::repeat_n(PLACEHOLDER, len));
    }
    story.tokens.extend((0..random.between(1, 16)).map(|_| random.below(4) as TokenId));
    story
}

/// One of few pictures, so that prompts differ in nothing but a picture.
fn item(random: &mut Random, len: usize) -> MediaItem {
    MediaItem {
        kind: MediaKind::Image,
        digest: Digest([1 + random.below(3) as u8; 32]),
        grid: Grid { t: 1, h: 1, w: len as u32 },
        n_tokens: len as u32,
    }
}
