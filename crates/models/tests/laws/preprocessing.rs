//! Sizes, pixels and patches are those of the reference's processor.

use crate::ZOO;
use crate::golden::{Tensors, assert_close, draw, golden_root, numbers, read_json};
use media::{Image, Limits, Size};
use models::{LoadFormat, Processor};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tensor::ops::{Normalisation, PatchShape, patches};
use tensor::{Device, Tensor};
use types::ErrorKind;
use types::media::{Grid, MediaKind};

/// Families of the zoo that have preprocessing goldens, each once.
pub(crate) fn families() -> BTreeSet<&'static str> {
    ZOO.iter().map(|(family, _)| *family).collect()
}

pub(crate) fn processor(family: &str) -> Arc<dyn Processor> {
    let folder = golden_root().join(family).join("checkpoint");
    models::describe(&folder, LoadFormat::Auto).unwrap().processor
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
    let options = options_of(case);
    let plan = processor.plan(MediaKind::Image, image.size(), &options).unwrap();
    let grid = [plan.grid.t, plan.grid.h, plan.grid.w].map(|n| n as usize);
    assert_eq!(grid.to_vec(), numbers(&case["grid_thw"]), "{name}");
    assert_eq!(u64::from(plan.n_tokens), case["n_tokens"].as_u64().unwrap(), "{name}");
    let prepared = processor.prepare(&image, &plan, &options).unwrap();
    let expected = decode(&folder.join(case["resized"].as_str().unwrap()));
    assert!(prepared.pixels == expected.rgb, "{name}: pixels differ");
}

/// What a case asks for beside the configuration.
fn options_of(case: &Value) -> String {
    let of = |name: &str| Some((name.to_owned(), case.get(name)?.clone()));
    let given: Map<String, Value> =
        ["min_pixels", "max_pixels"].into_iter().filter_map(of).collect();
    Value::Object(given).to_string()
}

fn decode(path: &Path) -> Image {
    media::decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap()
}

/// Sizes encoded.
const N_ENCODED: usize = 40;

#[test]
fn the_tower_gives_as_many_rows_as_planned() {
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
        for idx in 0..N_ENCODED {
            let most = if idx % 2 == 0 { 700 } else { 60 };
            let size = Size { width: draw(most), height: draw(most) };
            let rgb = vec![idx as u8; (size.width * size.height * 3) as usize];
            let image = Image { width: size.width, height: size.height, rgb };
            let plan = processor.plan(MediaKind::Image, size, "{}").unwrap();
            let prepared = processor.prepare(&image, &plan, "{}").unwrap();
            let rows = model.encode(&device, &[&prepared]).unwrap();
            assert_eq!(rows.shape(), [plan.n_tokens as usize, model.spec().hidden_size]);
        }
    }
}

#[test]
fn what_no_model_takes_is_refused() {
    for family in families() {
        let processor = processor(family);
        let size = Size { width: 500, height: 500 };
        for kind in [MediaKind::Video, MediaKind::Audio] {
            assert!(processor.plan(kind, size, "{}").is_err());
        }
        let unknown = processor.plan(MediaKind::Image, size, r#"{"crop": 1}"#).unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::InvalidInput);
        let nothing = Size { width: 0, height: 5 };
        assert!(processor.plan(MediaKind::Image, nothing, "{}").is_err());
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
            // Tiles one below the other are a tall picture; Qwen2-VL's t is 1.
            let grid = Grid { t: 1, h: (grid[0] * grid[1]) as u32, w: grid[2] as u32 };
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
