//! Picture files as nobody should send them, made of good ones.

use std::path::Path;

/// A good file of each format, by its path in the goldens.
pub(crate) const GOOD: [(&str, &str); 6] = [
    ("JPEG", "jpeg/420.jpg"),
    ("PNG", "formats/rgb.png"),
    ("GIF", "formats/gif.gif"),
    ("WebP", "formats/webp_lossy.webp"),
    ("WebP", "formats/webp_lossless.webp"),
    ("BMP", "formats/bmp.bmp"),
];

/// Unusual files that are right nevertheless.
pub(crate) const UNUSUAL: [&str; 16] = [
    "formats/animated.png",
    "formats/gif_animated.gif",
    "formats/gif_offset_frame.gif",
    "formats/webp_animated.webp",
    "jpeg/cmyk.jpg",
    "jpeg/rgb_adobe.jpg",
    "jpeg/420_progressive.jpg",
    "jpeg/one_pixel.jpg",
    "formats/grey16.png",
    "formats/rgb16.png",
    "formats/rgba16.png",
    "formats/palette.png",
    "formats/palette_alpha.png",
    "formats/bits.png",
    "formats/interlaced.png",
    "formats/gamma_and_trns.png",
];

/// Bytes before the data of a PNG's first chunk, and of that chunk's data.
const IHDR: usize = 16;
const IHDR_BYTES: usize = 13;

/// A file of the goldens.
pub(crate) fn golden(path: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/media");
    std::fs::read(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The same file with another size in its header; nothing else of it changes.
pub(crate) fn says(file: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut file = file.to_vec();
    match file[..4] {
        [0xFF, 0xD8, ..] => {
            let at = jpeg_frame(&file);
            put_be16(&mut file, at + 5, height);
            put_be16(&mut file, at + 7, width);
        }
        [0x89, b'P', ..] => {
            file[IHDR..IHDR + 4].copy_from_slice(&width.to_be_bytes());
            file[IHDR + 4..IHDR + 8].copy_from_slice(&height.to_be_bytes());
            let checksum = crc32(&file[IHDR - 4..IHDR + IHDR_BYTES]).to_be_bytes();
            file[IHDR + IHDR_BYTES..IHDR + IHDR_BYTES + 4].copy_from_slice(&checksum);
        }
        [b'G', ..] => {
            // The screen, and the frame on it.
            let frame = gif_frame(&file);
            for at in [6, frame + 5] {
                put_le16(&mut file, at, width);
                put_le16(&mut file, at + 2, height);
            }
        }
        [b'R', ..] if &file[12..16] == b"VP8L" => {
            let bits = (width - 1) | (height - 1) << 14 | u32::from(file[24] & 0xF0) << 24;
            file[21..25].copy_from_slice(&bits.to_le_bytes());
        }
        [b'R', ..] => {
            put_le16(&mut file, 26, width);
            put_le16(&mut file, 28, height);
        }
        _ => {
            file[18..22].copy_from_slice(&width.to_le_bytes());
            file[22..26].copy_from_slice(&height.to_le_bytes());
        }
    }
    file
}

/// The size in the header of a good file.
pub(crate) fn size(file: &[u8]) -> (u32, u32) {
    let size = media::header(file, &media::Limits::default()).expect("a good file").size;
    (size.width, size.height)
}

/// A grey PNG of `width` x `height` black pixels, of one bit each.
pub(crate) fn black_png(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().expect("a header");
    let n_bytes = width.div_ceil(8) as usize * height as usize;
    writer.write_image_data(&vec![0; n_bytes]).expect("rows");
    writer.finish().expect("an end");
    file
}

/// A PNG of one pixel, whose data unpack to what `n_pixels` x `n_pixels` would be.
pub(crate) fn zip_bomb(n_pixels: u32) -> Vec<u8> {
    says(&black_png(n_pixels, n_pixels), 1, 1)
}

/// A good PNG with a compressed comment that unpacks to what `n_pixels` x `n_pixels` would be.
pub(crate) fn comment_bomb(good: &[u8], n_pixels: u32) -> Vec<u8> {
    let bomb = black_png(n_pixels, n_pixels);
    let start = find(&bomb, b"IDAT");
    let n_bytes = u32::from_be_bytes(bomb[start - 4..start].try_into().unwrap()) as usize;
    let mut data = b"zTXtComment\0\0".to_vec();
    data.extend_from_slice(&bomb[start + 4..][..n_bytes]);
    let length = (data.len() as u32 - 4).to_be_bytes();
    let checksum = crc32(&data).to_be_bytes();
    let behind_header = IHDR + IHDR_BYTES + 4;
    let chunk = [&length[..], &data, &checksum].concat();
    [&good[..behind_header], &chunk, &good[behind_header..]].concat()
}

/// Where the marker of a JPEG's frame is.
fn jpeg_frame(file: &[u8]) -> usize {
    let is_frame = |pair: &[u8]| pair[0] == 0xFF && matches!(pair[1], 0xC0 | 0xC2);
    file.windows(2).position(is_frame).expect("a frame")
}

/// Where a GIF without extensions describes its first frame.
fn gif_frame(file: &[u8]) -> usize {
    let table = if file[10] & 0x80 != 0 { 3 << ((file[10] & 7) + 1) } else { 0 };
    let at = 13 + table;
    assert_eq!(file[at], b',', "the frame comes first");
    at
}

fn find(file: &[u8], word: &[u8]) -> usize {
    file.windows(word.len()).position(|window| window == word).expect("it is there")
}

fn put_be16(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

fn put_le16(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}
