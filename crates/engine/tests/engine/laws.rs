//! Laws of answers: they depend on the request alone, not on chunks, caches, neighbours or
//! preemption.

use crate::rig::{Answer, Ask, Part, Rig, Setup, ask, models, picture, text};
use models::Model;
use std::sync::Arc;
use types::sampling::SamplingParams;

/// Text, a picture of six rows, text: the picture lies in 9..15 of 18 tokens.
fn with_picture(model: &Arc<dyn Model>) -> Ask {
    ask(model, vec![text(1, 9), Part::Picture(picture(1, 4, 6)), text(2, 3)], 6)
}

fn random(seed: u64, n: u32) -> SamplingParams {
    let (max_tokens, ignore_eos) = (Some(8), true);
    SamplingParams {
        temperature: 1.0,
        seed,
        n,
        max_tokens,
        ignore_eos,
        ..SamplingParams::default()
    }
}

/// Some requests that differ in everything, sharing beginnings and pictures.
pub(crate) fn varied(model: &Arc<dyn Model>, n: u32) -> Vec<Ask> {
    let one = |idx: u32| {
        let mut parts = vec![text(1, 5 + idx as usize % 4)];
        if !idx.is_multiple_of(3) {
            parts.push(Part::Picture(picture(u64::from(idx % 4), 4, 4 + 2 * (idx % 2))));
        }
        parts.push(text(idx, 1 + idx as usize % 5));
        let sampling = SamplingParams { logprobs: Some(3), ..random(u64::from(idx), 1 + idx % 3) };
        Ask { sampling, ..ask(model, parts, 8) }
    };
    (0..n).map(one).collect()
}

/// The answers of each request alone in a fresh engine.
fn alone(model: &Arc<dyn Model>, asks: &[Ask]) -> Vec<Answer> {
    asks.iter().map(|ask| Rig::new(model, Setup::default()).ask(ask)).collect()
}

/// Same tokens, and the same bits in their log probabilities.
fn check_same(found: &[Answer], expected: &[Answer], what: &str) {
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.failed, None, "{what}, request {idx}");
        assert_eq!(found.choices, expected.choices, "{what}, request {idx}");
        assert_eq!(found.reasons, expected.reasons, "{what}, request {idx}");
    }
}

#[test]
fn a_chunk_may_end_at_every_token() {
    for model in models() {
        let ask = with_picture(&model);
        let whole = alone(&model, std::slice::from_ref(&ask));
        for chunk in 1..=ask.prompt.tokens.len() {
            let setup = Setup { max_num_tokens: chunk, max_batch_size: 1, ..Setup::default() };
            for setup in setup.both_ways() {
                let found = Rig::new(&model, setup).ask(&ask);
                check_same(&[found], &whole, &format!("chunks of {chunk}"));
            }
        }
    }
}

#[test]
fn a_cached_beginning_may_end_at_every_token() {
    for model in models() {
        let first = with_picture(&model);
        let mut second = with_picture(&model);
        let picture = second.prompt.items[0].clone();
        // From the picture's first row to behind its last; one block of that size is shared.
        *second.prompt.tokens.last_mut().expect("text") += 1;
        let whole = alone(&model, std::slice::from_ref(&second));
        for n_shared in picture.start..=picture.end() + 1 {
            let setup = Setup { block_size: n_shared, ..Setup::default() };
            let rig = Rig::new(&model, setup);
            rig.ask(&first);
            let found = rig.ask(&second);
            assert_eq!(found.cached_tokens as usize, n_shared);
            check_same(&[found], &whole, &format!("{n_shared} tokens cached"));
            let found = rig.ask(&second);
            check_same(&[found], &whole, &format!("{n_shared} tokens cached, again"));
        }
    }
}

