//! Decoding, held against what Pillow makes of files of every format.

use crate::common::{bytes, json, list, number, text};
use media::{AlphaPolicy, Limits, Size, decode, decode_with, header};
use serde_json::Value;
use types::ErrorKind;

#[test]
fn every_format_decodes_as_in_pillow() {
    let index = json("media/index.json");
    let entries = ["jpeg", "formats"].map(|group| list(&index, group)).concat();
    assert_eq!(entries.len(), 58, "files compared");
    entries.iter().for_each(check);
}

/// Compares one file with its golden, to the bit: of a lossy format too.
fn check(entry: &Value) {
    let name = text(entry, "name");
    let file = bytes(&format!("media/{}", text(entry, "path")));
    let image = decode(&file, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let size = Size::new(number(entry, "width"), number(entry, "height"));
    assert_eq!(image.size(), size, "{name}");
    assert_eq!(header(&file, &Limits::default()).map(|header| header.size), Ok(size), "{name}");

    let golden = bytes(&format!("media/{}", text(entry, "decoded")));
    let golden = decode(&golden, &Limits::default()).expect("goldens are PNG");
    let differences =
        image.rgb.iter().zip(&golden.rgb).map(|(ours, theirs)| ours.abs_diff(*theirs));
    assert_eq!(differences.max(), Some(0), "{name}");
}

#[test]
fn jpegs_of_every_sampling_and_colour_decode_as_in_pillow() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/media/jpeg");
    let mut n_files = 0;
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            let read = |path| decode(&std::fs::read(path).expect("a file"), &Limits::default());
            assert!(read(path.clone()) == read(path.with_extension("png")), "{}", path.display());
            n_files += 1;
        }
    }
    assert_eq!(n_files, 15);
}

#[test]
fn what_pillow_refuses_is_refused() {
    let index = json("media/index.json");
    for refusal in list(&index, "refused") {
        let file = bytes(&format!("media/{}", text(refusal, "path")));
        let error = decode(&file, &Limits::default()).expect_err(text(refusal, "name"));
        let kinds = [ErrorKind::InvalidInput, ErrorKind::UnsupportedMedia];
        assert!(kinds.contains(&error.kind), "{error:?}");
    }
}

#[test]
fn limits_hold_before_decoding() {
    let check = |limits: Limits, expected: Option<ErrorKind>| {
        // 61 x 45 pixels in 1478 bytes.
        let file = bytes("media/jpeg/420.jpg");
        assert_eq!(header(&file, &limits).err().map(|error| error.kind), expected, "{limits:?}");
        assert_eq!(decode(&file, &limits).err().map(|error| error.kind), expected, "{limits:?}");
    };
    let limits = Limits::default();
    check(limits, None);
    check(Limits { max_pixels: 61 * 45, max_bytes: 1478, max_side: 61 }, None);
    check(Limits { max_pixels: 61 * 45 - 1, ..limits }, Some(ErrorKind::TooLarge));
    check(Limits { max_bytes: 1477, ..limits }, Some(ErrorKind::TooLarge));
    check(Limits { max_side: 60, ..limits }, Some(ErrorKind::TooLarge));
}

#[test]
fn huge_pictures_are_refused_by_their_header() {
    let check = |file: &[u8]| {
        let error = header(file, &Limits::default()).expect_err("too large");
        assert_eq!(error.kind, ErrorKind::TooLarge, "{error}");
    };
    check(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\0\0\0\0");
    check(b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xd9");
    check(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0");
    check(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff");
    let sizes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\0\0\0\x40\0\0\0\x40\x01\0\x18\0";
    check(&[sizes, [0; 24].as_slice()].concat());
}

#[test]
fn alpha_is_dropped_or_blended_onto_white() {
    let check = |path: &str, differs: bool| {
        let file = bytes(path);
        let dropped = decode_with(&file, &Limits::default(), AlphaPolicy::Drop).expect(path);
        let blended = decode_with(&file, &Limits::default(), AlphaPolicy::OnWhite).expect(path);
        assert_eq!(dropped != blended, differs, "{path}");
        let is_lighter =
            dropped.rgb.iter().zip(&blended.rgb).all(|(before, after)| before <= after);
        assert!(is_lighter, "{path}: white only lightens");
    };
    check("media/formats/rgba.png", true);
    check("media/formats/grey_alpha.png", true);
    check("media/formats/grey_alpha16.png", true);
    check("media/formats/palette_alpha.png", true);
    check("media/formats/gif_transparent.gif", true);
    check("media/formats/webp_alpha.webp", true);
    check("media/formats/webp_lossy_alpha.webp", true);
    check("media/formats/rgb.png", false);
    check("media/jpeg/420.jpg", false);
}
