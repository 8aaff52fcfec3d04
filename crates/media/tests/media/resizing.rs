//! Resizing, held against pictures that Pillow resized for the reference's image processor.

use crate::common::{bytes, json, list, number, text};
use media::{Image, Limits, Size, Window, decode, resize};
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
fn both_filters_have_pillows_bits() {
    let check = |(width, height), (new_width, new_height), bilinear: u32, bicubic: u32| {
        let image = noise(width, height, u64::from(width * height));
        let size = Size::new(new_width, new_height);
        assert_eq!(crc32(&resize::bilinear(&image, size).rgb), bilinear, "{image:?} to {size:?}");
        assert_eq!(crc32(&resize::bicubic(&image, size).rgb), bicubic, "{image:?} to {size:?}");
    };
    // The numbers are CRC-32 of what Pillow 11.3.0 makes of the same noise.
    check((7, 5), (3, 4), 0x57f1_8ccc, 0x2c97_c1a5);
    check((3, 4), (7, 5), 0x11d7_cc78, 0xe76c_9fb5);
    check((64, 48), (20, 31), 0xcd97_becf, 0xa219_1417);
    check((1, 9), (5, 1), 0xfe73_22d0, 0x4640_257c);
    check((300, 2), (17, 40), 0x3d24_15b3, 0x0ae5_18a3);
    check((33, 70), (33, 10), 0x50db_e039, 0xb18a_4a50);
    check((70, 33), (100, 33), 0xc1a5_508a, 0x7838_b3eb);
    check((200, 200), (28, 224), 0x16d7_b64b, 0x72d5_1256);
}

#[test]
fn equal_size_is_a_copy() {
    let image = noise(17, 9, 1);
    assert_eq!(resize::bicubic(&image, image.size()), image);
    assert_eq!(resize::bilinear(&image, image.size()), image);
}

#[test]
fn a_window_of_the_result_is_cut_out_of_it() {
    let check = |(width, height), (new_width, new_height)| {
        let image = noise(width, height, 3);
        let size = Size::new(new_width, new_height);
        let whole = resize::bicubic(&image, size);
        for (left, top, width, height) in [
            (0, 0, new_width, new_height),
            (0, 0, 1, new_height),
            (0, new_height - 1, new_width, 1),
            (new_width / 3, new_height / 3, new_width / 2, new_height / 2),
        ] {
            let window = Window { left, top, size: Size::new(width, height) };
            let part = resize::bicubic_window(&image, size, window);
            let rows = whole.rgb.chunks_exact(new_width as usize * 3);
            let columns = left as usize * 3..(left + width) as usize * 3;
            let rows = rows.skip(top as usize).take(height as usize);
            let expected: Vec<u8> = rows.flat_map(|row| row[columns.clone()].to_vec()).collect();
            assert_eq!((part.size(), part.rgb), (window.size, expected), "{window:?}");
        }
    };
    check((20, 30), (40, 9));
    check((20, 30), (20, 30));
    check((20, 30), (20, 7));
    check((20, 30), (31, 30));
    // What all of this would take is more than there is.
    let size = Size::new(1_000_000, 1_000_000);
    let window = Window::centred(Size::new(8, 8), size);
    assert_eq!(resize::bicubic_window(&noise(3, 4, 5), size, window).size(), window.size);
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

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
