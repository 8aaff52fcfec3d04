//! Broken files: every golden picture with bits flipped, bytes overwritten and ends cut off.
//! Nothing may panic, and nothing may be decoded beyond the limits.

use crate::common::golden;
use crate::memory;
use media::{AlphaPolicy, Limits, decode_with, header};

/// Mutations of each file.
const N_MUTATIONS: u64 = 1_500;

/// Small, so that a mutated size is refused rather than decoded for long.
const LIMITS: Limits = Limits { max_pixels: 1 << 16, max_bytes: 1 << 20, max_side: 4096 };

#[test]
fn jpegs() {
    mutate_folder("media/jpeg");
}

#[test]
fn other_formats() {
    mutate_folder("media/formats");
}

#[test]
fn cut_off_at_every_byte() {
    for path in ["jpeg/420_progressive.jpg", "formats/bits.png", "formats/webp_lossy.webp"] {
        let file = crate::common::bytes(&format!("media/{path}"));
        for n_bytes in 0..file.len() {
            check(&file[..n_bytes]);
        }
    }
}

#[test]
fn a_stream_may_not_be_larger_than_its_canvas() {
    // A canvas of 16x16, and in it a lossy stream that says 16383x16383.
    let lossy = b"VP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f";
    let canvas = |flags: u8| {
        [b"RIFF\0\x01\0\0WEBPVP8X\x0a\0\0\0", &[flags][..], b"\0\0\0\x0f\0\0\x0f\0\0"].concat()
    };
    let still = [canvas(0).as_slice(), lossy].concat();
    let frame = b"ANMF\x22\0\0\0\0\0\0\0\0\0\x0f\0\0\x0f\0\0\0\0\0\0";
    let animated = [canvas(2).as_slice(), b"ANIM\x06\0\0\0\0\0\0\0\0\0", frame, lossy].concat();
    for file in [still, animated] {
        assert!(header(&file, &LIMITS).is_err());
        check(&file);
    }
}

fn mutate_folder(folder: &str) {
    let mut paths: Vec<_> = std::fs::read_dir(golden(folder))
        .expect("goldens are there")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 28);
    for (idx, path) in paths.iter().enumerate() {
        let file = std::fs::read(path).expect("a readable golden");
        for seed in 0..N_MUTATIONS {
            check(&mutated(&file, &mut Random(seed << 16 | idx as u64)));
        }
    }
}

/// Most memory that any of the files may take, the tests' own and the decoders' tables included.
/// A picture within the limits takes 1 MiB.
const MAX_MEMORY: usize = 24 << 20;

/// Decodes; what comes out, if anything, keeps the limits.
fn check(file: &[u8]) {
    let size = header(file, &LIMITS).map(|header| header.size);
    if let Ok(image) = decode_with(file, &LIMITS, AlphaPolicy::OnWhite) {
        assert_eq!(Ok(image.size()), size);
        assert!(image.size().n_pixels() <= LIMITS.max_pixels);
        assert_eq!(image.rgb.len() as u64, image.size().n_pixels() * 3);
    }
    assert!(memory::n_bytes_max() < MAX_MEMORY, "{} bytes were taken", memory::n_bytes_max());
}

/// One to four changes; half of them in the first 64 bytes, where headers are.
fn mutated(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..=random.below(4) {
        let range = if random.below(2) == 0 { file.len().min(64) } else { file.len() };
        let at = random.below(range.max(1));
        match random.below(8) {
            0 => file.truncate(at),
            1 => file.insert(at, random.below(256) as u8),
            2 if at < file.len() => drop(file.remove(at)),
            3 if at < file.len() => file[at] = [0, 0xFF, 0x7F, 0x80][random.below(4)],
            4 if at < file.len() => file[at] = random.below(256) as u8,
            _ if at < file.len() => file[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    file
}

/// Multiplicative congruence, upper bits.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
