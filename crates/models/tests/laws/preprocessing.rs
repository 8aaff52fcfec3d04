//! Sizes, pixels and patches are those of the reference's processor.

use crate::ZOO;
use crate::golden::{Tensors, assert_close, draw, golden_root, numbers, read_json};
use media::{Image, Limits, Size};
use models::{LoadFormat, Processor};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tensor::ops::{Normalisation, PatchShape, patches};
use tensor::{Device, Tensor};
use types::ErrorKind;
use types::media::{Grid, MediaKind};

/// Families of the zoo that have preprocessing goldens, each once.
fn families() -> BTreeSet<&'static str> {
    ZOO.iter().map(|(family, _)| *family).collect()
}

fn processor(family: &str) -> Arc<dyn Processor> {
    let folder = golden_root().join(family).join("checkpoint");
    models::describe(&folder, LoadFormat::Auto).unwrap().processor
}

fn limits(min: &Value, max: &Value) -> String {
    format!(r#"{{"min_pixels": {min}, "max_pixels": {max}}}"#)
}

#[test]
fn sizes_are_the_references() {
    for family in families() {
        let processor = processor(family);
        let table = read_json(&golden_root().join(family).join("preprocessing/smart_resize.json"));
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
            assert!(
                row[4].as_str().unwrap().starts_with(error.message.split(", got").next().unwrap())
            );
        }
    }
}

#[test]
fn pixels_are_the_references_to_the_bit() {
    for family in families() {
        let folder = golden_root().join(family).join("preprocessing");
        let index = read_json(&folder.join("index.json"));
        let processor = processor(family);
        for case in index["cases"].as_array().unwrap() {
            check_case(&folder, &*processor, case);
        }
        for refusal in index["refused"].as_array().unwrap() {
            let side = |name: &str| refusal[name].as_u64().unwrap() as u32;
            let size = Size { width: side("width"), height: side("height") };
            assert!(processor.plan(MediaKind::Image, size, "{}").is_err(), "{refusal}");
        }
    }
}

fn check_case(folder: &Path, processor: &dyn Processor, case: &Value) {
    let name = &case["name"];
    let image = match case["picture"]["kind"].as_str() {
        Some("file") => decode(&folder.join(case["picture"]["path"].as_str().unwrap())),
        _ => draw(&case["picture"]),
    };
    let options = limits(&case["min_pixels"], &case["max_pixels"]);
    let plan = processor.plan(MediaKind::Image, image.size(), &options).unwrap();
    let grid = [plan.grid.t, plan.grid.h, plan.grid.w].map(|n| n as usize);
    assert_eq!(grid.to_vec(), numbers(&case["grid_thw"]), "{name}");
    assert_eq!(u64::from(plan.n_tokens), case["n_tokens"].as_u64().unwrap(), "{name}");
    let prepared = processor.prepare(&image, &plan, &options).unwrap();
    let expected = decode(&folder.join(case["resized"].as_str().unwrap()));
    assert!(prepared.pixels == expected.rgb, "{name}: pixels differ");
}

fn decode(path: &Path) -> Image {
    media::decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap()
}

/// Sizes tried, and how many of them are also encoded.
const N_SIZES: usize = 2000;
const N_ENCODED: usize = 40;

#[test]
fn rows_are_planned_for_any_size_and_the_tower_gives_as_many() {
    for family in families() {
        let folder = golden_root().join(family).join("checkpoint");
        let device = Device::all_cpus();
        let model = models::load(&folder, LoadFormat::Auto, &device).unwrap();
        let processor = processor(family);
        let mut state = 1_u64;
        let mut draw = |most: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32 % most + 1
        };
        for idx in 0..N_SIZES {
            let size = Size { width: draw(3000), height: draw(3000) };
            let Ok(plan) = processor.plan(MediaKind::Image, size, "{}") else {
                let (long, short) = (size.width.max(size.height), size.width.min(size.height));
                assert!(long > 200 * short, "{size:?} refused");
                continue;
            };
            // The tiny checkpoints allow 4 to 16 windows; long ones are one window high, whatever
            // their area.
            let is_thin = plan.grid.h == 2 || plan.grid.w == 2;
            assert!(plan.n_tokens >= 4 && (plan.n_tokens <= 16 || is_thin), "{size:?}: {plan:?}");
            if idx < N_ENCODED {
                let rgb = vec![idx as u8; (size.width * size.height * 3) as usize];
                let image = Image { width: size.width, height: size.height, rgb };
                let prepared = processor.prepare(&image, &plan, "{}").unwrap();
                let rows = model.encode(&device, &[&prepared]).unwrap();
                assert_eq!(rows.shape(), [plan.n_tokens as usize, model.spec().hidden_size]);
            }
        }
    }
}

#[test]
fn options_are_honoured_and_unknown_ones_refused() {
    for family in families() {
        let processor = processor(family);
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
}

#[test]
fn configured_limits_are_read_as_the_reference_reads_them() {
    for family in families() {
        let index = read_json(&golden_root().join(family).join("preprocessing/index.json"));
        for case in index["limits"].as_array().unwrap() {
            let folder = std::env::temp_dir().join(format!("laws-limits-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let checkpoint = golden_root().join(family).join("checkpoint");
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
}

#[test]
fn normalised_patches_are_the_references() {
    for family in families() {
        let folder = golden_root().join(family).join("preprocessing");
        let index = read_json(&folder.join("index.json"));
        let tensors = Tensors::read(&folder.join(index["tensors_file"].as_str().unwrap()));
        let mut n_checked = 0;
        for case in index["cases"].as_array().unwrap() {
            if case["pixel_values"].is_null() {
                continue;
            }
            let resized = decode(&folder.join(case["resized"].as_str().unwrap()));
            let (_, expected) = tensors.get(&case["pixel_values"]);
            let grid = numbers(&case["grid_thw"]);
            let grid = Grid { t: 1, h: grid[1] as u32, w: grid[2] as u32 };
            let got = cut(family, &index, (&resized, grid));
            assert_close(got.as_f32(), expected, 1e-6, &case["name"].to_string());
            n_checked += 1;
        }
        assert!(n_checked > 0, "{family} has no golden of its tower's input");
    }
}

/// Cuts a picture with the numbers of the golden checkpoint's configuration.
fn cut(family: &str, index: &Value, (image, grid): (&Image, Grid)) -> Tensor {
    let config = golden_root().join(family).join("checkpoint/preprocessor_config.json");
    let config = read_json(&config);
    let three = |name: &str| [0, 1, 2].map(|i| config[name][i].as_f64().unwrap() as f32);
    let size = |name: &str| index[name].as_u64().unwrap() as usize;
    let shape = PatchShape {
        patch_size: size("patch_size"),
        temporal_patch_size: size("temporal_patch_size"),
        merge_size: size("merge_size"),
    };
    let rescale = config["rescale_factor"].as_f64().unwrap();
    let normalisation =
        Normalisation { rescale, mean: three("image_mean"), std: three("image_std") };
    patches(&Device::all_cpus(), &image.rgb, grid, shape, &normalisation).unwrap()
}