#[test]
fn the_whole_prompt_cached_still_computes_its_last_token() {
    for model in models() {
        let ask = with_picture(&model);
        let rig = Rig::new(&model, Setup { block_size: 1, ..Setup::default() });
        let first = rig.ask(&ask);
        let second = rig.ask(&ask);
        assert_eq!(second.cached_tokens as usize, ask.prompt.tokens.len() - 1);
        check_same(&[second], &[first], "all cached");
        rig.wait_until_empty();
    }
}

#[test]
fn neighbours_and_reuse_change_nothing() {
    for model in models() {
        let asks = varied(&model, 12);
        let expected = alone(&model, &asks);
        for (reuse_blocks, max_num_tokens) in [(true, 256), (false, 256), (true, 7), (false, 7)] {
            let max_batch_size = max_num_tokens.min(16);
            let setup = Setup { reuse_blocks, max_num_tokens, max_batch_size, ..Setup::default() };
            for setup in setup.both_ways() {
                let rig = Rig::new(&model, setup);
                let what = format!("reuse {reuse_blocks}, {max_num_tokens} rows a step");
                check_same(&rig.ask_all(&asks), &expected, &what);
                check_same(&rig.ask_all(&asks), &expected, &format!("{what}, again"));
                rig.wait_until_empty();
            }
        }
    }
}

#[test]
fn preemption_changes_nothing() {
    for model in models() {
        let asks = varied(&model, 12);
        let expected = alone(&model, &asks);
        for n_blocks in [8, 9, 12] {
            for setup in (Setup { n_blocks, ..Setup::default() }).both_ways() {
                let rig = Rig::new(&model, setup);
                let found = rig.ask_all(&asks);
                check_same(&found, &expected, &format!("{n_blocks} blocks"));
                let n_preempted = rig.engine.stats().scheduler.n_preempted;
                assert!(n_preempted > 0, "{n_blocks} blocks are enough");
                rig.wait_until_empty();
            }
        }
    }
}

#[test]
fn a_choice_is_the_same_alone() {
    for model in models() {
        let together = Ask { sampling: random(5, 4), ..with_picture(&model) };
        let rig = Rig::new(&model, Setup::default());
        let expected = rig.ask(&together).all_tokens();
        assert!(expected[1..].iter().all(|other| *other != expected[0]), "{expected:?}");
        for (choice, expected) in expected.iter().enumerate() {
            let first_choice = choice as u32;
            let one = Ask { sampling: random(5, 1), first_choice, ..with_picture(&model) };
            assert_eq!(rig.ask(&one).tokens(0), *expected, "choice {choice}");
        }
        rig.wait_until_empty();
    }
}

#[test]
fn an_answer_goes_on_where_it_was_interrupted() {
    let penalties = SamplingParams {
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        frequency_penalty: 0.4,
        min_tokens: 5,
        ignore_eos: false,
        ..random(9, 1)
    };
    for model in models() {
        let whole = Ask { sampling: penalties.clone(), ..with_picture(&model) };
        let expected = Rig::new(&model, Setup::default()).ask(&whole).tokens(0);
        for n_answered in 1..expected.len() {
            let mut rest = Ask { n_answered, ..whole.clone() };
            rest.prompt.tokens.extend_from_slice(&expected[..n_answered]);
            for setup in Setup::default().both_ways() {
                let found = Rig::new(&model, setup).ask(&rest).tokens(0);
                assert_eq!(found, expected[n_answered..], "after {n_answered} tokens");
            }
        }
    }
}

#[test]
fn pictures_matter() {
    for model in models() {
        let show =
            |seed| ask(&model, vec![text(1, 9), Part::Picture(picture(seed, 4, 6)), text(2, 3)], 8);
        let rig = Rig::new(&model, Setup::default());
        let answers: Vec<_> = (0..4).map(|seed| rig.ask(&show(seed)).tokens(0)).collect();
        for (idx, answer) in answers.iter().enumerate() {
            assert!(!answers[..idx].contains(answer), "picture {idx} changes nothing: {answers:?}");
        }
    }
}
