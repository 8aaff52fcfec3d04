//! Oddities of Qwen2-VL: its configs in all layouts, its positions, the order of its patches.

use super::*;
use serde_json::{Value, json};
use types::media::MediaItem;

fn flat() -> Value {
    json!({
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 100.0, "eos_token_id": 7,
        "rope_scaling": { "type": "mrope", "mrope_section": [4, 6, 6] },
        "vision_config": { "embed_dim": 32, "num_heads": 2, "in_chans": 3, "in_channels": 3 },
    })
}

fn files(config: Value) -> ConfigFiles {
    ConfigFiles { config, generation: Value::Null, preprocessor: Value::Null }
}

/// Moves the text fields into `text_config`, as newer files have them.
fn nested(flat: &Value) -> Value {
    let mut text = flat.clone();
    let vision = text.as_object_mut().unwrap().remove("vision_config").unwrap();
    json!({ "model_type": "qwen2_vl", "text_config": text, "vision_config": vision })
}

#[test]
fn both_layouts_of_the_config_mean_the_same() {
    let shapes = [flat(), nested(&flat())].map(|config| {
        let files = files(config);
        let cfg = Config::of(&files).unwrap();
        let spec = cfg.spec(&files);
        assert_eq!((spec.kv.head_dim, &spec.eos_token_ids[..]), (32, &[7][..]));
        let decoder = cfg.decoder_shape(&spec);
        (spec, decoder.rope_axes, decoder.rope_theta, decoder.is_head_tied)
    });
    assert_eq!(shapes[0], shapes[1]);
    assert_eq!(shapes[0].1, [vec![0; 4], vec![1; 6], vec![2; 6]].concat());
}

#[test]
fn rope_parameters_of_the_newest_files_are_read() {
    let mut config = flat();
    let fields = config.as_object_mut().unwrap();
    fields.remove("rope_scaling");
    fields.remove("rope_theta");
    fields.insert("rope_parameters".into(), json!({"rope_theta": 5.0, "mrope_section": [4, 6, 6]}));
    let files = files(config);
    let cfg = Config::of(&files).unwrap();
    assert_eq!(cfg.decoder_shape(&cfg.spec(&files)).rope_theta, 5.0);
}

#[test]
fn the_tie_of_the_text_part_goes_before_the_one_on_top() {
    for (top, text, expected) in [
        (None, None, false),
        (Some(true), None, true),
        (Some(true), Some(false), false),
        (Some(false), Some(true), true),
    ] {
        let mut config = nested(&flat());
        config["tie_word_embeddings"] = json!(top);
        config["text_config"]["tie_word_embeddings"] = json!(text);
        assert_eq!(Config::of(&files(config)).unwrap().is_head_tied(), expected);
    }
}

#[test]
fn what_is_not_supported_is_said() {
    let change = |name: &str, value: Value, part: &str| {
        let mut config = flat();
        config[name] = value;
        let message = Config::of(&files(config)).unwrap_err().message;
        assert!(message.contains(part), "{message}");
    };
    change("use_sliding_window", json!(true), "sliding");
    change("num_key_value_heads", json!(3), "heads");
    change("num_attention_heads", json!(0), "heads");
    change("num_hidden_layers", json!(0), "layers");
    change("rope_scaling", json!({"mrope_section": [1, 1, 1]}), "mrope_section");
    change("rope_scaling", Value::Null, "mrope_section");
    change("hidden_size", json!("wide"), "config.json");
    change("vision_config", json!({"hidden_act": "gelu"}), "quick_gelu");
}

fn medium(start: usize, grid: Grid) -> PlacedItem {
    let n_tokens = grid.n_patches() as u32 / 4;
    let (kind, digest) = (MediaKind::Video, Digest::default());
    PlacedItem { item: MediaItem { kind, digest, grid, n_tokens }, start }
}

/// Prompts that the goldens have none of: media at the very start, side by side, over time.
#[test]
fn positions_of_media_count_from_the_next_free_number() {
    let tall = Grid { t: 1, h: 6, w: 2 };
    let film = Grid { t: 3, h: 2, w: 4 };
    let prompt = ExpandedPrompt {
        tokens: vec![1; 13],
        items: vec![medium(0, tall), medium(3, film), medium(10, Grid { t: 1, h: 2, w: 2 })],
    };
    let Positions { rows, delta } = positions(&prompt, 2);
    let expected = [
        // Three windows one below the other, from 0.
        [0, 0, 0],
        [0, 1, 0],
        [0, 2, 0],
        // Behind the largest number used: three frames of two windows side by side.
        [3, 3, 3],
        [3, 3, 4],
        [4, 3, 3],
        [4, 3, 4],
        [5, 3, 3],
        [5, 3, 4],
        // Text, a single window, text.
        [6, 6, 6],
        [7, 7, 7],
        [8, 8, 8],
        [9, 9, 9],
    ];
    assert_eq!(rows, expected);
    assert_eq!(delta, -3);
}

#[test]
fn an_empty_prompt_has_no_positions() {
    let empty = positions(&ExpandedPrompt::default(), 2);
    assert_eq!(empty, Positions::default());
    assert_eq!(empty.at(0), [0; 3]);
}

#[test]
fn patches_are_placed_window_by_window() {
    let places = frame_places(Grid { t: 1, h: 2, w: 4 }, 2);
    let expected = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)];
    assert_eq!(places, expected);
}
