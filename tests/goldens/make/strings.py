"""Tokenizer goldens: strings in, ids out; ids in, strings and incremental pieces out."""

import codecs
import random

from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

import common

BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
N_RANDOM_RUNS = 12  # random ids, most of them broken UTF-8

ENCODE = [
    "", "a", " ", "  ", "   a", "a   ", "\n", "\n\n\n", "\t\tx", "\r\n", " \n ",
    "a\u00a0b", "\u3000x",
    "Hello there", "hello  world", "Hello, world!", "HELLO", "What is in the picture?",
    "I'm, you're, he'd, she'll, it's, we've, don't", "I'M YOU'RE", "’s", "'",
    "12345", "3.14", "1,000,000", "a1b2", "x=1;y=2", "10 circles", "٣٤", "½ ²",
    "éèê", "e\u0301", "Å", "A\u030a", "ﬁ", "ß ẞ", "Ünïcødé", "naïve café",
    "日本語", "今日は天気がいい。", "안녕하세요", "Привет, мир", "שלום", "مرحبا", "ไทย", "हिन्दी",
    "🙂", "👩‍👩‍👧", "🏳️‍🌈", "🇯🇵", "a🙂b", "\u200b", "\ufeffx", "\u202eabc", "\x00", "\x7f\x1b[0m",
    "<|im_start|>user\nHi<|im_end|>", "<|im_start|>", "a<|im_end|>b", " <|endoftext|> ",
    "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>", "<|im_start", "<|IM_START|>",
    "<|im_start|><|im_start|>", "<|unknown|>", "for i in range(10):\n    print(i)\n",
    "{\"a\": [1, 2]}", "https://a.b/c?d=e&f=g#h", "a" * 50, "! ! !!", "---", "…", "“quoted”",
]  # fmt: skip

WHOLE = [
    "",
    "Hello there",
    "日本語です。",
    "a🙂👩‍👩‍👧b",
    "é<|im_end|>",
    "  x\n\n",
    "<|im_start|>🙂<|im_end|>",
]


def write(family, tokenizer, special):
    place = common.folder(family, "tokenizer")
    content = {
        "tokenizer": "../checkpoint/tokenizer.json",
        "special": {token: tokenizer.convert_tokens_to_ids(token) for token in special},
        "encode": [encoded(tokenizer, text) for text in ENCODE],
        "decode": [decoded(tokenizer, ids) for ids in runs(tokenizer)],
    }
    common.write_json(place / "index.json", content)


def encoded(tokenizer, text):
    ids = tokenizer(text).input_ids
    return {
        "text": text,
        "ids": ids,
        "ids_without_special": tokenizer(text, split_special_tokens=True).input_ids,
        "decoded": decode(tokenizer, ids, False),
        "decoded_skip": decode(tokenizer, ids, True),
    }


def decoded(tokenizer, ids):
    return {
        "ids": ids,
        "text": decode(tokenizer, ids, False),
        "text_skip": decode(tokenizer, ids, True),
        "pieces": pieces(tokenizer, ids, False),
        "pieces_skip": pieces(tokenizer, ids, True),
    }


def runs(tokenizer):
    """Answers as models give them, and random ids."""
    for text in WHOLE:
        yield tokenizer(text).input_ids
    smile = tokenizer("🙂").input_ids
    yield smile[:2]  # ends inside a character
    yield smile[1:]  # begins inside one
    yield [*smile[:2], 348, *smile[2:]]  # a special token inside one
    yield [*smile[:3], *smile]
    yield [383, *tokenizer("x").input_ids, 370]  # ids beyond the tokenizer decode to nothing
    random_ = random.Random(3)
    for index in range(N_RANDOM_RUNS):
        top = 360 if index % 2 else 256
        yield [random_.randrange(top) for _ in range(random_.randint(1, 24))]


def pieces(tokenizer, ids, skip):
    """What may be sent after each token: all but an unfinished character at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts = [decoder.decode(token_bytes(tokenizer, token, skip)) for token in ids]
    if parts:
        parts[-1] += decoder.decode(b"", final=True)
    assert "".join(parts) == decode(tokenizer, ids, skip)
    return parts


def token_bytes(tokenizer, token, skip):
    """The bytes that a token stands for; none where it is unknown or skipped."""
    spelling = tokenizer.convert_ids_to_tokens(token)
    if spelling is None or (skip and token in tokenizer.all_special_ids):
        return b""
    return bytes(BYTE_OF[character] for character in spelling)


def decode(tokenizer, ids, skip):
    return tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
