//! Oddities of LLaVA-NeXT: grounds, what remains of them, configurations that contradict each
//! other.

use super::*;
use serde_json::json;

fn published() -> Value {
    json!({
        "architectures": ["LlavaNextForConditionalGeneration"],
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "text_config": {"model_type": "llama"},
    })
}

fn processor(config: Value, preprocessor: Value) -> Result<ImageProcessor> {
    ImageProcessor::of(&ConfigFiles { config, generation: Value::Null, preprocessor })
}

fn check(size: (u32, u32), ground: (u32, u32), covered: (usize, usize)) {
    let size = Size::new(size.0, size.1);
    let packing = processor(published(), Value::Null).unwrap().packing(size);
    assert_eq!((packing.ground.width, packing.ground.height), ground, "{size:?}");
    assert_eq!((packing.lines.len(), packing.columns.len()), covered, "{size:?}");
    let n_rows = covered.0 * (covered.1 + 1);
    assert_eq!(packing.n_rows() as usize, n_rows);
}

#[test]
fn the_ground_with_most_of_the_picture_and_least_else_is_taken() {
    check((672, 672), (672, 672), (48, 48));
    check((640, 480), (672, 672), (36, 48));
    check((100, 100), (672, 336), (24, 24));
    check((2000, 500), (1008, 336), (18, 72));
    check((500, 2000), (336, 1008), (72, 18));
    // So narrow that no line of patches is the picture's own.
    check((8192, 1), (672, 336), (0, 48));
    check((1, 8192), (672, 336), (24, 0));
}

#[test]
fn a_fraction_that_is_nearly_one_is_one() {
    assert_eq!(without_ground(24, 21.999_999_96), 1..23);
    assert_eq!(without_ground(24, 21.999_999_94), 1..23);
    assert_eq!(without_ground(24, 20.999_999_96), 1..23);
    assert_eq!(without_ground(24, 20.999_999_94), 2..22);
    assert_eq!(without_ground(24, 0.2), 12..12);
    assert_eq!(without_ground(24, 24.0), 0..24);
}

#[test]
fn little_detail_is_the_whole_alone() {
    let processor = processor(published(), Value::Null).unwrap();
    let plan = |options| processor.plan(MediaKind::Image, Size::new(900, 700), options).unwrap();
    let low = plan(r#"{"detail": "low"}"#);
    assert_eq!((low.grid.t, low.n_tokens), (1, 577));
    let prepared = |plan: &MediaPlan| {
        let image = Image { width: 2, height: 2, rgb: (0..12).map(|byte| byte * 20).collect() };
        processor.prepare(&image, plan, "{}").unwrap().pixels
    };
    let (low, whole) = (prepared(&low), prepared(&plan("{}")));
    assert_eq!(low.len(), 336 * 336 * 3);
    assert_eq!(low, whole[..low.len()]);
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let check = |config: Value, preprocessor: Value, part: &str| {
        let message = processor(config, preprocessor).unwrap_err().message;
        assert!(message.contains(part), "{message}");
    };
    let sizes = |side: u32, grounds: Value| {
        let size = json!({ "shortest_edge": side });
        json!({ "size": size, "crop_size": side, "image_grid_pinpoints": grounds })
    };
    let change = |name: &str, value: Value| {
        let mut config = published();
        config[name] = value;
        config
    };
    let own = published()["image_grid_pinpoints"].clone();
    assert!(processor(published(), sizes(336, own.clone())).is_ok());
    check(published(), sizes(224, own), "crop_size");
    check(published(), sizes(336, json!([[336, 672]])), "not those");
    check(change("image_grid_pinpoints", json!([])), Value::Null, "pinpoints");
    check(change("image_grid_pinpoints", json!([[336, 700]])), Value::Null, "pinpoints");
    check(change("image_grid_pinpoints", json!([[0, 336]])), Value::Null, "pinpoints");
    check(change("image_grid_pinpoints", json!([[3360, 3360]])), Value::Null, "pinpoints");
    check(change("image_grid_pinpoints", json!([[336]])), Value::Null, "config.json");
    check(change("vision_feature_select_strategy", json!("full")), Value::Null, "full");
}
