"""Writes what the fuzzer begins with: a few small inputs for each target, into `corpus/`.

Pictures begin with the goldens of `tests/goldens/media`, and with those here that lie.
"""

import base64
import json
import struct
import zlib
from pathlib import Path

HERE = Path(__file__).parent
SHAPES = HERE.parent / "models" / "shapes"
ID = bytes(range(16))
DIGEST = bytes(range(32))


def main():
    groups = {
        "request": requests(),
        "data_url": data_urls(),
        "picture": pictures(),
        "template": templates(),
        "tokenizer": tokenizers(),
        "wire": messages(),
    }
    for target, seeds in groups.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, seed in seeds.items():
            seed = seed.encode() if isinstance(seed, str) else seed
            (folder / f"seed-{name}").write_bytes(seed)


def requests():
    pixel = "data:image/png;base64," + base64.b64encode(png(1, 1)).decode()
    image = {"type": "image_url", "image_url": {"url": pixel, "detail": "low"}}
    text = {"type": "text", "text": "What is <|im_end|> in the picture?"}
    user = {"role": "user", "name": "me", "content": [image, text]}
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    hello = {"role": "user", "content": "Hello!"}
    every = {
        "model": "m", "messages": [{"role": "developer", "content": "Be kind."}, user, refusal, hello],
        "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False},
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": -1, "frequency_penalty": 1, "logit_bias": {"7": -100}, "seed": -1, "n": 2,
        "max_tokens": 9, "max_completion_tokens": 9, "min_tokens": 1, "ignore_eos": True, "stop": ["a", "b"],
        "stop_token_ids": [1], "logprobs": True, "top_logprobs": 20, "skip_special_tokens": False,
        "add_generation_prompt": False, "chat_template_kwargs": {"deep": [{"a": [1.5, None]}]},
        "mm_processor_kwargs": {"max_pixels": 1}, "multi_modal_uuids": ["u"], "cache_salt": "s",
    }
    neutral = {
        "model": "m", "messages": [hello], "tools": [], "tool_choice": "none", "functions": [],
        "response_format": {"type": "text"}, "store": False, "metadata": {"a": "b"}, "modalities": ["text"],
        "media_io_kwargs": {"image": {}}, "parallel_tool_calls": True, "user": "u", "verbosity": "medium",
        "reasoning_effort": "none", "service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "i",
    }
    other = ["video_url", "audio_url"]
    parts = [{"type": kind, kind: {"url": "https://example.com/a"}} for kind in other]
    parts.append({"type": "input_audio", "input_audio": {"format": "wav", "data": "AAAA"}})
    media = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    return {
        "every-field": json.dumps(every),
        "neutral-fields": json.dumps(neutral),
        "other-media": json.dumps(media),
        "long-unknown-field": json.dumps({"model": "m", "messages": [hello], "x" * 5000: 1}),
        "deep": '{"metadata":' + "[" * 127 + "]" * 127 + "}",
        "not-a-number": '{"model": "m", "messages": [], "temperature": NaN}',
        "half-a-character": '{"model": "\\ud800"}',
    }


def data_urls():
    data = base64.b64encode(png(2, 1)).decode()
    return {
        "png": "data:image/png;base64," + data,
        "unpadded": "data:;base64," + data.rstrip("="),
        "parameters": "DATA:Image/PNG;name=a;charset=b; BASE64 ," + data,
        "wrong-type": "data:text/html;base64," + data,
        "not-base64": "data:image/png,%89PNG",
        "path": "/tmp/a.png",
        "zero-in-path": "/tmp/a\0b",
        "file": "file://localhost/tmp/%41%00.png",
        "http": "https://user:word@example.com:80/a?b#c",
    }


def pictures():
    bitmap = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 1, -1, 1, 24, 0, 4, 0, 0, 0, 0)
    old_bitmap = struct.pack("<2sIHHIIHHHH", b"BM", 34, 0, 0, 32, 12, 2, 2, 1, 1) + b"\0\0\0\xff\xff\xff"
    screen = struct.pack("<6sHHBBB", b"GIF89a", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 65535, 65535, 1, 1, 0) + b"\x02\x02\x44\x01\0;"
    lossy = b"VP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f"
    canvas = b"RIFF\0\x01\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x0f\0\0\x0f\0\0"
    bomb = png(1, 1, rows=bytes(200_000))
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000), 9))
    good = png(3, 2)
    return {
        "bitmap-upside-down": bitmap + b"\1\2\3\0",
        "bitmap-old": old_bitmap + bytes(8),
        "gif-far-away": screen + frame,
        "gif-of-extensions": screen + b"!\xfe\0" * 5000 + frame,
        "webp-beyond-its-canvas": canvas + lossy,
        "png-huge": png(50_000, 50_000),
        "png-unpacks-to-much": bomb,
        "png-comment-unpacks-to-much": good[:33] + comment + good[33:],
        "png-orientation-of-itself": good[:33] + chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff") + good[33:],
    }


