//! Planner, encoder and reference agree on the number of a picture's rows, for 10,000 sizes each.

use crate::golden::{golden_root, read_json};
use crate::preprocessing::families;
use media::Size;
use models::{LoadFormat, Processor};
use serde_json::Value;
use types::media::MediaKind;

/// The sizes that `counts.json` is about, in its order.
fn sizes(index: &Value) -> Vec<Size> {
    let number = |name: &str| index[name].as_u64().unwrap();
    let sides: Vec<u64> =
        index["sides"].as_array().unwrap().iter().map(|side| side.as_u64().unwrap()).collect();
    let mut state = number("seed");
    let mut draw = |most: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % most + 1) as u32
    };
    let size = |idx: u64| {
        let most = sides[idx as usize % sides.len()];
        let width = draw(most);
        Size { width, height: draw(most) }
    };
    (0..number("n_sizes")).map(size).collect()
}

/// FNV-1a over 32-bit words.
fn digest(counts: &[u32]) -> String {
    let fold =
        |digest: u64, &count: &u32| (digest ^ u64::from(count)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", counts.iter().fold(0xCBF2_9CE4_8422_2325, fold))
}

/// Rows of a picture; none where its size is refused.
fn n_rows(processor: &dyn Processor, size: Size, options: &str) -> u32 {
    processor.plan(MediaKind::Image, size, options).map_or(0, |plan| plan.n_tokens)
}

#[test]
fn ten_thousand_sizes_have_as_many_rows_as_in_the_reference() {
    for family in families() {
        let folder = golden_root().join(family).join("preprocessing");
        let index = read_json(&folder.join("counts.json"));
        let sizes = sizes(&index);
        assert_eq!(sizes.len(), 10_000);
        let n_digested = index["n_digested"].as_u64().unwrap() as usize;
        for case in index["cases"].as_array().unwrap() {
            let model = folder.join(case["folder"].as_str().unwrap());
            // The folders of published models' shapes have no weights.
            let processor = models::describe(&model, LoadFormat::Dummy).unwrap().processor;
            let options = case["options"].to_string();
            let of_size = |&size: &Size| n_rows(&*processor, size, &options);
            let counts: Vec<u32> = sizes.iter().map(of_size).collect();
            assert!(counts.iter().filter(|&&count| count > 0).count() > 9_000, "{case}");
            let expected = case["digests"].as_array().unwrap();
            assert_eq!(expected.len() * n_digested, counts.len());
            for (group, expected) in counts.chunks(n_digested).zip(expected) {
                assert_eq!(&digest(group), expected, "{family}: {}: {group:?}", case["folder"]);
            }
        }
    }
}
