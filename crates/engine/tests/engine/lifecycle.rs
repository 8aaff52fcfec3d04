//! Requests that end early or go wrong: nothing is lost, nobody else is hurt.

use crate::rig::{
    Answer, Ask, Note, PATIENCE, Part, Rig, Setup, ask, new_id, picture, record, root, sink, text,
};
use crate::toy::{FAILS, NOT_A_NUMBER, PANICS, Toy};
use engine::{Condition, EncodeJob, ImportRequest, SeqEvent, Until, Used};
use models::Model;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use types::output::FinishReason;
use types::{ErrorKind, RequestId};

/// Longer than any test waits.
const FOR_EVER: u32 = 3000;

/// Engines with steps one after the other, and planned ahead.
fn rigs(setup: Setup) -> [Rig; 2] {
    let setup = Setup { n_blocks: 4096, ..setup };
    setup.both_ways().map(|setup| Rig::new(&Toy::model(), setup))
}

fn show(model: &Arc<dyn Model>, max_tokens: u32) -> Ask {
    ask(model, vec![text(1, 5), Part::Picture(picture(1, 4, 6)), text(2, 4)], max_tokens)
}

/// When a request is aborted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// Before anything is heard of it.
    AtOnce,
    /// Its rows are asked for, and never come.
    Pinned,
    /// Its picture is queued for the tower.
    Encoding,
    /// This many tokens have come.
    Tokens(usize),
    /// Its blocks are held for a peer.
    Exported,
}

/// Runs `ask` until the moment, aborts it, and waits for the engine to let go.
fn abort_at(rig: &Rig, ask: &Ask, moment: Moment) -> Answer {
    let (sender, notes) = channel();
    let id = new_id();
    rig.submit(id, ask, sink(&sender, 0)).expect("room");
    let mut answer =
        Answer { choices: vec![vec![]; 4], reasons: vec![None; 4], ..Answer::default() };
    if moment == Moment::AtOnce {
        rig.engine.abort(id);
    }
    loop {
        let is_now = match notes.recv_timeout(PATIENCE).expect("the engine answers").1 {
            Note::Event(SeqEvent::Pinned { needed_items, .. }) => {
                for item_idx in needed_items.into_iter().filter(|_| moment != Moment::Pinned) {
                    rig.encode((id, item_idx), ask.media[item_idx].clone(), (&sender, 0));
                }
                matches!(moment, Moment::Pinned | Moment::Encoding)
            }
            Note::Event(SeqEvent::Exported { .. }) => moment == Moment::Exported,
            Note::Event(event) => {
                record(&mut answer, id, ask, event);
                moment == Moment::Tokens(answer.choices[0].len())
            }
            Note::Rows(item_idx, Ok(rows)) => {
                rig.engine.supply(id, item_idx, rows);
                false
            }
            Note::Rows(_, Err(error)) => {
                assert_eq!(error.kind, ErrorKind::Cancelled);
                false
            }
            Note::Gone => return answer,
        };
        if is_now {
            rig.engine.abort(id);
        }
    }
}

#[test]
fn an_abort_returns_everything() {
    for rig in rigs(Setup::default()) {
        let moments = [
            (Moment::AtOnce, Until::End, 1),
            (Moment::Pinned, Until::End, 1),
            (Moment::Encoding, Until::End, 1),
            (Moment::Tokens(1), Until::End, 1),
            (Moment::Tokens(7), Until::End, 1),
            (Moment::Tokens(7), Until::End, 4),
            (Moment::Exported, Until::FirstToken, 1),
            (Moment::Exported, Until::FirstToken, 4),
        ];
        for (moment, until, n) in moments {
            let mut ask = Ask { until, ..show(&rig.model, FOR_EVER) };
            ask.sampling.n = n;
            let answer = abort_at(&rig, &ask, moment);
            assert!(answer.reasons.iter().all(Option::is_none), "{moment:?}: it ended by itself");
            assert_eq!(answer.failed, None);
            rig.wait_until_empty();
        }
    }
}

