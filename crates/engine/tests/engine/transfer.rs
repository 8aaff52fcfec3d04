//! Prefill in one engine, decode in another, with blocks carried between them by hand.

use crate::rig::{
    Answer, Ask, Note, PATIENCE, Part, Rig, Setup, ask, models, new_id, picture, record, root,
    sink, text,
};
use engine::{ImportRequest, SeqEvent, Until};
use models::Model;
use std::sync::Arc;
use std::sync::mpsc::channel;
use types::RequestId;
use types::sampling::SamplingParams;

/// Each model, with steps one after the other and planned ahead.
fn cases() -> impl Iterator<Item = (Arc<dyn Model>, Setup)> {
    let setups = Setup::default().both_ways();
    models().into_iter().flat_map(move |model| setups.map(|setup| (Arc::clone(&model), setup)))
}

fn example(model: &Arc<dyn Model>, seed: u64, n: u32) -> Ask {
    let parts = vec![text(1, 6), Part::Picture(picture(seed, 4, 6)), text(seed as u32, 3)];
    let sampling = SamplingParams { temperature: 1.0, seed, n, ..ask(model, vec![], 9).sampling };
    Ask { sampling, ..ask(model, parts, 9) }
}

/// Copies whole blocks from one engine's memory to the other's.
fn carry(from: &Rig, to: &Rig, blocks: &[u32], missing: &[(usize, u32)]) {
    let n_bytes = from.engine.kv().layout.block_bytes();
    for (block_idx, local) in missing {
        let source = blocks[*block_idx] as usize * n_bytes;
        let target = *local as usize * n_bytes;
        // SAFETY: whole blocks of either arena; the source is leased, the target reserved.
        unsafe {
            let source = from.engine.kv().arena.base().add(source);
            source.copy_to_nonoverlapping(to.engine.kv().arena.base().add(target), n_bytes);
        }
    }
}

/// The import that follows from an export.
fn import_of(ask: &Ask, prefilled: &Answer, id: RequestId) -> ImportRequest {
    let first = prefilled.choices.iter().zip(&prefilled.reasons);
    ImportRequest {
        id,
        prompt: ask.prompt.clone(),
        sampling: ask.sampling.clone(),
        block_root: root(ask.salt),
        priority: 0,
        first_choice: ask.first_choice,
        n_answered: ask.n_answered,
        first_tokens: first
            .map(|(tokens, reason)| reason.is_none().then(|| tokens[0].token))
            .collect(),
        positions_delta: prefilled.exported.as_ref().expect("exported").2,
    }
}

/// Prefill on `p`, decode on `d`; gives both parts' answer as one, and how many blocks travelled.
fn disaggregated(p: &Rig, d: &Rig, ask: &Ask) -> (Answer, usize) {
    let mut answer = p.ask(&Ask { until: Until::FirstToken, ..ask.clone() });
    let Some((exported, blocks, _)) = answer.exported.clone() else { return (answer, 0) };
    let (sender, notes) = channel();
    let id = new_id();
    d.engine.import(import_of(ask, &answer, id), sink(&sender, 0)).expect("room");
    let mut n_missing = 0;
    loop {
        match notes.recv_timeout(PATIENCE).expect("the engine answers").1 {
            Note::Event(SeqEvent::ImportReady { missing }) => {
                carry(p, d, &blocks, &missing);
                n_missing = missing.len();
                d.engine.imported(id);
                p.engine.release(exported);
            }
            Note::Event(event) => record(&mut answer, id, ask, event),
            Note::Rows(..) => panic!("a decoder needs no rows"),
            Note::Gone => return (answer, n_missing),
        }
    }
}

#[test]
fn two_engines_answer_as_one() {
    for (model, setup) in cases() {
        for n in [1, 3] {
            let ask = example(&model, 1, n);
            let expected = Rig::new(&model, Setup::default()).ask(&ask);
            let (p, d) = (Rig::new(&model, setup), Rig::new(&model, setup));
            let (found, n_missing) = disaggregated(&p, &d, &ask);
            assert_eq!(found.choices, expected.choices, "{n} choices");
            assert_eq!(found.reasons, expected.reasons);
            assert_eq!(n_missing, ask.prompt.tokens.len().div_ceil(4));
            // Again: all full blocks of the prompt are there already.
            let (found, n_missing) = disaggregated(&p, &d, &ask);
            assert_eq!(found.choices, expected.choices, "{n} choices, cached");
            assert_eq!(n_missing, usize::from(!ask.prompt.tokens.len().is_multiple_of(4)));
            p.wait_until_empty();
            d.wait_until_empty();
        }
    }
}

