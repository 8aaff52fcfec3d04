//! Oddities of Qwen2-VL's preprocessing: its rule of sizes, its limits of pixels.

use crate::golden::{golden_root, numbers, read_json};
use crate::preprocessing::processor;
use media::Size;
use models::LoadFormat;
use serde_json::Value;
use types::ErrorKind;
use types::media::MediaKind;

const FAMILY: &str = "qwen2_vl";

fn limits(min: &Value, max: &Value) -> String {
    format!(r#"{{"min_pixels": {min}, "max_pixels": {max}}}"#)
}

#[test]
fn sizes_are_the_references() {
    let processor = processor(FAMILY);
    let table = read_json(&golden_root().join(FAMILY).join("preprocessing/smart_resize.json"));
    let plan = |row: &Value| {
        let side = |i: usize| row[i].as_u64().unwrap() as u32;
        let size = Size { width: side(1), height: side(0) };
        processor.plan(MediaKind::Image, size, &limits(&row[2], &row[3]))
    };
    for row in table["rows"].as_array().unwrap() {
        let grid = plan(row).unwrap_or_else(|error| panic!("{row}: {error}")).grid;
        let expected = numbers(&Value::Array(row.as_array().unwrap()[4..].to_vec()));
        assert_eq!([grid.h * 14, grid.w * 14].map(|n| n as usize).to_vec(), expected, "{row}");
    }
    for row in table["refused"].as_array().unwrap() {
        let error = plan(row).expect_err(&row.to_string());
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        assert!(row[4].as_str().unwrap().starts_with(error.message.split(", got").next().unwrap()));
    }
}

#[test]
fn options_are_honoured_and_unknown_ones_refused() {
    let processor = processor(FAMILY);
    let size = Size { width: 500, height: 500 };
    let plan = |options| processor.plan(MediaKind::Image, size, options);
    assert_eq!(plan("{}").unwrap().n_tokens, 16);
    assert_eq!(plan(r#"{"detail": "low"}"#).unwrap().n_tokens, 4);
    assert_eq!(plan(r#"{"max_pixels": 100352}"#).unwrap().n_tokens, 121);
    for options in [
        r#"{"crop": 1}"#,
        r#"{"min_pixels": 100000}"#,
        r#"{"max_pixels": 99999999999}"#,
        r#"{"max_pixels": 100}"#,
    ] {
        assert_eq!(plan(options).unwrap_err().kind, ErrorKind::InvalidInput, "{options}");
    }
    for kind in [MediaKind::Video, MediaKind::Audio] {
        assert!(processor.plan(kind, size, "{}").is_err());
    }
}

#[test]
fn configured_limits_are_read_as_the_reference_reads_them() {
    let index = read_json(&golden_root().join(FAMILY).join("preprocessing/index.json"));
    for case in index["limits"].as_array().unwrap() {
        let folder = std::env::temp_dir().join(format!("laws-limits-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let checkpoint = golden_root().join(FAMILY).join("checkpoint");
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(checkpoint.join(name), folder.join(name)).unwrap();
        }
        let config = case["config"].to_string();
        std::fs::write(folder.join("preprocessor_config.json"), config).unwrap();
        let described = models::describe(&folder, LoadFormat::Dummy).unwrap().processor;
        let explicit = limits(&case["min_pixels"], &case["max_pixels"]);
        for side in [1, 30, 100, 700, 1000, 3000, 5000] {
            let size = Size { width: side, height: side };
            let plan = |options| described.plan(MediaKind::Image, size, options).unwrap();
            assert_eq!(plan("{}"), plan(&explicit), "{case} at {side}");
        }
        let _ = std::fs::remove_dir_all(folder);
    }
}