/// A stop string ends one choice; the other goes on, and the last to end ends the request.
#[test]
fn one_choice_ends_by_word_from_outside() {
    for rig in rigs(Setup::default()) {
        let mut ask = ask(&rig.model, vec![text(1, 5)], FOR_EVER);
        ask.sampling.n = 2;
        let (sender, notes) = channel();
        let id = new_id();
        rig.submit(id, &ask, sink(&sender, 0)).expect("room");
        let mut answer =
            Answer { choices: vec![vec![]; 2], reasons: vec![None; 2], ..Answer::default() };
        let mut n_left = 3;
        while let Note::Event(event) = notes.recv_timeout(PATIENCE).expect("the engine answers").1 {
            if let SeqEvent::Tokens { choice, .. } = event {
                assert_eq!(answer.reasons[choice as usize], None, "choice {choice} goes on");
                n_left -= i32::from(answer.reasons[1].is_some());
            }
            record(&mut answer, id, &ask, event);
            if !answer.choices[1].is_empty() && answer.reasons[1].is_none() {
                rig.engine.finish_choice(id, 1);
            }
            if n_left == 0 {
                rig.engine.finish_choice(id, 0);
            }
        }
        assert_eq!(answer.reasons, [Some(FinishReason::Stop); 2]);
        assert!(answer.choices[0].len() > answer.choices[1].len());
        rig.wait_until_empty();
    }
}

#[test]
fn a_queued_request_is_aborted_while_another_runs() {
    for rig in rigs(Setup { max_batch_size: 1, ..Setup::default() }) {
        let (sender, notes) = channel();
        let long = ask(&rig.model, vec![text(1, 5)], FOR_EVER);
        let (running, queued) = (new_id(), new_id());
        rig.submit(running, &long, sink(&sender, 0)).expect("room");
        rig.submit(queued, &long, sink(&sender, 1)).expect("room");
        rig.engine.abort(queued);
        let gone = |note: &(usize, Note)| matches!(note, (1, Note::Gone));
        assert!(notes.iter().any(|note| gone(&note)));
        rig.wait_for("one running", |stats| stats.scheduler.n_waiting == 0);
        rig.engine.abort(running);
        rig.wait_until_empty();
    }
}

fn import(ask: &Ask, id: RequestId) -> ImportRequest {
    ImportRequest {
        id,
        prompt: ask.prompt.clone(),
        sampling: ask.sampling.clone(),
        block_root: root(ask.salt),
        priority: 0,
        first_choice: 0,
        n_answered: 0,
        first_tokens: vec![Some(1)],
        positions_delta: 0,
    }
}

#[test]
fn an_aborted_import_is_quarantined_until_its_transfer_is_over() {
    let ask = ask(&Toy::model(), vec![text(1, 30)], 8);
    // Room for one import only: the second waits for blocks.
    let rig = Rig::new(&Toy::model(), Setup { n_blocks: 12, ..Setup::default() });
    let (sender, notes) = channel();
    let (first, second) = (new_id(), new_id());
    rig.engine.import(import(&ask, first), sink(&sender, 0)).expect("room");
    rig.engine.import(import(&ask, second), sink(&sender, 1)).expect("room");
    let ready = notes.recv_timeout(PATIENCE).expect("the first is ready");
    assert!(
        matches!(ready, (0, Note::Event(SeqEvent::ImportReady { missing })) if missing.len() == 8)
    );
    rig.engine.abort(first);
    rig.wait_for("quarantined", |stats| stats.scheduler.blocks.quarantined == 8);
    assert_eq!(rig.engine.stats().scheduler.n_imports_waiting, 1, "the second has no room yet");
    rig.engine.release(first);
    let is_ready = |note| matches!(note, (1, Note::Event(SeqEvent::ImportReady { .. })));
    assert!(notes.iter().any(is_ready));
    rig.engine.abort(second);
    rig.engine.imported(second);
    rig.wait_until_empty();
}

#[test]
fn a_failing_step_fails_its_requests_only() {
    for rig in rigs(Setup::default()) {
        for unlucky in [FAILS, PANICS] {
            let bad = ask(&rig.model, vec![text(1, 5), Part::Text(vec![unlucky])], 4);
            let good = ask(&rig.model, vec![text(1, 5), Part::Text(vec![9])], 4);
            let kind = rig.ask(&bad).failed.expect("the step fails").kind;
            assert_eq!(kind, ErrorKind::Internal);
            assert!(rig.engine.stats().condition == Condition::Well);
            assert_eq!(rig.ask(&good).failed, None);
            for _ in 0..3 {
                rig.ask(&bad);
            }
            rig.wait_for("unhealthy", |stats| stats.condition == Condition::Failing);
            assert_eq!(rig.ask(&good).failed, None);
            rig.wait_until_empty();
        }
        assert_eq!(rig.engine.stats().n_failed_steps, 8);
    }
}

