//! Identity of content: whatever two requests share, if they differ in anything that changes the
//! result, each gets its own answer from the same engine.

use crate::rig::{Ask, Part, Rig, Setup, ask, digest, models, picture, text};
use models::{Model, PreparedMedia};
use std::sync::Arc;

/// Each of `asks`, asked of one engine twice over in turn, is answered as by an engine of its own.
/// Where `all_differ`, no two answers are equal, so that a mix-up could not hide.
fn check(model: &Arc<dyn Model>, asks: &[Ask], all_differ: bool, what: &str) {
    let fresh = |ask: &Ask| Rig::new(model, Setup::default()).ask(ask).tokens(0);
    let expected: Vec<_> = asks.iter().map(fresh).collect();
    for (idx, one) in expected.iter().enumerate() {
        assert!(!all_differ || !expected[..idx].contains(one), "{what}: {expected:?}");
    }
    let setup = Setup { block_size: 2, ..Setup::default() };
    let (one_by_one, at_once) = (Rig::new(model, setup), Rig::new(model, setup));
    let together: Vec<_> = at_once.ask_all(asks).iter().map(|answer| answer.tokens(0)).collect();
    assert_eq!(together, expected, "{what}, at once");
    for round in 0..2 {
        for (ask, expected) in asks.iter().zip(&expected) {
            assert_eq!(one_by_one.ask(ask).tokens(0), *expected, "{what}, round {round}");
        }
    }
    one_by_one.wait_until_empty();
}

fn show(model: &Arc<dyn Model>, pictures: Vec<PreparedMedia>) -> Ask {
    let mut parts = vec![text(3, 4)];
    for picture in pictures {
        parts.extend([Part::Picture(picture), text(4, 1)]);
    }
    parts.push(text(5, 4));
    ask(model, parts, 8)
}

/// The same bytes, cut into another grid of as many patches.
fn in_grid(media: &PreparedMedia, h: u32, w: u32) -> PreparedMedia {
    let mut other = media.clone();
    (other.plan.grid.h, other.plan.grid.w) = (h, w);
    other
}

#[test]
fn collisions() {
    for model in models() {
        let (a, b) = (picture(1, 4, 6), picture(2, 4, 6));
        let other_picture = [show(&model, vec![a.clone()]), show(&model, vec![b.clone()])];
        check(&model, &other_picture, true, "same prompt, other picture");

        let grids = [(4, 6), (6, 4), (2, 12), (12, 2)];
        let grids = grids.map(|(h, w)| show(&model, vec![in_grid(&a, h, w)]));
        check(&model, &grids, true, "same bytes in another grid");

        let ab = show(&model, vec![a.clone(), b.clone()]);
        let swapped = [
            ab.clone(),
            show(&model, vec![b.clone(), a.clone()]),
            show(&model, vec![a.clone(), a.clone()]),
            show(&model, vec![b.clone(), b.clone()]),
        ];
        check(&model, &swapped, true, "pictures swapped");

        let mut nudged = b.clone();
        nudged.pixels[14 * 14 * 3 * 12] ^= 0x80;
        let near = [show(&model, vec![a.clone(), b]), show(&model, vec![a.clone(), nudged])];
        check(&model, &near, false, "one byte of the second picture");
    }
}

#[test]
fn salt_and_options_share_nothing() {
    for model in models() {
        let plain = show(&model, vec![picture(1, 4, 6)]);
        let salted = Ask { salt: "tenant", ..plain.clone() };
        let mut with_options = plain.clone();
        with_options.prompt.items[0].item.digest = digest(&plain.media[0], "{\"max_pixels\":1}");
        let mut anonymous = plain.clone();
        anonymous.prompt.items[0].item.digest = types::content::Digest::default();
        let rig = Rig::new(&model, Setup { block_size: 2, ..Setup::default() });
        let n_text = plain.prompt.items[0].start as u32 / 2 * 2;
        let n_cached = |ask: &Ask| rig.ask(ask).cached_tokens;
        assert_eq!(n_cached(&plain), 0);
        assert!(n_cached(&plain) > n_text);
        assert_eq!(n_cached(&salted), 0, "another salt");
        assert_eq!(n_cached(&with_options), n_text, "other processor options");
        assert_eq!(n_cached(&anonymous), n_text, "no identity");
        assert_eq!(n_cached(&anonymous), n_text, "no identity, again");
        check(&model, &[plain, salted, with_options, anonymous], false, "salt and options");
    }
}
