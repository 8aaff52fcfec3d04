"""How fast is a server beside transformers, on the same cores, in the same run? Needs torch.

    python speed.py --url http://127.0.0.1:8000 --model-path models/shapes
    python speed.py --dummy FOLDER --write-only      writes FOLDER/config.json: Qwen2-VL-2B's shapes
    python speed.py --dummy FOLDER --dtype bfloat16 --url …      decode only, random weights

First token: from encoded picture (PNG, square) to the first token: decoding, preprocessing, tower,
prompt and one token; over HTTP for the server. Decode: tokens a second after the first token, end
tokens ignored. The two sides take turns; every picture is new, so that no cache of media or
prompts helps; the figures are medians over all turns. Without --url only transformers is timed.
"""

import argparse
import io
import json
import random
import statistics
import time
from pathlib import Path

import hf
import server
import shapes
import torch
from PIL import Image

SIZES = [112, 224, 448]
TEXT = "What is in the picture?"
LONG_TEXT = "Tell me something about shapes and colours."
# Torch's threads spin for a while after they have worked, on the cores that the server needs next.
SETTLE_S = 0.3
N_TURNS = 3
N_DECODE = {"float32": 128, "bfloat16": 24}  # new tokens of one decode measurement

QWEN2_VL_2B = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "num_heads": 16,
        "mlp_ratio": 4,
        "in_chans": 3,
        "patch_size": 14,
        "spatial_patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}


def main():
    options = parse()
    if options.dummy:
        write_config(Path(options.dummy))
    if options.write_only:
        return
    torch.set_num_threads(options.threads)
    served = server.Server(options.url) if options.url else None
    if options.dummy:
        rows = [dummy_decode(options, served)]
    else:
        reference = hf.Reference(options.model_path, getattr(torch, options.dtype))
        rows = [first_token(options, reference, served, size) for size in SIZES]
        rows.append(decode(options, reference, served))
    print_table(rows)


def first_token(options, reference, served, size):
    """Milliseconds to the first token of one square picture."""
    random_ = random.Random(size)

    def ours():
        return 1e3 * served.stream([png(random_, size)], TEXT, 1)[0]

    def theirs():
        picture = png(random_, size)
        start = time.perf_counter()
        hf.generate(reference.model, reference.prepare([picture], TEXT), 1)
        return 1e3 * (time.perf_counter() - start)

    return (f"first token, {size}x{size}, ms", *in_turns(options, theirs, served and ours), "less")


def decode(options, reference, served):
    """Tokens a second of one text-only answer."""
    inputs = reference.prepare([], LONG_TEXT)
    return decode_row(options, reference.model, dict(inputs), served)


def dummy_decode(options, served):
    """The same with random weights; transformers gets a prompt as long as the server counted."""
    model = hf.random_model(options.dummy, getattr(torch, options.dtype))
    length = 64
    if served:
        length = served.stream([], LONG_TEXT, 2, ignore_eos=True)[2]["prompt_tokens"]
    ids = torch.arange(100, 100 + length)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return decode_row(options, model, inputs, served)


def decode_row(options, model, inputs, served):
    count = N_DECODE[options.dtype]

    def ours():
        first, last, usage = served.stream([], LONG_TEXT, count, ignore_eos=True)
        return (usage["completion_tokens"] - 1) / (last - first)

    def theirs():
        start = time.perf_counter()
        hf.generate(model, inputs, 1)
        one = time.perf_counter() - start
        start = time.perf_counter()
        hf.generate(model, inputs, count)
        return (count - 1) / (time.perf_counter() - start - one)

    name = f"decode, {count} tokens, tokens/s"
    return (name, *in_turns(options, theirs, served and ours), "more")


def in_turns(options, theirs, ours):
    """Medians of both sides, which take turns; the first measurement of a turn only warms up."""
    measured = {side: [] for side in [theirs, ours] if side}
    for _ in range(N_TURNS):
        for side, values in measured.items():
            time.sleep(SETTLE_S)
            side()
            values.extend(side() for _ in range(options.repeats))
    return tuple(statistics.median(measured[side]) if side else None for side in [theirs, ours])


def png(random_, size):
    """A new picture of shapes."""
    data, _ = shapes.scene(random_, (size, size))
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def print_table(rows):
    print(f"| what | transformers {hf.transformers.__version__} | server | times better |")
    print("|---|---|---|---|")
    for name, theirs, ours, better in rows:
        if ours is None:
            print(f"| {name} | {theirs:.2f} | – | – |")
            continue
        ratio = theirs / ours if better == "less" else ours / theirs
        print(f"| {name} | {theirs:.2f} | {ours:.2f} | {ratio:.2f} |")


def write_config(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(QWEN2_VL_2B, indent=2) + "\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="the server; without it only transformers is timed")
    parser.add_argument("--model-path", help="the model folder that the server serves too")
    parser.add_argument("--dummy", help="a folder to hold only a config.json, weights random")
    parser.add_argument("--write-only", action="store_true", help="write the config and stop")
    parser.add_argument("--dtype", choices=sorted(N_DECODE), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--repeats", type=int, default=9, help="measurements a turn")
    options = parser.parse_args()
    if bool(options.model_path) == bool(options.dummy):
        parser.error("give one of --model-path and --dummy")
    return options


if __name__ == "__main__":
    main()
