"""A BPE tokenizer of the Llama kind: `▁` for spaces, bytes where no piece fits, BOS in front."""

import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import LlamaTokenizerFast

from tiny_tokenizer import SENTENCES

SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
N_FIRST = 3  # of them come first, as in Llama's vocabulary; the others last
N_PIECES = 150
N_PLAIN = N_FIRST + 256 + N_PIECES
N_ALPHABET = 96  # of the sentences' characters, the most frequent; others are bytes
ROLES = ["USER: ASSISTANT: [INST] [/INST]", "A chat between a curious human and an assistant."]


def make():
    """A `LlamaTokenizerFast`: three special tokens, 256 bytes, pieces, `<image>`, `<pad>`."""
    vocabulary, merges = _assembled()
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    for token in SPECIAL:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    made = LlamaTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        add_bos_token=True,
        add_eos_token=False,
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=4096,
    )
    expected = [0, 1, 2, N_PLAIN, N_PLAIN + 1]
    assert [made.convert_tokens_to_ids(token) for token in SPECIAL] == expected
    return made


def ids(tokenizer):
    """Special token -> id."""
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}


def _assembled():
    """Ids of all pieces, and the merges."""
    learnt, merges = _learnt()
    pieces = [*SPECIAL[:N_FIRST], *(f"<0x{byte:02X}>" for byte in range(256)), *learnt]
    assert len(pieces) == N_PLAIN, len(pieces)
    return {piece: index for index, piece in enumerate(pieces)}, merges


def _learnt():
    """Pieces in the order of their ids, and the pairs they were merged from."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=N_PIECES, min_frequency=2, limit_alphabet=N_ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator([*SENTENCES, *ROLES] * 4, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    return pieces, [tuple(pair) for pair in model["merges"]]
