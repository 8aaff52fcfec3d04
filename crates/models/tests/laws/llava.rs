//! Oddities of LLaVA-1.5 and LLaVA-NeXT: what a request may ask for, and the whole alone.

use crate::golden::{Golden, draw};
use crate::preprocessing::processor;
use crate::sequence::{Loaded, bits};
use media::Size;
use models::PreparedMedia;
use tensor::Device;
use types::ErrorKind;
use types::media::MediaKind;

const FAMILIES: [&str; 2] = ["llava", "llava_next"];

#[test]
fn pixel_limits_mean_nothing_and_are_refused() {
    for family in FAMILIES {
        let processor = processor(family);
        let plan = |options| {
            let size = Size { width: 500, height: 300 };
            processor.plan(MediaKind::Image, size, options)
        };
        for options in [r#"{"min_pixels": 5}"#, r#"{"max_pixels": 100352}"#] {
            let error = plan(options).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput);
            assert!(error.message.contains("max_pixels"), "{error}");
        }
        let low = plan(r#"{"detail": "low"}"#).unwrap();
        assert_eq!((low.grid.t, low.n_tokens), (1, 16 + u32::from(family == "llava_next")));
        assert_eq!(plan(r#"{"detail": "high"}"#), plan("{}"));
    }
}

/// With little detail LLaVA-NeXT's rows are those of the whole, and the line's end.
#[test]
fn little_detail_gives_the_first_rows_and_the_last() {
    let golden = Golden::read("llava_next", "index.json");
    let loaded = Loaded::open(&golden, &Device::all_cpus());
    let prompt = golden.prompts().iter().find(|prompt| prompt["name"] == "unpadded").unwrap();
    let pictures: Vec<_> = prompt["pictures"].as_array().unwrap().iter().map(draw).collect();
    let prepare = |options: &str| -> Vec<PreparedMedia> {
        let of = |image: &media::Image| {
            let processor = &loaded.description.processor;
            let plan = processor.plan(MediaKind::Image, image.size(), options).unwrap();
            processor.prepare(image, &plan, options).unwrap()
        };
        pictures.iter().map(of).collect()
    };
    for (low, high) in prepare(r#"{"detail": "low"}"#).iter().zip(&prepare("{}")) {
        assert!(high.plan.n_tokens > low.plan.n_tokens);
        // Both in one run of the tower, so that tiles are counted through other media.
        let rows = loaded.encode(&[high, low]);
        let (n_high, n_low) = (high.plan.n_tokens as usize, low.plan.n_tokens as usize);
        assert_eq!(rows.n_rows(), n_high + n_low);
        for row in 0..n_low - 1 {
            assert_eq!(bits(rows.row(n_high + row)), bits(rows.row(row)), "row {row}");
        }
        assert_eq!(bits(rows.row(n_high + n_low - 1)), bits(rows.row(n_high - 1)));
    }
}