/// While steps fail one after the other, they fail in a way that lets another worker try.
#[test]
fn requests_of_an_engine_that_fails_at_each_step_go_elsewhere() {
    for rig in rigs(Setup::default()) {
        let bad = ask(&rig.model, vec![text(1, 5), Part::Text(vec![FAILS])], 4);
        let kinds = [(); 4].map(|()| rig.ask(&bad).failed.expect("the step fails").kind);
        let (fault, elsewhere) = (ErrorKind::Internal, ErrorKind::Unavailable);
        assert_eq!(kinds, [fault, fault, elsewhere, elsewhere]);
        let good = ask(&rig.model, vec![text(1, 5), Part::Text(vec![9])], 4);
        assert_eq!(rig.ask(&good).failed, None);
        assert_eq!(rig.ask(&bad).failed.expect("the step fails").kind, fault);
    }
}

/// A panic of the loop itself: all that is under way and all that comes fails at once, in a way
/// that lets another worker take it over.
#[test]
fn an_engine_whose_loop_breaks_refuses_everything() {
    for rig in rigs(Setup::default()) {
        let (sender, notes) = channel();
        let ask = show(&rig.model, FOR_EVER);
        // One waits for rows, which never come; then another's sink panics, whatever it is told.
        let waiting = new_id();
        rig.submit(waiting, &ask, sink(&sender, 0)).expect("room");
        let pinned = notes.recv_timeout(PATIENCE).expect("the engine answers");
        assert!(matches!(pinned, (0, Note::Event(SeqEvent::Pinned { .. }))));
        rig.submit(new_id(), &ask, Box::new(|_| panic!("on purpose"))).expect("room");
        let failed = |note: (usize, Note)| match note {
            (0, Note::Event(SeqEvent::Failed(error))) => Some(error.kind),
            _ => None,
        };
        assert_eq!(notes.iter().find_map(failed), Some(ErrorKind::Unavailable));
        assert_eq!(rig.engine.condition(), Condition::Broken);
        assert_eq!(rig.engine.breakdown(), Some("its loop panicked"));
        rig.encode((new_id(), 0), picture(1, 4, 6), (&sender, 1));
        let refused = notes.iter().find_map(|note| match note {
            (1, Note::Rows(_, rows)) => Some(rows.expect_err("refused").kind),
            _ => None,
        });
        assert_eq!(refused, Some(ErrorKind::Unavailable));
        assert_eq!(rig.ask(&ask).failed.expect("refused").kind, ErrorKind::Unavailable);
        assert_eq!(rig.engine.warm_up().expect_err("refused").kind, ErrorKind::Unavailable);
        assert_eq!(rig.engine.embeddings().n_bytes_used(), 0);
    }
}

#[test]
fn a_row_without_numbers_fails_alone() {
    for rig in rigs(Setup::default()) {
        let bad = ask(&rig.model, vec![text(1, 5), Part::Text(vec![NOT_A_NUMBER])], 4);
        let good = ask(&rig.model, vec![text(1, 5), Part::Text(vec![9])], 64);
        let answers = rig.ask_all(&[good.clone(), bad, good]);
        let failed: Vec<bool> = answers.iter().map(|answer| answer.failed.is_some()).collect();
        assert_eq!(failed, [false, true, false]);
        rig.wait_until_empty();
    }
}

/// A request with these changes is refused as `kind`.
fn check_refused(rig: &Rig, kind: ErrorKind, change: impl FnOnce(&mut Ask)) {
    let mut ask = ask(&rig.model, vec![text(1, 5)], 4);
    change(&mut ask);
    assert_eq!(rig.ask(&ask).failed.expect("refused").kind, kind);
    rig.wait_until_empty();
}

#[test]
fn what_can_never_run_is_refused() {
    let rig = Rig::new(&Toy::model(), Setup { n_blocks: 10, ..Setup::default() });
    let too_long = ErrorKind::ContextLengthExceeded;
    check_refused(&rig, too_long, |ask| ask.prompt.tokens = vec![1; 40]);
    check_refused(&rig, too_long, |ask| ask.sampling.max_tokens = Some(36));
    check_refused(&rig, ErrorKind::InvalidInput, |ask| ask.sampling.max_tokens = Some(0));
    check_refused(&rig, ErrorKind::InvalidInput, |ask| ask.prompt.tokens.clear());
    check_refused(&rig, ErrorKind::InvalidInput, |ask| ask.sampling.n = 0);
    check_refused(&rig, ErrorKind::InvalidInput, |ask| ask.sampling.n = 17);
    // The largest that fits does, to the last block.
    let largest = ask(&rig.model, vec![text(1, 5)], 35);
    assert_eq!(rig.ask(&largest).tokens(0).len(), 35);
    let mut endless = ask(&rig.model, vec![text(1, 5)], 1);
    endless.sampling.max_tokens = None;
    let answer = rig.ask(&endless);
    assert_eq!(answer.reasons, [Some(FinishReason::Length)]);
    assert_eq!(answer.tokens(0).len(), 35);
}

