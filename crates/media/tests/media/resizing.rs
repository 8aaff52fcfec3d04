//! Resizing, held against pictures that Pillow resized for the reference's image processor.

use crate::common::{bytes, json, list, number, text};
use media::{Image, Limits, Size, decode, resize};
use serde_json::Value;

#[test]
fn bicubic_has_pillows_bits() {
    let index = json("qwen2_vl/preprocessing/index.json");
    let cases = list(&index, "cases");
    assert!(cases.len() >= 40);
    for case in cases {
        let resized = bytes(&format!("qwen2_vl/preprocessing/{}", text(case, "resized")));
        let resized = decode(&resized, &Limits::default()).expect("goldens are PNG");
        let ours = resize::bicubic(&picture(&case["picture"]), resized.size());
        assert!(ours == resized, "{} differs", text(case, "name"));
    }
}

#[test]
fn equal_size_is_a_copy() {
    let image = noise(17, 9, 1);
    assert_eq!(resize::bicubic(&image, image.size()), image);
    assert_eq!(resize::bilinear(&image, image.size()), image);
}

#[test]
fn a_plain_picture_stays_plain() {
    let plain = Image { width: 37, height: 5, rgb: vec![201; 37 * 5 * 3] };
    for (width, height) in [(1, 1), (1, 300), (300, 1), (11, 13), (400, 300)] {
        for resized in
            [resize::bicubic, resize::bilinear].map(|f| f(&plain, Size::new(width, height)))
        {
            assert_eq!(resized.size(), Size::new(width, height));
            assert!(resized.rgb.iter().all(|&byte| byte == 201), "{width}x{height}");
        }
    }
}

/// The picture that a golden describes; see the goldens' README.
fn picture(value: &Value) -> Image {
    match text(value, "kind") {
        "noise" => {
            noise(number(value, "width"), number(value, "height"), number(value, "seed").into())
        }
        "smooth" => smooth(value),
        "file" => {
            let path = format!("qwen2_vl/preprocessing/{}", text(value, "path"));
            decode(&bytes(&path), &Limits::default()).expect("a readable picture")
        }
        other => panic!("no picture of kind {other}"),
    }
}

fn noise(width: u32, height: u32, seed: u64) -> Image {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    Image { width, height, rgb: (0..width * height * 3).map(|_| next()).collect() }
}

fn smooth(value: &Value) -> Image {
    let (width, height) = (number(value, "width"), number(value, "height"));
    let waves = list(value, "waves");
    let level = |x: u32, y: u32, wave: &Value| {
        let [a, b, p] = [0, 1, 2].map(|idx| wave[idx].as_i64().expect("a whole number"));
        let phase = (a * i64::from(x) + b * i64::from(y) + p).rem_euclid(512);
        phase.min(511 - phase) as u8
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = pixels.flat_map(|(x, y)| waves.iter().map(move |wave| level(x, y, wave))).collect();
    Image { width, height, rgb }
}
