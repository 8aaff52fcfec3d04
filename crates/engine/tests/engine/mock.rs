//! The mock: set tokens, set costs, and stamps that notice lost KV.

use crate::rig::{Ask, Note, PATIENCE, Part, Rig, Setup, ask, config, new_id, picture, text};
use crate::toy::{EOS, Toy};
use engine::{Backend, Condition, MockCost, MockModel, MockScript};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use types::output::FinishReason;
use types::{ErrorKind, TokenId};

fn rig(script: MockScript, answer_len: Option<usize>, cost: MockCost) -> Rig {
    rig_of(
        Setup::default(),
        MockModel { spec: Toy::model().spec().clone(), script, answer_len, cost, steps_max: None },
    )
}

fn rig_of(setup: Setup, mock: MockModel) -> Rig {
    let model = Toy::model();
    let engine =
        engine::start(Backend::Mock(Box::new(mock)), config(&model, setup)).expect("it starts");
    Rig { engine, model, n_blocks: setup.n_blocks }
}

fn cycle() -> MockScript {
    MockScript::Cycle(vec![11, 12, 13])
}

/// The mock with `script` and an answer of four tokens says `expected`.
fn check(script: MockScript, expected: &[&[TokenId]], change: impl FnOnce(&mut Ask)) {
    let model = Toy::model();
    let mut ask = ask(&model, vec![text(1, 3)], 6);
    ask.sampling.ignore_eos = false;
    change(&mut ask);
    let (spec, cost) = (model.spec().clone(), MockCost::default());
    let mock = MockModel { spec, script, answer_len: Some(4), cost, steps_max: None };
    for setup in Setup::default().both_ways() {
        let rig = rig_of(setup, mock.clone());
        assert_eq!(rig.ask(&ask).all_tokens(), expected, "{:?}", ask.sampling);
        rig.wait_until_empty();
    }
}

#[test]
fn scripts() {
    check(cycle(), &[&[11, 12, 13, 11, EOS]], |_| {});
    check(cycle(), &[&[11, 12]], |ask| ask.sampling.max_tokens = Some(2));
    check(cycle(), &[&[11, 12, 13, 11, 12, 13]], |ask| ask.sampling.ignore_eos = true);
    check(cycle(), &[&[11, 12, 13, 11, 12, EOS]], |ask| ask.sampling.min_tokens = 5);
    check(cycle(), &[&[11, 12]], |ask| ask.sampling.stop_token_ids = vec![12]);
    let two: &[&[TokenId]] = &[&[11, 12, 13, 11, EOS], &[12, 13, 11, 12, EOS]];
    check(cycle(), two, |ask| ask.sampling.n = 2);
    let words = |ask: &mut Ask| ask.prompt.tokens = vec![7, 63, 8];
    check(MockScript::Echo, &[&[7, 8, 7, 8, EOS]], words);
}

#[test]
fn reasons_and_logprobs() {
    let rig = rig(cycle(), Some(4), MockCost::default());
    let mut ask = ask(&rig.model, vec![text(1, 3)], 6);
    ask.sampling.ignore_eos = false;
    ask.sampling.logprobs = Some(2);
    let answer = rig.ask(&ask);
    assert_eq!(answer.reasons, [Some(FinishReason::Stop)]);
    assert!(answer.choices[0].iter().all(|token| token.logprob == Some(0.0)));
    ask.sampling.max_tokens = Some(3);
    assert_eq!(rig.ask(&ask).reasons, [Some(FinishReason::Length)]);
}

#[test]
fn steps_cost_what_was_set() {
    let step = Duration::from_millis(5);
    let rig = rig(cycle(), None, MockCost { step, ..MockCost::default() });
    let ask = ask(&rig.model, vec![text(1, 3)], 10);
    let started = Instant::now();
    rig.ask_all(&vec![ask; 8]);
    let (took, n_steps) = (started.elapsed(), rig.engine.stats().n_steps as u32);
    // Eight together take hardly more steps than one.
    assert!((10..20).contains(&n_steps), "{n_steps} steps");
    assert!(took >= step * n_steps, "{n_steps} steps in {took:?}");
}

#[test]
fn stamps_notice_ruined_blocks() {
    let rig = rig(cycle(), None, MockCost::default());
    let ask = ask(&rig.model, vec![text(1, 9)], 4);
    assert_eq!(rig.ask(&ask).failed, None);
    rig.wait_until_empty();
    // The two full blocks of the prompt are cached; somebody writes into them.
    let kv = rig.engine.kv();
    for block in 0..kv.n_blocks {
        // SAFETY: the engine is idle, so nobody else touches its blocks.
        unsafe { kv.arena.base().add(block * kv.layout.block_bytes()).write(0xFF) };
    }
    let answer = rig.ask(&ask);
    assert_eq!(answer.cached_tokens, 8);
    assert!(answer.failed.expect("noticed").message.contains("KV"));
}

/// The mock's device is lost after some steps: those in the step that fails, and those that wait,
/// are told in a way that lets another worker take them over.
#[test]
fn a_lost_device_breaks_the_engine() {
    let setup = Setup { max_batch_size: 2, ..Setup::default() };
    for setup in setup.both_ways() {
        let spec = Toy::model().spec().clone();
        let (script, cost, steps_max) = (cycle(), MockCost::default(), Some(5));
        let rig = rig_of(setup, MockModel { spec, script, answer_len: None, cost, steps_max });
        let long = ask(&rig.model, vec![text(1, 3)], 50);
        assert_eq!(rig.engine.condition(), Condition::Well);
        for answer in rig.ask_all(&vec![long.clone(); 4]) {
            assert_eq!(answer.failed.expect("it fails").kind, ErrorKind::Unavailable);
        }
        let stats = rig.engine.stats();
        assert_eq!((stats.condition, stats.n_failed_steps), (Condition::Broken, 1));
        assert_eq!(stats.n_steps, 5);
        let why = rig.engine.breakdown().expect("it has broken down");
        assert!(why.starts_with("its device is lost: "), "{why}");
        // Nothing makes it well again.
        assert_eq!(rig.ask(&long).failed.expect("refused").kind, ErrorKind::Unavailable);
        assert_eq!(rig.engine.condition(), Condition::Broken);
    }
}

/// The same when the tower is what meets it: no medium fails for the device's sake.
#[test]
fn a_device_that_is_lost_while_encoding_breaks_the_engine() {
    let spec = Toy::model().spec().clone();
    let (script, cost, steps_max) = (cycle(), MockCost::default(), Some(0));
    let mock = MockModel { spec, script, answer_len: None, cost, steps_max };
    let rig = rig_of(Setup::default(), mock);
    let (sender, notes) = channel();
    let pictures = ask(&rig.model, vec![Part::Picture(picture(1, 4, 6)); 3], 1).media;
    for (item_idx, media) in pictures.into_iter().enumerate() {
        rig.encode((new_id(), item_idx), media, (&sender, item_idx));
    }
    for _ in 0..3 {
        let (_, note) = notes.recv_timeout(PATIENCE).expect("the engine answers");
        let Note::Rows(_, rows) = note else { panic!("rows were asked for") };
        assert_eq!(rows.expect_err("it fails").kind, ErrorKind::Unavailable);
    }
    assert_eq!(rig.engine.condition(), Condition::Broken);
}