#[test]
fn a_full_queue_refuses() {
    for rig in rigs(Setup { max_batch_size: 1, ..Setup::default() }) {
        let long = ask(&rig.model, vec![text(1, 5)], 200);
        let answers = rig.ask_all(&vec![long; 200]);
        let refused = answers.iter().filter_map(|answer| answer.failed.as_ref());
        let kinds: Vec<ErrorKind> = refused.map(|error| error.kind).collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == ErrorKind::Overloaded));
        assert!(answers.iter().filter(|answer| answer.failed.is_none()).count() >= 64);
        rig.wait_until_empty();
    }
}

#[test]
fn rows_of_a_picture_fit_their_memory_exactly() {
    for rig in rigs(Setup::default()) {
        let (sender, notes) = channel();
        let media = picture(1, 4, 6);
        let rows = rig.engine.embeddings().alloc(rig.engine.n_row_bytes()).expect("memory");
        let sink = move |rows| drop(sender.send(rows));
        let job = EncodeJob { id: new_id(), item_idx: 0, media, rows, used: Used::Elsewhere };
        rig.engine.encode(job, Box::new(sink)).expect("room");
        let refused = notes.recv_timeout(PATIENCE).expect("an answer").expect_err("refused");
        assert_eq!(refused.kind, ErrorKind::Internal);
        rig.wait_until_empty();
    }
}

#[test]
fn rows_that_are_used_here_need_no_caller() {
    let model = Toy::model();
    let ask = show(&model, 6);
    for rig in rigs(Setup { reuse_blocks: false, ..Setup::default() }) {
        let expected = rig.ask(&ask);
        assert_eq!(ask_for_rows_used_here(&rig, &ask).choices, expected.choices);
        rig.wait_until_empty();
    }
}

/// The answer when nobody supplies the rows of the one picture.
fn ask_for_rows_used_here(rig: &Rig, ask: &Ask) -> Answer {
    let (sender, notes) = channel();
    let id = new_id();
    rig.submit(id, ask, sink(&sender, 0)).expect("room");
    let mut answer = Answer { choices: vec![vec![]], reasons: vec![None], ..Answer::default() };
    loop {
        match notes.recv_timeout(PATIENCE).expect("the engine answers").1 {
            Note::Event(SeqEvent::Pinned { needed_items, .. }) => {
                for idx in needed_items {
                    rig.encode_for(Used::Here, (id, idx), ask.media[idx].clone(), (&sender, 0));
                }
            }
            Note::Event(event) => record(&mut answer, id, ask, event),
            Note::Rows(_, rows) => drop(rows.expect("rows")),
            Note::Gone => return answer,
        }
    }
}

/// Bytes of rows that are held at each token of an answer, which is the one expected.
fn rows_held_at_tokens(rig: &Rig, ask: &Ask, expected: &Answer) -> Vec<usize> {
    let (sender, notes) = channel();
    let (seen, held) = channel();
    let (id, slab) = (new_id(), Arc::clone(rig.engine.embeddings()));
    let mut tell = sink(&sender, 0);
    let look = move |event| {
        if matches!(event, SeqEvent::Tokens { .. }) {
            let _ = seen.send(slab.n_bytes_used());
        }
        tell(event);
    };
    rig.submit(id, ask, Box::new(look)).expect("room");
    let answers = rig.follow(std::slice::from_ref(ask), &[id], (&sender, &notes));
    assert_eq!(answers[0].choices, expected.choices);
    held.iter().collect()
}

#[test]
fn a_prompt_that_is_computed_gives_its_rows_to_whoever_waits_for_memory() {
    for rig in rigs(Setup { reuse_blocks: false, ..Setup::default() }) {
        for n in [1, 3] {
            let mut ask = show(&rig.model, 20);
            ask.sampling.n = n;
            let expected = rig.ask(&ask);
            let held = rows_held_at_tokens(&rig, &ask, &expected);
            assert!(held.len() >= 20 && held.iter().all(|&n_bytes| n_bytes > 0), "{held:?}");
            let awaiting = rig.engine.embeddings().await_range();
            let held = rows_held_at_tokens(&rig, &ask, &expected);
            assert!(held.len() >= 20 && held.iter().all(|&n_bytes| n_bytes == 0), "{held:?}");
            drop(awaiting);
        }
        rig.wait_until_empty();
    }
}