def templates():
    shapes = (SHAPES / "chat_template.jinja").read_text()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    return {
        "shapes": shapes + "\0" + json.dumps(messages),
        "loop": "{% for m in messages %}{{ loop.index }}{{ m | tojson(indent=2) }}{% endfor %}",
        "raises": "{{ raise_exception('roles must alternate') }}",
        "namespace": "{% set ns = namespace(x='a') %}{% for i in range(9) %}{% set ns.x = ns.x ~ i %}"
        "{% endfor %}{{ ns.x[::-1] | upper | trim }}",
        "generation": "{% generation %}{{ messages[0]['content'].split('!')[-1].strip() }}{% endgeneration %}",
        "macro": "{% macro f(a, n=2) %}{{ a * n }}{% endmacro %}{{ f('ab') }}{{ f(a='c', n=3) }}",
        "doubles": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
        "doubles-by-plus": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
        "doubles-by-recursion": "{% macro f(n, s) %}{% if n %}{{ f(n - 1, s ~ s) }}{% endif %}{% endmacro %}"
        "{{ f(24, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') }}",
        "doubles-by-capture": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}{{ ns.x | length }}",
        "doubles-by-join": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}{{ ns.x | length }}",
        "doubles-by-replace": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}{{ ns.x | length }}",
        "repeats": "{{ 'a' * 99999999 }}{{ [1] * 99999999 }}",
        "indents": "{{ 'a\nb' | indent(99999999) }}",
        "works-without-end": "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}"
        "{% if s | upper == 'b' %}{% endif %}{% endfor %}",
        "prints-without-end": "{% for i in range(99999) %}{{ messages }}{{ 'a' * 9999 }}{% endfor %}",
        "nests": "{{ " + "(" * 200 + "1" + ")" * 200 + " }}",
        "nests-lists": "{{ " + "[" * 2000 + "]" * 2000 + " }}",
        "calls-itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    }


def tokenizers():
    def one(**more):
        vocabulary = {chr(c): idx for idx, c in enumerate(range(33, 127))}
        vocabulary |= {"Ġ": 94, "ab": 95, "<unk>": 96}
        special = {"id": 97, "content": "<|im_end|>", "special": True, "single_word": False}
        special |= {"lstrip": True, "rstrip": True, "normalized": False}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocabulary, "merges": [["a", "b"]]}
        whole = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special],
            "normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level, "post_processor": None,
            "decoder": byte_level, "model": model,
        }
        return json.dumps(whole | more, ensure_ascii=False, separators=(",", ":"))

    split = {"type": "Split", "pattern": {"Regex": "(a+)+$|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": False}
    start = [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing", "single": start, "pair": start,
        "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [97], "tokens": ["<|im_end|>"]}},
    }
    words = [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["<0x0A>", -3.0]]
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": words, "byte_fallback": True}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    far = {"id": 4294967295, "content": "<far>", "special": True, "single_word": False}
    far |= {"lstrip": False, "rstrip": False, "normalized": False}
    vocabulary = {"a": 0, "b": 4294967295}
    sparse = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocabulary, "merges": []}
    return {
        "byte-level": one(),
        "split": one(pre_tokenizer=split),
        "template": one(post_processor=template),
        "unigram": one(model=unigram, pre_tokenizer=metaspace, decoder=metaspace, added_tokens=[]),
        "far-away-token": one(added_tokens=[far]),
        "sparse": one(model=sparse, added_tokens=[]),
    }


def messages():
    handle = text(1, "owner") + text(2, "ucx://a") + number(3, 1) + number(4, 2) + data(5, ID)
    ticket = text(1, "owner") + data(2, ID) + number(3, 1) + data(4, ID)
    item = number(1, 1) + data(2, DIGEST) + number(3, 1) + number(4, 8) + number(5, 8) + number(6, 16) + data(7, ticket)
    sampling = real(1, 0.5) + real(2, 0.9) + data(8, number(1, 7) + real(2, 1.0)) + number(10, 2) + number(11, 5)
    layout = number(1, 32) + number(2, 4) + number(3, 2) + number(4, 64) + text(5, "f32")
    kv = data(1, handle) + data(2, layout) + number(3, 40) + number(4, 3) + data(5, number(1, 7)) + number(6, 60000)
    sources = [data(2, b"bytes"), data(3, data(1, handle) + number(2, 9)), text(4, "/tmp/a"), text(5, "http://a/")]
    media = [data(4, number(1, 1) + source + text(6, "u") + text(7, "{}") + text(8, "p")) for source in sources]
    head = data(1, ID) + number(2, 7) + data(3, bytes([1, 2, 3]))
    run = head + b"".join(media) + data(5, item) + data(6, sampling) + text(7, "s") + data(10, kv)
    bodies = {
        "run": data(2, run), "await-rows": data(3, data(1, ticket)), "fetch-card": data(4, b""),
        "reserve": data(5, number(1, 40) + number(2, 1)), "finish-choice": data(6, data(1, ID) + number(2, 1)),
    }
    requests = {name: number(1, 1) + body for name, body in bodies.items()}
    token = number(1, 7) + real(2, -0.5) + data(3, number(1, 8) + real(2, -2.0))
    replies = {
        "described": data(1, data(2, item)), "admitted": data(2, number(1, 40) + number(2, 32)),
        "tokens": data(3, data(2, token)), "finished": data(4, number(2, 1)), "handoff": data(5, kv),
        "rows": data(8, data(1, handle) + number(2, 9)), "stranded": data(11, text(1, "why")),
    }
    file = text(1, "config.json") + data(2, b"{}")
    card = data(1, file) + data(2, DIGEST) + number(3, 2048) + text(4, "{{ messages }}") + data(5, b"\1")
    tellers = {name: body + number(15, 1) for name, body in (replies | {"card": card}).items()}
    return requests | tellers


def png(width, height, rows=None):
    rows = bytes((1 + 3 * width) * height) if rows is None and width * height < 100 else rows or b""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def number(field, value):
    return varint(field << 3) + varint(value)


def real(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value)


def data(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def text(field, words):
    return data(field, words.encode())


if __name__ == "__main__":
    main()
