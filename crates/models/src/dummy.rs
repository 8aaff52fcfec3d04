//! What stands in for files that are not there: weights of small random numbers, and a byte
//! tokenizer. For timing shapes whose checkpoints nobody wants to download; the answers mean
//! nothing.

use half::{bf16, f16};
use serde_json::{Value, json};
use std::sync::OnceLock;
use tensor::DType;
use tensor::ops::Elements;
use types::TokenId;

/// Dummy weights lie in ± this: not zeros, which would run faster than real weights.
const AMPLITUDE: f32 = 1e-3;
/// Random elements made once; tensors repeat them from different places. A prime, so that rows
/// differ.
const N_RANDOM: usize = 1_000_003;

/// Dummy weights of one type.
pub(crate) struct DummyBytes {
    pub(crate) dtype: DType,
    random: OnceLock<Vec<u8>>,
}

impl DummyBytes {
    pub(crate) fn new(dtype: DType) -> Self {
        Self { dtype, random: OnceLock::new() }
    }

    /// The elements of the tensor called `name`, the same at every start: however many are read.
    pub(crate) fn of(&self, name: &str) -> Elements<'_> {
        let bytes = self.random.get_or_init(|| random_bytes(self.dtype));
        let hash = name
            .bytes()
            .fold(7_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let start = hash % N_RANDOM * self.dtype.n_bytes();
        Elements::Repeated { bytes, period: N_RANDOM * self.dtype.n_bytes(), start }
    }
}

/// All random elements, twice: so every row of up to so many lies in one piece.
fn random_bytes(dtype: DType) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        // An xorshift generator: short, and good enough to look like weights.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 40) as f32 / (1 << 24) as f32;
        (unit * 2.0 - 1.0) * AMPLITUDE
    };
    let values = (0..N_RANDOM).map(|_| next());
    let once: Vec<u8> = match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::Bf16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        DType::U8 | DType::U32 => unreachable!("weights are never whole numbers"),
    };
    once.repeat(2)
}

/// A `tokenizer.json` whose first 256 tokens are the bytes, padded to `vocab_size`, with the
/// special tokens given.
pub(crate) fn byte_tokenizer(vocab_size: usize, special: &[(TokenId, &str)]) -> Value {
    let is_special = |id: usize| special.iter().any(|(token, _)| *token as usize == id);
    let plain = (0..vocab_size).filter(|&id| !is_special(id));
    let vocabulary: serde_json::Map<String, Value> = plain
        .map(|id| {
            let piece = byte_piece(id).map_or_else(|| format!("[{id}]"), String::from);
            (piece, Value::from(id))
        })
        .collect();
    let added: Vec<Value> = special
        .iter()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// The character that byte-level tokenizers write for a byte: itself where it is printable, else
/// the next free one from U+0100 on.
fn byte_piece(id: usize) -> Option<char> {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let byte = u8::try_from(id).ok()?;
    if is_printable(byte) {
        return Some(char::from(byte));
    }
    let n_before = (0..byte).filter(|&other| !is_printable(other)).count() as u32;
    char::from_u32(0x100 + n_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dummy_weights_are_small_varied_and_the_same_again() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let n_bytes = (2 * N_RANDOM + 5) * dtype.n_bytes();
            let make = |name| DummyBytes::new(dtype).of(name).first(n_bytes).into_owned();
            let bytes = make("a.weight");
            assert_eq!(bytes.len(), n_bytes);
            assert_eq!(bytes, make("a.weight"));
            assert_ne!(bytes, make("b.weight"));
        }
        let dummy = DummyBytes::new(DType::F32);
        let bytes = dummy.of("a").first(4000);
        let values: Vec<f32> = bytes.chunks(4).map(bytemuck::pod_read_unaligned).collect();
        assert!(values.iter().all(|value| value.abs() <= AMPLITUDE));
        assert!(values.iter().filter(|value| **value == 0.0).count() < 3);
    }

    #[test]
    fn every_byte_and_every_id_has_its_own_piece() {
        let tokenizer = byte_tokenizer(300, &[(290, "<|end|>"), (20, "<|odd|>")]);
        let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
        assert_eq!(vocabulary.len(), 298);
        assert_eq!(byte_piece(b'a'.into()), Some('a'));
        // The space and the newline, as every byte-level tokenizer writes them.
        assert_eq!([byte_piece(32), byte_piece(10)], [Some('Ġ'), Some('Ċ')]);
    }
}