/// Three answers in a pool for one: some lose their blocks. Those that still have their rows are
/// computed again in silence; the others come back, and go on where they were as new requests.
#[test]
fn who_gave_back_its_rows_is_handed_back_when_it_loses_its_blocks() {
    let model = Toy::model();
    let asks: Vec<Ask> = (1..4)
        .map(|seed| ask(&model, vec![text(1, 5), Part::Picture(picture(seed, 4, 6))], 24))
        .collect();
    let ample = Rig::new(&model, Setup::default());
    let expected: Vec<Answer> = asks.iter().map(|ask| ample.ask(ask)).collect();
    let setup = Setup { n_blocks: 14, reuse_blocks: false, ..Setup::default() };
    for rig in setup.both_ways().map(|setup| Rig::new(&model, setup)) {
        for (answer, expected) in rig.ask_all(&asks).iter().zip(&expected) {
            assert_eq!((&answer.choices, &answer.preempted[..]), (&expected.choices, &[][..]));
        }
        assert!(rig.engine.stats().scheduler.n_preempted > 0, "the pool is large enough");
        let awaiting = rig.engine.embeddings().await_range();
        let mut n_handed_back = 0;
        let answers = rig.ask_all(&asks);
        for ((ask, answer), expected) in asks.iter().zip(answers).zip(&expected) {
            let mut tokens = answer.tokens(0);
            if answer.preempted == [0] {
                n_handed_back += 1;
                let mut rest = Ask { n_answered: tokens.len(), ..ask.clone() };
                rest.prompt.tokens.extend_from_slice(&tokens);
                tokens.extend(rig.ask(&rest).tokens(0));
            }
            assert_eq!(tokens, expected.tokens(0));
        }
        assert!(n_handed_back > 0, "nobody was handed back");
        drop(awaiting);
        rig.wait_until_empty();
    }
}

#[test]
fn a_bad_picture_fails_alone() {
    for rig in rigs(Setup::default()) {
        let mut unlucky = picture(3, 4, 6);
        unlucky.pixels[0] = 13;
        let pictures = [picture(1, 4, 6), unlucky, picture(2, 4, 6)];
        let asks = pictures.map(|one| ask(&rig.model, vec![Part::Picture(one), text(1, 2)], 4));
        let answers = rig.ask_all(&asks);
        let failed: Vec<bool> = answers.iter().map(|answer| answer.failed.is_some()).collect();
        assert_eq!(failed, [false, true, false]);
        rig.wait_until_empty();
    }
}

#[test]
fn rows_of_another_size_fail_their_request() {
    for rig in rigs(Setup::default()) {
        let (sender, notes) = channel();
        let (id, ask) = (new_id(), show(&rig.model, 4));
        rig.submit(id, &ask, sink(&sender, 0)).expect("room");
        let rows = rig.engine.embeddings().alloc(64).expect("memory");
        rig.engine.supply(id, 0, Arc::new(rows));
        let kind = notes.iter().find_map(|note| match note {
            (_, Note::Event(SeqEvent::Failed(error))) => Some(error.kind),
            (_, Note::Event(_) | Note::Rows(..) | Note::Gone) => None,
        });
        assert_eq!(kind, Some(ErrorKind::Internal));
        rig.wait_until_empty();
    }
}

#[test]
fn the_last_handle_stops_the_thread() {
    for rig in rigs(Setup::default()) {
        let (sender, notes) = channel();
        let long = ask(&rig.model, vec![text(1, 5)], FOR_EVER);
        rig.submit(new_id(), &long, sink(&sender, 0)).expect("room");
        drop(sender);
        drop(rig);
        let last = notes.iter().last().expect("notes");
        assert!(matches!(last, (0, Note::Gone)), "the sink outlived the engine");
    }
}

#[test]
fn an_idle_engine_sleeps() {
    for rig in rigs(Setup::default()) {
        let (sender, thread) = channel();
        let tell = move |_| {
            let here = std::fs::read_link("/proc/thread-self").expect("procfs");
            drop(sender.send(std::path::Path::new("/proc").join(here).join("stat")));
        };
        let ask = ask(&rig.model, vec![text(1, 5)], 2);
        rig.submit(new_id(), &ask, Box::new(tell)).expect("room");
        let stat = thread.recv_timeout(PATIENCE).expect("an event");
        rig.wait_until_empty();
        let ticks = || {
            let text = std::fs::read_to_string(&stat).expect("procfs");
            let fields: Vec<&str> = text.rsplit(") ").next().expect("fields").split(' ').collect();
            let number = |idx: usize| fields[idx].parse::<u64>().expect("a number");
            number(11) + number(12)
        };
        let before = ticks();
        std::thread::sleep(Duration::from_millis(300));
        assert!(ticks() - before <= 1, "an idle engine used {} ticks", ticks() - before);
    }
}
