"""A byte-level BPE tokenizer of the Qwen2 kind, its few merges learnt from the sentences below."""

import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

N_PLAIN = 346  # 256 bytes and 90 merges
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

SENTENCES = [
    "You are a helpful assistant.",
    "system user assistant picture image",
    "What is in the picture? How many shapes are there?",
    "There is a red circle on the left and a blue square on the right.",
    "The first picture has more shapes than the second one.",
    "I don't think that it's there; we'll see what they're doing, he'd say.",
    "Les élèves déjà arrivés à l'école; Übergrößen für Straßen; el niño pequeño.",
    "日本語の文章です。今日は天気がいい。 Привет, как дела? 안녕하세요",
    "for i in range(10):\n    print(i)\n\n\treturn None",
]


def make():
    """A `Qwen2TokenizerFast` with ids 0..345 plain and 346..359 special."""
    with tempfile.TemporaryDirectory() as place:
        _learn().model.save(place)
        tokenizer = Qwen2TokenizerFast(
            vocab_file=str(Path(place, "vocab.json")),
            merges_file=str(Path(place, "merges.txt")),
            added_tokens_decoder={
                N_PLAIN + index: AddedToken(token, special=True, normalized=False)
                for index, token in enumerate(SPECIAL)
            },
            additional_special_tokens=SPECIAL[1:],
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            model_max_length=4096,
        )
    expected = {token: N_PLAIN + index for index, token in enumerate(SPECIAL)}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL} == expected
    return tokenizer


def ids(tokenizer):
    """Special token -> id."""
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}


def _learn():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_PLAIN,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Repeating them lets every pair count often enough to be merged.
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    assert tokenizer.get_vocab_size() == N_PLAIN, tokenizer.get_vocab_size()
    return tokenizer
