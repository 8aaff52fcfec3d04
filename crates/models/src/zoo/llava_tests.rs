//! Oddities of LLaVA-1.5: configs that say little, sides that are cut down, rows of the class.

use super::*;
use serde_json::json;

fn files(config: Value, preprocessor: Value) -> ConfigFiles {
    ConfigFiles { config, generation: Value::Null, preprocessor }
}

fn published() -> Value {
    json!({
        "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 32_000,
        "text_config": {"model_type": "llama", "vocab_size": 32_064, "rms_norm_eps": 1e-5},
    })
}

#[test]
fn a_config_that_says_little_is_the_published_model() {
    let cfg = Config::of(&files(published(), Value::Null)).unwrap();
    let spec = cfg.spec(&files(published(), Value::Null), FAMILY.architecture);
    assert_eq!(
        (spec.hidden_size, spec.vocab_size, &spec.eos_token_ids[..]),
        (4096, 32_064, &[2][..])
    );
    assert_eq!(spec.placeholders[0].token, 32_000);
    assert_eq!((cfg.vision.hidden_size, cfg.vision.side()), (1024, 24));
    assert_eq!(cfg.vision.layers_until(cfg.top.vision_feature_layer).unwrap(), 23);
}

#[test]
fn the_pictures_token_is_read_under_either_name() {
    for (index, id, expected) in [
        (json!(5), Value::Null, 5),
        (Value::Null, json!(6), 6),
        (json!(5), json!(5), 5),
        (Value::Null, Value::Null, 32_000),
    ] {
        let mut config = published();
        config["image_token_index"] = index;
        config["image_token_id"] = id;
        let files = files(config, Value::Null);
        let spec = Config::of(&files).unwrap().spec(&files, FAMILY.architecture);
        assert_eq!(spec.placeholders[0].token, expected);
    }
}

#[test]
fn layers_are_counted_from_either_end() {
    let cfg = Config::of(&files(published(), Value::Null)).unwrap();
    for (state, n_layers) in
        [(-1, Some(24)), (-25, Some(0)), (-26, None), (24, Some(24)), (25, None)]
    {
        assert_eq!(cfg.vision.layers_until(state).ok(), n_layers, "{state}");
    }
}

#[test]
fn what_is_not_supported_is_said() {
    let check = |name: &str, value: Value, part: &str| {
        let mut config = published();
        config[name] = value;
        let message = Config::of(&files(config, Value::Null)).unwrap_err().message;
        assert!(message.contains(part), "{message}");
    };
    check("projector_hidden_act", json!("relu"), "projector");
    check("vision_feature_layer", json!([-2, -5]), "config.json");
    check("vision_feature_layer", json!(99), "vision_feature_layer");
    check("vision_feature_select_strategy", json!("first"), "first");
    check("vision_config", json!({"model_type": "siglip_vision_model"}), "clip_vision_model");
    check("vision_config", json!({"hidden_act": "gelu"}), "quick_gelu");
    check("vision_config", json!({"image_size": 225}), "patches");
    check("vision_config", json!({"patch_size": 0}), "patches");
    check("vision_config", json!({"num_attention_heads": 7}), "heads");
    check("vision_config", json!({"num_channels": 1}), "colours");
}

#[test]
fn sizes_are_read_in_every_form() {
    let of = |size: Value, crop: Value, center: Value| {
        let preprocessor = json!({"size": size, "crop_size": crop, "do_center_crop": center});
        ImageProcessor::of(&files(published(), preprocessor))
    };
    let square = json!({"height": 336, "width": 336});
    for (size, crop) in [
        (json!({"shortest_edge": 336}), square.clone()),
        (json!(336), json!(336)),
        (square.clone(), square.clone()),
    ] {
        assert!(of(size.clone(), crop, Value::Null).is_ok(), "{size}");
    }
    for (size, crop, center) in [
        (json!({"shortest_edge": 337}), square.clone(), json!(true)),
        (json!({"shortest_edge": 336}), json!({"height": 336, "width": 335}), json!(true)),
        (json!({"shortest_edge": 336}), json!(224), json!(true)),
        (json!(336), json!(336), json!(false)),
    ] {
        let message = of(size, crop, center).unwrap_err().message;
        assert!(message.contains("crop_size"), "{message}");
    }
}

#[test]
fn the_longer_side_is_cut_down() {
    for (size, expected) in [
        ((640, 480), (448, 336)),
        ((480, 641), (336, 448)),
        ((1, 8192), (336, 2_752_512)),
        ((336, 336), (336, 336)),
        ((500, 499), (336, 336)),
    ] {
        let whole = covering(Size::new(size.0, size.1), 336);
        assert_eq!((whole.width, whole.height), expected);
    }
}

#[test]
fn the_class_is_a_row_where_it_is_asked_for() {
    for (strategy, n_tokens) in [("default", 576), ("full", 577)] {
        let mut config = published();
        config["vision_feature_select_strategy"] = json!(strategy);
        let processor = ImageProcessor::of(&files(config, Value::Null)).unwrap();
        let plan = processor.plan(MediaKind::Image, Size::new(3, 2), "{}").unwrap();
        assert_eq!(plan.n_tokens, n_tokens);
    }
}