#[test]
fn an_import_finds_part_of_its_prompt() {
    for (model, setup) in cases() {
        let (p, d) = (Rig::new(&model, setup), Rig::new(&model, setup));
        let first = example(&model, 1, 1);
        disaggregated(&p, &d, &first);
        let mut second = example(&model, 1, 2);
        *second.prompt.tokens.last_mut().expect("text") += 1;
        second.prompt.tokens.extend([3, 1, 4, 1, 5]);
        let expected = Rig::new(&model, Setup::default()).ask(&second);
        let (found, n_missing) = disaggregated(&p, &d, &second);
        assert_eq!(found.choices, expected.choices);
        let n_shared = (first.prompt.tokens.len() - 1) / 4;
        assert_eq!(n_missing, second.prompt.tokens.len().div_ceil(4) - n_shared);
        d.wait_until_empty();
    }
}

#[test]
fn nothing_is_exported_when_all_has_ended() {
    for (model, setup) in cases() {
        let mut ask = example(&model, 1, 3);
        ask.sampling.max_tokens = Some(1);
        let (p, d) = (Rig::new(&model, setup), Rig::new(&model, setup));
        let (found, _) = disaggregated(&p, &d, &ask);
        assert_eq!(found.exported, None);
        assert!(found.choices.iter().all(|tokens| tokens.len() == 1), "{found:?}");
        assert!(found.reasons.iter().all(Option::is_some));
        p.wait_until_empty();
    }
}

#[test]
fn choices_that_ended_at_once_stay_behind() {
    for (model, setup) in cases() {
        let mut ask = example(&model, 1, 4);
        let free = Rig::new(&model, Setup::default()).ask(&ask);
        // The first tokens of two choices now end them.
        ask.sampling.stop_token_ids = vec![free.tokens(0)[0], free.tokens(2)[0]];
        let expected = Rig::new(&model, Setup::default()).ask(&ask);
        let (p, d) = (Rig::new(&model, setup), Rig::new(&model, setup));
        let (found, _) = disaggregated(&p, &d, &ask);
        assert_eq!(found.choices, expected.choices);
        assert_eq!(found.reasons, expected.reasons);
        assert_eq!((found.choices[0].len(), found.choices[2].len()), (1, 1));
        p.wait_until_empty();
        d.wait_until_empty();
    }
}

/// Decodes all at once in a pool too small for them; choices handed back are prefilled again,
/// alone, with what they have answered so far.
#[test]
fn a_decoder_out_of_blocks_hands_back() {
    for (model, setup) in cases() {
        let p = Rig::new(&model, setup);
        let d = Rig::new(&model, Setup { n_blocks: 14, ..setup });
        let mut open: Vec<Ask> = (0..5).map(|seed| example(&model, seed, 2)).collect();
        for ask in &mut open {
            ask.sampling.max_tokens = Some(24);
        }
        let mut expected: Vec<Vec<_>> = Vec::new();
        for ask in &open {
            expected.extend(Rig::new(&model, Setup::default()).ask(ask).all_tokens());
        }
        let (mut found, mut n_handed_back) = (Vec::new(), 0);
        for _ in 0..200 {
            let answers: Vec<Answer> = std::thread::scope(|scope| {
                let (p, d) = (&p, &d);
                let run = |ask| scope.spawn(move || disaggregated(p, d, ask).0);
                let threads: Vec<_> = open.iter().map(run).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            let mut handed_back = Vec::new();
            for (ask, answer) in open.iter().zip(answers) {
                assert_eq!(answer.failed, None);
                for (idx, tokens) in answer.all_tokens().into_iter().enumerate() {
                    let choice = ask.first_choice + idx as u32;
                    let mut rest = ask.clone();
                    rest.prompt.tokens.extend_from_slice(&tokens);
                    if answer.preempted.contains(&choice) {
                        rest.n_answered += tokens.len();
                        rest.first_choice = choice;
                        rest.sampling.n = 1;
                        handed_back.push(rest);
                    } else {
                        let n_prompt = ask.prompt.tokens.len() - ask.n_answered;
                        found.push(rest.prompt.tokens[n_prompt..].to_vec());
                    }
                }
            }
            n_handed_back += handed_back.len();
            open = handed_back;
            if open.is_empty() {
                break;
            }
        }
        assert!(n_handed_back > 0, "the pool is large enough");
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        p.wait_until_empty();
        d.wait_until_empty();
    }
}
